"""`windtunnel data`: preparing the corpora of a study, and showing what was prepared."""

import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from analysis.numbers import quantity
from experiments.commands.console import terminal
from scaling.data.prepare import prepare as prepare_task
from scaling.data.shards import Manifest, open_prepared
from scaling.study import load_study


def prepare(study: str, data_dir: Path) -> None:
    """Prepares every task of a study, with progress, and prints what came out."""
    console = terminal()
    manifests = []
    for task in load_study(study).tasks():
        start = time.monotonic()
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as progress:
            bar = progress.add_task(f"{task.name}: reading")

            def told(stage: str, documents: int, done: int, bar: object = bar, name: str = task.name) -> None:
                progress.update(bar, description=f"{name}: {stage} {documents} documents, {quantity(done)}B")  # type: ignore[arg-type]

            manifests.append(prepare_task(task, data_dir, told))
        console.print(f"{task.name}: prepared in {time.monotonic() - start:.0f} s")
    _print(manifests, console)


def show(study: str, data_dir: Path) -> None:
    """Prints what was prepared of a study's tasks."""
    _print([open_prepared(task, data_dir).manifest for task in load_study(study).tasks()], terminal())


def _print(manifests: list[Manifest], console: Console) -> None:
    table = Table("task", "domain", "split", "documents", "tokens", "bytes/token", "digest")
    for manifest in manifests:
        for name in ("train", "heldout"):
            split = getattr(manifest, name)
            table.add_row(
                manifest.task.name,
                manifest.task.source.domain,
                name,
                quantity(split.documents),
                quantity(split.tokens),
                f"{split.bytes / split.tokens:.3f}",
                split.digest[:12],
            )
    console.print(table)
    for manifest in manifests:
        if manifest.dropped:
            counts = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in manifest.dropped.items())
            console.print(f"{manifest.task.name}: documents left out: {counts}")
        for note in manifest.notes:
            console.print(f"{manifest.task.name}: {note}")
