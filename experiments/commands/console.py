"""The terminal, and numbers for people. Light: every command may import it."""

import sys

from rich.console import Console


def terminal() -> Console:
    """The terminal; piped output is as wide as the tables want to be."""
    return Console() if sys.stdout.isatty() else Console(width=140)


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 6 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
