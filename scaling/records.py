"""What is known of runs: typed rows on disk, and the table of points that laws are fitted to.

A store is a folder with `runs/<id>/` for every run and `studies/<name>/plan.json` for every study that was
planned there. This module reads and writes rows; it imports no model and no training code, so a report needs
neither.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from scaling import storage

State = Literal["complete", "failed"]


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """The end of a run: one per run, in `result.json`. A metric that is not known is null, never 0.

    Attributes:
        run: the run's id.
        state: "complete" up to `step`, or "failed" there.
        reason: for a failed run: what happened, with step and batch position.
        step: optimiser steps done, the parents' included.
        tokens: D, all tokens trained on up to `step`.
        unique_tokens: distinct tokens among them (what lies beyond a corpus's end repeats it).
        epochs: how often the source that was read most was read.
        train_loss: mean loss in nats per token over the last steps logged.
        execution: how its last state was computed, segment by segment from step 0 on, parents included: `from_step`
            and the fingerprint from there on.
        provenance: commit and versions.
        measured: seconds and the like; the only fields that differ between repeats.
    """

    run: str
    state: State
    step: int
    tokens: int
    unique_tokens: int
    epochs: float
    train_loss: float | None
    reason: str | None
    execution: list[dict[str, Any]]
    provenance: dict[str, Any]
    measured: dict[str, Any]

    def reached(self, stop: int) -> bool:
        """Whether the run came to a step in order, though it may have failed after it, for another end of it."""
        return self.step > stop or (self.step == stop and self.state == "complete")

    def failed_by(self, stop: int) -> bool:
        """Whether the run failed at a step or before it."""
        return self.state == "failed" and self.step <= stop


class RunStore:
    """The folder of runs, shared by all studies."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def run_dir(self, run: str) -> Path:
        """Folder of one run."""
        return self.root / "runs" / run

    def study_dir(self, study: str) -> Path:
        """Folder of one study: its plan, tables and figures."""
        return self.root / "studies" / study

    def log_path(self, run: str) -> Path:
        """JSON lines, one per optimiser step."""
        return self.run_dir(run) / "log.jsonl"

    def config(self, run: str) -> dict[str, Any] | None:
        """The run's `config.json`: its id, config and data digests."""
        data: dict[str, Any] | None = storage.read_json(self.run_dir(run) / "config.json")
        return data

    def write_config(self, run: str, data: dict[str, Any]) -> None:
        """Writes `config.json`."""
        storage.write_json(self.run_dir(run) / "config.json", data)

    def result(self, run: str) -> ResultRow | None:
        """The run's result row, if it has come to an end."""
        path = self.run_dir(run) / "result.json"
        data = storage.read_json(path)
        try:
            return None if data is None else ResultRow(**data)
        except TypeError as error:  # a key is missing or unknown
            raise storage.damaged(path, error) from error

    def write_result(self, row: ResultRow) -> None:
        """Writes the result row atomically."""
        storage.write_json(self.run_dir(row.run) / "result.json", dataclasses.asdict(row))

    def evaluations(self, run: str) -> list[dict[str, Any]]:
        """Evaluation rows, keyed by checkpoint step and evaluation digest."""
        return storage.read_lines(self.run_dir(run) / "evaluations.jsonl")

    def add_evaluations(self, run: str, rows: list[dict[str, Any]]) -> None:
        """Adds evaluation rows, all or none of them; rows of the same key are replaced."""

        def key(row: dict[str, Any]) -> tuple[Any, ...]:
            return row["step"], row["digest"], row["domain"]

        new = {key(row) for row in rows}
        kept = [row for row in self.evaluations(run) if key(row) not in new]
        storage.write_lines(self.run_dir(run) / "evaluations.jsonl", kept + rows)

    def measurements(self, run: str) -> list[dict[str, Any]]:
        """Rows of what is measured beside the mean loss, keyed by checkpoint step, evaluation digest and measure."""
        return storage.read_lines(self.run_dir(run) / "measurements.jsonl")

    def add_measurements(self, run: str, step: int, digest: str, measure: str, rows: list[dict[str, Any]]) -> None:
        """Adds all rows of one measure, in place of those it has under the same key."""
        key = {"step": step, "digest": digest, "measure": measure}
        kept = [row for row in self.measurements(run) if {name: row[name] for name in key} != key]
        storage.write_lines(self.run_dir(run) / "measurements.jsonl", [*kept, *(key | row for row in rows)])

    def log(self, run: str) -> pd.DataFrame:
        """The step log as a table."""
        return pd.DataFrame(storage.read_lines(self.log_path(run)))


def plan(store: RunStore, study: str) -> dict[str, Any]:
    """The study's plan as the executor wrote it: entries with run ids, steps, sizes and FLOPs.

    Raises:
        FileNotFoundError: the study was never planned in this store.
    """
    data: dict[str, Any] | None = storage.read_json(store.study_dir(study) / "plan.json")
    if data is None:
        raise FileNotFoundError(f"no plan of study {study!r} under {store.root}")
    return data


@dataclasses.dataclass(frozen=True)
class RunStatus:
    """Where a planned run stands: "complete", "partial", "missing" or "failed" (then with the reason).

    A branch whose trunk failed before the branch point failed with it.
    `done` counts steps, the parents' included; `start` and `stop` are those of the plan.
    """

    label: str
    kind: str
    run: str
    state: str
    start: int
    done: int
    stop: int
    reason: str | None


def status(store: RunStore, study: str) -> dict[str, RunStatus]:
    """Where every run of a study's plan stands, by label, from what lies on disk."""
    found = {}
    for entry in plan(store, study)["entries"]:
        start, stop, result = entry["start"], entry["stop"], store.result(entry["run"])
        reason = result.reason if result else None
        lost = None if result else cannot_leave(store, entry["trunk"], start)
        if lost is not None:
            state, done, reason = "failed", start, f"left out, because {entry['trunk_label']} failed: {lost}"
        elif result is not None and result.reached(stop):
            state, done, reason = "complete", stop, None
        elif result is not None and result.state == "failed":
            state, done = "failed", result.step
        else:
            logged = storage.read_lines(store.log_path(entry["run"]))
            done = min(logged[-1]["step"], stop) if logged else start
            state = "partial" if done > start else "missing"
        found[entry["label"]] = RunStatus(entry["label"], entry["kind"], entry["run"], state, start, done, stop, reason)
    return found


def cannot_leave(store: RunStore, trunk: str, step: int) -> str | None:
    """Why no branch can leave a trunk at a step, where the trunk failed at or before it; else None."""
    result = store.result(trunk)
    return result.reason if result is not None and result.failed_by(step) else None


def points(store: RunStore, study: str) -> pd.DataFrame:
    """The study's points: a row per finished branch (or run evaluated at its end), ready for a law.

    Columns: label, run, trunk, kind, seed, learning_rate (the schedule's peak), N, N_total, D_total, D_stable, D_decay,
    D_unique, epochs, FLOPs under each convention as `C_<convention>`, train_loss, and per evaluation domain
    `nats_per_token/<domain>`, `nats_per_byte/<domain>` and `bits_per_byte/<domain>`. Runs without an end are left out;
    a metric that is missing is NaN, as are D_unique, epochs and train_loss where a run is read off before its end.
    """
    planned = plan(store, study)
    rows = []
    for entry in planned["entries"]:
        result = store.result(entry["run"])
        if not entry["is_point"] or result is None or not result.reached(entry["stop"]):
            continue
        row = {key: entry[key] for key in ("label", "run", "trunk", "kind", "seed")}
        row["learning_rate"] = _peak(store.config(entry["run"]))
        row |= {key: entry[key] for key in ("N", "N_total")}
        row |= {"D_total": entry["D_total"], "D_stable": entry["D_stable"], "D_decay": entry["D_decay"]}
        ended = result.step == entry["stop"]  # else the run was read off earlier, and these three are its end's
        row["D_unique"], row["epochs"] = (result.unique_tokens, result.epochs) if ended else (None, None)
        row |= {f"C_{name}": value for name, value in entry["flops"].items()}
        row["train_loss"] = result.train_loss if ended else None
        for evaluation in store.evaluations(entry["run"]):
            if evaluation["step"] == entry["stop"] and evaluation["digest"] == planned["evaluation_digest"]:
                domain = evaluation["domain"]
                for unit in ("nats_per_token", "nats_per_byte", "bits_per_byte"):
                    row[f"{unit}/{domain}"] = evaluation[unit]
        rows.append(row)
    return pd.DataFrame(rows)


def measurements(store: RunStore, study: str, measure: str) -> pd.DataFrame:
    """What a measure found at the study's points, a row for each of its rows, with the point's label, run, N and D.

    Args:
        store: where the study was trained.
        study: its name.
        measure: "loss_by_position" (columns domain, first, last: the position, counted in earlier tokens of the same
            document that the row holds; nats_per_token, standard_error, tokens) or "retrieval" (columns test, length,
            depth, accuracy, questions).
    """
    planned = plan(store, study)
    rows = []
    for entry in planned["entries"]:
        point = {key: entry[key] for key in ("label", "run", "N", "D_total")}
        key = entry["stop"], planned["evaluation_digest"], measure
        for row in store.measurements(entry["run"]) if entry["is_point"] else ():
            if (row["step"], row["digest"], row["measure"]) == key:
                rows.append(point | {name: x for name, x in row.items() if name not in ("step", "digest", "measure")})
    return pd.DataFrame(rows)


def _peak(config: dict[str, Any] | None) -> float:
    """The peak learning rate in a run's `config.json`."""
    return float(config["config"]["schedule"]["peak"]) if config else math.nan
