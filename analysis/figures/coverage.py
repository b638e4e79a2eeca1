"""Draws the coverage study: `python -m analysis.figures.coverage`, once `experiments.simulations.coverage` has run."""

import sys
from pathlib import Path

import tyro

from analysis.plots.coverage import coverage
from analysis.plots.style import save
from scaling.errors import UserError
from scaling.storage import read_json


def main(record: Path = Path("analysis/results/coverage/coverage.json")) -> list[Path]:
    """Draw the record and save PNG and PDF beside it.

    Args:
        record: of the simulation.
    """
    found = read_json(record)
    if found is None:
        raise UserError(f"{record}: not there; run python -m experiments.simulations.coverage first")
    return save(coverage(found), record.with_suffix(""))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
