"""Sparse layers in the decoder: dense ones where everything is visible, blind where it is not, layer by layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.attention import rope_frequencies, rope_tables
from models.config import ModelConfig, RopeScaling, SelectionConfig, ntk_theta

DENSE = ModelConfig(31, num_layers=3, d_model=16, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=24, mup_base_width=8)
T, BLOCK = 24, 4
ALL = SelectionConfig(BLOCK, kernel=2, stride=1, blocks=T // BLOCK, init_blocks=1, local_blocks=1, dense_len=0)
OWN = dataclasses.replace(ALL, blocks=1, init_blocks=0)  # a token's own block and nothing else
TOKENS = jax.random.randint(jax.random.key(1), (2, T), 0, DENSE.vocab_size)
SEGMENTS = jnp.asarray([[1] * 9 + [2] * 15, [1] * T])


def sparse(selection: SelectionConfig, attention: Any = "sparse", layers: int = 3) -> ModelConfig:
    return dataclasses.replace(DENSE, num_layers=layers, attention=attention, sparse=selection)


def loss_and_gradient(config: ModelConfig, **how: Any) -> Any:
    params = transformer.init(config, 0)

    def loss(params: transformer.Params) -> jax.Array:
        return jnp.square(transformer.apply(config, params, TOKENS, SEGMENTS, **how)).mean()

    return jax.jit(jax.value_and_grad(loss))(params)


def assert_close(ours: Any, theirs: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), ours, theirs)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("attention", ["sparse", ("sparse", "dense", "dense")])
def test_where_every_block_is_visible_a_sparse_model_is_the_dense_one(attention: Any) -> None:
    assert_close(loss_and_gradient(sparse(ALL, attention), unroll=3), loss_and_gradient(DENSE, unroll=3))


@pytest.mark.timeout(120)
def test_backends_agree_in_a_mixed_model() -> None:
    config = sparse(dataclasses.replace(ALL, blocks=3), ("sparse", "dense", "sparse"))
    ours, reference = (loss_and_gradient(config, sparse_backend=name) for name in ("xla", "reference"))
    assert_close(ours, reference)
    assert abs(float(ours[0] - loss_and_gradient(DENSE)[0])) > 1e-6


def influence(config: ModelConfig) -> np.ndarray:
    """How far the logits at t depend on token s, [t, s]: every position has its own row of the embedding."""
    untied = dataclasses.replace(config, tied_embeddings=False)
    params = transformer.init(untied, 0)
    tokens = jnp.arange(T)[None]
    rows = jax.jacrev(lambda table: transformer.apply(untied, {**params, "embedding": table}, tokens)[0].sum(axis=-1))
    return np.asarray(jnp.abs(jax.jit(rows)(params["embedding"])[:, :T]).sum(axis=-1))


@pytest.mark.timeout(120)
def test_each_layer_sees_what_its_kind_sees() -> None:
    """Own blocks alone: nothing crosses between blocks, unless one layer of the three is dense."""
    same_block = np.arange(T)[:, None] // BLOCK == np.arange(T) // BLOCK
    causal = np.tril(np.ones((T, T), bool))
    np.testing.assert_array_equal(influence(sparse(OWN)) > 0, causal & same_block)
    for attention in (("dense", "sparse", "sparse"), ("sparse", "sparse", "dense")):
        np.testing.assert_array_equal(influence(sparse(OWN, attention)) > 0, causal)


def test_rows_up_to_dense_len_are_the_dense_models_bit_by_bit() -> None:
    config = sparse(dataclasses.replace(OWN, dense_len=T))
    params = transformer.init(DENSE, 0)
    np.testing.assert_array_equal(
        transformer.apply(config, params, TOKENS, SEGMENTS), transformer.apply(DENSE, params, TOKENS, SEGMENTS)
    )


def test_the_backend_of_sparse_layers_is_known_beforehand() -> None:
    assert transformer.sparse_backend(DENSE, 1, T) is None
    assert transformer.sparse_backend(sparse(ALL), 1, T) == "xla"
    assert transformer.sparse_backend(sparse(dataclasses.replace(ALL, dense_len=T)), 1, T) is None


def test_ntk_scaling_is_another_base() -> None:
    scaled = dataclasses.replace(DENSE, rope_scaling=RopeScaling("ntk", 4.0))
    based = dataclasses.replace(DENSE, rope_theta=ntk_theta(1e4, 4.0, 8))
    np.testing.assert_allclose(rope_frequencies(scaled, 8), rope_frequencies(based, 8), rtol=1e-6)
    ratio = rope_frequencies(DENSE, 8) / rope_frequencies(scaled, 8)
    np.testing.assert_allclose(ratio[jnp.asarray([0, -1])], [1.0, 4.0], rtol=1e-5)


def test_dynamic_scaling_grows_with_the_row_and_leaves_short_ones() -> None:
    dynamic = dataclasses.replace(DENSE, rope_scaling=RopeScaling("dynamic_ntk", 4.0, original_length=16))
    np.testing.assert_array_equal(rope_frequencies(dynamic, 16), rope_frequencies(DENSE, 16))
    static = dataclasses.replace(DENSE, rope_scaling=RopeScaling("ntk", 4.0 * 64 / 16 - 3.0))
    np.testing.assert_allclose(rope_frequencies(dynamic, 64), rope_frequencies(static, 64), rtol=1e-6)


def test_longrope_divides_by_its_factors_and_sharpens_by_its_length() -> None:
    """Short and long list by the row's length; cosines times sqrt(1 + ln 4 / ln 16) = sqrt(1.5) for both."""
    scaling = RopeScaling("longrope", 4.0, 16, long_factors=(1.0, 2.0, 3.0, 4.0), short_factors=(1.0, 1.0, 1.0, 2.0))
    config = dataclasses.replace(DENSE, rope_scaling=scaling)
    plain = rope_frequencies(DENSE, 16)
    np.testing.assert_allclose(plain / rope_frequencies(config, 17), [1, 2, 3, 4], rtol=1e-6)
    np.testing.assert_allclose(plain / rope_frequencies(config, 16), [1, 1, 1, 2], rtol=1e-6)
    for length in (16, 17):
        cos, sin = rope_tables(config, length)
        np.testing.assert_allclose(cos**2 + sin**2, 1.5, rtol=1e-5)
