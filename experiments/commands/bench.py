"""`windtunnel bench`: how fast, and how large, the programs of this project are on this machine."""

import dataclasses
import datetime
from pathlib import Path
from typing import Any

from experiments.benchmarks.train_shapes import Shape, shape
from experiments.commands.console import terminal
from scaling import environment
from scaling.errors import UserError
from scaling.storage import write_json


def named_shapes(sizes: tuple[str, ...], changes: dict[str, Any]) -> dict[str, Shape]:
    """The shapes of the names, with what was asked otherwise; values of None change nothing."""
    asked = {name: value for name, value in changes.items() if value is not None}
    return {name: dataclasses.replace(shape(name), **asked) for name in sizes}


def train(shapes: dict[str, Shape], torch_python: Path | None, rounds: int, seconds: float, out: Path) -> None:
    """Times the training step of every shape, prints a table and writes the figures."""
    from experiments.benchmarks import train_step

    if torch_python is not None and not torch_python.exists():
        raise UserError(f"benchmark: no interpreter at {torch_python}: --torch-python takes one that has PyTorch")
    results = {name: train_step.measure(wanted, torch_python, rounds, seconds) for name, wanted in shapes.items()}
    console = terminal()
    console.print(train_step.table(results))
    for name, result in results.items():
        if result["limit"]:
            console.print(
                f"{name}: the limit of {result['limit']['gflops']:,.0f} GFLOP/s is {result['limit']['source']}"
            )
        if torch_python is not None and result["ratio"] is None:
            console.print(
                f"{name}: no ratio, for {result['quiet_rounds']} of {rounds} rounds were quiet (other processes used "
                f"{result['other_cores']:.1f} cores); it takes {train_step.QUIET_ROUNDS}: repeat on an idle machine"
            )
    _write(out, {"rounds": rounds, "seconds": seconds, "shapes": results})


def memory(shapes: dict[str, Shape], out: Path) -> None:
    """Compiles the training step of every shape without running it, prints its memory and writes the figures."""
    from experiments.benchmarks import train_memory

    results = {name: train_memory.measure(wanted) for name, wanted in shapes.items()}
    terminal().print(train_memory.table(results))
    _write(out, {"shapes": results})


def _write(out: Path, figures: dict[str, Any]) -> None:
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": environment.commit(),
        "cores": environment.cores(),
        "versions": environment.versions(),
    }
    write_json(out, record | figures)
    terminal().print(f"written: {out}")
