"""Coordinate check: how the sizes of activations and updates move with width over the first steps of training.

Under muP every activation, and every update's effect on one, is as large in a wide model as in a narrow one (Yang et
al. 2022, arXiv 2203.03466, appendix D.1; Yang, Simon and Bernstein 2023, arXiv 2310.17813). `coordinate_check`
measures the sizes, `scaling.tuning.width_exponents` turns them into exponents and says which rule of width is broken.

What is measured, as root mean squares, per layer where there are layers:

==========  =======================================================================================================
quantity    of
==========  =======================================================================================================
activation  embedding output; what attention and what the MLP of each block adds to the residual stream; the stream
            after each block; the final norm's output; logits
change      their difference from what the initial parameters give on the same tokens
weight      each parameter tensor
update      its difference from its initial value, W_t - W_0
effect      (W_t - W_0) x, x being the matrix's own input after t steps: rows of the embedding for it, logits for the
            head
==========  =======================================================================================================

The model's own code computes all of it: a block's parts are told apart by setting some of its matrices to zero or to
their update, in which its outputs are linear.
"""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import nnx

from models import transformer
from models.attention import dense, rope_tables
from models.config import ModelConfig
from scaling.config import OptimizerConfig
from scaling.objectives import next_token
from scaling.optimizers import Hyper, hyper, init_optimizer, optimizer

Parts = dict[str, jax.Array]  # [L, ...] of every layer, or [1, ...] outside of blocks


def zipf_batch(vocab_size: int, rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Random tokens [rows, length + 1] of Zipf's frequencies: some common, most rare, as in text."""
    rng = np.random.default_rng(seed)
    frequencies = 1.0 / np.arange(1, vocab_size + 1)
    return rng.choice(vocab_size, (rows, length + 1), p=frequencies / frequencies.sum()).astype(np.int32)


def coordinate_check(
    models: Iterable[ModelConfig],
    tokens: np.ndarray,
    *,
    learning_rate: float,
    steps: int = 10,
    seeds: Iterable[int] = (0,),
    config: OptimizerConfig = OptimizerConfig(),
) -> pd.DataFrame:
    """Sizes over the first steps for models that differ in width.

    All steps take the same batch at the same rate without warm-up (as the check of Yang et al.'s package does by
    default), so that gradients of successive steps agree and what can grow does.

    Args:
        models: one for each width.
        tokens: the batch, int32 [B, T + 1].
        learning_rate: base rate; the model's parametrisation makes each group's of it.
        steps: updates; sizes are measured before the first and after each.
        seeds: of initial parameters.
        config: the optimiser.

    Returns:
        A table of width, seed, step, quantity, part, layer (0 for parts outside of blocks) and rms.
    """
    tables = [
        _run(model, jnp.asarray(tokens), learning_rate, steps, seed, config) for model in models for seed in seeds
    ]
    return pd.concat(tables, ignore_index=True)


def _run(
    model: ModelConfig, tokens: jax.Array, learning_rate: float, steps: int, seed: int, config: OptimizerConfig
) -> pd.DataFrame:
    program, rates = model.compiled(), hyper(config, model, learning_rate)
    params = transformer.init(program, seed, model.init_std)
    state, start = init_optimizer(config, model, params), params
    shapes, _ = jax.eval_shape(functools.partial(forward, program), params, params, tokens[:, :-1], rates)
    first = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # until step 0 has shown them
    rows: list[tuple[Any, ...]] = []
    for step in range(steps + 1):
        if step:
            gradient = _gradient(program, params, tokens, rates)
            params, state = _update(program, config, params, state, gradient, rates)
        sizes, activations = _sizes(program, params, start, first, tokens[:, :-1], rates)
        first = first if step else activations
        for (quantity, part), rms_L in jax.device_get(sizes).items():
            if step or quantity in ("activation", "weight"):  # nothing has changed before the first step
                rows += [(model.d_model, seed, step, quantity, part, i, float(rms)) for i, rms in enumerate(rms_L)]
    return pd.DataFrame(rows, columns=["width", "seed", "step", "quantity", "part", "layer", "rms"])


@functools.partial(jax.jit, static_argnums=0)
def _gradient(model: ModelConfig, params: Any, tokens: jax.Array, rates: Hyper) -> Any:
    """The gradient of the mean loss on these tokens."""

    def loss(params: Any) -> jax.Array:
        x_BTD = transformer.features(model, params, tokens[:, :-1], scales=_scales(rates))
        nats, count = next_token(x_BTD, transformer.output_table(model, params), tokens, jnp.ones_like(tokens))
        return nats / count

    return jax.grad(loss)(params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _update(
    model: ModelConfig, config: OptimizerConfig, params: Any, state: Any, gradient: Any, rates: Hyper
) -> tuple[Any, Any]:
    """One training step along a gradient."""
    updates, state = optimizer(config, model, rates).update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def _scales(rates: Hyper) -> transformer.Scales:
    return transformer.Scales(rates.scale_emb, rates.scale_depth)


@functools.partial(jax.jit, static_argnums=0)
def _sizes(
    model: ModelConfig, params: Any, start: Any, first: Parts, tokens_BT: jax.Array, rates: Hyper
) -> tuple[dict[tuple[str, str], jax.Array], Parts]:
    """Root mean squares [L or 1] by (quantity, part), and the activations that they are of.

    Args:
        model: the model.
        params: its parameters now.
        start: its initial parameters.
        first: the activations with them.
        tokens_BT: int32 tokens.
        rates: holds `scale_emb` and `scale_depth`.
    """
    delta = jax.tree.map(jnp.subtract, params, start)
    activations, effects = forward(model, params, delta, tokens_BT, rates)
    found = {
        "activation": activations,
        "change": {part: x - first[part] for part, x in activations.items()},
        "weight": tensors(params),
        "update": tensors(delta),
        "effect": effects,
    }
    return {(quantity, part): _rms(x) for quantity, parts in found.items() for part, x in parts.items()}, activations


def _rms(x_L: jax.Array) -> jax.Array:
    """Root mean square over all axes but the first."""
    return jnp.sqrt(jnp.mean(jnp.square(x_L), axis=tuple(range(1, x_L.ndim))))


def tensors(params: Any) -> Parts:
    """Parameter tensors by name ("query", "mlp_norm", "embedding"), layers leading, [1, ...] where there are none."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        keys = [entry.key for entry in path]
        name = keys[-2] if keys[-1] == "scale" else keys[-1]
        found[str(name)] = x if keys[0] == "blocks" else x[None]
    return found


def forward(model: ModelConfig, params: Any, delta: Any, tokens_BT: jax.Array, rates: Hyper) -> tuple[Parts, Parts]:
    """Activations, and what the matrices of `delta` make of the inputs that those of `params` have.

    Args:
        model: the model.
        params: its parameters.
        delta: a tree like `params`: W_t - W_0.
        tokens_BT: int32 tokens.
        rates: holds `scale_emb` and `scale_depth`.
    """
    definition = nnx.split(nnx.eval_shape(lambda: transformer.Block(model, model.init_std, jax.random.key(0))))[0]
    rope, attend = rope_tables(model, tokens_BT.shape[1]), dense("batched_matmul", tokens_BT.shape[1], None)
    residual_scale = rates.scale_depth / model.num_layers**0.5

    def layer(x_BTD: jax.Array, weights_and_delta: Any) -> tuple[jax.Array, tuple[Parts, Parts]]:
        weights, delta = weights_and_delta
        no_mlp = _with(weights, "mlp", "down", jnp.zeros_like(delta["mlp"]["down"]))
        block = nnx.merge(definition, weights)
        middle_BTD = nnx.merge(definition, no_mlp)(x_BTD, residual_scale, rope, attend)
        out_BTD = block(x_BTD, residual_scale, rope, attend)
        to_attention_BTD, to_mlp_BTD = block.attention_norm(x_BTD), block.mlp_norm(middle_BTD)
        changed_output = nnx.merge(definition, _with(weights, "attention", "output", delta["attention"]["output"]))
        changed_down = nnx.merge(definition, _with(weights, "mlp", "down", delta["mlp"]["down"]))
        effects = {name: to_attention_BTD @ delta["attention"][name] for name in ("query", "key", "value")}
        effects |= {name: to_mlp_BTD @ delta["mlp"][name] for name in ("gate", "up")}
        effects["output"] = changed_output.attention(to_attention_BTD, rope, attend)
        effects["down"] = changed_down.mlp(to_mlp_BTD)
        added = {"attention": middle_BTD - x_BTD, "mlp": out_BTD - middle_BTD, "residual": out_BTD}
        return out_BTD, (added, effects)

    embedded_BTD = rates.scale_emb * params["embedding"][tokens_BT]
    _, (added, effects) = jax.lax.scan(layer, embedded_BTD, (params["blocks"], delta["blocks"]))
    x_BTD = transformer.features(model, params, tokens_BT, scales=_scales(rates))
    activations = {
        "embedding": embedded_BTD[None],
        **added,
        "features": model.width_multiplier * x_BTD[None],  # the final norm's output, before 1 / m
        "logits": (x_BTD @ transformer.output_table(model, params).T)[None],
    }
    effects |= {
        "embedding": rates.scale_emb * delta["embedding"][tokens_BT][None],
        "head": (x_BTD @ transformer.output_table(model, delta).T)[None],
    }
    return activations, effects


def _with(weights: Any, module: str, name: str, value: jax.Array) -> Any:
    """A block's parameters with one matrix replaced."""
    return weights | {module: weights[module] | {name: value}}
