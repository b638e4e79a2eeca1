"""Keeps what a study found, its points and on request its curves, as small tables in analysis/results/.

`python -m analysis.record_study STUDY`
"""

from pathlib import Path

import numpy as np
import pandas as pd
import tyro

from analysis import steadiness
from analysis.study_report import curves
from scaling import storage
from scaling.errors import UserError, exit_on_user_error
from scaling.records import RunStore, measurements, plan, points, status

ROWS_PER_RUN = 40
MEASURES = ("loss_by_position", "retrieval")


def thinned(log: pd.DataFrame, rows: int = ROWS_PER_RUN) -> pd.DataFrame:
    """At most `rows` rows of every run, evenly spaced, the first and the last among them."""

    def some(steps: pd.DataFrame) -> pd.DataFrame:
        return steps.iloc[np.unique(np.linspace(0, len(steps) - 1, min(rows, len(steps))).round().astype(int))]

    return pd.concat([some(steps) for _, steps in log.groupby("run", sort=False)], ignore_index=True)


def record(
    store: RunStore, study: str, folder: Path, *, with_curves: bool = False, with_steadiness: bool = False
) -> list[Path]:
    """Writes points.csv, and if asked curves.csv (smoothed training losses, thinned) and steadiness.csv.

    What was measured beside the mean loss is written too, as MEASURE.csv.

    Raises:
        UserError: the study was never planned in this store, or a run of it is neither complete nor failed.
    """
    try:
        planned, runs = plan(store, study), status(store, study).values()
    except FileNotFoundError as error:
        raise UserError(f"{error}: `windtunnel run {study}` trains it") from error
    open_runs = [run.label for run in runs if run.state not in ("complete", "failed")]
    if open_runs:
        raise UserError(f"study {study!r}: {len(open_runs)} of {len(runs)} runs are not finished ({open_runs[0]}, ...)")
    tables = {"points": points(store, study)}
    for measure in MEASURES:
        found = measurements(store, study, measure)
        if len(found):
            tables[measure] = found.round(5)
    if with_curves:
        tables["curves"] = thinned(curves(store, planned)).round({"loss": 4})
    if with_steadiness:
        tables["steadiness"] = steadiness.of_trunks(store, study).round(4)
    paths = [folder / f"{name}.csv" for name in tables]
    for path, table in zip(paths, tables.values(), strict=True):
        storage.write_text(path, table.to_csv(index=False))
    return paths


def main(
    study: tyro.conf.Positional[str],
    runs_dir: Path = Path("runs"),
    results: Path = Path("analysis/results"),
    curves: bool = False,
    steadiness: bool = False,
) -> list[Path]:
    """Keep a finished study's tables.

    Args:
        study: its name.
        runs_dir: where it was trained.
        results: the folder of recorded results, in which it gets one of its own.
        curves: also the smoothed training loss of every run.
        steadiness: also spikes and gradient norms of every trunk.
    """
    folder = results / study
    return record(RunStore(runs_dir), study, folder, with_curves=curves, with_steadiness=steadiness)


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
