"""InfLLM v2's selection against loops in float64, and what it promises: forced blocks, documents, ties, memory."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import largest_array
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.sparse_attention import api, selection
from kernels.sparse_attention.config import SelectionConfig

pytestmark = pytest.mark.timeout(300)

TINY = SelectionConfig(block=16, kernel=8, stride=4, blocks=4, init_blocks=1, local_blocks=1, dense_len=0)


def draw(seed, T, H=4, K=2, h=8, documents=0):
    rng = np.random.default_rng(seed)
    q, k = (jnp.asarray(2 * rng.normal(size=(1, T, heads, h)), jnp.float32) for heads in (H, K))
    segments = np.sort(rng.integers(documents, size=(1, T)), axis=1).astype(np.int32) if documents else None
    return q, k, segments


def brute_scores(q, k, segments, config):
    """Block scores of every token, [K, T, N], by the four steps of `block_scores`, window by window."""
    q, k = np.asarray(q[0], np.float64), np.asarray(k[0], np.float64)
    (T, H, h), K = q.shape, k.shape[1]
    N = -(-T // config.block)
    document = np.zeros(T, int) if segments is None else segments[0]

    def windows(scale):
        kernel, stride = scale * config.kernel, scale * config.stride
        return [range(start, start + kernel) for start in range(0, T - kernel + 1, stride)]

    def exponentials(t, seen):
        """Of every query head over windows: [K, G, len(seen)]."""
        means = np.stack([k[window].mean(axis=0) for window in seen], axis=-1)
        return np.exp(np.einsum("kgh,khw->kgw", q[t].reshape(K, H // K, h), means) / math.sqrt(h))

    def visible(t, window):
        return window[-1] <= t and set(document[window]) == {document[t]}

    scores = np.zeros((K, T, N))
    for t in range(T):
        fine = [w for w in windows(1) if visible(t, w)]
        normalising = fine if config.normaliser == "exact" else [w for w in windows(4) if visible(t, w)]
        if not normalising:
            continue
        totals = exponentials(t, normalising).sum(axis=-1, keepdims=True)
        p = (exponentials(t, fine) / totals).sum(axis=1)
        for i, window in enumerate(fine):
            for block in {s // config.block for s in window}:
                scores[:, t, block] = np.maximum(scores[:, t, block], p[:, i])
    return scores


def brute_ids(scores, segments, config):
    """The forced blocks, then the best, per token: sets, and the gap between the last taken and the first left out."""
    K, T, _ = scores.shape
    document = np.zeros(T, int) if segments is None else segments[0]
    chosen, gap = {}, {}
    for k, t in np.ndindex(K, T):
        own, first = t // config.block, int(np.argmax(document == document[t])) // config.block
        forced = {b for b in range(first, own + 1) if b < first + config.init_blocks or b > own - config.local_blocks}
        free = sorted(set(range(first, own + 1)) - forced, key=lambda b: -scores[k, t, b])
        room = config.blocks - len(forced)
        chosen[k, t] = forced | set(free[:room])
        gap[k, t] = scores[k, t, free[room - 1]] - scores[k, t, free[room]] if len(free) > room > 0 else math.inf
    return chosen, gap


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([1, 29, 150]),
    st.sampled_from([0, 3]),
    st.sampled_from(["exact", "coarse"]),
    st.sampled_from([8, 64, 1000]),
    st.integers(0, 2**32 - 1),
)
def test_equals_brute_force(T, documents, normaliser, chunk, seed):
    q, k, segments = draw(seed, T, documents=documents)
    config = dataclasses.replace(TINY, normaliser=normaliser)
    ids = api.select_blocks(q, k, config, segments_BT=segments, backend="xla", chunk=chunk)
    scores = brute_scores(q, k, segments, config)
    chosen, gap = brute_ids(scores, segments, config)
    for (head, t), want in chosen.items():
        got = [b for b in np.asarray(ids[0, head, t]).tolist() if b >= 0]
        assert got == sorted(got)
        assert len(got) == len(want)
        assert set(got) == want or gap[head, t] < 1e-4 * scores[head, t].max()  # ties may fall either way in float32


@pytest.mark.parametrize("normaliser", ["exact", "coarse"])
@pytest.mark.parametrize("documents", [0, 2])
def test_block_scores_equal_brute_force(normaliser, documents):
    q, k, segments = draw(5, 130, documents=documents)
    config = dataclasses.replace(TINY, normaliser=normaliser)
    fine = selection.pool_keys(k, config.kernel, config.stride, segments)
    rough = selection.pool_keys(k, 4 * config.kernel, 4 * config.stride, segments)
    coarse = rough.keys_BPKh if normaliser == "coarse" else None
    want = brute_scores(q, k, segments, config)
    first = 70
    about = None
    if segments is not None:
        about = selection.ScoreSegments(segments[:, first:110], fine.segments_BP, rough.segments_BP)
    got = selection.block_scores(q[:, first:110], fine.keys_BPKh, coarse, first, config, 130, about)
    np.testing.assert_allclose(got[0], want[:, first:110], rtol=1e-4, atol=1e-5)


def test_the_default_windows_of_a_block_are_the_papers():
    """Kernel 32, stride 16, block 64: block b is touched by windows 4 b - 1 to 4 b + 3."""
    number = jnp.arange(1.0, 16.0)[None, None, None]  # window j holds j + 1, so that 0 is "not there"
    touching = np.stack(selection.windows_of_blocks(number, SelectionConfig(), 4), axis=-1)[0, 0, 0] - 1
    assert touching.tolist() == [[-1, 0, 1, 2, 3], [3, 4, 5, 6, 7], [7, 8, 9, 10, 11], [11, 12, 13, 14, -1]]


def test_the_last_window_is_visible_to_its_last_token_and_none_before():
    """Kernel j is visible to query i iff 16 j + 31 <= i."""
    q, k, _ = draw(0, 256)
    pooled = selection.pool_keys(k, 32, 16).keys_BPKh
    p = selection.group_probabilities(q, pooled, None, 0, SelectionConfig())
    ends = 16 * np.arange(15) + 31
    assert ((np.asarray(p[0, 0]) > 0) == (ends <= np.arange(256)[:, None])).all()


def test_probabilities_of_a_group_sum_to_its_heads():
    q, k, _ = draw(1, 100, H=6, K=2)
    p = selection.group_probabilities(q, selection.pool_keys(k, 8, 4).keys_BPKh, None, 0, TINY)
    np.testing.assert_allclose(p.sum(axis=-1)[..., 7:], 3.0, rtol=1e-5)


def test_init_and_local_blocks_are_always_there_and_a_token_with_few_takes_all():
    q, k, _ = draw(2, 400)
    config = dataclasses.replace(TINY, blocks=6, init_blocks=2, local_blocks=3)
    ids = np.asarray(api.select_blocks(q, k, config))
    for head, t in np.ndindex(2, 400):
        own, got = t // 16, set(ids[0, head, t].tolist()) - {-1}
        assert max(got) == own
        assert {0, min(1, own), own, max(own - 1, 0), max(own - 2, 0)} <= got
        assert len(got) == min(6, own + 1)


def test_of_equal_scores_the_earlier_block_wins():
    """Equal keys make equal scores: of five free blocks the first two."""
    q, k = jnp.ones((1, 112, 2, 8)), jnp.ones((1, 112, 1, 8))
    scores = jnp.ones((1, 1, 112, 7))
    ids = selection.top_blocks(scores, jnp.arange(112)[None], jnp.zeros((1, 112), jnp.int32), TINY)
    assert ids[0, 0, 111].tolist() == [0, 1, 2, 6]
    assert api.select_blocks(q, k, TINY).shape == (1, 1, 112, 4)


def test_a_document_is_selected_from_as_if_it_stood_alone():
    """At a block boundary; ids are relative to the row, so they shift by the blocks before."""
    q, k, _ = draw(3, 240)
    segments = jnp.asarray(np.repeat([[4, 9]], [80, 160], axis=1), jnp.int32)
    together = api.select_blocks(q, k, TINY, segments_BT=segments)
    alone = api.select_blocks(q[:, 80:], k[:, 80:], TINY)
    assert (np.where(alone >= 0, alone + 5, -1) == together[:, :, 80:]).all()


def test_chunks_do_not_change_the_result():
    q, k, _ = draw(4, 133)
    first, *others = (api.select_blocks(q, k, TINY, chunk=chunk) for chunk in (1000, 133, 32, 1))
    assert all((first == other).all() for other in others)


def test_selection_costs_nothing_under_a_gradient():
    """It has none: no product is computed for one."""
    q, k, _ = draw(6, 64)

    def loss(q, k):
        return api.select_blocks(q, k, TINY).astype(jnp.float32).sum() + (q**2).sum() + (k**2).sum()

    dq, dk = jax.grad(loss, (0, 1))(q, k)
    assert (dq == 2 * q).all()
    assert (dk == 2 * k).all()
    alone, differentiated = (str(jax.make_jaxpr(f)(q, k)).count("dot_general") for f in (loss, jax.grad(loss, (0, 1))))
    assert differentiated == alone > 0


def test_scores_exist_for_a_chunk_at_a_time():
    """At 16K tokens no array has an element per token and pooled key, or per token and block."""
    T, chunk = 16384, 64
    q, k = jax.ShapeDtypeStruct((1, T, 2, 4), jnp.float32), jax.ShapeDtypeStruct((1, T, 1, 4), jnp.float32)
    config = SelectionConfig(blocks=8, local_blocks=2)
    largest = largest_array(lambda q, k: api.select_blocks(q, k, config, backend="xla", chunk=chunk), q, k)
    assert largest <= max(2 * 4 * T, 2 * chunk * T // 16) < T * T // 64


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"block": 40}, "selection.block 40 is not a multiple of selection.stride 16"),
        ({"kernel": 24}, "selection.kernel 24 is not a multiple of selection.stride 16"),
        ({"blocks": 20}, "use at least 33"),
        ({"local_blocks": 0}, "selection.local_blocks is 0: it must be at least 1"),
        ({"init_blocks": -1}, "selection.init_blocks is -1: it must not be negative"),
        ({"normaliser": "fine"}, "use 'exact' or 'coarse'"),
    ],
)
def test_a_config_that_means_nothing_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SelectionConfig(**wrong)


def test_the_default_budget_is_minicpm4s():
    assert SelectionConfig().visible_tokens == 6144
