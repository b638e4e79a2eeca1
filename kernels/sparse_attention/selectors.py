"""Ways to choose the visible blocks of each token, all with one signature and one result, for the one attention.

A selector maps (q_BTHh, k_BSKh, config, segments_BT) to ids_BKTn: int32, ascending, -1 at the end, one selection per
key-value head, without gradient. What its `SelectionConfig` means is the same throughout (the own and previous
`local_blocks`, the document's first `init_blocks`, `blocks` in all); how the free blocks are ranked is the selector:

==================  =================================================================================================
`infllm`            attention over mean-pooled keys, summed over the group, maximum over the windows touching a block
`nsa`               the same, but windows weighted by their overlap with the block and summed
`moba`              query times the block's mean key, summed over the group
`sliding_window`    none: the forced blocks are all
==================  =================================================================================================

Axis letters: README.md.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from kernels.sparse_attention import selection
from kernels.sparse_attention.api import select_blocks
from kernels.sparse_attention.config import Backend, SelectionConfig, num_blocks

Selector = Callable[..., jax.Array]

# NSA (arXiv 2502.11089), section 4.1: n = 16 blocks, 1 initial and 2 local ones among them.
NSA = SelectionConfig(blocks=16, local_blocks=2, dense_len=0)
# MoBA (arXiv 2502.13189), section 3.1: top-3 blocks of 512 tokens at 8K; here 12 blocks of 128.
MOBA = SelectionConfig(block=128, kernel=128, stride=128, blocks=12, init_blocks=0, local_blocks=1, dense_len=0)

_CHUNK = 128  # queries scored at a time


def infllm(
    q_BTHh: jax.Array,
    k_BSKh: jax.Array,
    config: SelectionConfig,
    *,
    segments_BT: jax.Array | None = None,
    backend: Backend = "auto",
) -> jax.Array:
    """InfLLM v2 (arXiv 2509.24663): see `selection.block_scores`."""
    return select_blocks(q_BTHh, k_BSKh, config, segments_BT=segments_BT, backend=backend)


def nsa(
    q_BTHh: jax.Array, k_BSKh: jax.Array, config: SelectionConfig = NSA, *, segments_BT: jax.Array | None = None
) -> jax.Array:
    """Native sparse attention's selection branch (arXiv 2502.11089), section 3.3.2.

    A block's score is the group's (equation 10) sum of compressed-attention probabilities, each window weighted by its
    tokens in the block over `stride` (equation 9: windows that reach into a block from outside count once, those
    within it twice, for the paper's sizes). As printed, equation 9 indexes backwards from the block's first window;
    we take the windows that overlap the block, which its text says. The paper compresses keys by a learned map; here
    they are means.
    """
    return selection.select_blocks(q_BTHh, k_BSKh, config, segments_BT, _CHUNK, _overlap_scores)


def moba(
    q_BTHh: jax.Array, k_BSKh: jax.Array, config: SelectionConfig = MOBA, *, segments_BT: jax.Array | None = None
) -> jax.Array:
    """Mixture of block attention (arXiv 2502.13189), section 2.2: the blocks whose mean key points along the query.

    `config.kernel` and `config.stride` must equal `config.block`. The paper gates every query head by itself; here a
    group chooses together, by the sum of its heads' gate scores (so by its mean query). With groups of one it is the
    paper's. Of past blocks, one that other documents share ranks last, for its mean key is not the document's.

    Raises:
        ValueError: the config pools windows other than blocks.
    """
    if not config.kernel == config.stride == config.block:
        raise ValueError(
            f"moba ranks whole blocks: selection.kernel {config.kernel} and selection.stride {config.stride} "
            f"must equal selection.block {config.block}"
        )
    return selection.select_blocks(q_BTHh, k_BSKh, config, segments_BT, _CHUNK, _mean_key_scores)


def sliding_window(
    q_BTHh: jax.Array, k_BSKh: jax.Array, config: SelectionConfig, *, segments_BT: jax.Array | None = None
) -> jax.Array:
    """The `local_blocks` up to the own one and, as attention sinks, the document's first `init_blocks`.

    Nothing is ranked, so `config.blocks` is not read. Sinks: StreamingLLM (arXiv 2309.17453).
    """
    B, T, K = *q_BTHh.shape[:2], k_BSKh.shape[2]
    starts_BT = jnp.zeros((B, T), jnp.int32) if segments_BT is None else selection.document_starts(segments_BT)
    first_BT1 = starts_BT[..., None] // config.block
    own_T1 = jnp.arange(T, dtype=jnp.int32)[:, None] // config.block
    sinks_BTi = first_BT1 + jnp.arange(config.init_blocks, dtype=jnp.int32)
    local_BTl = own_T1 - jnp.arange(config.local_blocks, dtype=jnp.int32)[::-1]
    local_BTl = jnp.where(local_BTl >= first_BT1 + config.init_blocks, local_BTl, -1)  # sinks are there already
    ids_BTn = jnp.concatenate([jnp.where(sinks_BTi <= own_T1, sinks_BTi, -1), local_BTl], axis=-1)
    N = num_blocks(T, config.block)
    ids_BTn = jnp.sort(jnp.where(ids_BTn < 0, N, ids_BTn), axis=-1)[..., : min(N, ids_BTn.shape[-1])]
    ids_BTn = jnp.where(ids_BTn < N, ids_BTn, -1)
    return jnp.broadcast_to(ids_BTn[:, None], (B, K, *ids_BTn.shape[1:]))


SELECTORS: dict[Literal["infllm", "nsa", "moba", "sliding_window"], Selector] = {
    "infllm": infllm,
    "nsa": nsa,
    "moba": moba,
    "sliding_window": sliding_window,
}


def _overlap_scores(
    q_BTHh: jax.Array,
    pooled_BPKh: jax.Array,
    coarse_BRKh: jax.Array | None,
    first_query: ArrayLike,
    config: SelectionConfig,
    length: int,
    segments: selection.ScoreSegments | None,
) -> jax.Array:
    """Group probabilities of the pooled keys, summed with their overlap with each block: [B, K, T, N]."""
    N = num_blocks(length, config.block)
    p_BKTP = selection.group_probabilities(q_BTHh, pooled_BPKh, coarse_BRKh, first_query, config, segments)
    scores_BKTN = jnp.zeros((*p_BKTP.shape[:3], N), jnp.float32)
    start = config.stride - config.kernel  # of the first window that touches a block, from the block's start
    for window_BKTN in selection.windows_of_blocks(p_BKTP, config, N):
        overlap = min(start + config.kernel, config.block) - max(start, 0)
        scores_BKTN += overlap / config.stride * window_BKTN
        start += config.stride
    return scores_BKTN


def _mean_key_scores(
    q_BTHh: jax.Array,
    pooled_BPKh: jax.Array,
    coarse_BRKh: jax.Array | None,
    first_query: ArrayLike,
    config: SelectionConfig,
    length: int,
    segments: selection.ScoreSegments | None,
) -> jax.Array:
    """Sum over the group of q . mean key: [B, K, T, N]; the lowest finite number where there is no mean key."""
    del coarse_BRKh, first_query  # no softmax; blocks of the future are excluded by `top_blocks`
    B, T, H, h = q_BTHh.shape
    P, K = pooled_BPKh.shape[1:3]
    q_BTKh = q_BTHh.astype(jnp.float32).reshape(B, T, K, H // K, h).sum(axis=3)
    s_BKTP = jnp.einsum("btkh,bpkh->bktp", q_BTKh, pooled_BPKh.astype(jnp.float32))
    least = float(np.finfo(np.float32).min)
    if segments is not None:
        same_BTP = segments.pooled_BP[:, None, :] == segments.query_BT[:, :, None]
        s_BKTP = jnp.where(same_BTP[:, None], s_BKTP, least)
    spare = num_blocks(length, config.block) - P  # a partial last block has no mean key and is seen as own block only
    return jnp.pad(s_BKTP, ((0, 0), (0, 0), (0, 0), (0, spare)), constant_values=least)
