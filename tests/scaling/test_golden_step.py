"""One training step of a tiny model, number by number, against the values committed in tests/golden/.

Everything a run's mathematics passes through is in it: initialisation, model, document mask, loss, clipping, groups
of the optimiser. A change here changes every result of every study. If it is meant, write the new values with

    WINDTUNNEL_UPDATE_GOLDEN=1 python -m pytest tests/scaling/test_golden_step.py

and say in the change log what moved and why.
"""

import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import transformer
from models.config import ModelConfig
from scaling.config import OptimizerConfig
from scaling.objectives import next_token
from scaling.optimizers import hyper, init_optimizer, optimizer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "training_step.json"
MODEL = ModelConfig(61, 2, 16, 4, 2, 4, 40, tied_embeddings=False, mup_base_width=8)


def rms_by_name(tree: Any) -> dict[str, float]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(np.sqrt(np.mean(np.square(leaf))))
        for path, leaf in leaves
    }


def training_step(config: OptimizerConfig) -> dict[str, Any]:
    """Loss and gradient norm at initialisation; RMS of every parameter, and of its update, after one step."""
    params = transformer.init(MODEL, 0)
    tokens = (jnp.arange(2 * 17) ** 2 % MODEL.vocab_size).reshape(2, 17)
    segments = jnp.asarray([[1] * 6 + [2] * 11, [1] * 17])

    @jax.jit
    def step(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            x_BTD = transformer.features(MODEL, params, tokens[:, :-1], segments[:, :-1])
            nats, count = next_token(x_BTD, transformer.output_table(MODEL, params), tokens, segments)
            return nats / count

        value, gradient = jax.value_and_grad(loss)(params)
        update, _ = optimizer(config, MODEL, hyper(config, MODEL, 0.01)).update(
            gradient, init_optimizer(config, MODEL, params), params
        )
        return value, optax.tree.norm(gradient), update, optax.apply_updates(params, update)

    value, norm, update, after = step(params)
    return {
        "loss": float(value),
        "gradient_norm": float(norm),
        "update_rms": rms_by_name(update),
        "parameter_rms": rms_by_name(after),
    }


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_one_training_step_is_the_committed_one(kind: Any) -> None:
    measured = training_step(OptimizerConfig(kind=kind))
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("WINDTUNNEL_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(golden | {kind: measured}, indent=2) + "\n")
        return

    def flat(step: dict[str, Any]) -> dict[str, float]:
        numbers = {"loss": step["loss"], "gradient_norm": step["gradient_norm"]}
        for table in ("update_rms", "parameter_rms"):
            numbers |= {f"{table} {name}": value for name, value in step[table].items()}
        return numbers

    new, old = flat(measured), flat(golden[kind])
    moved = [
        f"{name}: {old.get(name)} committed, {new.get(name)} now"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or new[name] != pytest.approx(old[name], rel=1e-4)
    ]
    assert not moved, f"the {kind} step computes something else than before (see this file's docstring): " + "; ".join(
        moved
    )
