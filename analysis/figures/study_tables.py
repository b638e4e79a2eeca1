"""What scripts of this folder that draw studies share: recorded tables in, a figure as PNG and PDF beside them out."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import tyro
from matplotlib.figure import Figure

from analysis.plots.style import save
from scaling.errors import UserError, exit_on_user_error


def draw_tables(
    draw: Callable[..., Figure], results: Path, study: str, tables: tuple[str, ...], writer: str = ""
) -> list[Path]:
    """Draws tables and saves PNG and PDF as `study`/`study`; returns their paths.

    Args:
        draw: tables in order -> figure.
        results: the folder of recorded results.
        study: whose figure it is.
        tables: paths below `results`, without ".csv".
        writer: the command that writes the study's own tables, if not `python -m analysis.record_study STUDY`.

    Raises:
        UserError: a table is not there.
    """
    for path in (results / f"{table}.csv" for table in tables):
        if not path.exists():
            needed = path.parent.name
            written = writer if writer and needed == study else f"python -m analysis.record_study {needed}"
            raise UserError(f"no table {path}: `windtunnel run {needed}`, then `{written}`")
    return save(draw(*(pd.read_csv(results / f"{table}.csv") for table in tables)), results / study / study)


def command(study: str, draw: Callable[..., Figure], *tables: str, writer: str = "") -> None:
    """The command line of a script: `tables` are the study's own, which `writer` writes, or `other_study/table`.

    Args:
        study: whose figure it is.
        draw: tables in order -> figure.
        tables: what is drawn.
        writer: as `draw_tables` takes it.
    """

    def main(results: Path = Path("analysis/results")) -> list[Path]:
        """Draw a study's recorded tables and save PNG and PDF beside them.

        Args:
            results: the folder of recorded results.
        """
        paths = tuple(name if "/" in name else f"{study}/{name}" for name in tables)
        return draw_tables(draw, results, study, paths, writer)

    with exit_on_user_error():
        tyro.cli(main)
