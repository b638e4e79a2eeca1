"""The next-token loss against its definition, what does not count, and its chunked form against the plain one."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from scaling.objectives import each_target, next_token

LOGITS = 4 * jax.random.normal(jax.random.key(0), (2, 6, 11))
TABLE = jnp.eye(11)  # features that are the logits
TOKENS = jax.random.randint(jax.random.key(1), (2, 7), 0, 11)
SEGMENTS = jnp.asarray([[1, 1, 1, 2, 2, 2, 3], [1, 1, 1, 1, 1, 1, 1]])
COUNTED = [(0, 0), (0, 1), (0, 3), (0, 4), *((1, t) for t in range(6))]
CHUNKS = (0, 1, 5, 6, 11)  # of 12 targets: all at once, dividing them and not, over a row's end


def log_p() -> np.ndarray:
    return log_softmax(np.asarray(LOGITS, np.float64), axis=-1)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_it_is_the_sum_of_negative_log_likelihoods(chunk: int) -> None:
    nats, count = next_token(LOGITS, TABLE, TOKENS, jnp.ones_like(TOKENS), chunk)
    expected = -sum(log_p()[b, t, TOKENS[b, t + 1]] for b, t in np.ndindex(2, 6))
    assert count == 12
    assert float(nats) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_the_first_token_of_a_record_is_no_target(chunk: int) -> None:
    """Neither in the sums nor, through the logits that would predict it, in the gradient."""
    nats, count = next_token(LOGITS, TABLE, TOKENS, SEGMENTS, chunk)
    assert count == len(COUNTED)
    assert float(nats) == pytest.approx(-sum(log_p()[b, t, TOKENS[b, t + 1]] for b, t in COUNTED), rel=1e-6)
    gradient = jax.grad(lambda logits: next_token(logits, TABLE, TOKENS, SEGMENTS, chunk)[0])(LOGITS)
    dead = jnp.abs(gradient).max(axis=-1) == 0
    assert [tuple(map(int, i)) for i in jnp.argwhere(dead)] == [(0, 2), (0, 5)]


def test_parts_of_a_batch_add_up() -> None:
    whole = next_token(LOGITS, TABLE, TOKENS, jnp.ones_like(TOKENS))
    parts = [next_token(LOGITS[b : b + 1], TABLE, TOKENS[b : b + 1], jnp.ones((1, 7), jnp.int32)) for b in range(2)]
    np.testing.assert_allclose(sum(nats for nats, _ in parts), whole[0], rtol=1e-6)
    assert sum(count for _, count in parts) == whole[1]


@pytest.mark.parametrize("chunk", [0, 5])
def test_large_logits_do_not_overflow(chunk: int) -> None:
    value, gradient = jax.value_and_grad(lambda x: next_token(x, TABLE, TOKENS, SEGMENTS, chunk)[0])(1e4 * LOGITS)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()


def operands(dtype: Any) -> tuple[jax.Array, jax.Array]:
    x_BTD = jax.random.normal(jax.random.key(2), (2, 6, 16), dtype)
    return x_BTD, jax.random.normal(jax.random.key(3), (11, 16), dtype)


def with_gradients(x_BTD: jax.Array, table_VD: jax.Array, chunk: int) -> Any:
    """Value and gradients of the loss times 3: what arrives from behind is not one."""

    def scaled(x_BTD: jax.Array, table_VD: jax.Array) -> jax.Array:
        return 3 * next_token(x_BTD, table_VD, TOKENS, SEGMENTS, chunk)[0]

    return jax.value_and_grad(scaled, argnums=(0, 1))(x_BTD, table_VD)


@pytest.mark.parametrize("chunk", CHUNKS[1:])
def test_chunks_give_the_plain_gradients(chunk: int) -> None:
    plain, chunked = (with_gradients(*operands(jnp.float32), c) for c in (0, chunk))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), chunked, plain)


def test_chunked_bfloat16_gradients_are_within_rounding_of_exact_ones() -> None:
    rounded = operands(jnp.bfloat16)
    exact = with_gradients(*(x.astype(jnp.float32) for x in rounded), 0)
    chunked = with_gradients(*rounded, 5)
    assert all(gradient.dtype == jnp.bfloat16 for gradient in chunked[1])
    for ours, theirs in zip(jax.tree.leaves(chunked), jax.tree.leaves(exact), strict=True):
        error = jnp.linalg.norm(ours.astype(jnp.float32) - theirs) / jnp.linalg.norm(theirs)
        assert error < 0.006  # two roundings of 2^-9 each, and not a third of larger size


def test_chunks_batch_over_runs() -> None:
    x, table = operands(jnp.float32)
    many = jnp.stack([x, 2 * x]), jnp.stack([table, table + 1])
    together = jax.vmap(functools.partial(with_gradients, chunk=5))(*many)
    for run in range(2):
        alone = with_gradients(many[0][run], many[1][run], 5)
        jax.tree.map(lambda a, b, r=run: np.testing.assert_allclose(a[r], b, rtol=1e-5, atol=1e-5), together, alone)


def temporary_bytes(chunk: int, targets: int, vocab_size: int, dtype: Any) -> int:
    """What the compiled loss with its gradients holds beside its arguments and results."""
    x, table = jax.ShapeDtypeStruct((1, targets, 32), dtype), jax.ShapeDtypeStruct((vocab_size, 32), dtype)
    rows = [jax.ShapeDtypeStruct((1, targets + 1), jnp.int32)] * 2

    def loss(x: jax.Array, table: jax.Array, tokens: jax.Array, segments: jax.Array) -> jax.Array:
        return next_token(x, table, tokens, segments, chunk)[0]

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(x, table, *rows).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def test_chunks_bound_the_logits_that_exist() -> None:
    """A chunk's few [chunk, V] arrays and the table's gradient are all: nothing grows with the number of targets."""
    V, chunk = 30_000, 64
    logits = 4 * V
    plain = temporary_bytes(0, 1024, V, jnp.float32)
    chunked = [temporary_bytes(chunk, targets, V, jnp.float32) for targets in (1024, 4096)]
    table = 4 * V * 32
    assert plain > 1024 * logits
    assert all(size < 4 * chunk * logits + 2 * table + 2**20 for size in chunked)
    assert chunked[1] - chunked[0] < 3072 * logits / 50


@pytest.mark.parametrize("chunk", CHUNKS)
def test_each_target_has_its_own_nats_and_is_or_is_not_the_likeliest(chunk: int) -> None:
    nats_BT, likeliest_BT = each_target(LOGITS, TABLE, TOKENS, chunk)
    expected = [[-log_p()[b, t, TOKENS[b, t + 1]] for t in range(6)] for b in range(2)]
    np.testing.assert_allclose(nats_BT, expected, rtol=1e-5)
    np.testing.assert_array_equal(likeliest_BT, log_p().argmax(axis=-1) == np.asarray(TOKENS[:, 1:]))
    first = TOKENS.at[:, 1:].set(LOGITS.argmax(axis=-1))
    assert each_target(LOGITS, TABLE, first, chunk)[1].all()
