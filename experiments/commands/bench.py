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
    for name in ("batch_size", "sequence_length"):
        if asked.get(name, 1) < 1:
            raise UserError(f"benchmark: {name} is {asked[name]}: it must be at least 1")
    return {name: dataclasses.replace(shape(name), **asked) for name in sizes}


def train(shapes: dict[str, Shape], torch_python: Path | None, rounds: int, seconds: float, out: Path) -> None:
    """Times the training step of every shape, writes the figures after each, and prints a table.

    Raises:
        UserError: a contender ended; of the shapes without such all figures are written.
    """
    from experiments.benchmarks import train_step

    _check_timing(rounds, seconds)
    if torch_python is not None and not torch_python.exists():
        raise UserError(f"benchmark: no interpreter at {torch_python}: --torch-python takes one that has PyTorch")
    console, results, failed = terminal(), {}, {}
    for name, wanted in shapes.items():
        try:
            results[name] = train_step.measure(wanted, torch_python, rounds, seconds)
        except UserError as error:  # a contender ended, for want of memory say: the other sizes are still to be had
            failed[name] = str(error)
        _write(out, {"rounds": rounds, "seconds": seconds, "shapes": results, "failed": failed})
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
    console.print(f"written: {out}")
    if failed:
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))


def _check_timing(rounds: int, seconds: float) -> None:
    if rounds < 1 or not seconds >= 0:
        raise UserError(f"benchmark: {rounds} rounds of {seconds:g} seconds: at least 1, of 0 seconds or more")


def sparse_attention(
    names: tuple[str, ...],
    torch_python: Path | None,
    rounds: int,
    seconds: float,
    activations: Path | None,
    out: Path,
) -> None:
    """Times sparse attention against dense at every length, writes the figures after each, and prints a table."""
    from experiments.benchmarks import sparse_attention as benchmark

    _check_timing(rounds, seconds)
    for path, option in ((torch_python, "--torch-python"), (activations, "--activations")):
        if path is not None and not path.exists():
            raise UserError(f"benchmark: nothing at {path}, which {option} names")
    results: dict[str, Any] = {}
    for name in names or benchmark.default_names():
        results[name] = benchmark.measure(name, torch_python, rounds, seconds, activations)
        figures = {"shapes": results, "break_even": benchmark.break_evens(results)}
        _write(out, {"rounds": rounds, "seconds": seconds} | figures)
    console = terminal()
    console.print(benchmark.table(results))
    for family, passes in benchmark.break_evens(results).items():
        for part, length in passes.items():
            where = f"from {length:,.0f} tokens on" if length else "not up to the longest measured"
            console.print(f"{family}, {part}: faster than dense {where}")
    console.print(f"written: {out}")


def memory(shapes: dict[str, Shape], out: Path) -> None:
    """Compiles the training step of every shape without running it, prints its memory and writes the figures."""
    from experiments.benchmarks import train_memory

    results = {name: train_memory.measure(wanted) for name, wanted in shapes.items()}
    terminal().print(train_memory.table(results))
    _write(out, {"shapes": results})
    terminal().print(f"written: {out}")


def _write(out: Path, figures: dict[str, Any]) -> None:
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": environment.commit(),
        "cores": environment.cores(),
        "versions": environment.versions(),
    }
    write_json(out, record | figures)
