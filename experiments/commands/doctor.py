"""`windtunnel doctor`: what this machine offers, and what a training process sets before it starts."""

import importlib.util
import os
import shutil

from rich.table import Table

from experiments.commands.console import terminal
from scaling.environment import SETTINGS, cores, versions


def show() -> None:
    """Prints devices, the environment of training processes, versions and what is missing."""
    import jax

    console = terminal()
    table = Table("what", "value", show_header=False)
    table.add_row("cores", str(cores()))
    table.add_row("devices", ", ".join(f"{d.device_kind} {d.id}" for d in jax.devices()))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    table.add_row("memory", f"{memory:.0f} GiB")
    table.add_row("free disk here", f"{shutil.disk_usage('.').free / 2**30:.0f} GiB")
    for name, why in SETTINGS.items():
        table.add_row(name, f"{os.environ.get(name, 'not set')}\n[dim]{why}[/]")
    for name, version in versions().items():
        table.add_row(name, version)
    missing = [name for name in ("seqio", "tensorflow", "sentencepiece") if not importlib.util.find_spec(name)]
    table.add_row("preparing data", f"needs {', '.join(missing)}: install windtunnel[data]" if missing else "ready")
    table.add_row("compiler", shutil.which("c++") or shutil.which("g++") or "none found")
    console.print(table)
