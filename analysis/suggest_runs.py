"""Which runs to make next, from a file of points: fitted, planned, printed and drawn."""

import dataclasses
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from analysis.fit_table import Source, check_writable, form_named
from analysis.numbers import quantity
from scaling import storage
from scaling.errors import UserError
from scaling.laws import fit, report, report_json, suggest, uncertainty
from scaling.laws.budget import Market


def suggest_runs(
    source: Source,
    form: str,
    budget: float,
    *,
    answer: str = "ratio",
    at: float | None = None,
    target: tuple[float | None, float | None] = (None, None),
    decay_share: float = suggest.DECAY_SHARE,
    most_runs: int = 8,
    replicates: int = 1000,
    seed: int = 0,
    out_dir: Path | None = None,
    console: Console | None = None,
) -> suggest.Suggestion:
    """Fits the points so far, and prints, draws and writes the runs that a budget is best spent on.

    Args:
        source: the file of points.
        form: of the law, by name.
        budget: FLOPs for new runs.
        answer: "exponent", "ratio" or "loss".
        at: the budget that exponent and ratio are wanted at; by default 10 times the largest run.
        target: (N, D) of the model whose loss is wanted.
        decay_share, most_runs: as in `suggest.suggest`.
        replicates, seed: of the bootstrap.
        out_dir: where suggestion.json and its figure go; by default, for runs.csv, runs-law beside it.
        console: where to print; the terminal by default.

    Raises:
        UserError: bad file, design, target or budget.
    """
    from analysis import plots

    console = console or Console()
    if answer != "loss" and target != (None, None):
        raise UserError(f"--target-n and --target-d are for --answer loss: {answer!r} is asked at a budget, with --at")
    if answer == "loss" and at is not None:
        raise UserError(
            f"--at {at:g} is for --answer exponent and ratio: a loss is one of a model, --target-n and --target-d"
        )
    if replicates < report.LEAST_REPLICATES:
        raise UserError(f"{replicates} replicates: an interval's ends need at least {report.LEAST_REPLICATES}")
    Market(form_named(form))  # refuses a form without N and D before the work is done
    points = source.points(form_named(form))
    folder = source.path.with_name(f"{source.path.stem}-law") if out_dir is None else out_dir
    check_writable(folder)
    fitted = fit.fit(form_named(form), points, seed=seed)
    replicated = uncertainty.bootstrap(fitted, replicates=replicates, seed=seed)
    at = 10 * float(points.budgets.max()) if at is None and answer != "loss" else at
    asked = suggest.named(answer, flops=at, n=target[0], d=target[1], cost=points.cost)
    found = suggest.suggest(replicated, asked, budget, decay_share=decay_share, most_runs=most_runs)
    _show(found, console)
    storage.write_json(folder / "suggestion.json", _to_json(found))
    plots.save(plots.suggestion(found), folder / "suggestion")
    console.print(f"Written to {folder}: suggestion as .json, .png and .pdf")
    return found


def _show(found: suggest.Suggestion, console: Console) -> None:
    low, high = found.interval
    console.print(
        f"[bold]{found.answer.text}[/]: {found.value:.4g}, {found.level:.0%} interval {low:.4g} to {high:.4g}"
    )
    grid = RichTable(
        title=f"Runs worth {found.budget:.3g} FLOPs ({found.table.cost.name}), best value first",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("", "N", "points at D (D/N)", "FLOPs", "of budget", "half-width expected then"):
        grid.add_column(heading, justify="left" if heading == "points at D (D/N)" else "right")
    grid.add_row("today", "", "", "", "", f"{found.half_width:.4g}")
    for number, run in enumerate(found.runs, 1):
        points = ", ".join(f"{quantity(d)} ({d / run.n:.3g})" for d in run.tokens)
        grid.add_row(
            str(number),
            quantity(run.n) + (f", {run.seeds} seeds" if run.seeds > 1 else "") + (" (outside)" if run.beyond else ""),
            points + (f" [dim]branches of trunk {run.continues}[/]" if run.continues else ""),
            f"{run.flops:.3g}",
            f"{run.share:.0%}",
            f"{run.half_width:.4g}",
        )
    console.print(grid)
    console.print(f"Repeating the runs so far under new seeds for that budget: {found.repeat_half_width:.4g} expected.")
    if found.runs and found.repeat_half_width < found.runs[-1].half_width:
        left = 1 - found.runs[-1].spent / found.budget
        console.print(
            f"[yellow]- narrower than this plan, which leaves {left:.0%} of the budget: allow more runs (--most-runs), "
            "or repeat those so far[/]"
        )
    for caveat in found.caveats:
        console.print(f"[yellow]- {caveat}[/]")


def _to_json(found: suggest.Suggestion) -> dict:
    plain = {
        field.name: getattr(found, field.name)
        for field in dataclasses.fields(found)
        if field.name not in ("answer", "table", "runs", "noise")
    }
    plain |= {
        "answer": {"name": found.answer.name, "text": found.answer.text, "unit": found.answer.unit},
        "runs": [dataclasses.asdict(run) for run in found.runs],
        "noise": dataclasses.asdict(found.noise),
        "data": found.table.digest,
    }
    return report_json.plain(plain)  # type: ignore[no-any-return]
