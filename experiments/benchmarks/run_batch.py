"""Question: what is it worth to train runs of one size as one program, and up to which size?

Command: `python -m experiments.benchmarks.run_batch` (about five minutes on two cores).
Cost: the machine for as long.
Result: on two cores 1.28x at 27k parameters, 1.08x at 166k, 1.03x at 0.8M, runs taking turns; side by side a
tenth less (analysis/results/run_batch_cpu.json).

Eight runs of 8192 tokens a step are trained by the program of `windtunnel run` in three ways: one run after another,
each on all devices ("alone"), as a group whose runs take turns on their device ("map"), and as one whose runs go side
by side ("vmap"). In every round each way brings all eight runs forward by the steps of one dispatch; rounds alternate
in one process, everything compiled before. A ratio is that of the times inside a round, the median over rounds.
"""

import dataclasses
import datetime
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.contenders import QUIET_CORES, cpu_seconds
from experiments.benchmarks.train_shapes import Shape, shape
from scaling import environment
from scaling.accounting import flops_per_token, parameter_counts
from scaling.errors import exit_on_user_error
from scaling.storage import write_json

Way = Literal["alone", "map", "vmap"]
WAYS: tuple[Way, ...] = ("alone", "map", "vmap")
# about 30k, 160k and 800k parameters on a CPU; 1M, 9M and 37M on an accelerator, in bfloat16, with heads of 32
CPU_SIZES, ACCELERATOR_SIZES = ("ladder-24", "ladder-60", "ladder-132"), ("ladder-160", "ladder-448", "ladder-896")


@dataclasses.dataclass(frozen=True)
class Turn:
    """One way's part of a round.

    Attributes:
        seconds: in which all runs did the steps of one dispatch.
        other_cores: cores that other processes used meanwhile, on average.
    """

    seconds: float
    other_cores: float


def trainer(one: Shape, runs: int, way: Way) -> tuple[Callable[[], None], dict[str, Any]]:
    """A function that brings each of `runs` runs forward by one dispatch's steps and waits for them; how it does so."""
    import jax
    import numpy as np

    from experiments.benchmarks.train_step_ours import random_rows
    from scaling import mesh
    from scaling.jobs import group_state
    from scaling.optimizers import hyper
    from scaling.run import dispatch_for, first_state
    from scaling.train import side_by_side

    config, together = one.run_config(), 1 if way == "alone" else runs
    asked = dataclasses.replace(one.execution, run_axis="auto" if way == "alone" else way)
    execution = mesh.resolve(asked, config.data, config.model, runs=together)
    steps, dispatch = execution.steps_per_dispatch, dispatch_for(config, execution)
    first = jax.device_get(first_state(config, execution))
    inputs = random_rows(one, steps), hyper(config.optimizer, config.model, np.full(steps, config.schedule.peak))
    rows, rates = side_by_side({0: inputs}, execution.runs)
    counts = [steps] * together + [0] * (execution.runs - together)
    states = [group_state({0: first}, execution) for _ in range(runs // together)]

    def train() -> None:
        results = []
        for group, state in enumerate(states):
            states[group], metrics = dispatch(state, rows, rates, counts)
            results.append(metrics)
        jax.block_until_ready(results)

    return train, execution.fingerprint() | {"run_devices": execution.run_devices, "lanes": execution.lanes}


def summarise(one: Shape, runs: int, rounds: Sequence[dict[Way, Turn]]) -> dict[str, Any]:
    """Figures of one shape.

    Returns:
        tokens_per_second of all runs together: the median over rounds, and from the shortest turn; `ratio` of each
        way to "alone": the median over rounds, and that of the shortest turns. All over the rounds in which other
        processes left the machine alone, if there is one; `quiet_rounds` says how many those were.
    """
    quiet = [r for r in rounds if all(turn.other_cores < QUIET_CORES for turn in r.values())]
    counted = quiet or rounds
    tokens = runs * one.execution.steps_per_dispatch * one.batch_size * one.sequence_length
    seconds = {way: [r[way].seconds for r in counted] for way in WAYS}
    return {
        **dataclasses.asdict(one),
        "runs": runs,
        "non_embedding": parameter_counts(one.model).non_embedding,
        "flops_per_token": flops_per_token(one.model, one.sequence_length).training,
        "tokens_per_second": {way: tokens / statistics.median(taken) for way, taken in seconds.items()},
        "best_tokens_per_second": {way: tokens / min(taken) for way, taken in seconds.items()},
        "ratio": {
            way: statistics.median(a / b for a, b in zip(seconds["alone"], taken, strict=True))
            for way, taken in seconds.items()
        },
        "ratio_of_best": {way: min(seconds["alone"]) / min(taken) for way, taken in seconds.items()},
        "rounds": len(rounds),
        "quiet_rounds": len(quiet),
        "other_cores": statistics.median(turn.other_cores for r in rounds for turn in r.values()),
    }


def measure(one: Shape, runs: int, rounds: int) -> dict[str, Any]:
    """Times one shape: every way warmed up, then alternating rounds."""
    made = {way: trainer(one, runs, way) for way in WAYS}
    for train, _ in made.values():
        train()
    found: list[dict[Way, Turn]] = []
    for _ in range(rounds):
        turns: dict[Way, Turn] = {}
        for way, (train, _) in made.items():
            everyone, own, start = cpu_seconds(None), time.process_time(), time.perf_counter()
            train()
            seconds = time.perf_counter() - start
            others = (cpu_seconds(None) - everyone) - (time.process_time() - own)
            turns[way] = Turn(seconds, max(0.0, others) / seconds)
        found.append(turns)
    return summarise(one, runs, found) | {"facts": {way: facts for way, (_, facts) in made.items()}}


def table(results: dict[str, dict[str, Any]]) -> Table:
    """The figures of all sizes, as people read them."""
    view = Table("size", "N", "trained", "tokens/s", "GFLOP/s", "over alone", "at best")
    for name, result in results.items():
        for way in WAYS:
            rate = result["tokens_per_second"][way]
            view.add_row(
                name,
                f"{result['non_embedding'] / 1e6:.2f}M",
                way,
                f"{rate:,.0f}",
                f"{rate * result['flops_per_token'] / 1e9:,.1f}",
                f"{result['ratio'][way]:.2f}x",
                f"{result['ratio_of_best'][way]:.2f}x",
            )
        view.add_section()
    return view


def main(
    sizes: tuple[str, ...] = (),
    runs: int = 8,
    steps: int = 0,
    rounds: int = 12,
    out: Path | None = None,
) -> None:
    """Time runs of one size as one program against the same runs one after another.

    Args:
        sizes: names of `experiments.benchmarks.train_shapes`; none: about 30k, 160k and 800k parameters on a CPU, 1M,
            9M and 37M on an accelerator.
        runs: how many.
        steps: of a dispatch; 0: 2 on a CPU, 32 on an accelerator.
        rounds: how many alternating rounds.
        out: where the figures go, as JSON; by default analysis/results/run_batch_<backend>.json.
    """
    import jax

    backend = jax.default_backend()
    on_cpu = backend == "cpu"
    results = {}
    for name in sizes or (CPU_SIZES if on_cpu else ACCELERATOR_SIZES):
        one = shape(name)
        model = one.model if on_cpu else dataclasses.replace(one.model, compute_dtype="bfloat16")
        execution = dataclasses.replace(one.execution, steps_per_dispatch=steps or (2 if on_cpu else 32))
        results[name] = measure(dataclasses.replace(one, model=model, execution=execution), runs, rounds)
    console = Console()
    console.print(table(results))
    for name, result in results.items():
        if not result["quiet_rounds"]:
            console.print(f"{name}: other processes used {result['other_cores']:.1f} cores: repeat on an idle machine")
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": environment.commit(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": environment.cores(),
        "sizes": results,
    }
    out = out or Path(f"analysis/results/run_batch_{backend}.json")
    write_json(out, record)
    console.print(f"written: {out}")


if __name__ == "__main__":
    environment.prepare()
    with exit_on_user_error():
        tyro.cli(main)
