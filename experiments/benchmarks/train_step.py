"""Question: how fast is a training step on this machine, against PyTorch and against its matrix products?

Command: `windtunnel bench train A B --torch-python PATH` (about ten minutes on two cores).
Cost: the machine for as long; PATH is any interpreter that has PyTorch, which nothing else here needs.
Result: analysis/results/train_step_cpu.json.

Every contender is a process that is warm before the first round and sleeps while another runs; rounds alternate. An
accelerator's memory does not hold three of them: there each peer is measured beside ours by itself, one after another.
All train the same shape in the same type with the same batch, clip by global norm, update by AdamW, get huge pages for
malloc and hand the loss to the host once in `steps_per_dispatch` steps. Ours is the step of `windtunnel run`, document
mask included; the peer is plain PyTorch (fused attention, fused AdamW), eager and compiled; it masks no documents.

Utilisation is the model's FLOPs over the limit: 6 for each parameter that a token is multiplied with (the head counts,
looking up an embedding does not), and attention over the keys that a causal row has. What is recomputed does not count.
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from experiments.benchmarks.contenders import Contender, Round, is_quiet
from experiments.benchmarks.train_shapes import Shape
from scaling.accounting import flops_per_token, parameter_counts

OURS, PEERS = "windtunnel", ("torch eager", "torch compiled")
QUIET_ROUNDS = 5  # fewer give no ratio: a loaded core stalls every barrier of the peer's threads and flatters us
# dense bfloat16 GFLOP/s by the maker's data sheet, by part of the device's name and with no sparsity
DATA_SHEET = {"H200": 989e3, "H100": 989e3, "A100": 312e3}

Rounds = dict[str, list[Round]]  # by contender


@dataclasses.dataclass(frozen=True)
class Limit:
    """What matrix products can reach, and where the figure is from."""

    gflops: float
    source: str


def limit_of(shape: Shape, rounds: Rounds, device: str, devices: int) -> Limit | None:
    """The data sheet's figure where there is one, else the products measured between the rounds."""
    if shape.model.compute_dtype == "bfloat16":
        for part, gflops in DATA_SHEET.items():
            if part in device:
                return Limit(gflops * devices, "data sheet, dense bfloat16")
    measured = [r.matmul_gflops for found in rounds.values() for r in found if r.matmul_gflops is not None]
    return Limit(statistics.median(measured), "matrix products in this run") if measured else None


def summarise(shape: Shape, measurements: Sequence[Rounds], device: str = "cpu", devices: int = 1) -> dict[str, Any]:
    """Figures of one shape.

    Args:
        shape: what was trained.
        measurements: rounds of contenders, ours among them; round i of each lies next to round i of the others.
        device: its name.
        devices: how many.

    Returns:
        Median tokens/s of each contender and `ratio`, ours over the faster peer (the median over the rounds beside it),
        both over the rounds that were quiet for all. With fewer than `QUIET_ROUNDS` of them in a measurement the ratio
        is None and the medians are over all rounds. Also the utilisation of the limit, and how quiet the machine was.
    """
    together = [list(zip(*rounds.values(), strict=True)) for rounds in measurements]
    quiet = [list(filter(is_quiet, found)) for found in together]
    quiet_rounds = min(map(len, quiet))
    speeds = [
        {name: r.tokens_per_second for name, r in zip(rounds, side_by_side, strict=True)}
        for rounds, found in zip(measurements, quiet if quiet_rounds >= QUIET_ROUNDS else together, strict=True)
        for side_by_side in found
    ]
    merged: Rounds = {}
    for rounds in measurements:
        merged |= {name: merged.get(name, []) + own for name, own in rounds.items()}
    rates = {name: statistics.median(speed[name] for speed in speeds if name in speed) for name in merged}
    ratio = peer = None
    if len(merged) > 1 and quiet_rounds >= QUIET_ROUNDS:
        peer = max((name for name in merged if name != OURS), key=rates.__getitem__)
        ratio = statistics.median(speed[OURS] / speed[peer] for speed in speeds if peer in speed)
    limit = limit_of(shape, merged, device, devices)
    flops = flops_per_token(shape.model, shape.sequence_length).training
    gflops = {name: rate * flops / 1e9 for name, rate in rates.items()}
    return {
        **dataclasses.asdict(shape),
        "non_embedding": parameter_counts(shape.model).non_embedding,
        "tokens_per_second": rates,
        "faster_peer": peer,
        "ratio": ratio,
        "flops_per_token": flops,
        "gflops": gflops,
        "limit": dataclasses.asdict(limit) if limit else None,
        "utilisation": {name: rate / limit.gflops for name, rate in gflops.items()} if limit else None,
        "other_cores": statistics.median(r.other_cores for found in merged.values() for r in found),
        "quiet_rounds": quiet_rounds,
    }


def measure(shape: Shape, torch_python: Path | None, rounds: int, seconds: float) -> dict[str, Any]:
    """Times one shape: contenders warmed up in turn, then `rounds` alternating rounds of `seconds` each."""
    task = json.dumps(dataclasses.asdict(shape))
    ours = [sys.executable, "-m", "experiments.benchmarks.train_step_ours", task]
    peers: dict[str, list[str]] = {}
    if torch_python is not None:
        peer = [str(torch_python), str(Path(__file__).parent / "train_step_torch.py"), task]
        peers = {name: [*peer, name.removeprefix("torch ")] for name in PEERS}
    measurements: list[Rounds] = []
    facts: dict[str, Any] = {}
    while not measurements or peers:
        found, told = _interleaved(ours, peers, rounds, seconds)
        measurements.append(found)
        facts |= told
        peers = {name: command for name, command in peers.items() if name not in found}
    return summarise(shape, measurements, facts[OURS]["device"], facts[OURS]["devices"]) | {"facts": facts}


def _interleaved(
    ours: list[str], peers: dict[str, list[str]], rounds: int, seconds: float
) -> tuple[Rounds, dict[str, Any]]:
    """Rounds of ours and of the peers that there is room for beside it (on a CPU all, else one), and their facts."""
    contenders: list[Contender] = []
    try:
        contenders.append(Contender(OURS, ours))
        room = len(peers) if contenders[0].facts["device"] == "cpu" else 1
        for name, command in list(peers.items())[:room]:
            contenders.append(Contender(name, command))
        found: Rounds = {contender.name: [] for contender in contenders}
        for _ in range(rounds):
            for contender in contenders:
                found[contender.name].append(contender.round(seconds))
    finally:
        for contender in contenders:
            contender.close()
    return found, {contender.name: contender.facts for contender in contenders}


def table(results: dict[str, dict[str, Any]]) -> Table:
    """The figures of all shapes, as people read them."""
    titles = "size", "N", "trained by", "tokens/s", "GFLOP/s", "of the limit", "peak memory", "ours over it"
    view = Table(*titles)
    for name, result in results.items():
        limit = result["limit"]
        for contender, rate in result["tokens_per_second"].items():
            view.add_row(
                name,
                f"{result['non_embedding'] / 1e6:.2f}M",
                contender,
                f"{rate:,.0f}",
                f"{result['gflops'][contender]:,.1f}",
                f"{result['utilisation'][contender]:.1%} of {limit['gflops']:,.0f}" if limit else "",
                f"{result['facts'][contender]['peak_bytes'] / 2**30:.2f} GiB",
                f"{result['ratio']:.2f}x" if contender == result["faster_peer"] else "",
            )
        view.add_section()
    return view
