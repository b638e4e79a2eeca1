"""The batch-size law, from token-to-loss curves to the line: `python -m analysis.figures.batch_size_law`.

Reads the record in analysis/results/batch_size_law/, which `python -m experiments.batch_size_record` writes.
"""

from pathlib import Path

import pandas as pd
import tyro

from analysis.plots.batch_size import batch_size_law
from analysis.plots.style import save
from scaling.errors import UserError, exit_on_user_error
from scaling.storage import read_json

TABLES = ("curves", "levels", "minima", "best_at_end")


def read_table(path: Path) -> pd.DataFrame:
    """A table of the record; an empty `problem` is an empty text."""
    return pd.read_csv(path, dtype={"problem": str}).fillna({"problem": ""})


def main(folder: Path = Path("analysis/results/batch_size_law")) -> list[Path]:
    """Draw the record and save PNG and PDF beside it.

    Args:
        folder: with law.json and the tables.
    """
    law = read_json(folder / "law.json")
    missing = [name for name in TABLES if not (folder / f"{name}.csv").exists()]
    if law is None or missing:
        raise UserError(f"no record in {folder}: `python -m experiments.batch_size_record` writes it")
    tables = {name: read_table(folder / f"{name}.csv") for name in TABLES}
    return save(batch_size_law(tables, law), folder / "batch_size_law")


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
