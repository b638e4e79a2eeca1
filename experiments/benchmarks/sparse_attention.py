"""Question: from which length on is sparse attention faster than dense, by how much, and where does its time go?

Command: `windtunnel bench sparse_attention --rounds 20 --seconds 0.1` (and `--torch-python PATH`, `--activations NPZ`).
Cost: about a quarter of an hour on one H200 for 8K to 128K; a few minutes on two CPU cores for 1K to 8K.
Result: not run on a GPU yet.

All contenders of a length take turns in every round and are warm before the first: dense attention (cuDNN's through
JAX on a GPU, XLA's block by block on a CPU), PyTorch's scaled_dot_product_attention in a process of its own, the
selection, and attention to given blocks, forward and with gradients. Blocks are given with 0, 50, 80 and 95% overlap
between neighbouring tokens, and by selection from the q and k at hand: normal numbers, or a model's from a file. A
speed-up counts the selection's time as well, whatever the blocks. Useful FLOPs are of visible pairs alone: what a
kernel computes for tokens that do not see a block does not count.

Outputs and gradients are compared with the reference first, at a length that the reference can do.
"""

import dataclasses
import json
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from experiments.benchmarks.contenders import Contender
from kernels.sparse_attention import api, bench
from kernels.sparse_attention.arg_specs import SPECS, ArgSpec
from kernels.sparse_attention.config import Backend
from scaling.errors import UserError

FAMILIES = {name.rsplit("-", 1)[0]: spec for name, spec in SPECS.items()}
GPU_NAMES = tuple(f"{family}-{k}k" for family in ("minicpm4-8b", "nsa-size") for k in (8, 16, 32, 64, 128))
CPU_NAMES = tuple(f"small-{k}k" for k in (1, 2, 4, 8))
CHECKED_LENGTH = 1024
TOLERANCE = 2e-2  # of outputs and gradients in 16 bits, over the largest number

PASSES = "forward", "both"


def spec_of(name: str) -> ArgSpec:
    """The shapes of a name such as minicpm4-8b-32k: a family of `arg_specs.SPECS`, at any length in units of 1024."""
    match = re.fullmatch(r"(.+)-(\d+)k", name)
    if match is None or match[1] not in FAMILIES:
        raise UserError(f"benchmark: no shape '{name}': use FAMILY-LENGTHk, FAMILY one of {', '.join(FAMILIES)}")
    return dataclasses.replace(FAMILIES[match[1]], T=1024 * int(match[2]))


def default_names() -> tuple[str, ...]:
    """What is measured on this device if nothing is named."""
    return GPU_NAMES if jax.default_backend() == "gpu" else CPU_NAMES


def measure(
    name: str, torch_python: Path | None, rounds: int, seconds: float, activations: Path | None = None
) -> dict[str, Any]:
    """Times one length: every contender in turn for `seconds`, in each of `rounds` rounds.

    Args:
        name: as `spec_of` takes it.
        torch_python: an interpreter that has PyTorch, or None for no such peer.
        rounds: how many.
        seconds: of each contender in each round, one pass at least.
        activations: an .npz file of a model's q [T, H, h] and k [T, K, h], or None for normal numbers.
    """
    spec = spec_of(name)
    shapes = (spec.B, spec.T, spec.H, spec.h), (spec.B, spec.T, spec.K, spec.h)
    backend = api.resolve("auto", *shapes, spec.dtype, spec.selection.block, False)
    errors = checked(spec, backend)
    arrays = given(spec, activations)
    select = bench.select_stage(spec, arrays, backend)
    ids = {f"overlap {overlap:.0%}": bench.overlapping_ids(spec, overlap) for overlap in bench.OVERLAPS}
    ids["selected"] = np.asarray(select())
    stages = {f"dense {part}": stage for part, stage in bench.dense_stages(arrays).items()} | {"select": select}
    for source, found in ids.items():
        sparse = bench.sparse_stages(spec, arrays, jnp.asarray(found), backend)
        stages |= {f"{source} {part}": stage for part, stage in sparse.items()}
    for stage in stages.values():
        jax.block_until_ready(stage())
    timers: dict[str, Callable[[], float]] = {
        part: partial(bench.milliseconds, stage, seconds) for part, stage in stages.items()
    }
    peers = _torch_peers(spec, torch_python)
    try:
        for peer in peers:
            timers[peer.name] = partial(_peer_milliseconds, peer, spec, seconds)
        taken = bench.in_turns(timers, rounds)
    finally:
        for peer in peers:
            peer.close()
    facts = {"backend": backend, "errors": errors, "peers": {peer.name: peer.facts for peer in peers}}
    pairs = {source: bench.visible_pairs(found, spec.selection.block) for source, found in ids.items()}
    return {
        "spec": dataclasses.asdict(spec),
        "device": jax.devices()[0].device_kind,
        **facts,
        **summarise(spec, taken, pairs),
    }


def checked(spec: ArgSpec, backend: Backend) -> dict[str, float]:
    """Largest relative errors of outputs and gradients at a short length.

    Raises:
        UserError: one is beyond what 16 bits explain; its time would mean nothing.
    """
    errors = bench.largest_error(dataclasses.replace(spec, T=CHECKED_LENGTH), backend)
    wrong = {what: error for what, error in errors.items() if not error < TOLERANCE}
    if wrong:
        raise UserError(f"benchmark: {backend} is wrong here ({wrong}, {TOLERANCE} allowed): its speed means nothing")
    return errors


def given(spec: ArgSpec, activations: Path | None) -> bench.Arrays:
    """Normal numbers, or q and k of a file beside normal values."""
    arrays = bench.drawn(spec)
    if activations is None:
        return arrays
    with np.load(activations) as file:
        found = [jnp.asarray(file[name], spec.dtype)[None, : spec.T] for name in ("q", "k")]
    for name, x, like in zip(("q", "k"), found, arrays[:2], strict=True):
        if x.shape != like.shape:
            raise UserError(f"benchmark: {name} in {activations} has shape {x.shape[1:]}: needed are {like.shape[1:]}")
    return arrays._replace(q_BTHh=found[0], k_BSKh=found[1])


def _torch_peers(spec: ArgSpec, torch_python: Path | None) -> list[Contender]:
    if torch_python is None:
        return []
    script = str(Path(__file__).parent / "sparse_attention_torch.py")
    shape = json.dumps({key: getattr(spec, key) for key in ("B", "T", "H", "K", "h", "dtype")})
    peers: list[Contender] = []
    try:
        for part in PASSES:
            peers.append(Contender(f"torch {part}", [str(torch_python), script, shape, part]))
    except UserError:
        for peer in peers:
            peer.close()
        raise
    return peers


def _peer_milliseconds(peer: Contender, spec: ArgSpec, seconds: float) -> float:
    return 1e3 * spec.B * spec.T / peer.round(seconds).tokens_per_second


def summarise(spec: ArgSpec, taken: dict[str, list[float]], pairs: dict[str, int]) -> dict[str, Any]:
    """Figures of one length from the milliseconds of every contender.

    Returns:
        milliseconds (median and quartiles of each); and per source of blocks its visible pairs, useful TFLOP/s, and the
        speed-ups over dense attention and over PyTorch's, the selection's time counted: medians over rounds.
    """
    middle = {name: statistics.median(found) for name, found in taken.items()}
    cases = {}
    for source, count in pairs.items():
        flops = dict(zip(PASSES, bench.attention_flops(spec, count), strict=True))
        flops["attend"] = flops["forward"]
        rates = {
            part: f / 1e9 / middle[f"{source} {part}"] for part, f in flops.items() if f"{source} {part}" in middle
        }
        speedups = {}
        for peer in ("dense", "torch"):
            for part in PASSES:
                if f"{peer} {part}" in taken:
                    turns = zip(taken[f"{peer} {part}"], taken["select"], taken[f"{source} {part}"], strict=True)
                    speedups[f"{peer} {part}"] = statistics.median(other / (s + ours) for other, s, ours in turns)
        cases[source] = {"visible_pairs": count, "useful_tflops": rates, "speedup": speedups}
    quartiles = {
        name: statistics.quantiles(found, n=4) if len(found) > 1 else [found[0]] * 3 for name, found in taken.items()
    }
    return {
        "milliseconds": {name: {"median": middle[name], "quartiles": quartiles[name]} for name in taken},
        "cases": cases,
    }


def break_evens(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of each family and pass, the length from which selection and attention together are faster than dense attention.

    Blocks are those of "selected".
    """
    families: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for name, result in results.items():
        speedup = result["cases"]["selected"]["speedup"]
        families.setdefault(name.rsplit("-", 1)[0], []).append((result["spec"]["T"], speedup))
    found = {}
    for family, points in families.items():
        points.sort(key=lambda point: point[0])
        lengths = [length for length, _ in points]
        found[family] = {
            part: bench.break_even(lengths, [speedup[f"dense {part}"] for _, speedup in points]) for part in PASSES
        }
    return found


def table(results: dict[str, dict[str, Any]]) -> Table:
    """The figures of all lengths, as people read them: milliseconds, useful GFLOP/s forward, speed-ups."""
    view = Table("shape", "blocks", "select", "union", "attend", "forward", "both", "GFLOP/s", "over dense", "both")
    for name, result in results.items():
        times = {part: figure["median"] for part, figure in result["milliseconds"].items()}
        for peer in ("dense", "torch"):
            if f"{peer} forward" in times:
                view.add_row(
                    name, peer, "", "", "", *(f"{times[f'{peer} {part}']:,.2f}" for part in PASSES), "", "", ""
                )
        for source, case in result["cases"].items():
            parts = [
                f"{times[p]:,.2f}" if (p := f"{source} {part}") in times else ""
                for part in ("union", "attend", *PASSES)
            ]
            speedup = case["speedup"]
            view.add_row(
                name,
                source,
                f"{times['select']:,.2f}",
                *parts,
                f"{1e3 * case['useful_tflops']['forward']:,.0f}",
                f"{speedup['dense forward']:.2f}x",
                f"{speedup['dense both']:.2f}x",
            )
        view.add_section()
    return view
