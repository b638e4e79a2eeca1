"""What scripts of this folder that draw studies share: recorded tables in, a figure as PNG and PDF beside them out."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import tyro
from matplotlib.figure import Figure

from analysis.plots.style import save
from scaling.errors import UserError, exit_on_user_error


def draw_tables(draw: Callable[..., Figure], results: Path, study: str, tables: tuple[str, ...]) -> list[Path]:
    """Draws tables and saves PNG and PDF as `study`/`study`; returns their paths.

    Args:
        draw: tables in order -> figure.
        results: the folder of recorded results.
        study: whose figure it is.
        tables: paths below `results`, without ".csv".

    Raises:
        UserError: a table is not there.
    """
    for path in (results / f"{table}.csv" for table in tables):
        if not path.exists():
            needed = path.parent.name
            raise UserError(
                f"no table {path}: run the study {needed} and then `python -m analysis.record_study {needed}`"
            )
    return save(draw(*(pd.read_csv(results / f"{table}.csv") for table in tables)), results / study / study)


def command(study: str, draw: Callable[..., Figure], *tables: str) -> None:
    """The command line of a script: `tables` are those of the study itself, or `other_study/table`."""

    def main(results: Path = Path("analysis/results")) -> list[Path]:
        """Draw a study's recorded tables and save PNG and PDF beside them.

        Args:
            results: the folder of recorded results.
        """
        return draw_tables(draw, results, study, tuple(name if "/" in name else f"{study}/{name}" for name in tables))

    with exit_on_user_error():
        tyro.cli(main)
