"""What a hyper-parameter search found: `python -m analysis.figures.wind_tunnel`.

Reads trials.csv and best.json of analysis/results/wind_tunnel/, which `windtunnel tune` writes into its study's folder.
"""

from pathlib import Path

import pandas as pd
import tyro

from analysis.plots.search import search_figures
from analysis.plots.style import save
from scaling.errors import UserError, exit_on_user_error
from scaling.storage import read_json


def main(folder: Path = Path("analysis/results/wind_tunnel")) -> list[Path]:
    """Draw a search's figures and save them as PNG and PDF beside its tables.

    Args:
        folder: with trials.csv and best.json.
    """
    result = read_json(folder / "best.json")
    if result is None or not (folder / "trials.csv").exists():
        raise UserError(
            f"no trials.csv and best.json in {folder}: `windtunnel tune wind_tunnel` writes them into "
            f"runs/studies/wind_tunnel-search/: draw those with `--folder runs/studies/wind_tunnel-search`"
        )
    figures = search_figures(pd.read_csv(folder / "trials.csv"), result)
    return [path for stem, figure in figures.items() for path in save(figure, folder / stem)]


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
