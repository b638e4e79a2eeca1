"""Attention against its definition, and the properties that rotary positions and grouped heads must have."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.attention import (
    batched_matmul_attention,
    cudnn_attention,
    dot_product_attention,
    rope_tables,
    rotate,
    visibility,
    visibility_bias,
)
from models.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=31, num_layers=1, d_model=16, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=24, mup_base_width=8
)


attend = jax.jit(batched_matmul_attention)


def random(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


def defined_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """One query at a time, in float64, straight from the definition."""
    B, H, T, h = q.shape
    group = H // k.shape[1]
    out = np.zeros(q.shape)
    for b, n, t in np.ndindex(B, H, T):
        seen = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
        scores = np.array([q[b, n, t] @ k[b, n // group, s] for s in seen]) / np.sqrt(h)
        weights = np.exp(scores - scores.max())
        out[b, n, t] = sum(w * v[b, n // group, s] for w, s in zip(weights / weights.sum(), seen, strict=True))
    return out


def test_attention_is_its_definition() -> None:
    q, k, v = random(0, 2, 4, 7, 8), random(1, 2, 2, 7, 8), random(2, 2, 2, 7, 8)
    segments = np.array([[1, 1, 1, 2, 2, 3, 3], [1, 1, 1, 1, 1, 1, 1]])
    out = attend(3 * q, k, v, visibility_bias(7, jnp.asarray(segments)))
    expected = defined_attention(*(np.asarray(x, np.float64) for x in (3 * q, k, v)), segments)
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize("length", [150, 300])  # two and four blocks of queries, uneven ones
def test_blocks_of_queries_are_the_whole_with_its_gradients(length: int) -> None:
    q, k, v = random(0, 2, 4, length, 8), random(1, 2, 2, length, 8), random(2, 2, 2, length, 8)
    weights = random(3, 2, 4, length, 8)
    bias = visibility_bias(length, jnp.asarray([[1] * 70 + [2] * (length - 70), [1] * length]))

    def step(attention: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda *qkv: (weights * attention(*qkv, bias)).sum(), (0, 1, 2)))(q, k, v)

    ours, theirs = step(batched_matmul_attention), step(dot_product_attention)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


def test_attention_survives_large_scores() -> None:
    """Scores of 1e4 overflow exp unless the maximum is taken off first."""
    q, k, v = 300 * random(0, 1, 1, 5, 8), 300 * random(1, 1, 1, 5, 8), random(2, 1, 1, 5, 8)
    step = jax.value_and_grad(lambda q: batched_matmul_attention(q, k, v, visibility_bias(5, None)).sum())
    out, gradient = jax.jit(step)(q)
    assert jnp.isfinite(out)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_queries_are_repeated_keys_and_values(kv_heads: int) -> None:
    q, k, v = random(0, 2, 4, 9, 8), random(1, 2, kv_heads, 9, 8), random(2, 2, kv_heads, 9, 8)
    bias = visibility_bias(9, None)
    repeated = [jnp.repeat(x, 4 // kv_heads, axis=1) for x in (k, v)]
    np.testing.assert_allclose(attend(q, k, v, bias), attend(q, *repeated, bias), atol=1e-6)


def test_implementations_agree_with_gradients() -> None:
    params = transformer.init(CONFIG, 0)
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, CONFIG.vocab_size)
    segments = jnp.asarray([[1] * 5 + [2] * 7, [1] * 12])

    def loss(params: transformer.Params, attention: str) -> jax.Array:
        return jnp.square(transformer.apply(CONFIG, params, tokens, segments, attention=attention)).mean()

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    ours = gradient(params, "batched_matmul")
    theirs = gradient(params, "dot_product_attention")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs)


@pytest.mark.parametrize("segments", [None, [[1] * 5 + [2] * 7, [1] * 12]])
def test_cudnn_is_asked_for_what_the_others_compute(monkeypatch: pytest.MonkeyPatch, segments: Any) -> None:
    """No such GPU is here: XLA answers in its place what is asked, and the question must be the right one."""
    asked = []

    def answer(*operands: jax.Array, implementation: str, **how: Any) -> jax.Array:
        asked.append(implementation)
        return attend_by_xla(*operands, **how)

    attend_by_xla = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    q, k, v = random(0, 2, 4, 12, 8), random(1, 2, 2, 12, 8), random(2, 2, 2, 12, 8)
    segments_BT = None if segments is None else jnp.asarray(segments)
    ours = cudnn_attention(q, k, v, visibility("cudnn", 12, segments_BT))
    assert asked == ["cudnn"]
    expected = attend(q, k, v, visibility("batched_matmul", 12, segments_BT))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_rotary_scores_depend_on_distance_alone() -> None:
    rope = rope_tables(CONFIG, 40)
    q, k = (jnp.broadcast_to(random(key, 1, 1, 1, 8), (1, 1, 40, 8)) for key in (0, 1))
    scores = jnp.einsum("bhqd,bhkd->qk", rotate(q, rope), rotate(k, rope))
    for distance in (0, 1, 7, 25):
        diagonal = jnp.diagonal(scores, -distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert jnp.ptp(scores[:, 0]) > 0.5  # and they do depend on it


def test_rotary_frequencies_follow_theta() -> None:
    config = dataclasses.replace(CONFIG, rope_theta=100.0)
    _, sin = rope_tables(config, 3)
    np.testing.assert_allclose(sin[1], np.sin([1.0, 100**-0.25, 0.1, 100**-0.75]), rtol=1e-6)


def test_rotation_keeps_lengths() -> None:
    x = random(0, 1, 2, 20, 8)
    rotated = rotate(x, rope_tables(CONFIG, 20))
    np.testing.assert_allclose(jnp.linalg.norm(rotated, axis=-1), jnp.linalg.norm(x, axis=-1), rtol=1e-5)
