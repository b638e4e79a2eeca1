"""`windtunnel plan`: the DAG of a study with its cost, before anything runs."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from analysis.numbers import quantity
from experiments.commands.common import executor
from experiments.commands.console import duration, terminal
from scaling.accounting import parameter_counts
from scaling.execute import Executor
from scaling.records import status
from scaling.study import flops_with_and_without_branching


def show(name: str, runs_dir: Path, data_dir: Path, calibrate: bool) -> None:
    """Prints the plan of a study."""
    console = terminal()
    made = executor(name, runs_dir, data_dir)
    made.write_plan()
    seconds = step_seconds(made, console) if calibrate else None
    print_plan(made, seconds, console)


def step_seconds(made: Executor, console: Console) -> dict[str, float]:
    """Seconds of a step for every run of the plan that is not complete, by label, measured once a size."""
    from scaling.calibrate import seconds_per_step

    measured: dict[object, float] = {}
    found = {}
    states = status(made.store, made.study.name)
    with console.status("timing a few steps of every size"):
        for entry in (entry for entry in made.entries if states[entry.label].state in ("missing", "partial")):
            key = (entry.config.model, entry.config.data.sequence_length, entry.config.data.batch_size)
            if key not in measured:
                measured[key] = seconds_per_step(entry.config, made.runner.execution)
            found[entry.label] = measured[key]
    return found


def print_plan(made: Executor, seconds: dict[str, float] | None, console: Console) -> None:
    """The table of runs, and the totals with what cosine would cost."""
    study = made.study
    states = status(made.store, study.name)
    console.print(f"[bold]{study.name}[/]: {study.question}")
    table = Table("run", "from", "N", "D total", "D/N", "steps", "rows", "FLOPs (6ND)", "time", "state")
    for entry in made.entries:
        row = entry.entry()
        N = parameter_counts(entry.config.model).non_embedding
        steps = entry.stop - entry.start
        time = duration(steps * seconds[entry.label]) if seconds and entry.label in seconds else ""
        indent = "  └ " if entry.config.parent else ""
        table.add_row(
            indent + entry.label.removeprefix(f"{entry.trunk_label}/"),
            f"step {entry.start}" if entry.config.parent else "",
            quantity(N),
            quantity(row["D_total"]),
            f"{row['D_total'] / N:.0f}",
            str(steps),
            str(entry.config.data.batch_size),
            f"{6 * N * entry.tokens(entry.start, entry.stop):.2e}",
            time,
            states[entry.label].state,
        )
    console.print(table)
    trained = sum(entry.tokens(entry.start, entry.stop) for entry in made.entries)
    spent, cosine = flops_with_and_without_branching(made.entries)
    console.print(
        f"{len(made.entries)} runs, {quantity(trained)} tokens, {spent:.3g} FLOPs (6ND). Retraining each of the "
        f"{sum(e.is_point for e in made.entries)} points with its own cosine would take {cosine:.3g} FLOPs: "
        f"{cosine / spent:.2f} times as many."
    )
    if seconds:
        left = seconds_left(made, seconds)
        console.print(f"Time left on this machine: about {duration(left)}, evaluations and start-up not counted.")


def seconds_left(made: Executor, seconds: dict[str, float]) -> float:
    """Estimated seconds of training that are left of a plan."""
    states = status(made.store, made.study.name)
    return sum((states[label].stop - states[label].done) * each for label, each in seconds.items())
