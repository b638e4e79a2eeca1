"""The optimisers by group: which rate and decay each parameter gets, and that muP's promise of width holds."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import transformer
from models.config import ModelConfig, ladder_model
from scaling.config import OptimizerConfig
from scaling.optimizers import MUON_RMS, Hyper, hyper, init_optimizer, optimizer, parameter_groups

MODEL = ModelConfig(31, 3, 32, 4, 2, 8, 80, tied_embeddings=False, mup_base_width=8)  # m = 4
KINDS = [OptimizerConfig(), OptimizerConfig(kind="muon")]


@pytest.fixture(scope="module")
def params() -> Any:
    return transformer.init(MODEL, 0)


@jax.jit
def gradients(params: Any) -> Any:
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([jax.random.normal(key, p.shape) for key, p in zip(keys, leaves, strict=True)])


def scalars(learning_rate: Any, weight_decay: Any, clip_norm: Any) -> Hyper:
    return Hyper(learning_rate, weight_decay, clip_norm, scale_emb=12.0, scale_depth=1.4)


def first_update(config: OptimizerConfig, params: Any, gradient: Any, hyper: Hyper) -> Any:
    @jax.jit
    def update(params: Any, gradient: Any, hyper: Hyper) -> Any:
        state = init_optimizer(config, MODEL, params)
        return optimizer(config, MODEL, hyper).update(gradient, state, params)[0]

    return update(params, gradient, hyper)


def by_name(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def test_groups_by_path(params: Any) -> None:
    groups = {name: str(group) for name, group in by_name(parameter_groups(params)).items()}
    assert groups == {
        "blocks/attention/key": "hidden",
        "blocks/attention/output": "hidden",
        "blocks/attention/query": "hidden",
        "blocks/attention/value": "hidden",
        "blocks/attention_norm/scale": "norm",
        "blocks/mlp/down": "hidden",
        "blocks/mlp/gate": "hidden",
        "blocks/mlp/up": "hidden",
        "blocks/mlp_norm/scale": "norm",
        "embedding": "embedding",
        "final_norm/scale": "norm",
        "head": "head",
    }


def test_an_unknown_parameter_is_an_error_and_no_group() -> None:
    with pytest.raises(ValueError, match="adapter/down belongs to no learning-rate group"):
        parameter_groups({"adapter": {"down": jnp.zeros((2, 2))}})


def test_adamw_rates_by_group(params: Any) -> None:
    """Adam's first update is the gradient's sign: what is left is the group's rate, base or base / m."""
    update = first_update(KINDS[0], params, gradients(params), scalars(0.01, 0.0, jnp.inf))
    for name, value in by_name(update).items():
        expected = 0.01 / 4 if "attention/" in name or "mlp/" in name else 0.01
        np.testing.assert_allclose(np.abs(value), expected, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("config", KINDS)
def test_weight_decay_is_the_groups_rate_times_the_parameter_and_spares_gains(
    config: OptimizerConfig, params: Any
) -> None:
    gradient = gradients(params)
    plain = by_name(first_update(config, params, gradient, scalars(0.01, 0.0, 1.0)))
    decayed = by_name(first_update(config, params, gradient, scalars(0.01, 0.5, 1.0)))
    hidden_rate = 0.01 / 4 if config.kind == "adamw" else 0.01 / 2
    for name, value in by_name(params).items():
        rate = 0.0 if "norm" in name else hidden_rate if "blocks" in name else 0.01
        np.testing.assert_allclose(decayed[name] - plain[name], -rate * 0.5 * value, atol=1e-6, err_msg=name)


def test_gradients_are_clipped_by_their_global_norm_first(params: Any) -> None:
    """Adam forgets the scale of a first gradient; its moments keep it."""
    gradient = gradients(params)
    norm = float(optax.tree.norm(gradient))

    @jax.jit
    def moments(clip: float) -> Any:
        state = init_optimizer(KINDS[0], MODEL, params)
        _, state = optimizer(KINDS[0], MODEL, scalars(0.01, 0.0, clip)).update(gradient, state, params)
        return optax.tree.get(state, "mu")

    assert float(optax.tree.norm(moments(2.0))) == pytest.approx(0.1 * 2.0, rel=1e-4)  # 1 - b1 = 0.1
    assert float(optax.tree.norm(moments(2 * norm))) == pytest.approx(0.1 * norm, rel=1e-4)


def test_muon_orthogonalises_every_layers_matrix_by_itself(params: Any) -> None:
    update = first_update(KINDS[1], params, gradients(params), scalars(0.01, 0.0, jnp.inf))
    for name, value in by_name(update).items():
        if not name.startswith(("blocks/attention/", "blocks/mlp/")):
            np.testing.assert_allclose(np.abs(value), 0.01, rtol=1e-3, err_msg=name)  # Adam's sign
            continue
        scale = 0.01 / 2 * MUON_RMS * max(value.shape[-2:]) ** 0.5  # base / sqrt(m) times the RMS that AdamW has
        singular = np.linalg.svd(value / scale, compute_uv=False)
        assert singular.shape[0] == MODEL.num_layers, name
        assert (singular > 0.5).all(), name  # five Newton-Schulz steps bring all of them near one
        assert (singular < 1.4).all(), name


@pytest.mark.parametrize("config", KINDS)
def test_hyper_parameters_are_data(config: OptimizerConfig, params: Any) -> None:
    """One compilation for any rate, decay and clip; the scalars that enter are the ones that act."""

    @jax.jit
    def step(params: Any, state: Any, hyper: Hyper) -> Any:
        return optimizer(config, MODEL, hyper).update(gradient, state, params)

    gradient, state = gradients(params), jax.jit(init_optimizer, static_argnums=(0, 1))(config, MODEL, params)
    one, _ = step(params, state, hyper(config, MODEL, 0.01))
    two, _ = step(params, state, hyper(config, MODEL, 0.02))
    step(params, state, Hyper(*map(np.float32, scalars(0.03, 0.3, 7.0))))
    assert step._cache_size() == 1
    for a, b in zip(by_name(one).values(), by_name(two).values(), strict=True):
        np.testing.assert_allclose(2 * a, b, rtol=1e-5, atol=1e-9)


def test_hyper_parameters_are_the_configured_ones_at_every_rate() -> None:
    config = OptimizerConfig(weight_decay=0.3, clip_norm=7.0)
    found = hyper(config, dataclasses.replace(MODEL, scale_emb=5.0, scale_depth=2.5), [0.1, 0.2])
    expected = {
        "learning_rate": [0.1, 0.2],
        "weight_decay": 0.3,
        "clip_norm": 7.0,
        "scale_emb": 5.0,
        "scale_depth": 2.5,
    }
    for name, value in found._asdict().items():
        np.testing.assert_array_equal(value, np.full(2, expected[name], np.float32), err_msg=name, strict=True)


def function_change(model: ModelConfig, config: OptimizerConfig) -> tuple[float, float]:
    """RMS of the logits at initialisation, and of their change by one update at rate 0.01."""
    params = transformer.init(model, 0)
    tokens = jax.random.randint(jax.random.key(1), (4, 17), 0, model.vocab_size)

    @jax.jit
    def measure(params: Any) -> tuple[jax.Array, jax.Array]:
        apply = functools.partial(transformer.apply, model)

        def loss(params: Any) -> jax.Array:
            log_p = jax.nn.log_softmax(apply(params, tokens[:, :-1]))
            return -jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1).mean()

        update, _ = optimizer(config, model, hyper(config, model, 0.01)).update(
            jax.grad(loss)(params), init_optimizer(config, model, params), params
        )
        hidden = jax.tree.map(lambda u, group: u if group == "hidden" else 0 * u, update, parameter_groups(params))
        before, after = (apply(p, tokens[:, :-1]) for p in (params, optax.apply_updates(params, hidden)))
        return jnp.sqrt(jnp.mean(before**2)), jnp.sqrt(jnp.mean((after - before) ** 2))

    size, change = measure(params)
    return float(size), float(change)


def standard(model: ModelConfig) -> ModelConfig:
    """The same hidden initialisation without muP: no width multiplier in rates or logits."""
    m = model.width_multiplier
    return dataclasses.replace(model, mup_base_width=model.d_model, init_std=model.init_std / m**0.5)


def model_of(width: int) -> ModelConfig:
    return dataclasses.replace(ladder_model(width, 67, base_width=64), num_layers=2)


@pytest.mark.parametrize(
    ("config", "widths"),
    [
        (KINDS[0], (64, 256)),
        pytest.param(KINDS[0], (64, 128, 256, 512), marks=pytest.mark.slow),
        pytest.param(KINDS[1], (64, 128, 256, 512), marks=pytest.mark.slow),
    ],
)
def test_under_mup_width_changes_neither_logits_nor_their_first_update(
    config: OptimizerConfig, widths: tuple[int, ...]
) -> None:
    """Coordinate check (Yang et al., arXiv 2203.03466, appendix D.1), and its failure without muP.

    Logits may shrink with width at initialisation (the head's fan-in is averaged, not summed); their change must
    neither vanish nor grow.
    """
    sizes, changes = zip(*(function_change(model_of(width), config) for width in widths), strict=True)
    assert max(sizes) <= sizes[0] * 1.2
    assert max(changes) / min(changes) < 1.8
    without = function_change(standard(model_of(widths[-1])), config)[1]
    assert without / changes[0] > 2  # at the base width both are one model
