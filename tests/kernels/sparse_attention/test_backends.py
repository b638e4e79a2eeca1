"""Every backend against the reference, and the reference against its formula: results, log-sum-exp, all gradients."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import REFERENCE, RUNNERS, XLA, Case, assert_close, check, results
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.sparse_attention import api, memory, reference
from kernels.sparse_attention.arg_specs import SPECS

pytestmark = pytest.mark.timeout(300)


def test_the_reference_is_the_formula():
    """Loops over single numbers in float64."""
    case = Case(T=21, K=2, G=2, h=4, block=8, n=2, B=2, documents=2)
    x = case.inputs()
    o, lse = reference.attention(x.q, x.k, x.v, x.ids, x.segments, block=8, scale=0.3)
    q, k, v = (np.asarray(a, np.float64) for a in (x.q, x.k, x.v))
    for b, t, head in np.ndindex(2, 21, 4):
        blocks = set(np.asarray(x.ids[b, head // 2, t]).tolist())
        keys = [s for s in range(t + 1) if s // 8 in blocks and x.segments[b, s] == x.segments[b, t]]
        if not keys:
            assert lse[b, head, t] == -math.inf
            assert not o[b, t, head].any()
            continue
        weights = [math.exp(0.3 * q[b, t, head] @ k[b, s, head // 2]) for s in keys]
        assert lse[b, head, t] == pytest.approx(math.log(sum(weights)), abs=1e-5)
        want = sum(w * v[b, s, head // 2] for w, s in zip(weights, keys, strict=True)) / sum(weights)
        np.testing.assert_allclose(o[b, t, head], want, atol=1e-5)


# Sizes every backend runs, on whatever chip or in an interpreter.
SMALL = {
    "group 16": Case(T=150, G=16),
    "group 8, two heads, documents": Case(T=150, G=8, K=2, documents=3),
    "block 128": Case(T=300, G=16, block=128, n=2),
}


def on_every_backend():
    """Parametrises by backend; in the GPU interpreter, which is slow, among the slow tests."""
    marks = {"pallas_gpu": pytest.mark.slow}
    return pytest.mark.parametrize("backend", [pytest.param(name, marks=marks.get(name, ())) for name in RUNNERS])


@on_every_backend()
@pytest.mark.parametrize("name", SMALL)
def test_equals_the_reference(backend, name):
    check(SMALL[name], RUNNERS[backend])


CASES = st.builds(
    Case,
    T=st.integers(1, 200),
    K=st.sampled_from([1, 2]),
    G=st.sampled_from([1, 2, 4, 8, 16, 32]),
    h=st.sampled_from([64, 128]),
    block=st.sampled_from([64, 128, 16]),
    n=st.integers(1, 6),
    B=st.sampled_from([1, 2]),
    documents=st.sampled_from([0, 3]),
    seed=st.integers(0, 2**32 - 1),
)


@settings(max_examples=8, deadline=None)
@given(CASES)
def test_equals_the_reference_at_any_size(case):
    check(case, XLA)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(CASES)
def test_equals_the_reference_at_many_sizes(case):
    check(case, XLA)


def everything(x, block):
    """Ids of all blocks for every token."""
    B, K, T, _ = x.ids.shape
    return jnp.broadcast_to(jnp.arange(-(-T // block), dtype=jnp.int32), (B, K, T, -(-T // block)))


@on_every_backend()
def test_all_blocks_are_dense_causal_attention(backend):
    runner = RUNNERS[backend]
    x = Case(T=150, G=16, documents=2, dtype=runner.dtype).inputs()
    o, _ = runner.attention(64)(x.q, x.k, x.v, everything(x, 64), x.segments)
    wide = (a.astype(jnp.float32) for a in (x.q, x.k, x.v))
    same = (x.segments[:, None, :, None] == x.segments[:, None, None, :]) & np.tri(150, dtype=bool)
    want = jax.nn.dot_product_attention(*wide, mask=same)
    np.testing.assert_allclose(np.asarray(o, np.float32), want, atol=10 * runner.tolerance)


@on_every_backend()
def test_two_disjoint_selections_merge_to_their_union_by_log_sum_exp(backend):
    runner = RUNNERS[backend]
    case = Case(T=256, G=16, dtype=runner.dtype)
    x = case.inputs()
    ids = everything(x, case.block)
    even = jnp.where(jnp.arange(case.num_blocks) % 2 == 0, ids, -1)
    attention = runner.attention(case.block)
    (o_even, lse_even), (o_odd, lse_odd), (o, lse) = (
        attention(x.q, x.k, x.v, part, None) for part in (even, jnp.where(even < 0, ids, -1), ids)
    )
    merged = jnp.logaddexp(lse_even, lse_odd)
    weight_even, weight_odd = (jnp.exp(part - merged).swapaxes(1, 2)[..., None] for part in (lse_even, lse_odd))
    np.testing.assert_allclose(merged, lse, atol=10 * runner.tolerance)
    np.testing.assert_allclose(
        weight_even * o_even + weight_odd * o_odd, np.asarray(o, np.float32), atol=10 * runner.tolerance
    )


@on_every_backend()
def test_what_flows_back_into_a_row_that_sees_nothing_goes_nowhere(backend):
    """Not even nan, which merging two such rows makes."""
    runner = RUNNERS[backend]
    x = Case(T=70, G=16, dtype=runner.dtype).inputs()
    attention = runner.attention(64)
    (_, lse), pullback = jax.vjp(lambda q, k, v: attention(q, k, v, x.ids, None), x.q, x.k, x.v)
    unseen = lse == -jnp.inf
    assert unseen.any()
    spoiled = pullback((x.do, jnp.where(unseen, jnp.nan, x.dlse)))
    for got, want in zip(spoiled, pullback((x.do, x.dlse)), strict=True):
        assert (got == want).all()


def test_order_padding_and_duplicates_of_ids_do_not_matter():
    case = Case(T=90, G=2, n=4, block=16)
    x = case.inputs()
    shuffled = jax.random.permutation(jax.random.key(0), x.ids, axis=-1, independent=True)
    doubled = jnp.concatenate([shuffled, jnp.full_like(x.ids, -1), x.ids[..., :1]], axis=-1)
    attention = XLA.attention(16)
    for got, want in zip(attention(*x[:3], doubled, None), attention(*x[:3], x.ids, None), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_gradients_are_the_same_bits_each_time():
    case = Case(T=200, G=4, K=2, block=16, n=5)
    first, second = results(case, XLA), results(case, XLA)
    assert all((first[name] == second[name]).all() for name in ("dq", "dk", "dv"))


def test_rows_of_a_batch_may_be_mapped():
    """jax.vmap over a new axis: what trains several runs as one program."""
    x = Case(T=80, G=2, B=3, block=16).inputs()

    def row(q, k, v, ids):
        return api.block_sparse_attention(q[None], k[None], v[None], ids[None], block=16, backend="xla")[0][0]

    def loss(q, k, v):
        return (jax.vmap(row)(q, k, v, x.ids) * x.do).sum()

    def together(q, k, v):
        return (api.block_sparse_attention(q, k, v, x.ids, block=16, backend="xla")[0] * x.do).sum()

    for got, want in zip(*(jax.jit(jax.grad(f, (0, 1, 2)))(*x[:3]) for f in (loss, together)), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_sixteen_bits_lose_no_more_than_dense_attention_does():
    """bfloat16 results and gradients within the bfloat16 reference's distance from float32, times two."""
    case = Case(T=180, G=4, block=16, n=6, dtype="bfloat16")
    wide = results(case, REFERENCE)
    assert_close(results(case, dataclasses.replace(XLA, dtype="bfloat16")), wide, 1.5e-2)


def test_memory_of_training_is_linear_in_the_length():
    """Selection, attention and their gradients: at most 3 times q, k, v, o and their gradients, a constant share."""
    specs = [dataclasses.replace(SPECS["small-4k"], T=T) for T in (2048, 4096, 8192)]
    ratios = [memory.training_bytes(spec) / memory.operand_bytes(spec) for spec in specs]
    assert max(ratios) < 3
    assert max(ratios) < 1.1 * min(ratios)
