"""The formulas of decay-stage dynamics where they are known exactly, and a replay beside the log of its run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.data.loader import Loader, open_streams
from scaling.errors import UserError
from scaling.objectives import next_token
from scaling.optimizers import hyper
from scaling.run import loss_fn
from scaling.tuning.dynamics import FIXED_BATCH_STEPS, largest_changes, pair, replay


def tree(flat):
    """A vector as a tree of two arrays, so that sums over a tree are tested too."""
    return {"a": jnp.asarray(flat[:2]), "b": {"c": jnp.asarray(flat[2:]).reshape(1, -1)}}


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=4), st.floats(0.01, 0.3), st.integers(0, 100))
def test_on_a_quadratic_by_hand(eigenvalues, rate, seed):
    """f(x) = x A x / 2 with A diagonal: every quantity in closed form, the second derivative exactly."""
    A, x = np.array(eigenvalues), np.random.default_rng(seed).normal(size=4)
    v = -rate * A * x
    g, g_next = A * x, A * (x + v)
    found = pair(*(tree(np.float32(part)) for part in (g, g_next, v)))
    length = np.sqrt((v**2).sum())
    slope, second = (g_next * v).sum() / length, (A * v**2).sum() / length**2
    expected = {
        "norm": np.sqrt((g**2).sum()),
        "dot": (g * g_next).sum(),
        "cosine": (g * g_next).sum() / np.sqrt((g**2).sum() * (g_next**2).sum()),
        "d1": slope,
        "d2": second,
        "curvature": second / (1 + slope**2) ** 1.5,
    }
    for name, value in expected.items():
        scale = np.sqrt((g**2).sum() * (g_next**2).sum()) if name == "dot" else 1.0
        np.testing.assert_allclose(getattr(found, name), value, rtol=2e-3, atol=2e-4 * max(scale, 1.0), err_msg=name)


def test_curvature_is_that_of_the_parabola():
    """In one dimension K is the textbook curvature of the graph y = a x^2 / 2 at the step's end: 1 / radius there."""
    a, x, v = 3.0, 0.4, -0.3
    found = pair(jnp.float32([a * x]), jnp.float32([a * (x + v)]), jnp.float32([v]))
    assert float(found.curvature) == pytest.approx(a / (1 + (a * (x + v)) ** 2) ** 1.5, rel=1e-5)
    assert float(found.d1) == pytest.approx(-a * (x + v), rel=1e-5)  # downhill still: the step fell short
    vertex = pair(jnp.float32([a * x]), jnp.float32([0.0]), jnp.float32([-x]))
    assert float(vertex.curvature) == pytest.approx(a)


def test_steps_too_long_for_the_curvature_turn_the_gradient_around():
    for rate, sign in ((0.5, 1), (1.5, -1)):
        g = jnp.float32([2.0, 0.0])
        v = -rate * g  # gradient descent on |x|^2 / 2
        assert float(pair(g, g + v, v).cosine) == sign


def test_changes_are_those_of_matrices_and_largest_over_layers():
    params = {
        "embedding": jnp.zeros((3, 2)).at[1, 1].set(-5.0),
        "blocks": {
            "mlp": {"up": jnp.zeros((2, 2, 2)).at[1, 0, 1].set(-0.25).at[0, 0, 0].set(0.125)},
            "mlp_norm": {"scale": jnp.full((2, 2), 9.0)},
        },
    }
    assert jax.tree.map(float, largest_changes(params)) == {"embedding": 5.0, "blocks/mlp/up": 0.25}


@pytest.fixture(scope="module")
def replayed(tmp_path_factory, data_dir):
    """The tiny study with its trunk's checkpoint at step 24, from which its longer branch is replayed."""
    alone = dataclasses.replace(tiny.EXECUTION, runs_per_group=1)  # on all devices, as a replay is
    made = tiny.execute(tiny.study(execution=alone), tmp_path_factory.mktemp("dynamics"), data_dir)
    trunk, _, branch = made.entries
    return made, branch, replay(made.runner, trunk.config, branch.config, start=24, stop=50)


def test_a_replay_is_the_run(replayed):
    made, branch, table = replayed
    logged = [row for row in tiny.log(made.store.root, branch.trunk) if row["step"] > 24]
    logged += tiny.log(made.store.root, branch.run)
    assert table["step"].tolist() == [row["step"] for row in logged] == list(range(25, 51))
    assert table["learning_rate"].tolist() == [row["learning_rate"] for row in logged]
    np.testing.assert_allclose(table["loss"], [row["loss"] for row in logged], rtol=1e-6)
    np.testing.assert_allclose(table["batch_norm"], [row["grad_norm"] for row in logged], rtol=1e-5)


def test_a_replay_where_devices_do_not_share_a_batch_is_the_run_too(tmp_path, data_dir):
    """With one device a run there are two sets of devices, of which one has nothing to do."""
    execution = dataclasses.replace(tiny.EXECUTION, runs_per_group=1, devices=1)
    made = tiny.execute(tiny.study((tiny.decay(30),), execution=execution), tmp_path, data_dir)
    trunk, branch = made.entries
    table = replay(made.runner, trunk.config, branch.config, start=24, stop=30)
    np.testing.assert_allclose(table["loss"], [row["loss"] for row in tiny.log(tmp_path, branch.run)], rtol=1e-6)


def test_a_replay_ends_in_the_runs_own_checkpoint(replayed):
    """The last measured step's change is the difference of the run's states around it."""
    made, branch, table = replayed
    end = made.runner.state_at(branch.config, branch.run, 50).state.params
    trunk = made.entries[0]
    twenty_four = made.runner.state_at(trunk.config, trunk.run, 24).state.params
    moved = largest_changes(jax.tree.map(jnp.subtract, end, twenty_four))
    for name, far in moved.items():
        assert table[f"change/{name}"].max() <= float(far) * 26
        assert table[f"change/{name}"].sum() >= float(far)  # the steps lead from one to the other
    assert (table["change/embedding"] <= 1.01 * 8 * table["learning_rate"]).all()


def test_the_fixed_batch_is_what_the_run_would_read_next(replayed):
    made, branch, table = replayed
    config, runner = branch.config, made.runner
    loader = Loader(open_streams(config.data, runner.data_dir, config.seed), runner.timeline(config))
    params = runner.state_at(made.entries[0].config, branch.trunk, 24).state.params
    loss = jax.jit(loss_fn(config.model.compiled(), next_token, runner.resolved(config)))
    scalars = hyper(config.optimizer, config.model, 0.0)
    sums = [loss(params, loader.batch(step), scalars) for step in range(50, 50 + FIXED_BATCH_STEPS)]
    nats, counts = (sum(float(part) for part in parts) for parts in zip(*sums, strict=True))
    assert table["fixed_loss"].iloc[0] == pytest.approx(nats / counts, rel=1e-5)
    assert table["fixed_loss"].iloc[-1] < table["fixed_loss"].iloc[0]
    assert np.abs(np.diff(table["fixed_loss"])).max() < np.abs(np.diff(table["loss"])).max()


def test_a_replay_from_after_the_branch_point_or_without_checkpoint_is_refused(replayed):
    made, branch, _ = replayed
    trunk = made.entries[0].config
    with pytest.raises(UserError, match="replay from step 41: name a branch that leaves its trunk there or later"):
        replay(made.runner, trunk, branch.config, start=41, stop=50)
    with pytest.raises(UserError, match="no intact checkpoint at step 30"):
        replay(made.runner, trunk, branch.config, start=30, stop=50)
    with pytest.raises(UserError, match="replay from step 24"):
        replay(made.runner, trunk, dataclasses.replace(trunk, parent=None), start=24, stop=50)
