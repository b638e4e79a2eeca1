"""`windtunnel status`: the state of every run of a study, from what lies on disk."""

from collections import Counter
from pathlib import Path

from rich.table import Table

from experiments.commands.console import terminal
from scaling.errors import UserError
from scaling.records import RunStore, status
from scaling.study import load_study

_COLOURS = {"complete": "green", "partial": "yellow", "missing": "dim", "failed": "red"}


def show(study: str, runs_dir: Path) -> None:
    """Prints a row for every run of the study's plan."""
    name = load_study(study).name if study.endswith(".py") else study
    try:
        rows = status(RunStore(runs_dir), name)
    except FileNotFoundError as error:
        raise UserError(f"{error}: `windtunnel plan {study}` makes one, or give another --runs-dir") from error
    table = Table("run", "kind", "id", "steps", "of", "state")
    for row in rows.values():
        colour = _COLOURS[row.state]
        state = f"[{colour}]{row.state}[/]" + (f": {row.reason}" if row.state == "failed" else "")
        table.add_row(row.label, row.kind, row.run, str(row.done), str(row.stop), state)
    console = terminal()
    console.print(table)
    counts = Counter(row.state for row in rows.values())
    console.print(", ".join(f"{counts[state]} {state}" for state in _COLOURS if state in counts))
