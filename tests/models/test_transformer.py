"""The decoder: against a plain float64 reference, and causality, document isolation, execution invariances."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import transformer
from models.config import ModelConfig

CONFIG = ModelConfig(
    vocab_size=31,
    num_layers=2,
    d_model=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    d_ff=24,
    tied_embeddings=False,
    mup_base_width=8,
)
apply = jax.jit(transformer.apply, static_argnums=0, static_argnames=("unroll", "remat", "attention"))
TOKENS = jax.random.randint(jax.random.key(1), (2, 12), 0, CONFIG.vocab_size)


@pytest.fixture(scope="module")
def params() -> transformer.Params:
    """Initial parameters with gains moved off one, so that a gain that is left out shows."""
    fresh = transformer.init(CONFIG, 0)
    generator = np.random.default_rng(2)
    return jax.tree.map(lambda p: p + 0.1 * generator.normal(size=p.shape).astype(np.float32), fresh)


def reference(config: ModelConfig, params: transformer.Params, tokens: np.ndarray) -> np.ndarray:
    """The MiniCPM decoder in numpy, float64, one row of tokens, written without regard to the code under test."""
    p: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    T, h, m = len(tokens), config.head_dim, config.d_model / config.mup_base_width

    def rms_norm(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * gain

    def rope(x: np.ndarray) -> np.ndarray:
        angle = np.arange(T)[:, None] * config.rope_theta ** (-np.arange(0, h, 2) / h)
        z = (x[:, : h // 2] + 1j * x[:, h // 2 :]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], axis=-1)

    x = p["embedding"][tokens] * config.scale_emb
    for layer in range(config.num_layers):
        w = jax.tree.map(lambda a, layer=layer: a[layer], p["blocks"])
        y = rms_norm(x, w["attention_norm"]["scale"])
        q, k, v = (y @ w["attention"][name] for name in ("query", "key", "value"))
        heads = []
        for head in range(config.num_heads):
            group = head // (config.num_heads // config.num_kv_heads)
            own, shared = slice(head * h, (head + 1) * h), slice(group * h, (group + 1) * h)
            scores = rope(q[:, own]) @ rope(k[:, shared]).T / np.sqrt(h)
            weights = np.exp(np.where(np.tril(np.ones((T, T), bool)), scores, -np.inf))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, shared])
        x = x + config.scale_depth / np.sqrt(config.num_layers) * np.concatenate(heads, -1) @ w["attention"]["output"]
        y = rms_norm(x, w["mlp_norm"]["scale"])
        gate = y @ w["mlp"]["gate"]
        hidden = gate / (1 + np.exp(-gate)) * (y @ w["mlp"]["up"])
        x = x + config.scale_depth / np.sqrt(config.num_layers) * hidden @ w["mlp"]["down"]
    head = p["embedding"] if config.tied_embeddings else p["head"]
    return rms_norm(x, p["final_norm"]["scale"]) / m @ head.T


def test_decoder_is_the_reference(params: transformer.Params) -> None:
    logits = apply(CONFIG, params, TOKENS)
    for row in range(2):
        np.testing.assert_allclose(
            logits[row], reference(CONFIG, params, np.asarray(TOKENS[row])), rtol=1e-4, atol=1e-4
        )


def test_a_prediction_depends_on_no_later_token() -> None:
    """The logits at t have a gradient with respect to the embeddings of tokens up to t and of none after."""
    params = transformer.init(CONFIG, 0)
    tokens = jnp.arange(10)[None]  # every position has its own embedding row, the head is a table apart
    rows = jax.jacrev(lambda table: transformer.apply(CONFIG, {**params, "embedding": table}, tokens)[0].sum(axis=-1))
    influence_TT = jnp.abs(jax.jit(rows)(params["embedding"])[:, :10]).sum(axis=-1)
    assert (jnp.triu(influence_TT, 1) == 0).all()
    assert (influence_TT[jnp.tril_indices(10)] > 0).all()


def test_a_document_sees_nothing_of_another(params: transformer.Params) -> None:
    segments = jnp.asarray([[1] * 5 + [2] * 7, [1] * 4 + [2] * 4 + [3] * 4])
    logits = apply(CONFIG, params, TOKENS, segments)
    changed = apply(CONFIG, params, TOKENS.at[:, 2].set((TOKENS[:, 2] + 1) % CONFIG.vocab_size), segments)
    own = segments == 1
    np.testing.assert_array_equal(logits[~own], changed[~own])
    assert (jnp.abs(logits - changed).max(axis=-1)[:, 2:4] > 1e-3).all()


def test_a_packed_document_reads_as_it_does_alone(params: transformer.Params) -> None:
    """Rotary positions count along the row; being relative, they do not tell where a document begins."""
    packed = apply(CONFIG, params, TOKENS, jnp.asarray([[1] * 5 + [2] * 7] * 2))
    alone = apply(CONFIG, params, TOKENS[:, 5:])
    np.testing.assert_allclose(packed[:, 5:], alone, rtol=1e-3, atol=1e-3)


def loss(params: transformer.Params, **how: Any) -> jax.Array:
    return jnp.square(transformer.apply(CONFIG, params, TOKENS, **how)).mean()


@pytest.fixture(scope="module")
def plain_step(params: transformer.Params) -> Any:
    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("how", [{"unroll": 2}, {"remat": "block"}])
def test_how_layers_are_executed_changes_last_digits_at_most(
    params: transformer.Params, plain_step: Any, how: dict[str, Any]
) -> None:
    other = jax.jit(jax.value_and_grad(functools.partial(loss, **how)))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), plain_step, other)


def test_remat_keeps_nothing_of_a_block_but_its_input(params: transformer.Params) -> None:
    def saved(**how: Any) -> int:
        residuals = jax.eval_shape(lambda p: jax.vjp(functools.partial(loss, **how), p)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    B, T = TOKENS.shape
    assert saved() - parameters > CONFIG.num_layers * B * T * (4 * CONFIG.d_model + 3 * CONFIG.d_ff)
    assert saved(remat="block") < saved() / 2


def test_a_bfloat16_model_is_near_its_float32_self(params: transformer.Params) -> None:
    exact = apply(CONFIG, params, TOKENS)
    rounded = apply(dataclasses.replace(CONFIG, compute_dtype="bfloat16"), params, TOKENS)
    assert rounded.dtype == jnp.float32
    error = jnp.sqrt(jnp.mean(jnp.square(rounded - exact)) / jnp.mean(jnp.square(exact)))
    assert 1e-4 < error < 0.03  # rounded indeed, and only rounded


def test_an_untied_model_whose_head_is_its_embedding_is_the_tied_one() -> None:
    tied = dataclasses.replace(CONFIG, tied_embeddings=True)
    params = transformer.init(tied, 0)
    assert "head" not in params
    untied = apply(CONFIG, {**params, "head": params["embedding"]}, TOKENS)
    np.testing.assert_array_equal(apply(tied, params, TOKENS), untied)


def test_initial_standard_deviations_follow_the_table() -> None:
    """Hidden matrices init_std / sqrt(m), embedding and head init_std, gains one."""
    config = ModelConfig(500, 4, 64, 4, 2, 16, 160, tied_embeddings=False, init_std=0.2, mup_base_width=16)
    params = transformer.init(config, 0)
    for path, value in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert value.dtype == jnp.float32, name
        if "norm" in name:
            assert (value == 1).all(), name
            continue
        expected = 0.2 if name in ("embedding", "head") else 0.2 / 2
        assert float(value.std()) == pytest.approx(expected, rel=4 / value.size**0.5), name
        assert abs(float(value.mean())) < 4 * expected / value.size**0.5, name
    layers = params["blocks"]["mlp"]["gate"]
    assert not jnp.allclose(layers[0], layers[1])  # each layer has its own draw


def test_seeds_are_data() -> None:
    """A traced seed gives the parameters of the same integer, and seeds batch under vmap."""
    traced = jax.jit(functools.partial(transformer.init, CONFIG))(7)
    batch = jax.vmap(functools.partial(transformer.init, CONFIG))(jnp.asarray([3, 7]))
    plain = transformer.init(CONFIG, 7)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), traced, plain)
    jax.tree.map(lambda many, one: np.testing.assert_allclose(many[1], one, rtol=1e-6), batch, plain)
    assert not jnp.allclose(transformer.init(CONFIG, 3)["embedding"], plain["embedding"])


def test_runs_batch_under_vmap() -> None:
    batch = jax.vmap(functools.partial(transformer.init, CONFIG))(jnp.arange(3))
    together = jax.jit(jax.vmap(lambda params: transformer.apply(CONFIG, params, TOKENS)))(batch)
    for run in range(3):
        alone = apply(CONFIG, jax.tree.map(lambda p, run=run: p[run], batch), TOKENS)
        np.testing.assert_allclose(together[run], alone, rtol=1e-4, atol=1e-4)
