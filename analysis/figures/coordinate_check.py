"""Sizes of activations and updates against width: `python -m analysis.figures.coordinate_check`.

Reads analysis/results/coordinate_check/sizes.csv, which `python -m experiments.coordinate_check` writes.
"""

from pathlib import Path

import pandas as pd
import tyro

from analysis.plots.style import save
from analysis.plots.transfer import coordinate_check
from scaling.errors import UserError, exit_on_user_error


def main(folder: Path = Path("analysis/results/coordinate_check")) -> list[Path]:
    """Draw a coordinate check and save it as PNG and PDF beside its tables.

    Args:
        folder: with sizes.csv.
    """
    table = folder / "sizes.csv"
    if not table.exists():
        raise UserError(f"no table {table}: `python -m experiments.coordinate_check` makes it")
    return save(coordinate_check(pd.read_csv(table)), folder / "coordinate_check")


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
