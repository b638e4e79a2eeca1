"""Block-sparse attention on Hopper: the forward kernel (Mosaic GPU: TMA, wgmma, warp-specialised).

A thread block has one warpgroup that loads and up to two that compute, each a query tile of its own (see `hopper.py`).
The union of blocks is that of both tiles: keys are loaded once for the two, and a warpgroup passes over the blocks that
none of its own tokens sees, so that sharing costs no products.

The softmax is the online one, in base 2. A masked score is -inf and the running maximum starts at a finite number, so
rows that see nothing need no case of their own until the end.

Axis letters: README.md; R the rows of queries, W the warpgroups that compute.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels.sparse_attention import hopper, hopper_ring
from kernels.sparse_attention.config import num_blocks
from kernels.sparse_attention.hopper import LOG2E, ROWS, unsupported
from kernels.sparse_attention.tables import UnionTables, union_tables

__all__ = ["forward", "unsupported"]

_LEAST = -1e30  # where the running maximum starts


def forward(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    segments_BT: jax.Array | None,
    *,
    block: int,
    scale: float,
    interpret: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """Attention of every token to the blocks that it names, and its log-sum-exp: (o_BTHh, lse_BHT).

    Args:
        q_BTHh: queries, bfloat16 or float16, h of 64 or 128.
        k_BSKh: keys, S = T.
        v_BSKh: values.
        ids_BKTn: block ids of every token, as `tables.union_tables` takes them.
        segments_BT: int32 document of every token, or None for one document.
        block: tokens of a block, a multiple of 64.
        scale: of the scores, positive.
        interpret: None on a GPU, else `plgpu.InterpretGPUParams(...)`.

    Returns:
        o in the queries' dtype, and lse, float32, in base e; 0 and -inf for tokens that see nothing.
    """
    if scale <= 0:
        raise ValueError(f"scale {scale}: the Hopper kernels take positive ones; negate q instead")
    T, (_, S, K, _) = q_BTHh.shape[1], k_BSKh.shape
    tiling = hopper.Tiling(T, K, q_BTHh.shape[2] // K)
    tables = union_tables(ids_BKTn, tiling.workers * tiling.tokens, num_blocks(S, block))
    return attend(q_BTHh, k_BSKh, v_BSKh, tables, segments_BT, block=block, scale=scale, interpret=interpret)


def attend(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    tables: UnionTables,
    segments_BT: jax.Array | None,
    *,
    block: int,
    scale: float,
    interpret: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """`forward`, from the unions of blocks of `Tiling.workers * Tiling.tokens` tokens each."""
    (B, T, H, h), K = q_BTHh.shape, k_BSKh.shape[2]
    tiling = hopper.Tiling(T, K, H // K)
    q_BKRh = tiling.rows(q_BTHh)
    documents = hopper.documents(tiling, segments_BT, block)
    o_BKRh, lse_BKR = plgpu.kernel(
        _Forward(tiling, block, scale * LOG2E, interpret),
        out_type=[
            jax.ShapeDtypeStruct(q_BKRh.shape, q_BTHh.dtype),
            jax.ShapeDtypeStruct(q_BKRh.shape[:3], jnp.float32),
        ],
        scratch_types=[
            _Rows.scratch(tiling.workers, h, q_BTHh.dtype, bool(documents)),
            hopper_ring.KeyRing.scratch(tiling.workers, h, q_BTHh.dtype, bool(documents)),
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        kernel_name="block_sparse_attention_forward",
        interpret=interpret,
        **hopper_ring.launch(tiling, B, q_BKRh.shape[2]),
    )(q_BKRh, *map(hopper.at_least_a_step, (k_BSKh, v_BSKh)), *tables, *documents)
    return tiling.heads(o_BKRh), tiling.heads(lse_BKR).swapaxes(1, 2)


class _Rows(NamedTuple):
    """Shared memory of the queries' side: one tile for each warpgroup that computes.

    Attributes:
        q_WRh: queries; their outputs in the end.
        lse_WR: log-sum-exps, on their way out.
        segments_WR: documents of the rows, or None.
        loaded: barriers of what arrives.
    """

    q_WRh: Any
    lse_WR: Any
    segments_WR: Any
    loaded: Any

    @classmethod
    def scratch(cls, workers: int, head: int, dtype: Any, segmented: bool) -> "_Rows":
        return cls(
            hopper.operand(workers, ROWS, head, dtype=dtype),
            plgpu.SMEM((workers, ROWS), jnp.float32),
            plgpu.SMEM((workers, ROWS), jnp.int32) if segmented else None,
            plgpu.Barrier(num_arrivals=2 if segmented else 1, num_barriers=workers),
        )

    def of(self, worker: Any) -> "_Rows":
        """The part of one warpgroup."""
        return _Rows(*(hopper.at(ref, worker) for ref in self))


class _Running(NamedTuple):
    """The online softmax of a tile: sums relative to 2 ** most."""

    o_Rh: jax.Array
    most_R: jax.Array
    sum_R: jax.Array


@dataclasses.dataclass(frozen=True)
class _Forward:
    """The kernel's body; `scale` is that of scores in base 2."""

    tiling: hopper.Tiling
    block: int
    scale: float
    interpret: Any

    def __call__(self, q: Any, k: Any, v: Any, blocks: Any, counts: Any, members: Any, *rest: Any) -> None:
        """Takes references: operands, results and scratch."""
        *documents, o, lse, rows, ring = rest
        row_segments, key_segments = documents or (None, None)
        b, kv, tiles, worker = hopper_ring.program()
        steps = hopper_ring.Steps.of(blocks, counts, members, (b, kv, tiles), self.block)

        @pl.when(worker == self.tiling.workers)
        def load() -> None:
            hopper_ring.set_registers(self.tiling, computes=False)
            ring.load(steps, k.at[b, :, kv], v.at[b, :, kv], hopper.at(key_segments, b))

        @pl.when(worker < self.tiling.workers)
        def compute() -> None:
            hopper_ring.set_registers(self.tiling, computes=True)
            tile = tiles * self.tiling.workers + worker
            here = pl.ds(tile * ROWS, ROWS)
            mine = rows.of(worker)
            plgpu.copy_gmem_to_smem(q.at[b, kv, here], mine.q_WRh, mine.loaded)
            if row_segments is not None:
                plgpu.copy_gmem_to_smem(row_segments.at[b, here], mine.segments_WR, mine.loaded)
            plgpu.barrier_wait(mine.loaded)
            mask = hopper.Mask.of(self.tiling, tile, mine.segments_WR, hopper.PER_ROW)
            self.finish(self.walk(mine.q_WRh, ring, steps, mask, worker), mine)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(mine.q_WRh, o.at[b, kv, here])
            plgpu.copy_smem_to_gmem(mine.lse_WR, lse.at[b, kv, here])
            plgpu.wait_smem_to_gmem(0)

    def walk(
        self, q_Rh: Any, ring: hopper_ring.KeyRing, steps: hopper_ring.Steps, mask: hopper.Mask, worker: Any
    ) -> _Running:
        """The softmax of a tile over all its blocks."""

        def seen(stage: Any, visible_RS: jax.Array, running: _Running) -> _Running:
            s_RS = hopper.product(q_Rh, ring.k.at[stage].transpose((1, 0)))
            s_RS = jnp.where(visible_RS, s_RS, -jnp.inf)
            most_R = jnp.maximum(running.most_R, s_RS.max(axis=1) * self.scale)
            p_RS = jnp.exp2(s_RS * self.scale - hopper.across(most_R, s_RS.shape[1]))
            kept_R = jnp.exp2(running.most_R - most_R)
            sum_R = running.sum_R * kept_R + p_RS.sum(axis=1)
            o_Rh = running.o_Rh * hopper.across(kept_R, running.o_Rh.shape[1])
            plgpu.barrier_wait(ring.v_loaded.at[stage])
            o_Rh = hopper.add_product(o_Rh, p_RS.astype(q_Rh.dtype), ring.v.at[stage], self.interpret)
            return _Running(o_Rh, most_R, sum_R)

        start = _Running(hopper.zeros(q_Rh.shape[1]), hopper.per_row(_LEAST), hopper.per_row(0.0))
        end: _Running = hopper_ring.walk(self.tiling, ring, steps, mask, worker, seen, start)
        return end

    def finish(self, running: _Running, mine: _Rows) -> None:
        """Normalises, and puts results where they are sent from: outputs in the queries' place."""
        sees_R = running.sum_R > 0
        inverse_R = jnp.where(sees_R, 1 / running.sum_R, 0.0)
        o_Rh = running.o_Rh * hopper.across(inverse_R, running.o_Rh.shape[1])
        mine.q_WRh[...] = o_Rh.astype(mine.q_WRh.dtype)
        lse_R = running.most_R * math.log(2) + jnp.log(running.sum_R)
        mine.lse_WR[...] = jnp.where(sees_R, lse_R, -jnp.inf)
