"""The terminal, and numbers for people. Light: every command may import it."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def terminal() -> Console:
    """The terminal; piped output is as wide as the tables want to be."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 6 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def training_progress(console: Console) -> Progress:
    """A bar of training with what it is at, its `detail`, the time gone and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
    )
