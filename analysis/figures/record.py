"""What the scripts of this folder share: a simulation's record in, its figure as PNG and PDF beside it out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from matplotlib.figure import Figure

from analysis.plots.style import save
from scaling.errors import UserError, exit_on_user_error
from scaling.storage import read_json

Draw = Callable[[dict[str, Any]], Figure]


def draw_record(name: str, draw: Draw, record: Path) -> list[Path]:
    """Draws a simulation's record and saves PNG and PDF beside it; returns their paths.

    Raises:
        UserError: there is no record.
    """
    found = read_json(record)
    if found is None:
        raise UserError(f"no record at {record}: run `python -m experiments.simulations.{name}` first")
    return save(draw(found), record.with_suffix(""))


def command(name: str, draw: Draw) -> None:
    """The command line of a script: draws the record of a simulation, by default the one in analysis/results/.

    Args:
        name: of the simulation, as in `experiments.simulations`.
        draw: record -> figure.
    """

    def main(record: Path = Path(f"analysis/results/{name}/{name}.json")) -> list[Path]:
        """Draw the record and save PNG and PDF beside it.

        Args:
            record: of the simulation.
        """
        return draw_record(name, draw, record)

    with exit_on_user_error():
        tyro.cli(main)
