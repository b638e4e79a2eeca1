"""What is measured of sparse attention: ids of known overlap, useful FLOPs, the stages of a pass, dense attention.

Which cases are run, and where figures go, is for `experiments/benchmarks/sparse_attention.py`. Nothing here is a claim:
figures are true of the device that they were taken on.
"""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kernels.sparse_attention import api, dense
from kernels.sparse_attention.arg_specs import ArgSpec
from kernels.sparse_attention.config import Backend, num_blocks
from kernels.sparse_attention.tables import union_tables

OVERLAPS = (0.0, 0.5, 0.8, 0.95)

Stage = Callable[[], Any]  # computes one thing anew, of arguments that are on the device already


class Arrays(NamedTuple):
    """Queries, keys and values on the device, and what flows back into the outputs."""

    q_BTHh: jax.Array
    k_BSKh: jax.Array
    v_BSKh: jax.Array
    do_BTHh: jax.Array


def drawn(spec: ArgSpec, seed: int = 0) -> Arrays:
    """Normal numbers."""
    q, k, v, _ = spec.structs()
    keys = jax.random.split(jax.random.key(seed), 4)
    return Arrays(*(jax.random.normal(key, s.shape, s.dtype) for key, s in zip(keys, (q, k, v, q), strict=True)))


def overlapping_ids(spec: ArgSpec, overlap: float, seed: int = 0) -> np.ndarray:
    """Block ids [B, K, T, n] in which neighbouring tokens share about `overlap` of the blocks that are not forced.

    A free slot keeps its block for the next token with that probability, else draws one between the forced ones; it may
    draw what another slot has, which `visible_pairs` counts once. A token with fewer blocks than slots sees them all.
    """
    selection, (B, K, T, n) = spec.selection, spec.structs()[3].shape
    rng = np.random.default_rng(seed)
    token_T1 = np.arange(T, dtype=np.int32)[:, None]
    own_T1, init = token_T1 // selection.block, np.arange(selection.init_blocks, dtype=np.int32)
    local = np.arange(selection.local_blocks, dtype=np.int32)[::-1]  # the own block last: short rows have no others
    slots = np.arange(max(0, n - len(init) - len(local)), dtype=np.int32)
    choice_T1 = np.maximum(own_T1 - len(local) + 1 - len(init), 0)  # blocks between the forced ones
    all_Tf = np.where(slots < choice_T1, slots, -1 - len(init))
    forced_TF = np.concatenate([np.where(init <= own_T1, init, -1), np.maximum(own_T1 - local, -1)], axis=1)
    ids = np.empty((B, K, T, n), np.int32)
    for b, k in np.ndindex(B, K):
        draw_Tf = (rng.random((T, len(slots))) * choice_T1).astype(np.int32)
        anew_Tf = (rng.random(draw_Tf.shape) >= overlap) | (choice_T1 <= len(slots))
        drawn_at_Tf = np.maximum.accumulate(np.where(anew_Tf, token_T1, 0), axis=0)
        kept_Tf = np.take_along_axis(draw_Tf, drawn_at_Tf, axis=0)
        free_Tf = len(init) + np.where(choice_T1 <= len(slots), all_Tf, kept_Tf)
        ids[b, k] = np.concatenate([free_Tf, forced_TF], axis=1)[:, -n:]
    return ids


def visible_pairs(ids_BKTn: np.ndarray, block: int) -> int:
    """(query, key) pairs that the ids make visible in a causal row, over batch and kv-heads."""
    ids, token_T = np.sort(ids_BKTn, axis=-1), np.arange(ids_BKTn.shape[2])
    own_T1 = token_T[:, None] // block
    first = np.concatenate([np.ones_like(ids[..., :1], bool), ids[..., 1:] != ids[..., :-1]], axis=-1)
    seen = first & (ids >= 0) & (ids <= own_T1)
    sees_own = (seen & (ids == own_T1)).any(axis=-1)
    later_T = block - 1 - token_T % block  # keys of the own block that come after the query
    return int(seen.sum()) * block - int((sees_own * later_T).sum())


def attention_flops(spec: ArgSpec, pairs: int) -> tuple[float, float]:
    """Useful FLOPs of the forward pass and of both: two products a pair and head forward, five more backward.

    Args:
        spec: shapes.
        pairs: visible ones, summed over kv-heads; each is seen by H / K query heads.
    """
    forward = 4.0 * (spec.H // spec.K) * spec.h * pairs
    return forward, 3.5 * forward


def sparse_stages(spec: ArgSpec, arrays: Arrays, ids_BKTn: jax.Array, backend: Backend) -> dict[str, Stage]:
    """Attention to given blocks: "forward", "both" (with gradients); of the GPU kernel "union" and "attend" too."""
    q, k, v, do = arrays
    block = spec.selection.block

    def attention(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        return api.block_sparse_attention(q, k, v, ids, block=block, backend=backend)[0]

    stages = _passes(attention, (q, k, v, ids_BKTn), do)
    if backend == "pallas_gpu":
        from kernels.sparse_attention import hopper, pallas_gpu

        tiling = hopper.Tiling(spec.T, spec.K, spec.H // spec.K)
        union = jax.jit(lambda ids: union_tables(ids, tiling.workers * tiling.tokens, num_blocks(spec.T, block)))
        attend = jax.jit(functools.partial(pallas_gpu.attend, segments_BT=None, block=block, scale=spec.h**-0.5))
        tables = union(ids_BKTn)
        stages |= {"union": lambda: union(ids_BKTn), "attend": lambda: attend(q, k, v, tables)}
    return stages


def select_stage(spec: ArgSpec, arrays: Arrays, backend: Backend) -> Stage:
    """InfLLM v2's selection, scores and top-k together; it gives the ids."""
    select = jax.jit(functools.partial(api.select_blocks, config=spec.selection, backend=backend))
    return lambda: select(arrays.q_BTHh, arrays.k_BSKh)


def dense_stages(arrays: Arrays) -> dict[str, Stage]:
    """Dense causal attention, "forward" and "both": cuDNN's on a GPU, block by block in XLA elsewhere."""
    cudnn = jax.default_backend() == "gpu"

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return dense.attention(q, k, v, None, cudnn=cudnn)

    return _passes(attention, arrays[:3], arrays.do_BTHh)


def _passes(
    attention: Callable[..., jax.Array], arguments: tuple[jax.Array, ...], do_BTHh: jax.Array
) -> dict[str, Stage]:
    def gradients(do_BTHh: jax.Array, *arguments: jax.Array) -> Any:
        o_BTHh, pullback = jax.vjp(lambda *qkv: attention(*qkv, *arguments[3:]), *arguments[:3])
        return o_BTHh, pullback(do_BTHh)

    forward, both = jax.jit(attention), jax.jit(gradients)
    return {"forward": lambda: forward(*arguments), "both": lambda: both(do_BTHh, *arguments)}


def largest_error(spec: ArgSpec, backend: Backend) -> dict[str, float]:
    """Of the backend's outputs and gradients against the reference's in float32, over each one's largest number.

    Args:
        spec: shapes, short enough for the reference's [T, T] scores.
        backend: which.
    """
    arrays, ids = drawn(spec, seed=1), jnp.asarray(overlapping_ids(spec, 0.5))
    (o, gradients) = sparse_stages(spec, arrays, ids, backend)["both"]()
    wide = Arrays(*(x.astype(jnp.float32) for x in arrays))
    with jax.default_matmul_precision("highest"):
        (o_wide, wanted) = sparse_stages(spec, wide, ids, "reference")["both"]()
    pairs = zip(("o", "dq", "dk", "dv"), (o, *gradients), (o_wide, *wanted), strict=True)
    return {name: float(jnp.abs(got - want).max() / jnp.abs(want).max()) for name, got, want in pairs}


def milliseconds(stage: Stage, seconds: float) -> float:
    """The median time of a stage that is repeated for `seconds`, once at least; it should have run before."""
    taken: list[float] = []
    began = time.perf_counter()
    while not taken or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        jax.block_until_ready(stage())
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def in_turns(timers: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What every timer gives in every round; within a round all take turns."""
    found: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(rounds):
        for name, timer in timers.items():
            found[name].append(timer())
    return found


def break_even(lengths: list[int], ratios: list[float]) -> float | None:
    """The length from which sparse attention is the faster one, for good; None if it is not at the longest.

    Between two lengths the logarithm of the ratio is taken as linear in the logarithm of the length.

    Args:
        lengths: ascending.
        ratios: dense time over sparse time at each.
    """
    slower = [i for i, ratio in enumerate(ratios) if ratio < 1]
    if not slower:
        return float(lengths[0])
    last = slower[-1]
    if last == len(lengths) - 1:
        return None
    x, y = np.log(lengths[last : last + 2]), np.log(ratios[last : last + 2])
    return float(np.exp(x[0] - y[0] * (x[1] - x[0]) / (y[1] - y[0])))
