"""The record of the batch-size law, from the finished runs of its study: `python -m experiments.batch_size_record`.

Written into analysis/results/batch_size_law/: curves.csv (binned training losses while the rate is constant),
levels.csv (tokens to reach losses), minima.csv (a row per parabola), ends.csv and best_at_end.csv (held-out losses
after the decay, and the batch of the least), law.json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from rich.console import Console

from experiments.batch_size_law import NAME
from experiments.quickstart import LADDER
from scaling import environment, records
from scaling.errors import UserError, exit_on_user_error
from scaling.laws import frontier
from scaling.storage import write_json, write_text
from scaling.tuning import batch_size
from scaling.tuning.token_curves import RUN, curve, loss_levels, tokens_to_loss

SETTLED = 2.0  # tokens per parameter from which losses are read: twice the warm-up
RATIO = 1.04  # of neighbouring loss levels


@dataclasses.dataclass(frozen=True)
class Tables:
    """What the runs of a store say: binned constant-rate losses, and held-out losses after the decay."""

    curves: pd.DataFrame
    ends: pd.DataFrame
    planned: dict[str, Any]


def read(store: records.RunStore, name: str = NAME) -> Tables:
    """The finished runs of the study.

    Raises:
        UserError: a run is not finished. One that failed counts up to where it did.
    """
    try:
        planned = records.plan(store, name)
    except FileNotFoundError as error:
        raise UserError(f"{error}: `windtunnel run {name}` first") from error
    waiting = [row.label for row in records.status(store, name).values() if row.state in ("partial", "missing")]
    if waiting:
        raise UserError(f"{len(waiting)} runs of {name} are not finished, {waiting[0]} first: `windtunnel run {name}`")
    batches, curves = {}, []
    for entry in planned["entries"]:
        config = store.config(entry["run"])
        assert config is not None  # of a finished run
        data = config["config"]["data"]
        batches[entry["label"]] = batch = data["sequence_length"] * data["batch_size"]
        log = store.log(entry["run"])
        found = curve(log, batch, first=SETTLED * entry["N"], last=entry["D_stable"])
        curves.append(found.assign(N=entry["N"], seed=entry["seed"], batch=batch))
    points = records.points(store, name)
    if points.empty:
        raise UserError(f"every run of {name} failed: see `windtunnel status {name}`")
    ends = points[["N", "seed", "D_total"]].assign(
        batch=points["label"].map(batches), loss=points[f"nats_per_token/{planned['domains'][0]}"]
    )
    table = pd.concat(curves, ignore_index=True)[[*RUN, "tokens", "loss", "steps"]]
    return Tables(table.round({"tokens": 0, "loss": 4}), ends.round({"loss": 5}), planned)


def record(tables: Tables, folder: Path, replicates: int = 2000) -> dict[str, Any]:
    """Fits the law and writes the record's files into the folder; returns what law.json holds."""
    reached = tokens_to_loss(tables.curves, loss_levels(tables.curves, RATIO))
    law = batch_size.fit_law(reached, replicates=replicates)
    best_at_end = batch_size.best_batch_at_end(tables.ends, replicates=replicates)
    length = tables.ends.groupby("N")["D_total"].mean()
    best_at_end = best_at_end.assign(D_total=best_at_end["N"].map(length))
    found = {
        "question": tables.planned["question"],
        "study": tables.planned["study"],
        "learning_rate": LADDER.learning_rate,
        "bytes_per_token": tables.planned["bytes_per_token"],
        "level": law.line.level,
        "replicates": replicates,
        "clusters": law.clusters,
        "parabolas": len(law.optima),
        "minima": len(law.used),
        "left_out": law.left_out,
        "law": _against_loss(law),
        "by_size": [_one_size(n, size, replicates) for n, size in reached.groupby("N")],
        "against_tokens": _against_tokens(law),
        "minicpm": _minicpm(law),
        "runs": {entry["label"]: entry["run"] for entry in tables.planned["entries"]},
        "versions": environment.versions(),
        "commit": environment.commit(),
    }
    csv = {
        "curves": tables.curves,
        "levels": reached.round({"level": 4, "tokens": 0, "loss_error": 4}),
        "minima": law.optima.round({"level": 4, "batch": 1, "low": 1, "high": 1, "tokens": 0, "curvature": 4}),
        "ends": tables.ends,
        "best_at_end": best_at_end.round({"loss": 4, "batch": 1, "low": 1, "high": 1, "curvature": 5}),
    }
    for name, table in csv.items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False))
    write_json(folder / "law.json", found)
    return found


def _against_loss(law: batch_size.BatchLaw) -> dict[str, Any]:
    losses = law.used["level"]
    return {
        "a": law.law.a,
        "a_interval": list(law.batch_interval(1.0)),
        "b": law.law.b,
        "b_interval": list(law.b_interval),
        "scatter": law.scatter,
        "band": _band(law.line, "loss", losses.min(), losses.max()),
    }


def _against_tokens(law: batch_size.BatchLaw) -> dict[str, Any]:
    tokens = law.used["tokens"]
    return {
        "exponent": law.tokens_line.a,
        "exponent_interval": list(law.tokens_line.interval(law.tokens_line.a_replicates)),
        "scatter": law.tokens_scatter,
        "band": _band(law.tokens_line, "tokens", tokens.min(), tokens.max()),
    }


def _band(line: frontier.Line, name: str, low: float, high: float) -> dict[str, Any]:
    """The line with its interval over the range of its minima."""
    x = np.geomspace(low, high, 25)
    ends = [line.interval(line.n_replicates(value)) for value in x]
    return {
        name: [float(f"{value:.5g}") for value in x],
        "batch": [float(f"{line.n(value):.5g}") for value in x],
        "low": [float(f"{end.low:.5g}") for end in ends],
        "high": [float(f"{end.high:.5g}") for end in ends],
    }


def _one_size(n: Any, reached: pd.DataFrame, replicates: int) -> dict[str, Any]:
    """The law of one size alone, or why it has none."""
    try:
        law = batch_size.fit_law(reached, replicates=replicates)
    except UserError as problem:
        return {"N": int(n), "problem": str(problem)}
    return {"N": int(n), "minima": len(law.used)} | _against_loss(law)


def _minicpm(law: batch_size.BatchLaw) -> dict[str, Any]:
    """MiniCPM's law as printed and in bytes, and its batch over ours at the middle of our losses, in bytes."""
    converted = batch_size.MINICPM.in_bytes(batch_size.MINICPM_BYTES_PER_TOKEN)
    loss = law.line.centre
    return {
        **batch_size.MINICPM._asdict(),
        "bytes_per_token": batch_size.MINICPM_BYTES_PER_TOKEN,
        "in_bytes": converted._asdict(),
        "at_loss": loss,
        "over_ours": converted.batch(loss) / law.law.batch(loss),
    }


def main(runs_dir: Path = Path("runs"), out: Path = Path("analysis/results/batch_size_law")) -> None:
    """Fit the law to the finished study and write its record.

    Args:
        runs_dir: the store that the study was run in.
        out: where the record goes.
    """
    found = record(read(records.RunStore(runs_dir)), out)
    console = Console(soft_wrap=True)
    for line in _in_words(found):
        console.print(line)
    console.print(f"written: {out}")


def _in_words(found: dict[str, Any]) -> list[str]:
    law, tokens, level = found["law"], found["against_tokens"], f"{found['level']:.0%} interval"
    lines = [
        f"bs = {law['a']:.3g} / L^{law['b']:.2f}; {level} of b {_interval(law['b_interval'])} ({found['clusters']} "
        f"seeds); {found['minima']} minima of {found['parabolas']} parabolas",
        *(f"left out, {count}: {reason}" for reason, count in found["left_out"].items()),
    ]
    for size in found["by_size"]:
        alone = size.get("problem") or f"b = {size['b']:.2f} ({_interval(size['b_interval'])}), {size['minima']} minima"
        lines.append(f"N = {size['N']} alone: {alone}")
    return [
        *lines,
        f"against tokens: bs ~ D^{tokens['exponent']:.2f} ({_interval(tokens['exponent_interval'])}); log batches "
        f"scatter by {tokens['scatter']:.2f} about it, by {law['scatter']:.2f} about the law of the loss",
        f"MiniCPM's law, converted to bytes, asks for {found['minicpm']['over_ours']:.0f} times the batch at a loss of "
        f"{found['minicpm']['at_loss']:.2f}",
    ]


def _interval(ends: list[float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
