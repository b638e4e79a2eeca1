"""The next-token loss against its definition, and what does not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from scaling.objectives import next_token

LOGITS = 4 * jax.random.normal(jax.random.key(0), (2, 6, 11))
TOKENS = jax.random.randint(jax.random.key(1), (2, 7), 0, 11)


def test_it_is_the_sum_of_negative_log_likelihoods() -> None:
    nats, count = next_token(LOGITS, TOKENS, jnp.ones_like(TOKENS))
    log_p = log_softmax(np.asarray(LOGITS, np.float64), axis=-1)
    expected = -sum(log_p[b, t, TOKENS[b, t + 1]] for b, t in np.ndindex(2, 6))
    assert count == 12
    assert float(nats) == pytest.approx(expected, rel=1e-6)


def test_the_first_token_of_a_record_is_no_target() -> None:
    """Neither in the sums nor, through the logits that would predict it, in the gradient."""
    segments = jnp.asarray([[1, 1, 1, 2, 2, 2, 3], [1, 1, 1, 1, 1, 1, 1]])
    nats, count = next_token(LOGITS, TOKENS, segments)
    log_p = log_softmax(np.asarray(LOGITS, np.float64), axis=-1)
    positions = [(0, 0), (0, 1), (0, 3), (0, 4), *((1, t) for t in range(6))]
    assert count == len(positions)
    assert float(nats) == pytest.approx(-sum(log_p[b, t, TOKENS[b, t + 1]] for b, t in positions), rel=1e-6)
    gradient = jax.grad(lambda logits: next_token(logits, TOKENS, segments)[0])(LOGITS)
    dead = jnp.abs(gradient).max(axis=-1) == 0
    assert [tuple(map(int, i)) for i in jnp.argwhere(dead)] == [(0, 2), (0, 5)]


def test_parts_of_a_batch_add_up() -> None:
    whole = next_token(LOGITS, TOKENS, jnp.ones_like(TOKENS))
    parts = [next_token(LOGITS[b : b + 1], TOKENS[b : b + 1], jnp.ones((1, 7), jnp.int32)) for b in range(2)]
    np.testing.assert_allclose(sum(nats for nats, _ in parts), whole[0], rtol=1e-6)
    assert sum(count for _, count in parts) == whole[1]


def test_large_logits_do_not_overflow() -> None:
    nats, _ = next_token(1e4 * LOGITS, TOKENS, jnp.ones_like(TOKENS))
    assert jnp.isfinite(nats)
