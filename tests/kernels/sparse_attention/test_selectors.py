"""Four ways to choose blocks: each against its formula in loops, and what they have in common."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from cases import XLA

from kernels.sparse_attention import selection
from kernels.sparse_attention.config import SelectionConfig
from kernels.sparse_attention.selectors import MOBA, NSA, SELECTORS, infllm, moba, nsa, sliding_window

pytestmark = pytest.mark.timeout(300)

T, H, K, h = 150, 4, 2, 8
WINDOWS = SelectionConfig(block=16, kernel=8, stride=4, blocks=4, init_blocks=1, local_blocks=2, dense_len=0)
BLOCKS = dataclasses.replace(WINDOWS, kernel=16, stride=16)
CONFIGS = {"infllm": WINDOWS, "nsa": WINDOWS, "moba": BLOCKS, "sliding_window": WINDOWS}


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return (jnp.asarray(rng.normal(size=(1, T, heads, h)), jnp.float32) for heads in (H, K, K))


def sets(ids):
    return {(k, t): set(ids[0, k, t].tolist()) - {-1} for k, t in np.ndindex(ids.shape[1:3])}


def best(score, config, t):
    """The forced blocks, and of the others the best, of a document that starts the row."""
    own = t // config.block
    forced = {b for b in range(own + 1) if b < config.init_blocks or b > own - config.local_blocks}
    free = sorted(set(range(own + 1)) - forced, key=score, reverse=True)
    return forced | set(free[: config.blocks - len(forced)])


def test_nsa_weighs_windows_by_their_tokens_in_the_block():
    q, k, _ = draw()
    p = np.asarray(selection.group_probabilities(q, selection.pool_keys(k, 8, 4).keys_BPKh, None, 0, WINDOWS))
    got = sets(np.asarray(nsa(q, k, WINDOWS)))
    for (head, t), chosen in got.items():

        def score(block, head=head, t=t):
            own = set(range(16 * block, 16 * block + 16))
            return sum(p[0, head, t, j] * len(own & set(range(4 * j, 4 * j + 8))) for j in range(p.shape[-1]))

        assert chosen == best(score, WINDOWS, t)


def test_nsa_weights_of_the_papers_sizes_are_1_2_2_2_1(monkeypatch):
    """Equation 9 with l = 32, d = 16, l' = 64."""
    windows = [jnp.full((1, 1, 1, 1), 10.0**i) for i in range(5)]
    monkeypatch.setattr(selection, "windows_of_blocks", lambda *_: windows)
    q, pooled = jnp.ones((1, 1, 1, 4)), jnp.ones((1, 3, 1, 4))
    weights = []
    monkeypatch.setattr(
        selection, "select_blocks", lambda *args: weights.append(args[-1](q, pooled, None, 0, NSA, 64, None))
    )
    nsa(q, pooled)
    assert weights[0].item() == 12221


def test_moba_ranks_blocks_by_the_mean_key_and_the_summed_query():
    q, k, _ = draw(1)
    ids = sets(np.asarray(moba(q, k, BLOCKS)))
    q, k = np.asarray(q[0]), np.asarray(k[0])
    for (head, t), chosen in ids.items():
        query = q[t, 2 * head : 2 * head + 2].sum(axis=0)
        assert chosen == best(lambda b: query @ k[16 * b : 16 * b + 16, head].mean(axis=0), BLOCKS, t)  # noqa: B023


def test_moba_pools_blocks():
    q, k, _ = draw()
    with pytest.raises(ValueError, match=r"selection.kernel 8 and selection.stride 4 must equal selection.block 16"):
        moba(q, k, WINDOWS)


@pytest.mark.parametrize("name", ["moba", "nsa"])
def test_default_budgets_are_the_papers(name):
    config = {"moba": MOBA, "nsa": NSA}[name]
    assert config.visible_tokens == {"moba": 3 * 512, "nsa": 16 * 64}[name]


def test_a_sliding_window_is_the_last_blocks_and_the_sinks():
    q, k, _ = draw()
    for (_, t), chosen in sets(np.asarray(sliding_window(q, k, WINDOWS))).items():
        own = t // 16
        assert chosen == {0, own, max(0, own - 1)}


def test_a_sliding_window_starts_anew_in_every_document():
    q, k, _ = draw()
    segments = jnp.asarray(np.repeat([[1, 2, 3]], [40, 100, 10], axis=1), jnp.int32)
    got = sets(np.asarray(sliding_window(q, k, WINDOWS, segments_BT=segments)))
    for (_, t), chosen in got.items():
        first, own = (0 if t < 40 else 40 if t < 140 else 140) // 16, t // 16
        assert chosen == {first, own, max(first, own - 1)}


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("documents", [False, True])
def test_ids_are_ascending_padded_at_the_end_and_fit_the_attention(name, documents):
    """And no token is without a key, so that every log-sum-exp is finite."""
    q, k, v = draw(2)
    segments = jnp.asarray(np.repeat([[1, 2, 3]], [40, 100, 10], axis=1), jnp.int32) if documents else None
    ids = SELECTORS[name](q, k, CONFIGS[name], segments_BT=segments)
    held = np.where(np.asarray(ids) < 0, 99, ids)
    assert ((np.diff(held) > 0) | (held[..., 1:] == 99)).all()
    _, lse = XLA.attention(16)(q, k, v, ids, segments)
    assert np.isfinite(lse).all()


@pytest.mark.parametrize("name", SELECTORS)
def test_other_documents_change_nothing(name):
    """Keys of the first document are exchanged: the choices in the second stay."""
    q, k, _ = draw(3)
    segments = jnp.asarray(np.repeat([[1, 2]], [70, 80], axis=1), jnp.int32)
    other = k.at[:, :70].add(3.0)
    first, second = (SELECTORS[name](q, keys, CONFIGS[name], segments_BT=segments) for keys in (k, other))
    assert (first[:, :, 70:] == second[:, :, 70:]).all()


def test_selectors_differ():
    q, k, _ = draw(4)
    a, b, c = (np.asarray(f(q, k, config)) for f, config in ((infllm, WINDOWS), (nsa, WINDOWS), (moba, BLOCKS)))
    assert (a != b).any()
    assert (b != c).any()
