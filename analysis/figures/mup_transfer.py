"""The best learning rate by size, under muP and without: `python -m analysis.figures.mup_transfer`.

Reads analysis/results/mup_transfer/points.csv, which `python -m analysis.record_study mup_transfer` writes, and writes
best_rates.csv and the figure beside it.
"""

from pathlib import Path

import pandas as pd
import tyro
from rich.console import Console
from rich.table import Table

from analysis.best_rate import best_rates
from analysis.numbers import quantity
from analysis.plots.style import save
from analysis.plots.transfer import PARAMETRIZATIONS, rate_sweep
from scaling.errors import UserError, exit_on_user_error
from scaling.storage import write_text

LOSS = "nats_per_token/code"


def sweep(points: pd.DataFrame) -> pd.DataFrame:
    """The study's points with a column `parametrization`, which their labels tell: "mup", "standard" or "both"."""
    return points.assign(parametrization=points["label"].str.split("-").str[1])


def under_each(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of "both", those of the base width, once under each parametrisation."""
    name = table["parametrization"]
    parts = [table[name.isin([wanted, "both"])].assign(parametrization=wanted) for wanted in PARAMETRIZATIONS]
    return pd.concat(parts, ignore_index=True)


def main(folder: Path = Path("analysis/results/mup_transfer")) -> list[Path]:
    """Find the best rates, print them, and save table and figure beside the points.

    Args:
        folder: with points.csv.
    """
    table = folder / "points.csv"
    if not table.exists():
        raise UserError(
            f"no table {table}: `windtunnel run mup_transfer`, then `python -m analysis.record_study mup_transfer`"
        )
    runs = sweep(pd.read_csv(table))
    best = under_each(best_rates(runs, ["parametrization", "N"], LOSS))
    write_text(folder / "best_rates.csv", best.to_csv(index=False, float_format="%.4g"))
    Console().print(_table(best))
    return save(rate_sweep(under_each(runs), best, loss=LOSS), folder / "mup_transfer")


def _table(best: pd.DataFrame) -> Table:
    grid = Table(
        "parametrisation", "N", "best rate", "90% interval", "over the smallest's", title="Best learning rates"
    )
    for name, rows in best.groupby("parametrization", sort=False):
        rows = rows.sort_values("N")
        for _, row in rows.iterrows():
            moved = row["best_rate"] / rows["best_rate"].iloc[0]
            interval = f"{row['low']:.3g} to {row['high']:.3g}"
            grid.add_row(str(name), quantity(row["N"]), f"{row['best_rate']:.3g}", interval, f"{moved:.2f}")
    return grid


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
