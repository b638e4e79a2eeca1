"""Block-sparse attention on Hopper: the gradients (Mosaic GPU: TMA, wgmma).

dQ goes over the same union of blocks as the forward kernel and recomputes the probabilities from the log-sum-exp. dK
and dV go over keys: a thread block takes one work item of `tables.inverse_index`, a block of keys and some of the query
tiles that see it, and writes a float32 partial sum; a second kernel adds the partial sums of each block in order. So
nothing is added atomically, the bits are the same every time, and a block that all tokens see is many pieces of work.
The sum over the G heads of a kv-head is free: they are rows of the tile.

Axis letters: README.md; R the rows of queries, Q tiles of 64 of them, X tiles side by side in shared memory, I work
items, P the pairs of a tile and a block that it sees.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from kernels.sparse_attention import hopper, hopper_ring
from kernels.sparse_attention.config import num_blocks
from kernels.sparse_attention.hopper import KEYS, LOG2E, ROWS
from kernels.sparse_attention.tables import InverseIndex, inverse_index, union_tables

# Pairs of a work item: few enough that the last one to end is short, so many that partial sums are little to write.
PAIRS = 1024


def backward(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    v_BSKh: jax.Array,
    ids_BKTn: jax.Array,
    segments_BT: jax.Array | None,
    o_BTHh: jax.Array,
    lse_BHT: jax.Array,
    do_BTHh: jax.Array,
    delta_BHT: jax.Array,
    *,
    block: int,
    scale: float,
    interpret: Any = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of `pallas_gpu.forward`: (dq_BTHh, dk_BSKh, dv_BSKh).

    Args:
        q_BTHh: queries, as the forward pass had them; so k, v, ids and segments.
        k_BSKh: keys.
        v_BSKh: values.
        ids_BKTn: block ids.
        segments_BT: documents, or None.
        o_BTHh: not needed: what it is for is in delta.
        lse_BHT: log-sum-exps of the forward pass.
        do_BTHh: gradient of the outputs.
        delta_BHT: rowsum(do * o) - dlse, float32.
        block: tokens of a block.
        scale: of the scores.
        interpret: None on a GPU, else `plgpu.InterpretGPUParams(...)`.
    """
    del o_BTHh
    K, G = k_BSKh.shape[2], q_BTHh.shape[2] // k_BSKh.shape[2]
    tiling = hopper.Tiling(q_BTHh.shape[1], K, G)
    how = _How(tiling, block, scale, interpret)
    operands = _Operands(
        tiling.rows(q_BTHh),
        tiling.rows(do_BTHh.astype(q_BTHh.dtype)),
        _row_statistics(tiling, lse_BHT, delta_BHT),
        hopper.at_least_a_step(k_BSKh),
        hopper.at_least_a_step(v_BSKh),
        hopper.documents(tiling, segments_BT, block),
    )
    dq_BTHh = _dq(operands, ids_BKTn, how)
    dk_BSKh, dv_BSKh = (dx_BSKh[:, : k_BSKh.shape[1]] for dx_BSKh in _dk_dv(operands, ids_BKTn, how))
    return dq_BTHh, dk_BSKh, dv_BSKh


class _How(NamedTuple):
    tiling: hopper.Tiling
    block: int
    scale: float
    interpret: Any


class _Operands(NamedTuple):
    """What both walks read, as rows of queries and as keys."""

    q_BKRh: jax.Array
    do_BKRh: jax.Array
    statistics_BKQ2R: jax.Array
    k_BSKh: jax.Array
    v_BSKh: jax.Array
    documents: tuple[jax.Array, ...]


def _row_statistics(tiling: hopper.Tiling, lse_BHT: jax.Array, delta_BHT: jax.Array) -> jax.Array:
    """[B, K, Q, 2, 64]: the log-sum-exp in base 2, and delta, of the rows of every tile.

    Where a row sees nothing, and in padding, the first is +inf: all of its probabilities come out as 0.
    """
    lse_BHT = jnp.where(lse_BHT > -jnp.inf, lse_BHT * LOG2E, jnp.inf)
    both = tiling.rows(lse_BHT.swapaxes(1, 2), fill=jnp.inf), tiling.rows(delta_BHT.swapaxes(1, 2))
    return jnp.stack([x_BKR.reshape(*x_BKR.shape[:2], -1, ROWS) for x_BKR in both], axis=3)


def _dq(operands: _Operands, ids_BKTn: jax.Array, how: _How) -> jax.Array:
    tiling, (B, _, R, h), dtype = how.tiling, operands.q_BKRh.shape, operands.q_BKRh.dtype
    tables = union_tables(ids_BKTn, tiling.workers * tiling.tokens, num_blocks(operands.k_BSKh.shape[1], how.block))
    segmented = bool(operands.documents)
    dq_BKRh = plgpu.kernel(
        _Dq(how),
        out_type=jax.ShapeDtypeStruct(operands.q_BKRh.shape, dtype),
        scratch_types=[
            _Rows.scratch(tiling.workers, h, dtype, segmented),
            hopper_ring.KeyRing.scratch(tiling.workers, h, dtype, segmented),
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        kernel_name="block_sparse_attention_dq",
        interpret=how.interpret,
        **hopper_ring.launch(tiling, B, R),
    )(*operands[:5], *tables, *operands.documents)
    return tiling.heads(dq_BKRh)


class _Rows(NamedTuple):
    """Shared memory for tiles of queries, several side by side, and the barriers that tell when they are there."""

    q_XRh: Any
    do_XRh: Any
    statistics_X2R: Any
    segments_XR: Any
    loaded: Any

    @classmethod
    def scratch(cls, tiles: int, head: int, dtype: Any, segmented: bool) -> "_Rows":
        return cls(
            hopper.operand(tiles, ROWS, head, dtype=dtype),
            hopper.operand(tiles, ROWS, head, dtype=dtype),
            plgpu.SMEM((tiles, 2, ROWS), jnp.float32),
            plgpu.SMEM((tiles, ROWS), jnp.int32) if segmented else None,
            plgpu.Barrier(num_arrivals=4 if segmented else 3, num_barriers=tiles),
        )

    def of(self, index: Any) -> "_Rows":
        """One of the tiles."""
        return _Rows(*(hopper.at(ref, index) for ref in self))

    def load(self, q_Rh: Any, do_Rh: Any, statistics_Q2R: Any, segments_R: Any, tile: Any) -> None:
        """Begins to load a tile into this one."""
        here = pl.ds(tile * ROWS, ROWS)
        plgpu.copy_gmem_to_smem(q_Rh.at[here], self.q_XRh, self.loaded)
        plgpu.copy_gmem_to_smem(do_Rh.at[here], self.do_XRh, self.loaded)
        plgpu.copy_gmem_to_smem(statistics_Q2R.at[tile], self.statistics_X2R, self.loaded)
        if segments_R is not None:
            plgpu.copy_gmem_to_smem(segments_R.at[here], self.segments_XR, self.loaded)


@dataclasses.dataclass(frozen=True)
class _Dq:
    """The body of the kernel for dQ, warp-specialised as the forward one."""

    how: _How

    def __call__(
        self, q: Any, do: Any, statistics: Any, k: Any, v: Any, blocks: Any, counts: Any, members: Any, *rest: Any
    ) -> None:
        """Takes references: operands, result and scratch."""
        *documents, dq, rows, ring = rest
        row_segments, key_segments = documents or (None, None)
        tiling, block, _, _ = self.how
        b, kv, tiles, worker = hopper_ring.program()
        steps = hopper_ring.Steps.of(blocks, counts, members, (b, kv, tiles), block)

        @pl.when(worker == tiling.workers)
        def load() -> None:
            hopper_ring.set_registers(tiling, computes=False)
            ring.load(steps, k.at[b, :, kv], v.at[b, :, kv], hopper.at(key_segments, b))

        @pl.when(worker < tiling.workers)
        def compute() -> None:
            hopper_ring.set_registers(tiling, computes=True)
            tile = tiles * tiling.workers + worker
            mine = rows.of(worker)
            mine.load(q.at[b, kv], do.at[b, kv], statistics.at[b, kv], hopper.at(row_segments, b), tile)
            plgpu.barrier_wait(mine.loaded)
            mask = hopper.Mask.of(tiling, tile, mine.segments_XR, hopper.PER_ROW)
            dq_Rh = self.walk(mine, ring, steps, mask, worker)
            mine.q_XRh[...] = dq_Rh.astype(mine.q_XRh.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(mine.q_XRh, dq.at[b, kv, pl.ds(tile * ROWS, ROWS)])
            plgpu.wait_smem_to_gmem(0)

    def walk(
        self, mine: _Rows, ring: hopper_ring.KeyRing, steps: hopper_ring.Steps, mask: hopper.Mask, worker: Any
    ) -> jax.Array:
        """dQ of a tile, summed over all its blocks."""
        lse_R = plgpu.load(mine.statistics_X2R.at[0], layout=hopper.PER_ROW)
        delta_R = plgpu.load(mine.statistics_X2R.at[1], layout=hopper.PER_ROW)

        def seen(stage: Any, visible_RS: jax.Array, dq_Rh: jax.Array) -> jax.Array:
            s_RS = hopper.product(mine.q_XRh, ring.k.at[stage].transpose((1, 0)))
            s_RS = jnp.where(visible_RS, s_RS, -jnp.inf)
            p_RS = jnp.exp2(s_RS * (self.how.scale * LOG2E) - hopper.across(lse_R, KEYS))
            plgpu.barrier_wait(ring.v_loaded.at[stage])
            dp_RS = hopper.product(mine.do_XRh, ring.v.at[stage].transpose((1, 0)))
            ds_RS = p_RS * (dp_RS - hopper.across(delta_R, KEYS))
            return hopper.add_product(dq_Rh, ds_RS.astype(mine.q_XRh.dtype), ring.k.at[stage], self.how.interpret)

        start = hopper.zeros(mine.q_XRh.shape[1])
        dq_Rh: jax.Array = hopper_ring.walk(self.how.tiling, ring, steps, mask, worker, seen, start)
        return dq_Rh * self.how.scale


def _dk_dv(operands: _Operands, ids_BKTn: jax.Array, how: _How) -> tuple[jax.Array, jax.Array]:
    """By partial sums of work items, then by their sums; of whole blocks."""
    (B, S, K, h), dtype, segmented = operands.k_BSKh.shape, operands.k_BSKh.dtype, bool(operands.documents)
    N = num_blocks(S, how.block)
    index = inverse_index(union_tables(ids_BKTn, how.tiling.tokens, N), N, PAIRS)
    items, pieces = index.item_block_BKI.shape[2], how.block // KEYS
    partial = jax.ShapeDtypeStruct((B, K, items, how.block, h), jnp.float32)
    partials = plgpu.kernel(
        _DkDv(how),
        out_type=[partial, partial],
        grid=(B, K, items * pieces),
        grid_names=hopper.GRID,
        scratch_types=[
            hopper.operand(2, KEYS, h, dtype=dtype),
            plgpu.Barrier(num_arrivals=2),
            _Rows.scratch(_DkDv.STAGES, h, dtype, segmented),
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        kernel_name="block_sparse_attention_dk_dv",
        interpret=how.interpret,
    )(*operands[:5], *index, *operands.documents)
    whole = jax.ShapeDtypeStruct((B, K, N * how.block, h), dtype)
    dk_BKSh, dv_BKSh = plgpu.kernel(
        _sum_items,
        out_type=[whole, whole],
        grid=(B, K, N * pieces),
        grid_names=hopper.GRID,
        kernel_name="block_sparse_attention_sum",
        interpret=how.interpret,
    )(*partials, _first_items(index, N))
    return dk_BKSh.swapaxes(1, 2), dv_BKSh.swapaxes(1, 2)


@dataclasses.dataclass(frozen=True)
class _DkDv:
    """The body of the kernel for partial sums of dK and dV: one warpgroup that loads for itself, tiles ahead."""

    STAGES = 2  # with more, two thread blocks no longer fit one multiprocessor

    how: _How

    def __call__(self, q: Any, do: Any, statistics: Any, k: Any, v: Any, *rest: Any) -> None:
        """Takes references: operands, results and scratch."""
        item_block, item_start, item_count, tiles, members, *documents, dk, dv, kv_XSh, kv_loaded, stages = rest
        row_segments, key_segments = documents or (None, None)
        b, kv, program = map(lax.axis_index, hopper.GRID)
        pieces = jnp.int32(self.how.block // KEYS)
        item, piece = lax.div(program, pieces), lax.rem(program, pieces) * KEYS
        first_key = item_block[b, kv, item] * self.how.block + piece
        first, count = item_start[b, kv, item], item_count[b, kv, item]

        @pl.when(count > 0)
        def _() -> None:
            keys = pl.ds(first_key, KEYS)
            plgpu.copy_gmem_to_smem(k.at[b, keys, kv], kv_XSh.at[0], kv_loaded)
            plgpu.copy_gmem_to_smem(v.at[b, keys, kv], kv_XSh.at[1], kv_loaded)

            def load(i: Any, stage: Any) -> None:
                tile = tiles[b, kv, first + i]
                source = q.at[b, kv], do.at[b, kv], statistics.at[b, kv], hopper.at(row_segments, b)
                stages.of(stage).load(*source, tile)

            pl.loop(0, jnp.minimum(count, self.STAGES))(lambda i: load(i, i))
            plgpu.barrier_wait(kv_loaded)

            segment_S = None
            if key_segments is not None:
                segment_S = plgpu.load(key_segments.at[b, keys], layout=hopper.PER_ROW, optimized=False)

            def step(i: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                stage = lax.rem(i, jnp.int32(self.STAGES))
                here = stages.of(stage)
                plgpu.barrier_wait(here.loaded)
                tile, seen_by = tiles[b, kv, first + i], members[b, kv, first + i]
                mask = hopper.Mask.of(self.how.tiling, tile, here.segments_XR, hopper.PER_COLUMN)
                visible_SR = self.visible(first_key, segment_S, seen_by, mask)
                state = self.add(kv_XSh, here, visible_SR, state)
                plgpu.commit_smem()  # read by all threads of the warpgroup, next written by TMA
                pl.when(i + self.STAGES < count)(lambda: load(i + self.STAGES, stage))
                return state

            head = kv_XSh.shape[2]
            dk_Sh, dv_Sh = lax.fori_loop(0, count, step, (hopper.zeros(head), hopper.zeros(head)))
            here = b, kv, item, pl.ds(piece, KEYS)
            dk[here] = dk_Sh * self.how.scale
            dv[here] = dv_Sh

    def visible(self, first_key: Any, segment_S: Any, members: Any, mask: hopper.Mask) -> jax.Array:
        """[S, R] bool: which keys of the piece the rows of a tile see."""
        position_SR = plgpu.broadcasted_iota(jnp.int32, (KEYS, ROWS), 0, layout=hopper.TILE)
        visible_SR: jax.Array = first_key + position_SR <= hopper.down(mask.last_visible(members))
        if segment_S is not None:
            visible_SR &= hopper.across(segment_S, ROWS) == hopper.down(mask.segment_R)
        return visible_SR

    def add(
        self, kv_XSh: Any, rows: _Rows, visible_SR: jax.Array, state: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """(dk, dv) with what one query tile adds; all products have keys as rows."""
        dk_Sh, dv_Sh = state
        dtype, interpret = kv_XSh.dtype, self.how.interpret
        s_SR = hopper.product(kv_XSh.at[0], rows.q_XRh.transpose((1, 0)))
        lse_R = plgpu.load(rows.statistics_X2R.at[0], layout=hopper.PER_COLUMN)
        s_SR = jnp.where(visible_SR, s_SR, -jnp.inf)
        p_SR = jnp.exp2(s_SR * (self.how.scale * LOG2E) - hopper.down(lse_R))
        dv_Sh = hopper.add_product(dv_Sh, p_SR.astype(dtype), rows.do_XRh, interpret)
        dp_SR = hopper.product(kv_XSh.at[1], rows.do_XRh.transpose((1, 0)))
        delta_R = plgpu.load(rows.statistics_X2R.at[1], layout=hopper.PER_COLUMN)
        ds_SR = p_SR * (dp_SR - hopper.down(delta_R))
        dk_Sh = hopper.add_product(dk_Sh, ds_SR.astype(dtype), rows.q_XRh, interpret)
        return dk_Sh, dv_Sh


def _first_items(index: InverseIndex, N: int) -> jax.Array:
    """[B, K, N + 1] int32: the first work item of each block, and where the last one's end."""
    block_BKI = jnp.where(index.item_count_BKI > 0, index.item_block_BKI, N)
    edges = jnp.arange(N + 1, dtype=jnp.int32)
    return jax.vmap(jax.vmap(lambda row: jnp.searchsorted(row, edges).astype(jnp.int32)))(block_BKI)


def _sum_items(dk_partial: Any, dv_partial: Any, first_item: Any, dk: Any, dv: Any) -> None:
    """The kernel that adds the partial sums of a block, in order; takes references."""
    b, kv, program = map(lax.axis_index, hopper.GRID)
    pieces = jnp.int32(dk_partial.shape[3] // KEYS)
    block, piece = lax.div(program, pieces), lax.rem(program, pieces) * KEYS
    items = first_item[b, kv, block], first_item[b, kv, block + 1]
    shape = KEYS, dk_partial.shape[4]
    layout = plgpu.Layout.WG_STRIDED(shape, vec_size=4)
    for partial, total in ((dk_partial, dk), (dv_partial, dv)):

        def add(item: Any, sum_Sh: jax.Array, partial: Any = partial) -> jax.Array:
            return sum_Sh + plgpu.load(partial.at[b, kv, item, pl.ds(piece, KEYS)], layout=layout)

        start = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), layout)
        total[b, kv, pl.ds(program * KEYS, KEYS)] = lax.fori_loop(*items, add, start).astype(total.dtype)
