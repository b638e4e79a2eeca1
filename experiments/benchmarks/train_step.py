"""Question: how fast is a training step on this machine's CPU, against PyTorch and against its matrix products?

Command: `python -m experiments.benchmarks.train_step --torch-python PATH` (about ten minutes).
Cost: two cores for as long; PATH is any interpreter that has PyTorch, which nothing else here needs.
Result: analysis/results/train_step_cpu.json.

Every contender is a process that is warm before the first round and sleeps while another runs; rounds alternate.
All train the same shape in float32 with the same batch, clip by global norm, update by AdamW, get huge pages for
malloc and hand the loss to the host once in `STEPS_PER_READ` steps. Ours is the step of `windtunnel run`, document
mask included; the peer is plain PyTorch (fused attention, fused AdamW), eager and compiled.
"""

import dataclasses
import datetime
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from models.config import ModelConfig
from scaling import environment
from scaling.accounting import flops_per_token, parameter_counts
from scaling.errors import UserError
from scaling.storage import write_json

OURS, PEERS = "windtunnel", ("torch eager", "torch compiled")
STEPS_PER_READ = 4
HERE = Path(__file__).parent
QUIET_CORES = 0.1  # used by other processes, at most, in a round that counts for the ratio
QUIET_ROUNDS = 5  # fewer give no ratio: a loaded core stalls every barrier of the peer's threads and flatters us


@dataclasses.dataclass(frozen=True)
class Shape:
    """One training step to time: a model, and the batch it sees."""

    model: ModelConfig
    sequence_length: int
    batch_size: int


def _shape(num_layers: int, d_model: int, d_ff: int, sequence_length: int) -> Shape:
    heads = d_model // 32
    model = ModelConfig(
        vocab_size=259,
        num_layers=num_layers,
        d_model=d_model,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=32,
        d_ff=d_ff,
        mup_base_width=d_model,
    )
    return Shape(model, sequence_length, batch_size=16)


SHAPES = {"A": _shape(4, 128, 352, 128), "B": _shape(6, 192, 512, 256)}


@dataclasses.dataclass(frozen=True)
class Round:
    """What one contender did in one round.

    Attributes:
        tokens_per_second: the round's median.
        other_cores: cores that other processes used meanwhile, on average.
        matmul_gflops: rate of large float32 matrix products on all cores, from contenders that measure it.
    """

    tokens_per_second: float
    other_cores: float
    matmul_gflops: float | None


def _cpu_seconds(pid: int | None) -> float:
    """CPU seconds used so far by a process, or by the whole machine (idle time left out)."""
    ticks = os.sysconf("SC_CLK_TCK")
    if pid is None:
        user, nice, system, _, _, *interrupts_and_stolen = (
            int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return (user + nice + system + sum(interrupts_and_stolen)) / ticks
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / ticks


class Contender:
    """A process that trains one shape for as long as it is told to, and says how fast it was.

    The protocol is lines on its pipes: it prints its facts once warm; a number of seconds in, its figures out.
    """

    def __init__(self, name: str, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | environment.settings(),
            cwd=HERE.parents[1],
        )
        self.name = name
        self.facts = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise UserError(f"benchmark: {self.name} ended with code {self.process.returncode}: see its message above")
        return json.loads(line)

    def round(self, seconds: float) -> Round:
        """Trains for about `seconds`."""
        assert self.process.stdin is not None
        pid = self.process.pid
        before = _cpu_seconds(None), _cpu_seconds(pid)
        print(seconds, file=self.process.stdin, flush=True)
        answer = self._answer()
        others = (_cpu_seconds(None) - before[0]) - (_cpu_seconds(pid) - before[1])
        return Round(answer["tokens_per_second"], max(0.0, others) / answer["seconds"], answer.get("matmul_gflops"))

    def close(self) -> None:
        """Ends the process: its input ends."""
        self.process.communicate()


def summarise(shape: Shape, rounds: dict[str, list[Round]]) -> dict[str, Any]:
    """Figures of one shape from the rounds of every contender, round i of each next to round i of the others.

    Returns:
        Median tokens/s of each contender and `ratio`, ours over the faster peer (the median over rounds), both
        over the rounds that were quiet for all. With fewer than `QUIET_ROUNDS` of them the ratio is None and the
        medians are over all rounds. Further the limit, which is the machine's matrix products, and how quiet the
        machine was.
    """
    rates = {name: statistics.median(r.tokens_per_second for r in found) for name, found in rounds.items()}
    quiet = [together for together in zip(*rounds.values(), strict=True) if _is_quiet(together)]
    ratio = peer = None
    if len(rounds) > 1 and len(quiet) >= QUIET_ROUNDS:
        speeds = [{name: r.tokens_per_second for name, r in zip(rounds, q, strict=True)} for q in quiet]
        rates = {name: statistics.median(speed[name] for speed in speeds) for name in rounds}
        peer = max((name for name in rounds if name != OURS), key=rates.__getitem__)
        ratio = statistics.median(speed[OURS] / speed[peer] for speed in speeds)
    matmul = [r.matmul_gflops for found in rounds.values() for r in found if r.matmul_gflops is not None]
    flops = flops_per_token(shape.model, shape.sequence_length).training
    return {
        "model": dataclasses.asdict(shape.model),
        "sequence_length": shape.sequence_length,
        "batch_size": shape.batch_size,
        "non_embedding": parameter_counts(shape.model).non_embedding,
        "tokens_per_second": rates,
        "faster_peer": peer,
        "ratio": ratio,
        "flops_per_token": flops,
        "gflops": {name: rate * flops / 1e9 for name, rate in rates.items()},
        "matmul_gflops": statistics.median(matmul) if matmul else None,
        "other_cores": statistics.median(r.other_cores for found in rounds.values() for r in found),
        "quiet_rounds": len(quiet),
    }


def _is_quiet(together: tuple[Round, ...]) -> bool:
    """Whether other processes left the machine to every contender of a round."""
    return all(r.other_cores < QUIET_CORES for r in together)


def measure(shape: Shape, torch_python: Path | None, rounds: int, seconds: float) -> dict[str, Any]:
    """Times one shape: every contender warmed up in turn, then `rounds` alternating rounds of `seconds` each."""
    task = json.dumps(dataclasses.asdict(shape) | {"steps": STEPS_PER_READ})
    commands = {OURS: [sys.executable, "-m", "experiments.benchmarks.train_step_ours", task]}
    if torch_python is not None:
        peer = [str(torch_python), str(HERE / "train_step_torch.py"), task]
        commands |= {name: [*peer, name.removeprefix("torch ")] for name in PEERS}
    contenders: list[Contender] = []
    try:
        for name, command in commands.items():
            contenders.append(Contender(name, command))
        found: dict[str, list[Round]] = {contender.name: [] for contender in contenders}
        for _ in range(rounds):
            for contender in contenders:
                found[contender.name].append(contender.round(seconds))
    finally:
        for contender in contenders:
            contender.close()
    return summarise(shape, found) | {"facts": {c.name: c.facts for c in contenders}}


def table(results: dict[str, dict[str, Any]]) -> Table:
    """The figures of all shapes, as people read them."""
    view = Table("shape", "N", "trained by", "tokens/s", "GFLOP/s", "of matrix products", "ours over it")
    for name, result in results.items():
        limit = result["matmul_gflops"]
        for contender, rate in result["tokens_per_second"].items():
            gflops = result["gflops"][contender]
            is_peer = contender == result["faster_peer"]
            view.add_row(
                name,
                f"{result['non_embedding'] / 1e6:.2f}M",
                contender,
                f"{rate:,.0f}",
                f"{gflops:.0f}",
                f"{gflops / limit:.0%} of {limit:.0f}" if limit else "",
                f"{result['ratio']:.2f}x" if is_peer else "",
            )
        view.add_section()
    return view


def main(
    torch_python: Path | None = None,
    shapes: tuple[str, ...] = tuple(SHAPES),
    rounds: int = 30,
    seconds: float = 1.0,
    out: Path = Path("analysis/results/train_step_cpu.json"),
) -> None:
    """Time a training step on CPU against PyTorch.

    Args:
        torch_python: an interpreter that has PyTorch; without one only ours is timed.
        shapes: which of the shapes A (0.8M parameters) and B (2.7M).
        rounds: how many alternating rounds.
        seconds: how long a contender trains in each round.
        out: where the figures go, as JSON.
    """
    for name in set(shapes) - set(SHAPES):
        raise UserError(f"benchmark: no shape {name!r}: use {' or '.join(SHAPES)}")
    if torch_python is not None and not torch_python.exists():
        raise UserError(f"benchmark: no interpreter at {torch_python}: --torch-python takes one that has PyTorch")
    results = {name: measure(SHAPES[name], torch_python, rounds, seconds) for name in shapes}
    console = Console()
    console.print(table(results))
    for name, result in results.items():
        if torch_python is not None and result["ratio"] is None:
            console.print(
                f"shape {name}: no ratio, for {result['quiet_rounds']} of {rounds} rounds were quiet (other processes "
                f"used {result['other_cores']:.1f} cores); it takes {QUIET_ROUNDS}: repeat on an idle machine"
            )
    record = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": environment.commit(),
        "cores": environment.cores(),
        "rounds": rounds,
        "seconds": seconds,
        "shapes": results,
    }
    write_json(out, record)
    console.print(f"written: {out}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
