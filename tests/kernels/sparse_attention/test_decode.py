"""Decoding, step by step, against the last row of the computation over the whole row."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.sparse_attention import api, decode, selection
from kernels.sparse_attention.config import SelectionConfig

pytestmark = pytest.mark.timeout(300)

CONFIG = SelectionConfig(block=16, kernel=8, stride=4, blocks=3, init_blocks=1, local_blocks=1, dense_len=0)
T, H, K, h = 90, 4, 2, 8


def draw(B=1, seed=0):
    rng = np.random.default_rng(seed)
    return (jnp.asarray(rng.normal(size=(B, T, heads, h)), jnp.float32) for heads in (H, K, K))


def whole_row(q, k, v, config):
    """What each position attends to when it is the last one: [T, H, h], dense up to `dense_len` and sparse after.

    Selection and attention are causal, so one sparse computation over the row holds every prefix's last row.
    """
    sparse = api.sparse_attention(q, k, v, dataclasses.replace(config, dense_len=0), backend="reference")[0]
    dense = api.sparse_attention(q, k, v, dataclasses.replace(config, dense_len=T), backend="reference")[0]
    return np.where((np.arange(T) < config.dense_len)[:, None, None], dense, sparse)


@pytest.mark.parametrize("normaliser", ["exact", "coarse"])
@pytest.mark.parametrize("dense_len", [0, 50, 1000])
def test_every_step_equals_the_last_row_of_the_whole(normaliser, dense_len):
    config = dataclasses.replace(CONFIG, normaliser=normaliser, dense_len=dense_len)
    q, k, v = draw()
    cache = decode.prefill(k[:, :0], v[:, :0], jnp.zeros(1, jnp.int32), T, config)

    def step(cache, token):
        q_Hh, k_Kh, v_Kh = token
        cache = decode.append(cache, k_Kh[None], v_Kh[None], config)
        return cache, decode.attend(cache, q_Hh[None], config)[0]

    cache, o = jax.lax.scan(step, cache, (q[0], k[0], v[0]))
    np.testing.assert_allclose(o, whole_row(q, k, v, config), atol=1e-5)
    pooled = selection.pool_keys(k, config.kernel, config.stride).keys_BPKh
    assert (cache.pooled_BPKh[:, : pooled.shape[1]] == pooled).all()  # the same bits: one function makes both


def test_rows_have_lengths_of_their_own_and_go_on_from_a_prompt():
    config = dataclasses.replace(CONFIG, dense_len=20, normaliser="coarse")
    q, k, v = draw(B=3)
    lengths = jnp.asarray([70, 13, 1])
    cache = decode.prefill(k[:, :70], v[:, :70], lengths, T, config)
    append, attend = (jax.jit(functools.partial(f, config=config)) for f in (decode.append, decode.attend))
    want = [whole_row(q[b : b + 1], k[b : b + 1], v[b : b + 1], config) for b in range(3)]
    row = jnp.arange(3)
    for step in range(20):
        at = lengths + step
        cache = append(cache, k[row, at], v[row, at])
        o = attend(cache, q[row, at])
        for b in range(3):
            np.testing.assert_allclose(o[b], want[b][at[b]], atol=1e-5)


def test_a_row_without_room_gives_nan_and_leaves_the_others_alone():
    config = dataclasses.replace(CONFIG, block=4)
    q, k, v = draw(B=2)
    cache = decode.prefill(k[:, :8], v[:, :8], jnp.asarray([8, 5]), 8, config)
    assert np.isfinite(decode.attend(cache, q[:, 8], config)).all()
    cache = decode.append(cache, k[:, 8], v[:, 8], config)
    o = decode.attend(cache, q[:, 8], config)
    assert np.isnan(o[0]).all()
    assert np.isfinite(o[1]).all()
    assert (cache.k_BSKh[0] == k[0, :8]).all()


def test_a_prompt_must_fit():
    _, k, v = draw()
    with pytest.raises(ValueError, match="a prompt of 90 tokens does not fit a cache of 64"):
        decode.prefill(k, v, jnp.asarray([90]), 64, CONFIG)


def test_a_step_reads_the_selected_blocks_only():
    """nan in the values of a block that was not selected does not reach the result."""
    q, k, v = draw()
    cache = decode.prefill(k, v, jnp.asarray([T]), T, CONFIG)
    chosen = set(np.asarray(api.select_blocks(q, k, CONFIG))[0, :, -1].ravel().tolist())
    hidden = next(b for b in range(T // 16) if b not in chosen)
    spoiled = cache._replace(v_BSKh=cache.v_BSKh.at[:, 16 * hidden : 16 * hidden + 16].set(jnp.nan))
    assert (decode.attend(spoiled, q[:, -1], CONFIG) == decode.attend(cache, q[:, -1], CONFIG)).all()
