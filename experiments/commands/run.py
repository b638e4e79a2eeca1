"""`windtunnel run`: trains what is missing of a study with progress, stops cleanly, and reports."""

import sys
import warnings
from pathlib import Path

from rich.console import Console

from analysis.numbers import quantity
from experiments.commands.common import executor
from experiments.commands.console import duration, terminal, training_progress
from experiments.commands.plan import print_plan, seconds_left, step_seconds
from experiments.commands.stopping import StopFlag
from scaling.records import status
from scaling.train import InterruptedRunError, LogRow


class _Bar:
    """The progress of a study in estimated seconds of work, so that the time left is right for every size."""

    def __init__(self, console: Console) -> None:
        self.progress = training_progress(console)
        self.task = self.progress.add_task("starting", total=1.0, detail="")
        self.seconds: dict[str, float] = {}  # that a step of a run adds
        self.label = ""
        self._last: dict[str, LogRow] = {}

    def announce(self, label: str) -> None:
        self.label, self._last = label, {}
        self.progress.update(self.task, description=label, detail="")

    def rows(self, run: str, rows: list[LogRow]) -> None:
        if not rows:
            return
        self._last[run] = last = rows[-1]
        together = self._last.values()
        detail = (
            f"step {_span([row.step for row in together], 'd')} loss {_span([row.loss for row in together], '.3f')} "
            f"{quantity(last.tokens / last.step / last.seconds)} tok/s"
        )
        self.progress.update(self.task, advance=len(rows) * self.seconds.get(run, 0.0), detail=detail)


def _span(values: list[float], form: str) -> str:
    """The values of a group's runs, from the least to the greatest."""
    least, greatest = format(min(values), form), format(max(values), form)
    return least if least == greatest else f"{least}..{greatest}"


def execute(name: str, runs_dir: Path, data_dir: Path, report: bool) -> None:
    """Runs a study to its end, or as far as it is let."""
    console = terminal()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: console.print(f"[yellow]warning:[/] {message}")
        failed = _train_and_report(name, runs_dir, data_dir, report, console)
    if failed:
        sys.exit(1)


def _train_and_report(name: str, runs_dir: Path, data_dir: Path, report: bool, console: Console) -> bool:
    """Whether a run of the study failed."""
    stop, bar = StopFlag(), _Bar(console)
    made = executor(name, runs_dir, data_dir, bar.rows, bar.announce, stop)
    made.write_plan()
    if made.is_finished():
        console.print(f"{made.study.name}: nothing left to train of its {len(made.entries)} runs")
    else:
        bar.seconds = step_seconds(made, console)
        print_plan(made, bar.seconds, console)
        bar.progress.update(bar.task, total=seconds_left(made, bar.seconds))
        try:
            with stop, bar.progress:
                made.run()
        except InterruptedRunError as stopped:
            console.print(f"{bar.label}: {stopped}; the same command goes on from there")
            sys.exit(128 + stop.signal)  # as the shell says of a process that a signal ended
        console.print(f"trained in {duration(bar.progress.tasks[0].elapsed or 0.0)}")
    failed = [row for row in status(made.store, made.study.name).values() if row.state == "failed"]
    for row in failed:
        console.print(f"[red]{row.label} failed:[/] {row.reason}")
    if report:
        from analysis.study_report import report_study

        report_study(made.store, made.study.name, console)
    return bool(failed)
