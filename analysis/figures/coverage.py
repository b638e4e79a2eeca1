"""Draws the coverage study: `python -m analysis.figures.coverage`, once `experiments.simulations.coverage` has run."""

import sys
from pathlib import Path

from analysis.plots.coverage import coverage
from analysis.plots.style import save
from scaling.errors import UserError
from scaling.storage import read_json

RECORD = Path("analysis/results/coverage/coverage.json")


def main(record: Path = RECORD) -> None:
    """Saves the figure as PNG and PDF beside the record.

    Raises:
        UserError: there is no record.
    """
    found = read_json(record)
    if found is None:
        raise UserError(f"{record}: not there; run python -m experiments.simulations.coverage first")
    save(coverage(found), record.with_suffix(""))


if __name__ == "__main__":
    try:
        main(*(Path(argument) for argument in sys.argv[1:2]))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
