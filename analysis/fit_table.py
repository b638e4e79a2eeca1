"""The law of anybody's runs: one file of points in, tables, fit.json and figures out."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis import show_law
from scaling.errors import UserError
from scaling.laws import holdout, report, table
from scaling.laws.forms import FORMS


def fit_table(
    path: Path | str,
    *,
    n: str = "",
    d: str = "",
    loss: str = "",
    flops: str = "",
    cluster: str = "",
    where: str = "",
    form: str = "chinchilla",
    by: holdout.By = "largest_n",
    budgets: Sequence[float] = (),
    bytes_per_token: float | None = None,
    replicates: int = 1000,
    seed: int = 0,
    out_dir: Path | str | None = None,
    console: Console | None = None,
) -> report.Report:
    """Fits a law to a file of points, prints what it says, and writes fit.json and figures.

    Args:
        path: .csv, .jsonl or .parquet, one row per point.
        n, d, loss, flops, cluster: column names; an empty one is guessed, and the guess is printed.
        where: keep rows for which this pandas expression holds.
        form: a name of `scaling.laws.forms.FORMS`.
        by: what the held-out check leaves out.
        budgets: FLOPs C = 6 N D to allocate; by default 1, 10 and 100 times the largest run.
        bytes_per_token: of the file's tokens.
        replicates: of the bootstrap, at least 100.
        seed: of starts and replicates.
        out_dir: where fit.json and the figures go; by default, for runs.csv, runs-law beside it.
        console: where to print; the terminal by default.

    Raises:
        UserError: bad file, columns, values, design or arguments.
    """
    if form not in FORMS:
        raise UserError(f"form {form!r}: one of {', '.join(FORMS)}")
    console = console or Console()
    points = table.read_table(path, n=n, d=d, loss=loss, flops=flops, cluster=cluster, where=where)
    found = report.analyse(
        points,
        FORMS[form],
        by=by,
        budgets=budgets,
        bytes_per_token=bytes_per_token,
        replicates=replicates,
        seed=seed,
    )
    show_law.show(found, console)
    # Not the bare stem: runs.csv beside a store of runs would write into the store.
    folder = Path(path).with_name(f"{Path(path).stem}-law") if out_dir is None else Path(out_dir)
    write(found, folder)
    console.print(f"Written to {folder}: fit.json, points_and_law and optimal_ratio as .png and .pdf")
    return found


def write(found: report.Report, folder: Path) -> None:
    """Writes fit.json and the figures of a report, each file whole or not at all."""
    from analysis import plots  # matplotlib takes half a second, and whoever only reads numbers need not wait

    report.write(found, folder / "fit.json")
    plots.save(plots.points_and_law(found), folder / "points_and_law")
    plots.save(plots.optimal_ratio(found), folder / "optimal_ratio")
