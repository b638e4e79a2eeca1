"""Gradients of the Hopper kernels in the GPU interpreter with race detection, and a bug that it must catch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case, check
from gpu_interpreter import GPU, RACES, Careless, reset

from kernels.sparse_attention import hopper, pallas_gpu_backward
from kernels.sparse_attention.tables import inverse_index, union_tables

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(T=66, G=16, n=2), id="a block that nobody selects, odd length"),
        pytest.param(Case(T=33, G=2, h=128, n=1, documents=2), id="one tile, documents, head size 128"),
        pytest.param(Case(T=130, G=6, K=2, block=128, n=2, documents=2), id="padded group", marks=pytest.mark.slow),
    ],
)
def test_gradients_without_races(monkeypatch, case):
    """With so few pairs an item that the blocks' sums have several parts."""
    monkeypatch.setattr(pallas_gpu_backward, "PAIRS", 4)
    check(case, GPU)


def test_partial_sums_are_added_by_block(monkeypatch):
    """dV of ones: every key that all tokens see gets the sum of their probabilities, of whichever work items."""
    T, G = 64, 16
    q = jnp.zeros((1, T, G, 64), jnp.bfloat16)
    ids, row = jnp.zeros((1, 1, T, 1), jnp.int32), jnp.zeros((1, G, T), jnp.float32)
    lse = row + jnp.log(jnp.arange(1.0, T + 1))
    index = inverse_index(union_tables(ids, hopper.Tiling(T, 1, G).tokens, 1), 1, 5)
    assert (index.item_count_BKI > 0).sum() > 1
    monkeypatch.setattr(pallas_gpu_backward, "PAIRS", 5)
    kv = jnp.zeros((1, T, 1, 64), jnp.bfloat16)
    _, _, dv = pallas_gpu_backward.backward(
        q, kv, kv, ids, None, q, lse, jnp.ones_like(q), row, block=64, scale=1.0, interpret=RACES
    )
    # Key s: the sum over t >= s of 1 / (t + 1).
    want = G * np.array([sum(1 / (t + 1) for t in range(s, T)) for s in range(T)])[:, None]
    np.testing.assert_allclose(np.asarray(dv, np.float32)[0, :, 0], np.broadcast_to(want, (T, 64)), rtol=1e-2)


def test_a_dropped_wait_is_caught(monkeypatch):
    """Of a query tile that is still on its way when dK and dV are computed from it."""
    monkeypatch.setattr(pallas_gpu_backward, "plgpu", Careless(pallas_gpu_backward._DkDv.STAGES))
    x = Case(T=4, G=2, n=1, dtype="bfloat16").inputs()  # one tile a union: dQ's own barriers are not so many
    row = jnp.zeros((1, 2, 4), jnp.float32)
    try:
        with pytest.raises(jax.errors.JaxRuntimeError, match="RACE DETECTED"):
            jax.block_until_ready(
                pallas_gpu_backward.backward(
                    x.q, x.k, x.v, x.ids, None, x.q, row, x.do, row, block=64, scale=1.0, interpret=RACES
                )
            )
    finally:
        reset()
