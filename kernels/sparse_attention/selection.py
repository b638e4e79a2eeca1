"""InfLLM v2's choice of key blocks: mean-pooled keys, scores shared by a GQA group, max-pooling to blocks, top-k.

`block_scores` is the meaning of the fused scoring kernels, which compute the same for a stretch of queries without
storing a score per pooled key. Everything here is plain XLA; nothing has a gradient.

Source: InfLLM-V2 (arXiv 2509.24663), section 3; MiniCPM4 (arXiv 2506.07900), section 2.1. Axis letters: README.md.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from kernels.sparse_attention.config import COARSENING, SelectionConfig, num_blocks

MIXED = -(2**31)  # the segment of a pooled key that averages tokens of several documents


class Pooled(NamedTuple):
    """Keys averaged over windows.

    Attributes:
        keys_BPKh: the means, in the keys' dtype; window j is tokens [stride j, stride j + kernel), only whole windows.
        segments_BP: the document each lies in, MIXED where in several; None without segments.
    """

    keys_BPKh: jax.Array
    segments_BP: jax.Array | None


class ScoreSegments(NamedTuple):
    """Documents of what `block_scores` compares; int32, pooled ones MIXED where in several.

    Attributes:
        query_BT: of the queries of this stretch.
        pooled_BP: of the pooled keys.
        coarse_BR: of the coarse ones; None with the exact normaliser.
    """

    query_BT: jax.Array
    pooled_BP: jax.Array
    coarse_BR: jax.Array | None


Scorer = Callable[..., jax.Array]  # `block_scores` and its fused forms


def num_pooled(length: int, kernel: int, stride: int) -> int:
    """P, the whole windows in `length` tokens."""
    return max(0, (length - kernel) // stride + 1)


def pool_keys(k_BSKh: jax.Array, kernel: int, stride: int, segments_BS: jax.Array | None = None) -> Pooled:
    """Mean keys of windows of `kernel` tokens, `stride` apart; [B, P, K, h] with P = `num_pooled`.

    Means are taken in float32. Rotary positions are in the keys already (the released models pool rotated keys).
    """
    P = num_pooled(k_BSKh.shape[1], kernel, stride)

    def windows(x_BSx: jax.Array, reduce: Callable[..., jax.Array], join: Callable[..., jax.Array]) -> jax.Array:
        """Reduces pieces of `stride` tokens, then joins the `kernel / stride` pieces of every window."""
        pieces = kernel // stride
        x_BJsx = x_BSx[:, : (P + pieces - 1) * stride].reshape(x_BSx.shape[0], -1, stride, *x_BSx.shape[2:])
        x_BJx = reduce(x_BJsx, axis=2)
        return functools.reduce(join, [x_BJx[:, i : i + P] for i in range(pieces)])

    if P == 0:
        empty = None if segments_BS is None else segments_BS[:, :0]
        return Pooled(k_BSKh[:, :0], empty)
    keys_BPKh = (windows(k_BSKh.astype(jnp.float32), jnp.sum, jnp.add) / kernel).astype(k_BSKh.dtype)
    if segments_BS is None:
        return Pooled(keys_BPKh, None)
    low, high = windows(segments_BS, jnp.min, jnp.minimum), windows(segments_BS, jnp.max, jnp.maximum)
    return Pooled(keys_BPKh, jnp.where(low == high, low, MIXED))


def block_scores(
    q_BTHh: jax.Array,
    pooled_BPKh: jax.Array,
    coarse_BRKh: jax.Array | None,
    first_query: ArrayLike,
    config: SelectionConfig,
    length: int,
    segments: ScoreSegments | None = None,
) -> jax.Array:
    """How much each of a stretch of queries would look at each block, by its pooled keys: [B, K, T, N] float32, >= 0.

    1. s = q . pooled / sqrt(h) per query head; pooled key j is visible to query i iff its window ends at or before i
       (stride j + kernel - 1 <= i) and, with segments, lies wholly in the query's document.
    2. p = exp(s - lse), lse the log-sum-exp over the visible pooled keys, or over the visible coarse ones; a query
       that sees none of those has p = 0.
    3. p is summed over the G query heads of a key-value head (equation 6; MiniCPM4's text averages: same ranking).
    4. A block's score is the maximum over the pooled keys whose window touches it: windows 4 b - 1 to 4 b + 3 for the
       default sizes, as the paper's code and MiniCPM4's equation 1 have it (equation 7 as printed starts at 4 b).

    Nothing is forced or forbidden yet: future blocks score 0 for want of visible keys.

    Args:
        q_BTHh: T queries at positions first_query, first_query + 1, ...
        pooled_BPKh: all pooled keys of the row.
        coarse_BRKh: all keys pooled `COARSENING` times coarser, or None for the exact normaliser.
        first_query: position of the first query; may be traced.
        config: block, kernel and stride.
        length: tokens of the row, of which N = ceil(length / block) blocks.
        segments: documents, or None for one document.
    """
    N = num_blocks(length, config.block)
    p_BKTP = group_probabilities(q_BTHh, pooled_BPKh, coarse_BRKh, first_query, config, segments)
    return functools.reduce(jnp.maximum, windows_of_blocks(p_BKTP, config, N))


def group_probabilities(
    q_BTHh: jax.Array,
    pooled_BPKh: jax.Array,
    coarse_BRKh: jax.Array | None,
    first_query: ArrayLike,
    config: SelectionConfig,
    segments: ScoreSegments | None = None,
) -> jax.Array:
    """Steps 1 to 3 of `block_scores`: [B, K, T, P] float32."""
    B, T, H, h = q_BTHh.shape
    P, K = pooled_BPKh.shape[1:3]
    if P == 0 or (coarse_BRKh is not None and coarse_BRKh.shape[1] == 0):
        return jnp.zeros((B, K, T, P), jnp.float32)
    q_BTKGh = q_BTHh.reshape(B, T, K, H // K, h)
    position_T = first_query + jnp.arange(T)

    def logits(keys_BPKh: jax.Array, scale: int, segments_BP: jax.Array | None) -> jax.Array:
        """Of windows `scale` times the config's, -inf where not visible: [B, K, G, T, P]."""
        s = jnp.einsum("btkgh,bpkh->bkgtp", q_BTKGh, keys_BPKh, preferred_element_type=jnp.float32) * h**-0.5
        last_P = scale * (config.stride * jnp.arange(keys_BPKh.shape[1]) + config.kernel) - 1
        visible = (last_P <= position_T[:, None])[None]
        if segments is not None and segments_BP is not None:
            visible &= segments_BP[:, None, :] == segments.query_BT[:, :, None]
        return jnp.where(visible[:, None, None], s, -jnp.inf)

    s_BKGTP = logits(pooled_BPKh, 1, segments and segments.pooled_BP)
    s_BKGTR = s_BKGTP if coarse_BRKh is None else logits(coarse_BRKh, COARSENING, segments and segments.coarse_BR)
    lse_BKGT1 = jax.nn.logsumexp(s_BKGTR, axis=-1, keepdims=True)
    p_BKGTP = jnp.exp(s_BKGTP - jnp.where(lse_BKGT1 > -jnp.inf, lse_BKGT1, jnp.inf))
    return p_BKGTP.sum(axis=2)


def windows_of_blocks(x_BKTP: jax.Array, config: SelectionConfig, N: int) -> list[jax.Array]:
    """Per block, what belongs to the windows that touch it, from the first to the last: arrays [B, K, T, N].

    Zeros where a window is not there.
    """
    per_block = config.block // config.stride
    before = config.kernel // config.stride - 1  # windows that start before the block and reach into it
    padded = jnp.pad(x_BKTP, ((0, 0), (0, 0), (0, 0), (before, N * per_block - x_BKTP.shape[-1])))
    last = (N - 1) * per_block + 1
    return [padded[..., i : i + last : per_block] for i in range(before + per_block)]


def document_starts(segments_BT: jax.Array) -> jax.Array:
    """Position where each token's document starts, [B, T] int32; a document is a run of equal segments."""
    T = segments_BT.shape[1]
    changed = jnp.pad(segments_BT[:, 1:] != segments_BT[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return jax.lax.cummax(jnp.where(changed, jnp.arange(T, dtype=jnp.int32), 0), axis=1)


def top_blocks(
    scores_BKTN: jax.Array, position_BT: jax.Array, start_BT: jax.Array, config: SelectionConfig
) -> jax.Array:
    """The forced blocks and the best-scored others: [B, K, T, min(config.blocks, N)] int32, ascending, -1 at the end.

    A token can choose from the block where its document starts to its own. Where there are fewer than `blocks`, it
    takes all. Of equal scores the earlier block wins.

    Args:
        scores_BKTN: finite scores.
        position_BT: positions of the T tokens, [B or 1, T].
        start_BT: where their documents start, [B or 1, T].
        config: block, blocks and which are forced.
    """
    N = scores_BKTN.shape[-1]
    b = jnp.arange(N, dtype=jnp.int32)
    own, first = (x_BT[:, None, :, None] // config.block for x_BT in (position_BT, start_BT))
    forced = (b < first + config.init_blocks) | (b > own - config.local_blocks)
    rank = jnp.where(forced, jnp.inf, scores_BKTN)
    rank = jnp.where((b >= first) & (b <= own), rank, -jnp.inf)
    values, ids = jax.lax.top_k(rank, min(config.blocks, N))
    ids = jnp.sort(jnp.where(values > -jnp.inf, ids, N), axis=-1)
    return jnp.where(ids < N, ids, -1)


def select_blocks(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    config: SelectionConfig,
    segments_BT: jax.Array | None,
    chunk: int,
    scorer: Scorer = block_scores,
) -> jax.Array:
    """InfLLM v2's blocks of every token, `chunk` queries at a time: [B, K, T, min(config.blocks, N)] int32.

    Ascending, -1 at the end. The scores of one chunk are all that exists of them at a time.

    Args:
        q_BTHh: queries.
        k_BSKh: keys, S = T.
        config: the selection.
        segments_BT: documents, or None.
        chunk: queries scored at a time.
        scorer: `block_scores` or a kernel that computes the same.
    """
    q_BTHh, k_BSKh = jax.lax.stop_gradient((q_BTHh, k_BSKh))
    B, T = q_BTHh.shape[:2]
    chunk = min(chunk, T)
    chunks = -(-T // chunk)
    pooled = pool_keys(k_BSKh, config.kernel, config.stride, segments_BT)
    coarse = None
    if config.normaliser == "coarse":
        coarse = pool_keys(k_BSKh, COARSENING * config.kernel, COARSENING * config.stride, segments_BT)
    starts_BT = jnp.zeros((1, T), jnp.int32) if segments_BT is None else document_starts(segments_BT)

    def stretches(x_BTx: jax.Array) -> jax.Array:
        """[B, T, ...] -> [chunks, B, chunk, ...], the end padded."""
        widths = [(0, 0), (0, chunks * chunk - T), *[(0, 0)] * (x_BTx.ndim - 2)]
        x_BTx = jnp.pad(x_BTx, widths)
        return x_BTx.reshape(x_BTx.shape[0], chunks, chunk, *x_BTx.shape[2:]).swapaxes(0, 1)

    def choose(stretch: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
        first_query, q_BCHh, start_BC, segments_BC = stretch
        segments = None
        if segments_BC is not None and pooled.segments_BP is not None:
            segments = ScoreSegments(segments_BC, pooled.segments_BP, coarse and coarse.segments_BP)
        scores_BKCN = scorer(q_BCHh, pooled.keys_BPKh, coarse and coarse.keys_BPKh, first_query, config, T, segments)
        position_1C = first_query + jnp.arange(chunk, dtype=jnp.int32)[None]
        return top_blocks(scores_BKCN.astype(jnp.float32), position_1C, start_BC, config)

    first_queries = chunk * jnp.arange(chunks, dtype=jnp.int32)
    segments = None if segments_BT is None else stretches(segments_BT)
    ids_cBKCn: jax.Array = jax.lax.map(choose, (first_queries, stretches(q_BTHh), stretches(starts_BT), segments))
    K, n = ids_cBKCn.shape[2], ids_cBKCn.shape[-1]
    return ids_cBKCn.transpose(1, 2, 0, 3, 4).reshape(B, K, chunks * chunk, n)[:, :, :T]
