"""The bias of IsoFLOP parabolas without noise: `python -m analysis.figures.isoflop_bias`.

Reads analysis/results/isoflop_bias/isoflop_bias.json, which `experiments.simulations.isoflop_bias` writes.
"""

import sys
from pathlib import Path

import tyro

from analysis.plots import save
from analysis.plots.approaches import isoflop_bias
from scaling.errors import UserError
from scaling.storage import read_json


def main(record: Path = Path("analysis/results/isoflop_bias/isoflop_bias.json")) -> list[Path]:
    """Draw the record and save PNG and PDF beside it.

    Args:
        record: of the simulation.
    """
    found = read_json(record)
    if found is None:
        raise UserError(f"no record at {record}: run `python -m experiments.simulations.isoflop_bias` first")
    return save(isoflop_bias(found), record.with_suffix(""))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
