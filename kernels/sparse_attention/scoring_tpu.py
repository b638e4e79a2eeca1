"""Scores of key blocks for TPUs, in Mosaic: `selection.block_scores` without a score per pooled key in memory.

A program scores the query rows of one tile against all pooled keys, twice: first for the log-sum-exp of every row, then
for the probabilities, which it sums over the group and reduces to blocks before anything is written. The maximum over
the windows that touch a block would be a strided one along lanes; so the pooled keys are laid out by window of a block
beforehand, a key per block each, and the maximum is one of whole registers. A window that reaches over the border of
two blocks is there twice (one in four at the default sizes), and scored twice.

Blocks that begin after the tile are skipped. Checked by compiling and in interpreters; not timed on a chip.

Letters: tpu_tiles.py; P windows (pooled keys) of a row, W those that touch a block, C chunks of `LANES` blocks, c the
blocks of a chunk.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import ArrayLike

from kernels.sparse_attention import pallas_tpu
from kernels.sparse_attention.config import COARSENING, SelectionConfig, num_blocks
from kernels.sparse_attention.selection import ScoreSegments
from kernels.sparse_attention.tpu_tiles import (
    LANES,
    PARALLEL_3D,
    ROWS,
    SUBLANES,
    Geometry,
    Interpret,
    Ref,
    diagonal,
    dot,
    rows_spec,
    segment_lanes,
    to_tiles,
    tokens_of_rows,
)

MOST_KEY_BYTES = 24 * 2**20  # of the pooled keys of a head, held in VMEM twice: the smallest has 64 MiB
OTHER_BYTES = 8 * 2**20  # of VMEM, for all else; generous


@dataclasses.dataclass(frozen=True)
class Pooling:
    """Which tokens the pooled keys of a row average, and how they lie by block.

    Attributes:
        stride: tokens between the starts of neighbouring windows.
        kernel: tokens of a window.
        per_block: windows that start in a block.
        before: windows that start earlier and reach into it.
        count: P.
    """

    stride: int
    kernel: int
    per_block: int
    before: int
    count: int

    @property
    def windows(self) -> int:
        """W."""
        return self.before + self.per_block


class ByBlock(NamedTuple):
    """Pooled keys as a program has them: keys_CWch, and the document of each, segments_CW1c, or None."""

    keys: Any
    segments: Any


def unsupported(
    q_shape: tuple[int, ...], k_shape: tuple[int, ...], dtype: Any, config: SelectionConfig, has_segments: bool
) -> str | None:
    """Why this kernel cannot run a case, as a sentence that names what it can; None where it can."""
    reason = pallas_tpu.unsupported(q_shape, k_shape, dtype, pallas_tpu.BLOCKS[0], has_segments)  # any block here
    windows = config.block // config.stride + config.kernel // config.stride - 1
    key_bytes = num_blocks(k_shape[1], config.block) * windows * k_shape[3] * jnp.dtype(dtype).itemsize
    if reason is None and key_bytes > MOST_KEY_BYTES:
        longest = MOST_KEY_BYTES * k_shape[1] // key_bytes
        return f"{k_shape[1]} tokens: the TPU scoring kernel holds the pooled keys of about {longest} in VMEM"
    return reason


def scoring_tile(group: int) -> int:
    """Tokens of a tile: a power of two that keeps it within `ROWS` rows, but whole sublanes of tokens."""
    tile = SUBLANES
    while 2 * tile * group <= ROWS:
        tile *= 2
    return tile


def by_block(x_BPKh: jax.Array, pooling: Pooling, chunks: int) -> jax.Array:
    """[B, P, K, h] -> [B, K, C, W, c, h]: at (w, block n) the window n per_block + w - before."""
    B, P, K, h = x_BPKh.shape
    blocks = chunks * LANES
    padding = ((0, 0), (pooling.before, blocks * pooling.per_block - P), (0, 0), (0, 0))
    padded = jnp.pad(x_BPKh, padding)
    last = (blocks - 1) * pooling.per_block + 1
    x_BWNKh = jnp.stack([padded[:, w : w + last : pooling.per_block] for w in range(pooling.windows)], axis=1)
    return x_BWNKh.reshape(B, pooling.windows, chunks, LANES, K, h).transpose(0, 4, 2, 1, 3, 5)


def _scoring_kernel(
    first_query_ref: Ref,
    q_ref: Ref,
    query_segment_ref: Ref | None,
    key_sets: tuple[ByBlock, ...],
    scores_ref: Ref,
    m_ref: Ref,
    l_ref: Ref,
    *,
    geometry: Geometry,
    poolings: tuple[Pooling, ...],
) -> None:
    """Log-sum-exps over the last of `key_sets`, then block scores by the first; statistics are equal in all lanes."""
    first = first_query_ref[0, 0] + pl.program_id(2) * geometry.tile
    last = first + geometry.tile - 1
    position_M1 = first + tokens_of_rows(geometry, 0)
    query_segment_M1 = None if query_segment_ref is None else diagonal(query_segment_ref[...], 1)
    lane_1c = lax.broadcasted_iota(jnp.int32, (1, LANES), 1)

    def logits(keys: ByBlock, pooling: Pooling, chunk: jax.Array, w: int) -> tuple[jax.Array, jax.Array]:
        """Of window w of the chunk's blocks, and whether each row sees it: [M, c]."""
        window_1c = (chunk * LANES + lane_1c) * pooling.per_block + (w - pooling.before)
        end_1c = pooling.stride * window_1c + pooling.kernel - 1
        seen_Mc = (window_1c >= 0) & (window_1c < pooling.count) & (end_1c <= position_M1)
        if keys.segments is not None:
            seen_Mc &= keys.segments[chunk, w] == query_segment_M1
        return dot(q_ref[...], keys.keys[chunk, w], (1, 1)) * geometry.scale, seen_Mc

    def chunks_of(keys: ByBlock, pooling: Pooling) -> jax.Array:
        begun = last // (pooling.stride * pooling.per_block * LANES) + 1
        return jnp.minimum(keys.keys.shape[0], begun)

    m_ref[...] = jnp.full_like(m_ref, pallas_tpu.MASKED)
    l_ref[...] = jnp.zeros_like(l_ref)
    pooled, pooling, normaliser, normaliser_pooling = key_sets[0], poolings[0], key_sets[-1], poolings[-1]

    @pl.loop(0, chunks_of(normaliser, normaliser_pooling))
    def _(chunk: jax.Array) -> None:
        for w in range(normaliser_pooling.before, normaliser_pooling.windows):  # each window once
            s_Mc, seen_Mc = logits(normaliser, normaliser_pooling, chunk, w)
            s_Mc = jnp.where(seen_Mc, s_Mc, pallas_tpu.MASKED)
            m_old = m_ref[...]
            m_new = jnp.maximum(m_old, jnp.max(s_Mc, axis=1, keepdims=True))
            p_Mc = jnp.where(seen_Mc, jnp.exp(s_Mc - m_new), 0.0)
            m_ref[...] = m_new
            l_ref[...] = l_ref[...] * jnp.exp(m_old - m_new) + jnp.sum(p_Mc, axis=1, keepdims=True)

    # A row without normalising keys has p = 0.
    lse_Mc = jnp.where(l_ref[...] > 0.0, m_ref[...] + jnp.log(l_ref[...]), jnp.inf)
    scores_ref[...] = jnp.zeros_like(scores_ref)

    @pl.loop(0, chunks_of(pooled, pooling))
    def _(chunk: jax.Array) -> None:
        best_tc = jnp.zeros((geometry.tile, LANES), jnp.float32)
        for w in range(pooling.windows):
            s_Mc, seen_Mc = logits(pooled, pooling, chunk, w)
            p_Mc = jnp.where(seen_Mc, jnp.exp(s_Mc - lse_Mc), 0.0)
            p_Gtc = p_Mc.reshape(geometry.group, geometry.tile, LANES)
            best_tc = jnp.maximum(best_tc, jnp.sum(p_Gtc, axis=0))
        scores_ref[:, pl.ds(pl.multiple_of(chunk * LANES, LANES), LANES)] = best_tc


def _lay_out(
    keys_BPKh: jax.Array, segments_BP: jax.Array | None, pooling: Pooling, blocks: int
) -> tuple[ByBlock, ByBlock]:
    """Arrays of a `ByBlock` for all heads, and their block specs: a head's keys stay in VMEM for all its programs."""
    chunks = pl.cdiv(blocks, LANES)
    keys = by_block(keys_BPKh, pooling, chunks)
    keys_spec = pl.BlockSpec((None, None, *keys.shape[2:]), lambda b, k, i: (b, k, 0, 0, 0, 0))
    if segments_BP is None:
        return ByBlock(keys, None), ByBlock(keys_spec, None)
    segments = by_block(segments_BP[:, :, None, None], pooling, chunks)[:, 0, :, :, None, :, 0]
    segments_spec = pl.BlockSpec((None, *segments.shape[1:]), lambda b, k, i: (b, 0, 0, 0, 0))
    return ByBlock(keys, segments), ByBlock(keys_spec, segments_spec)


def block_scores(
    q_BTHh: jax.Array,
    pooled_BPKh: jax.Array,
    coarse_BRKh: jax.Array | None,
    first_query: ArrayLike,
    config: SelectionConfig,
    length: int,
    segments: ScoreSegments | None = None,
    *,
    interpret: Interpret = None,
) -> jax.Array:
    """As `selection.block_scores`: [B, K, T, N] float32.

    Args:
        q_BTHh, pooled_BPKh, coarse_BRKh, first_query, config, length, segments: as there.
        interpret: as in pallas_tpu.py.
    """
    B, T, H, h = q_BTHh.shape
    K = pooled_BPKh.shape[2]
    N = num_blocks(length, config.block)
    if pooled_BPKh.shape[1] == 0 or (coarse_BRKh is not None and coarse_BRKh.shape[1] == 0):
        return jnp.zeros((B, K, T, N), jnp.float32)
    geometry = Geometry(scoring_tile(H // K), H // K, config.block, h**-0.5)
    tile, M = geometry.tile, geometry.rows
    per_block, reach = config.block // config.stride, config.kernel // config.stride - 1
    poolings = [Pooling(config.stride, config.kernel, per_block, reach, pooled_BPKh.shape[1])]
    laid_out = [_lay_out(pooled_BPKh, segments and segments.pooled_BP, poolings[0], N)]
    if coarse_BRKh is not None:
        R = coarse_BRKh.shape[1]
        poolings.append(Pooling(COARSENING * config.stride, COARSENING * config.kernel, 1, 0, R))
        laid_out.append(_lay_out(coarse_BRKh, segments and segments.coarse_BR, poolings[1], R))
    key_sets, key_specs = zip(*laid_out, strict=True)
    query_segments, query_segments_spec = None, None
    if segments is not None:
        query_segments = segment_lanes(segments.query_BT, tile, geometry.group)
        query_segments_spec = pl.BlockSpec((None, None, 1, M), lambda b, k, i: (b, i, 0, 0))
    q_BKQMh = to_tiles(q_BTHh, K, tile)
    Q, blocks = q_BKQMh.shape[2], key_sets[0].keys.shape[2] * LANES
    key_bytes = sum(x.keys.nbytes for x in key_sets) // (B * K)
    statistics = pltpu.VMEM((M, LANES), jnp.float32)
    scores_BKTN: jax.Array = pl.pallas_call(
        functools.partial(_scoring_kernel, geometry=geometry, poolings=tuple(poolings)),
        grid=(B, K, Q),
        in_specs=(
            pl.BlockSpec(memory_space=pltpu.SMEM),
            rows_spec(M, h),
            query_segments_spec,
            key_specs,
        ),
        out_specs=pl.BlockSpec((None, None, tile, blocks), lambda b, k, i: (b, k, i, 0)),
        out_shape=jax.ShapeDtypeStruct((B, K, Q * tile, blocks), jnp.float32),
        scratch_shapes=(statistics, statistics),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=PARALLEL_3D.dimension_semantics, vmem_limit_bytes=2 * key_bytes + OTHER_BYTES
        ),
        interpret=interpret or False,
        name="block_scores",
    )(jnp.asarray(first_query, jnp.int32).reshape(1, 1), q_BKQMh, query_segments, key_sets)
    return scores_BKTN[:, :, :T, :N]
