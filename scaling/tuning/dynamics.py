"""Decay-stage dynamics: a stretch of a branch trained again, step by step, with its gradients compared.

With x(t) the parameters after t updates, g(t) the gradient there and v(t) = x(t+1) - x(t) (MiniCPM, arXiv 2404.06395,
section 4.4, figures 7 and 8):

    change  max |v(t)| over a matrix's entries
    norm    ||g(t)||
    dot     g(t+1) . g(t)
    cosine  dot / (||g(t+1)|| ||g(t)||)
    D1      g(t+1) . v(t) / ||v(t)||                        slope of the loss along the step, at its end
    D2      (g(t+1) - g(t)) . v(t) / ||v(t)||^2             second derivative along the step
    K       |D2| / (1 + D1^2)^(3/2)                         curvature of the loss's graph along the step

The paper takes g(t) on the batch that step t is trained on, so that g(t+1) - g(t) holds the difference of two batches
too; here every quantity is also taken on one fixed batch, where it does not.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from models.config import ModelConfig
from scaling.config import RunConfig
from scaling.data.loader import Loader, open_streams
from scaling.errors import UserError
from scaling.jobs import group_of_one, group_state
from scaling.mesh import Execution
from scaling.objectives import next_token
from scaling.optimizers import Hyper, hyper, parameter_groups
from scaling.run import Runner, dispatch_for, loss_fn
from scaling.schedules import learning_rates
from scaling.train import Batch, Params

# steps whose batches make up the fixed one: those after the replay, which the run has not read
FIXED_BATCH_STEPS = 16


class Pair(NamedTuple):
    """What two successive gradients and the step between them say; scalars."""

    norm: jax.Array
    dot: jax.Array
    cosine: jax.Array
    d1: jax.Array
    d2: jax.Array
    curvature: jax.Array


def pair(g: Params, g_next: Params, v: Params) -> Pair:
    """The quantities of the module's head.

    Args:
        g: gradient before the step, a tree.
        g_next: gradient after it.
        v: the step, parameters after less parameters before.
    """
    inner, norm = optax.tree.vdot, optax.tree.norm
    dot, length = inner(g_next, g), norm(v)
    d1 = inner(g_next, v) / length
    d2 = inner(optax.tree.sub(g_next, g), v) / length**2
    return Pair(norm(g), dot, dot / (norm(g_next) * norm(g)), d1, d2, jnp.abs(d2) / (1 + d1**2) ** 1.5)


def largest_changes(v: Params) -> dict[str, jax.Array]:
    """max |v| over the entries of every kind of matrix, all layers together, by path ("blocks/mlp/up")."""

    def path(keys: tuple[Any, ...]) -> str:
        return "/".join(key.key for key in keys)

    changes = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda x: jnp.max(jnp.abs(x)), v))
    groups = jax.tree.leaves(parameter_groups(v))
    return {path(keys): change for (keys, change), group in zip(changes, groups, strict=True) if group != "norm"}


def replay(runner: Runner, trunk: RunConfig, branch: RunConfig, start: int, stop: int) -> pd.DataFrame:
    """Trains the end of a trunk and a branch again, from a checkpoint of the trunk, and measures every step.

    The steps themselves are the engine's own program, one a dispatch, so the losses are those of the run's log but for
    last digits.

    Args:
        runner: over the store that holds the trunk.
        trunk: its config.
        branch: of a branch that leaves this trunk and keeps its data and its objective.
        start: updates done before the first step measured: a checkpoint of the trunk, not after the branch point.
        stop: updates done after the last one.

    Returns:
        A row per step. `step` counts the updates done, this one included, as step logs do; so `batch_<name>` and
        `fixed_<name>` are the quantities of the module's head at t = step - 1. `loss` and `fixed_loss` are those before
        the update; `change/<matrix>` is the largest over layers.

    Raises:
        UserError: `start` lies after the branch point, or the trunk has no checkpoint there.
    """
    parent = branch.parent
    if parent is None or start > parent.step:
        raise UserError(f"replay from step {start}: name a branch that leaves its trunk there or later")
    execution = dataclasses.replace(runner.resolved(branch), steps_per_dispatch=1)
    advance = dispatch_for(branch, execution)
    gradient = functools.partial(_gradient, branch.model, execution)
    loader = Loader(open_streams(branch.data, runner.data_dir, branch.seed), runner.timeline(branch))
    later = [loader.batch(step) for step in range(stop, stop + FIXED_BATCH_STEPS)]
    fixed = {key: np.concatenate([batch[key] for batch in later]) for key in later[0]}
    group = group_state({0: runner.state_at(trunk, parent.run, start).state}, execution)
    rates = learning_rates(branch.schedule, start, stop + 1)
    before, table = None, []
    for step, rate in enumerate(rates, start):
        batch, scalars = loader.batch(step), hyper(branch.optimizer, branch.model, rate)
        params = jax.tree.map(lambda x: x[0], group.params)  # a copy: the group is donated to the next step
        (_, g), (fixed_loss, fixed_g) = (gradient(params, rows, scalars) for rows in (batch, fixed))
        now = _Seen(params, g, fixed_g)
        if before is not None:
            table[-1] |= _compared(before, now)
        if step == stop:
            break
        before = now
        rows, values = jax.tree.map(lambda x: np.asarray(x)[None], (batch, scalars))
        group, metrics = advance(group, *group_of_one(rows, values, 1, execution))
        loss = metrics["loss"][0, 0]
        table.append({"step": step + 1, "learning_rate": rate, "loss": loss, "fixed_loss": fixed_loss})
    return pd.DataFrame([{key: float(value) for key, value in row.items()} for row in table]).astype({"step": int})


class _Seen(NamedTuple):
    """Parameters after some updates, with the gradients on the next batch and on the fixed one."""

    params: Params
    gradient: Params
    fixed_gradient: Params


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(
    model: ModelConfig, execution: Execution, params: Params, rows: Batch, scalars: Hyper
) -> tuple[jax.Array, Params]:
    """Loss and gradient, means over the counted targets of a batch; unclipped."""

    def mean_loss(params: Params) -> jax.Array:
        nats, count = loss_fn(model.compiled(), next_token, execution)(params, rows, scalars)
        return nats / count

    return jax.value_and_grad(mean_loss)(params)


@jax.jit
def _compared(before: _Seen, after: _Seen) -> dict[str, jax.Array]:
    """The columns of a step that need the states on both its sides."""
    v = optax.tree.sub(after.params, before.params)
    found = {f"change/{name}": change for name, change in largest_changes(v).items()}
    for name, g, g_next in (
        ("batch", before.gradient, after.gradient),
        ("fixed", before.fixed_gradient, after.fixed_gradient),
    ):
        found |= {f"{name}_{quantity}": value for quantity, value in pair(g, g_next, v)._asdict().items()}
    return found
