"""Question: how fast is a certified fit with intervals, against scipy on the same points and the same cores?

Command: `python -m experiments.benchmarks.law_fit --table chinchilla_svg_extracted.csv` (Epoch's table).
Cost: 5 minutes of two cores.
Result: analysis/results/law_fit_cpu.json.

Rounds alternate between our engine, in a process of its own with the settings of the command line, and scipy's
optimisers, in processes of their own: a share of the published grid of starts and of the published bootstrap, once in
one process, as it was published, and once spread over all cores. What was sampled is scaled up, and says so. The
command `windtunnel fit` is timed as a process, with an empty cache of compiled programs and with the one it leaves.
"""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import functools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from rich.console import Console
from rich.table import Table

from experiments.benchmarks import law_fit_scipy as peer
from experiments.benchmarks.law_fit_command import commands
from scaling import environment
from scaling.errors import UserError, exit_on_user_error
from scaling.laws import table as tables
from scaling.storage import write_json

ROOT = Path(__file__).parents[2]
SAME = 1e-6  # relative objective within which the two engines have found the same optimum
TIGHT_STARTS = 40  # from which scipy, at tight tolerances, is asked where the optimum is
AT_OPTIMUM = 1e-8  # relative objective from which a start counts as arrived

KINDS = "finite differences", "analytic"

# seconds that we want each part to take at most, on two cores
GOALS = {"fit": 0.1, "starts": 0.9, "bootstrap": 5.0, "restarts": 30.0, "command cold": 8.0, "command warm": 8.0}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is run.

    Attributes:
        fit_starts: of the certified fit.
        starts: of the large fit, as many as the published grid has.
        replicates: of the bootstrap.
        restarts: starts of every replicate where all are fitted from many.
        peer_starts, peer_replicates: how many scipy is sampled with.
        rounds: that alternate between the engines; the sample is spread over them.
    """

    fit_starts: int = 64
    starts: int = 4500
    replicates: int = 4000
    restarts: int = 32
    peer_starts: int = 300
    peer_replicates: int = 40
    rounds: int = 5


class Engine:
    """Our side: a process that answers requests, one JSON line each; see `law_fit_ours`."""

    def __init__(self, points: Path, cache: Path) -> None:
        settings = environment.settings() | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.benchmarks.law_fit_ours", str(points)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
            cwd=ROOT,
        )
        self.facts = self._answer()

    def ask(self, what: str, *arguments: int) -> Any:
        """Runs one task and returns its figures."""
        assert self.process.stdin is not None
        print(json.dumps([what, arguments]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise UserError(f"benchmark: our engine ended with code {self.process.returncode}: see its message above")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process: its input ends."""
        self.process.communicate()


class Peer:
    """One way to fit with scipy, sampled in rounds: seconds in one process and on all cores, scaled to the whole.

    Args:
        work: of `law_fit_scipy`, called with a share of `items`; it crosses to other processes.
        items: starts or replicates, (all of them, ...).
        sample: how many of them are run; drawn, since a regular share of a grid may miss a whole axis.
        rounds: over which the sample is spread.
    """

    def __init__(self, work: Callable[[np.ndarray], peer.Work], items: np.ndarray, sample: int, rounds: int) -> None:
        self.work, self.total, self.sample = work, len(items), min(sample, len(items))
        drawn = np.random.default_rng(0).permutation(len(items))[: self.sample]
        self.shares = np.array_split(items[drawn], rounds)
        self.alone, self.spread, self.evaluations = 0.0, 0.0, 0
        self.objectives: list[float] = []

    def round(self, index: int, pool: concurrent.futures.Executor, cores: int) -> None:
        """Runs one share, in one process and then spread over all cores."""
        share = self.shares[index]
        done = pool.submit(self.work, share).result()
        began = time.perf_counter()
        halves = [pool.submit(self.work, part) for part in np.array_split(share, cores)]
        for half in halves:
            half.result()
        self.spread += time.perf_counter() - began
        self.alone += done.seconds
        self.evaluations += done.evaluations
        self.objectives += done.objectives

    def figures(self, optimum: float | None) -> dict[str, Any]:
        """Seconds for all items; where an optimum is given, the share of the sample that reached it."""
        scale = self.total / self.sample
        found = {
            "one_process_s": self.alone * scale,
            "all_cores_s": self.spread * scale,
            "sampled": self.sample,
            "of": self.total,
            "evaluations_each": self.evaluations / self.sample,
        }
        if optimum is not None:
            found["share_at_optimum"] = float(np.mean(np.array(self.objectives) < optimum * (1 + AT_OPTIMUM)))
        return found


def peers(data: peer.Data, sizes: Sizes) -> dict[str, Peer]:
    """What scipy does, by name: every start of the grid and every replicate, with both kinds of gradient."""
    points = len(data.log_loss)
    rows = np.random.default_rng(0).integers(0, points, (sizes.replicates, points))
    from_starts = functools.partial(peer.from_starts, data=data)
    replicates = functools.partial(peer.replicates, data=data)
    starts, resampled = (sizes.peer_starts, sizes.rounds), (sizes.peer_replicates, sizes.rounds)
    return {
        "starts, finite differences": Peer(functools.partial(from_starts, analytic=False), peer.grid(), *starts),
        "starts, analytic": Peer(functools.partial(from_starts, analytic=True), peer.grid(), *starts),
        "replicates, finite differences": Peer(functools.partial(replicates, analytic=False), rows, *resampled),
        "replicates, analytic": Peer(functools.partial(replicates, analytic=True), rows, *resampled),
    }


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes begun inside multiply small matrices on one thread: with more they wait for each other."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def interleaved(path: Path, sizes: Sizes) -> dict[str, Any]:
    """Both engines on the points of a file, in alternating rounds.

    Returns:
        `first_fit_s`, compilation included; `ours`, every answer of our engine by part; `peers`, their figures; the
        best objective of each engine, and the measured rate of exponentials.

    Raises:
        UserError: the engines disagree about the optimum.
    """
    points = tables.read_table(path)
    data = peer.Data(np.log(points.columns["n"]), np.log(points.columns["d"]), np.log(points.loss))
    cores, others = environment.cores(), peers(data, sizes)
    ours: dict[str, list[Any]] = {"fit": [], "starts": [], "bootstrap": [], "restarts": []}
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as cache, concurrent.futures.ProcessPoolExecutor(cores, spawn) as pool:
        with _one_thread_each():
            idle = [pool.submit(peer.from_starts, peer.HOFFMANN[None], data, True) for _ in range(cores)]  # starts it
        engine = Engine(path, Path(cache))
        try:
            first = engine.ask("fit", sizes.fit_starts)
            tasks: dict[str, tuple[str, tuple[int, ...]]] = {
                "fit": ("fit", (sizes.fit_starts,)),
                "starts": ("fit", (sizes.starts,)),
                "bootstrap": ("bootstrap", (sizes.replicates,)),
                "restarts": ("restarts", (sizes.replicates, sizes.restarts)),
            }
            for name, arguments in tasks.values():
                engine.ask(name, *arguments)  # compiles, where another shape needs it
            concurrent.futures.wait(idle)
            for index in range(sizes.rounds):
                for (part, (name, arguments)), other in zip(tasks.items(), others.values(), strict=True):
                    ours[part].append(engine.ask(name, *arguments))
                    other.round(index, pool, cores)
            rate = engine.ask("exponentials")["per_second"]
        finally:
            engine.close()
    optimum = min(answer["objective"] for answer in ours["fit"] + ours["starts"])
    tight = np.concatenate([peer.HOFFMANN[None], *others["starts, analytic"].shares])[:TIGHT_STARTS]
    theirs = min(peer.from_starts(tight, data, analytic=True, tight=True).objectives)
    same_optimum(optimum, theirs)
    return {
        "points": len(points),
        "facts": engine.facts,
        "optimum": {"ours": optimum, "scipy": theirs},
        "exponentials_per_second": rate,
        "first_fit_s": first["seconds"],
        "ours": ours,
        "peers": {
            name: other.figures(optimum if name.startswith("starts") else None) for name, other in others.items()
        },
    }


def same_optimum(ours: float, theirs: float) -> None:
    """Refuses figures of engines that solve different problems.

    Raises:
        UserError: their best objectives differ.
    """
    if abs(theirs / ours - 1) > SAME:
        raise UserError(f"benchmark: the engines disagree about the optimum: ours {ours:.10g}, scipy's {theirs:.10g}")


def summarise(measured: dict[str, Any], replicates: int) -> dict[str, Any]:
    """Seconds of each part (median over rounds) beside its goal and what scipy takes for the same work."""
    alone = {name: found["one_process_s"] for name, found in measured["peers"].items()}
    spread = {name: found["all_cores_s"] for name, found in measured["peers"].items()}

    def against(name: str, times: float = 1.0) -> dict[str, float]:
        return {"one_process_s": times * alone[name], "all_cores_s": times * spread[name]}

    per_part = {
        "fit": {kind: against(f"starts, {kind}") for kind in KINDS},
        "starts": {kind: against(f"starts, {kind}") for kind in KINDS},
        "bootstrap": {kind: against(f"replicates, {kind}") for kind in KINDS},
        "restarts": {kind: against(f"starts, {kind}", replicates) for kind in KINDS},
    }
    parts = {}
    for part, others in per_part.items():
        seconds = statistics.median(answer["seconds"] for answer in measured["ours"][part])
        parts[part] = {
            "seconds": seconds,
            "goal": GOALS[part],
            "peer": others,
            "times_faster": {kind: {way: s / seconds for way, s in other.items()} for kind, other in others.items()},
        }
    return parts


def view(parts: dict[str, Any], timed: dict[str, dict[str, float | None]]) -> Table:
    """The figures, as people read them."""
    shown = Table("part", "seconds", "goal", "scipy as published, one process", "analytic gradients, all cores")
    for part, found in parts.items():
        cells = [
            f"{found['peer'][kind][way]:,.1f} s ({found['times_faster'][kind][way]:,.0f}x)"
            for kind, way in zip(KINDS, ("one_process_s", "all_cores_s"), strict=True)
        ]
        shown.add_row(part, f"{found['seconds']:.3f}", f"{found['goal']:g}", *cells)
    for name, run in timed.items():
        shown.add_row(name, f"{run['seconds']:.2f}", f"{GOALS[name]:g}", "", "")
    return shown


def main(
    table: Path,
    sizes: Sizes = Sizes(),
    out: Path = Path("analysis/results/law_fit_cpu.json"),
) -> None:
    """Time fits and bootstraps against scipy on CPU.

    Args:
        table: Epoch's chinchilla_svg_extracted.csv.
        sizes: how much is run.
        out: where the figures go, as JSON.
    """
    if not table.is_file():
        raise UserError(f"benchmark: no table at {table}: --table takes Epoch's chinchilla_svg_extracted.csv")
    load = os.getloadavg()[0]
    frame = pd.read_csv(table)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "points.csv"
        frame[frame["loss"] < frame["loss"].nlargest(5).min()].to_csv(path, index=False)  # as in Epoch's notebook
        measured = interleaved(path, sizes)
        timed = commands(path, sizes.rounds)
    parts = summarise(measured, sizes.replicates)
    console = Console()
    console.print(view(parts, timed))
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": environment.commit(),
        "processor": _processor(),
        "cores": environment.cores(),
        "load_before": load,
        "scipy": metadata.version("scipy"),
        "sizes": dataclasses.asdict(sizes),
        "parts": parts,
        "commands": timed,
        **measured,
    }
    write_json(out, record)
    console.print(f"written: {out}")


def _processor() -> str:
    """The processor's name; what the platform says where the kernel does not list it."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
