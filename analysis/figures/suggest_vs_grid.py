"""Suggested runs beside a fixed grid: `python -m analysis.figures.suggest_vs_grid`.

Reads analysis/results/suggest_vs_grid/suggest_vs_grid.json, which `experiments.simulations.suggest_vs_grid` writes.
"""

import sys
from pathlib import Path

import tyro

from analysis.plots.spending import suggest_vs_grid
from analysis.plots.style import save
from scaling.errors import UserError
from scaling.storage import read_json


def main(record: Path = Path("analysis/results/suggest_vs_grid/suggest_vs_grid.json")) -> list[Path]:
    """Draw the record and save PNG and PDF beside it.

    Args:
        record: of the simulation.
    """
    found = read_json(record)
    if found is None:
        raise UserError(f"no record at {record}: run `python -m experiments.simulations.suggest_vs_grid` first")
    return save(suggest_vs_grid(found), record.with_suffix(""))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
