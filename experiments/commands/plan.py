"""`windtunnel plan`: the DAG of a study with its cost, before anything runs."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from analysis.numbers import quantity
from experiments.commands.common import executor
from experiments.commands.console import duration, terminal
from scaling.accounting import parameter_counts
from scaling.execute import Executor
from scaling.groups import Group
from scaling.mesh import Execution
from scaling.records import status
from scaling.study import flops_with_and_without_branching, training


def show(name: str, runs_dir: Path, data_dir: Path, calibrate: bool) -> None:
    """Prints the plan of a study."""
    console = terminal()
    made = executor(name, runs_dir, data_dir)
    made.write_plan()
    seconds = step_seconds(made, console) if calibrate else None
    print_plan(made, seconds, console)


def step_seconds(made: Executor, console: Console) -> dict[str, float]:
    """Seconds that a step adds for every run of the plan that is not complete, by run, measured once a program."""
    from scaling.calibrate import group_seconds, seconds_per_step

    measured: dict[object, float] = {}
    found: dict[str, float] = {}
    with console.status("timing a few steps of every size"):
        for group, left in _steps_left(made):
            config = group.entries[0].config
            execution = made.runner.resolved(config, group.runs)
            key = (config.model.compiled(), config.data.sequence_length, config.data.batch_size, execution)
            if key not in measured:
                measured[key] = seconds_per_step(config, execution)
            seconds = group_seconds(measured[key], list(left.values()), execution)
            found |= dict.fromkeys(left, seconds / sum(left.values()))
    return found


def _steps_left(made: Executor) -> Iterator[tuple[Group, dict[str, int]]]:
    """The groups that have runs to be trained, with the steps that are left of each."""
    states = status(made.store, made.study.name)
    for group in made.groups:
        left: dict[str, int] = {}
        for entry in group.entries:
            state = states[entry.label]
            if state.state in ("missing", "partial"):
                left[entry.run] = max(left.get(entry.run, 0), state.stop - state.done)
        if any(left.values()):
            yield group, left


def print_plan(made: Executor, seconds: dict[str, float] | None, console: Console) -> None:
    """The table of runs, and the totals with what cosine would cost."""
    study = made.study
    states = status(made.store, study.name)
    console.print(f"[bold]{study.name}[/]: {study.question}")
    table = Table("run", "group", "from", "N", "D total", "D/N", "steps", "rows", "FLOPs (6ND)", "time", "state")
    group_of = {entry.run: place for place, group in enumerate(made.groups, 1) for entry in group.entries}
    for entry in made.entries:
        row = entry.entry()
        N = parameter_counts(entry.config.model).non_embedding
        steps = entry.stop - entry.start
        time = duration(steps * seconds[entry.run]) if seconds and entry.run in seconds else ""
        indent = "  └ " if entry.config.parent else ""
        table.add_row(
            indent + entry.label.removeprefix(f"{entry.trunk_label}/"),
            str(group_of[entry.run]),
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
    for place, group in enumerate(made.groups, 1):
        if group.runs > 1:
            console.print(_in_words(place, group, made.runner.resolved(group.entries[0].config, group.runs)))
    runs = training(made.entries)
    trained = sum(entry.tokens(entry.start, entry.stop) for entry in runs)
    spent, cosine = flops_with_and_without_branching(made.entries)
    console.print(
        f"{len(runs)} runs, {quantity(trained)} tokens, {spent:.3g} FLOPs (6ND). Retraining each of the "
        f"{sum(e.is_point for e in made.entries)} points with its own cosine would take {cosine:.3g} FLOPs: "
        f"{cosine / spent:.2f} times as many."
    )
    if seconds:
        left = seconds_left(made, seconds)
        console.print(f"Time left on this machine: about {duration(left)}, evaluations and start-up not counted.")


def _in_words(place: int, group: Group, execution: Execution) -> str:
    """How a group is trained."""
    text = f"Group {place}, {group.label}, trains as one program"
    if execution.run_devices > 1:
        text += f" on {execution.run_devices} devices"
    if execution.lanes > 1:
        how = "side by side" if execution.run_axis == "vmap" else "one after another"
        text += f", {execution.lanes} runs {how}" + (" on each" if execution.run_devices > 1 else "")
    return f"{text}."


def seconds_left(made: Executor, seconds: dict[str, float]) -> float:
    """Estimated seconds of training that are left of a plan."""
    return sum(steps * seconds[run] for _, left in _steps_left(made) for run, steps in left.items())
