"""InfLLM v2's block scores on Hopper, fused: no score per pooled key leaves the chip (Mosaic GPU: TMA, wgmma).

The meaning is `selection.block_scores`. A first kernel takes the log-sum-exp of every query head; with the coarse
normaliser it reads a quarter of the keys. The second adds probabilities over the heads of a kv-head and takes the
maximum over the windows that touch a block. It never moves a number from thread to thread: a tile is 64 tokens of one
head against one window of 64 neighbouring blocks, so that the sum over heads and the maximum over windows are both
sums and maxima of whole tiles. For that the pooled keys come as [W, N]: the w-th window of each block.

Axis letters: README.md; W the windows that touch a block, P pooled keys (fine or coarse), T the stretch of queries.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.typing import ArrayLike

from kernels.sparse_attention import hopper
from kernels.sparse_attention.config import COARSENING, SelectionConfig, num_blocks
from kernels.sparse_attention.hopper import KEYS, LOG2E, ROWS
from kernels.sparse_attention.selection import ScoreSegments

WINDOWS = 2  # sums that a warpgroup holds in registers: three spill where blocks are of 128 tokens
_STAGES = 2
_LEAST = -1e30  # where the running maximum starts


def unsupported(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: Any, config: SelectionConfig, has_segments: bool
) -> str | None:
    """Why the kernels cannot run a case, as a sentence that names what they can; None where they can."""
    del k_shape, config, has_segments  # any number of heads, all sizes of windows, and documents
    return hopper.unsupported_operands(q_shape[3], dtype)


def block_scores(
    q_BTHh: jax.Array,
    pooled_BPKh: jax.Array,
    coarse_BPKh: jax.Array | None,
    first_query: ArrayLike,
    config: SelectionConfig,
    length: int,
    segments: ScoreSegments | None = None,
    *,
    interpret: Any = None,
) -> jax.Array:
    """As `selection.block_scores`: [B, K, T, N] float32.

    Args:
        q_BTHh: T queries at positions first_query, first_query + 1, ..., bfloat16 or float16, h of 64 or 128.
        pooled_BPKh: all pooled keys of the row.
        coarse_BPKh: all coarse ones, or None for the exact normaliser.
        first_query: position of the first query; may be traced.
        config: block, kernel and stride.
        length: tokens of the row.
        segments: documents, or None for one document.
        interpret: None on a GPU, else `plgpu.InterpretGPUParams(...)`.
    """
    T, K, N = q_BTHh.shape[1], pooled_BPKh.shape[2], num_blocks(length, config.block)
    normaliser_BPKh = pooled_BPKh if coarse_BPKh is None else coarse_BPKh
    if pooled_BPKh.shape[1] == 0 or normaliser_BPKh.shape[1] == 0:
        return jnp.zeros((q_BTHh.shape[0], K, T, N), jnp.float32)
    q_BTHh = _pad(q_BTHh, 1, ROWS)
    first = jnp.asarray(first_query, jnp.int32).reshape(1)
    coarser = 1 if coarse_BPKh is None else COARSENING
    of_pooled: tuple[jax.Array, ...] = ()
    of_windows: tuple[jax.Array, ...] = ()
    if segments is not None:
        query_BT = _pad(segments.query_BT, 1, ROWS)
        pooled_BP = segments.pooled_BP if segments.coarse_BR is None else segments.coarse_BR
        of_pooled = query_BT, _pad(pooled_BP, 1, KEYS)
        of_windows = query_BT, _windows(segments.pooled_BP, config, N)
    body = _LogSumExp(coarser * config.stride, coarser * config.kernel, q_BTHh.shape[2] // K)
    lse_BHT = _log_sum_exp(q_BTHh, _pad(normaliser_BPKh, 1, KEYS), first, of_pooled, body, interpret)
    windows_BKWNh = _windows(pooled_BPKh, config, N).transpose(0, 3, 1, 2, 4)
    scores_BKTN = _scores(q_BTHh, windows_BKWNh, lse_BHT, first, of_windows, config, interpret)
    return scores_BKTN[:, :, :T, :N]


def _pad(x: jax.Array, axis: int, multiple: int) -> jax.Array:
    return jnp.pad(x, [(0, -x.shape[i] % multiple if i == axis else 0) for i in range(x.ndim)])


def _windows(pooled_BPx: jax.Array, config: SelectionConfig, N: int) -> jax.Array:
    """[B, W, N, ...], N padded to whole tiles: window w of block b is pooled key b block / stride - before + w."""
    per_block, before = config.block // config.stride, config.kernel // config.stride - 1
    N += -N % KEYS
    after = per_block * N - pooled_BPx.shape[1]
    padded = jnp.pad(pooled_BPx, [(0, 0), (before, after), *[(0, 0)] * (pooled_BPx.ndim - 2)])
    last = (N - 1) * per_block + 1
    return jnp.stack([padded[:, w : w + last : per_block] for w in range(before + per_block)], axis=1)


def _log_sum_exp(
    q_BTHh: jax.Array,
    pooled_BPKh: jax.Array,
    first: jax.Array,
    documents: tuple[jax.Array, ...],
    body: "_LogSumExp",
    interpret: Any,
) -> jax.Array:
    """[B, H, T] float32 in base 2; +inf where a query sees no pooled key, so that its probabilities come out as 0."""
    B, T, H, h = q_BTHh.shape
    lse_BHT: jax.Array = plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((B, H, T), jnp.float32),
        grid=(B, H, T // ROWS),
        grid_names=hopper.GRID,
        scratch_types=[
            hopper.operand(ROWS, h, dtype=q_BTHh.dtype),
            hopper.operand(_STAGES, KEYS, h, dtype=q_BTHh.dtype),
            plgpu.SMEM((ROWS,), jnp.float32),
            plgpu.Barrier(),
            plgpu.Barrier(num_barriers=_STAGES),
            plgpu.Barrier(num_barriers=_STAGES),
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        kernel_name="block_scores_log_sum_exp",
        interpret=interpret,
    )(q_BTHh, pooled_BPKh, first, *documents)
    return lse_BHT


@dataclasses.dataclass(frozen=True)
class _LogSumExp:
    """The body of the first kernel, for windows of `window` tokens, `stride` apart."""

    stride: int
    window: int
    group: int

    def __call__(self, q: Any, pooled: Any, first: Any, *rest: Any) -> None:
        """Takes references: operands, result and scratch."""
        *documents, lse, q_Th, keys_XPh, lse_T, q_loaded, loaded, consumed = rest
        b, head, tile = map(lax.axis_index, hopper.GRID)
        here = pl.ds(tile * ROWS, ROWS)
        first_query = first[0] + tile * ROWS
        ended = first_query + ROWS - self.window  # where windows start at last, to end by the tile's last query
        most = -(-pooled.shape[1] // KEYS)
        count = jnp.where(ended < 0, 0, jnp.minimum(lax.div(ended, jnp.int32(self.stride * KEYS)) + 1, most))
        kv = lax.div(head, jnp.int32(self.group))

        def load(i: Any, stage: Any) -> None:
            keys = pl.ds(i * KEYS, KEYS)
            plgpu.copy_gmem_to_smem(pooled.at[b, keys, kv], keys_XPh.at[stage], loaded.at[stage])

        plgpu.copy_gmem_to_smem(q.at[b, here, head], q_Th, q_loaded)
        pl.loop(0, jnp.minimum(count, _STAGES))(lambda i: load(i, i))
        plgpu.barrier_wait(q_loaded)
        position_T = first_query + plgpu.broadcasted_iota(jnp.int32, (ROWS,), 0, layout=hopper.PER_ROW)
        end_TP = self.stride * plgpu.broadcasted_iota(jnp.int32, (ROWS, KEYS), 1, layout=hopper.TILE) + self.window - 1
        query_T = _document(documents, 0, (b, here), hopper.PER_ROW)
        scale = q_Th.shape[1] ** -0.5 * LOG2E

        def step(i: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            most_T, sum_T = state
            stage = lax.rem(i, jnp.int32(_STAGES))
            plgpu.barrier_wait(loaded.at[stage])
            s_TP = hopper.product(q_Th, keys_XPh.at[stage].transpose((1, 0)))
            plgpu.barrier_arrive(consumed.at[stage])
            visible_TP = end_TP + i * (KEYS * self.stride) <= hopper.across(position_T, KEYS)
            if query_T is not None:
                pooled_P = _document(documents, 1, (b, pl.ds(i * KEYS, KEYS)), hopper.PER_COLUMN)
                visible_TP &= hopper.across(query_T, KEYS) == hopper.down(pooled_P)
            s_TP = jnp.where(visible_TP, s_TP, -jnp.inf)
            now_T = jnp.maximum(most_T, s_TP.max(axis=1) * scale)
            p_TP = jnp.exp2(s_TP * scale - hopper.across(now_T, KEYS))
            sum_T = sum_T * jnp.exp2(most_T - now_T) + p_TP.sum(axis=1)
            plgpu.barrier_wait(consumed.at[stage])
            pl.when(i + _STAGES < count)(lambda: load(i + _STAGES, stage))
            return now_T, sum_T

        most_T, sum_T = lax.fori_loop(0, count, step, (hopper.per_row(_LEAST), hopper.per_row(0.0)))
        lse_T[...] = jnp.where(sum_T > 0, most_T + jnp.log(sum_T) * LOG2E, jnp.inf)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(lse_T, lse.at[b, head, here])
        plgpu.wait_smem_to_gmem(0)


def _document(documents: list[Any], which: int, index: tuple[Any, ...], layout: Any) -> Any:
    """Documents of some tokens or windows, in registers; None without documents."""
    return plgpu.load(documents[which].at[index], layout=layout, optimized=False) if documents else None


def _scores(
    q_BTHh: jax.Array,
    windows_BKWNh: jax.Array,
    lse_BHT: jax.Array,
    first: jax.Array,
    documents: tuple[jax.Array, ...],
    config: SelectionConfig,
    interpret: Any,
) -> jax.Array:
    """[B, K, T, N] float32, T and N of whole tiles."""
    (B, T, H, h), (_, K, _, N, _) = q_BTHh.shape, windows_BKWNh.shape
    scores_BKTN: jax.Array = plgpu.kernel(
        _Scores(config, H // K),
        out_type=jax.ShapeDtypeStruct((B, K, T, N), jnp.float32),
        grid=(B, K, (T // ROWS) * (N // KEYS)),
        grid_names=hopper.GRID,
        scratch_types=[
            hopper.operand(WINDOWS, KEYS, h, dtype=q_BTHh.dtype),
            hopper.operand(_STAGES, ROWS, h, dtype=q_BTHh.dtype),
            plgpu.SMEM((_STAGES, ROWS), jnp.float32),
            plgpu.Barrier(num_barriers=WINDOWS),
            plgpu.Barrier(num_arrivals=2, num_barriers=_STAGES),
        ],
        compiler_params=plgpu.CompilerParams(approx_math=True),
        kernel_name="block_scores",
        interpret=interpret,
    )(q_BTHh, windows_BKWNh, lse_BHT, first, *documents)
    return scores_BKTN


@dataclasses.dataclass(frozen=True)
class _Scores:
    """The body of the second kernel: 64 tokens by 64 blocks of one kv-head."""

    config: SelectionConfig
    group: int

    def __call__(self, q: Any, windows: Any, lse: Any, first: Any, *rest: Any) -> None:
        """Takes references: operands, result and scratch."""
        *documents, scores, keys_WNh, q_XTh, lse_XT, keys_loaded, loaded = rest
        b, kv, program = map(lax.axis_index, hopper.GRID)
        tiles = jnp.int32(windows.shape[3] // KEYS)
        tile, first_block = lax.div(program, tiles), lax.rem(program, tiles) * KEYS
        here, blocks = pl.ds(tile * ROWS, ROWS), pl.ds(first_block, KEYS)
        first_query = first[0] + tile * ROWS
        zero_TN = hopper.zeros(KEYS)

        def load_queries(i: Any, stage: Any) -> None:
            head = kv * self.group + lax.rem(i, jnp.int32(self.group))
            plgpu.copy_gmem_to_smem(q.at[b, here, head], q_XTh.at[stage], loaded.at[stage])
            plgpu.copy_gmem_to_smem(lse.at[b, head, here], lse_XT.at[stage], loaded.at[stage])

        def sum_heads(batch: int, held: int) -> tuple[jax.Array, ...]:
            """Sums over the heads, of `held` windows; `batch` counts how often all heads went by before."""

            def step(g: Any, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
                i = batch * self.group + g
                stage = lax.rem(i, jnp.int32(_STAGES))
                plgpu.barrier_wait(loaded.at[stage])
                lse_TN = hopper.across(plgpu.load(lse_XT.at[stage], layout=hopper.PER_ROW), KEYS)
                scale = q_XTh.shape[2] ** -0.5 * LOG2E
                added = []
                for w in range(held):
                    s_TN = hopper.product(q_XTh.at[stage], keys_WNh.at[w].transpose((1, 0)))
                    added.append(sums[w] + jnp.exp2(s_TN * scale - lse_TN))
                plgpu.commit_smem()  # read by all threads of the warpgroup, next written by TMA
                pl.when(i + _STAGES < batches * self.group)(lambda: load_queries(i + _STAGES, stage))
                return tuple(added)

            sums: tuple[jax.Array, ...] = lax.fori_loop(0, self.group, step, (zero_TN,) * held)
            return sums

        count = windows.shape[2]
        batches = -(-count // WINDOWS)
        # Windows that start before the first of these blocks end last `kernel - stride` tokens into it at the earliest.
        reached = first_query + ROWS > first_block * self.config.block

        @pl.when(jnp.logical_not(reached))
        def future() -> None:
            scores[b, kv, here, blocks] = zero_TN

        @pl.when(reached)
        def past() -> None:
            pl.loop(0, min(batches * self.group, _STAGES))(lambda i: load_queries(i, i))
            best_TN = zero_TN
            for batch in range(batches):
                held = range(batch * WINDOWS, min(count, (batch + 1) * WINDOWS))
                for slot, w in enumerate(held):
                    plgpu.copy_gmem_to_smem(windows.at[b, kv, w, blocks], keys_WNh.at[slot], keys_loaded.at[slot])
                for slot in range(len(held)):
                    plgpu.barrier_wait(keys_loaded.at[slot])
                for w, sum_TN in zip(held, sum_heads(batch, len(held)), strict=True):
                    document_N = _document(documents, 1, (b, w, blocks), hopper.PER_COLUMN)
                    query_T = _document(documents, 0, (b, here), hopper.PER_ROW)
                    visible_TN = self.visible(w, first_query, first_block, query_T, document_N)
                    best_TN = jnp.maximum(best_TN, jnp.where(visible_TN, sum_TN, 0.0))
            scores[b, kv, here, blocks] = best_TN

    def visible(self, w: int, first_query: Any, first_block: Any, query_T: Any, document_N: Any) -> jax.Array:
        """[T, N] bool: which blocks' window w the queries see."""
        before = self.config.kernel // self.config.stride - 1
        offset = self.config.stride * (w - before)  # from the block's start to the window's
        position_TN = first_query + plgpu.broadcasted_iota(jnp.int32, (ROWS, KEYS), 0, layout=hopper.TILE)
        block_TN = first_block + plgpu.broadcasted_iota(jnp.int32, (ROWS, KEYS), 1, layout=hopper.TILE)
        start_TN = block_TN * self.config.block + offset
        visible_TN: jax.Array = (start_TN + (self.config.kernel - 1) <= position_TN) & (start_TN >= 0)
        if query_T is not None:
            visible_TN &= hopper.across(query_T, KEYS) == hopper.down(document_N)
        return visible_TN
