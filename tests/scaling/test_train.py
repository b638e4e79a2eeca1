import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from scaling import mesh
from scaling.config import ExecutionConfig
from scaling.objectives import next_token
from scaling.optimizers import Hyper, optimizer
from scaling.run import dispatch_for, first_state, loss_fn
from scaling.train import InterruptedRunError, NonFiniteError, TrainState, train

CONFIG = tiny.TRUNK
K = 4


def resolved(**fields):
    return mesh.resolve(ExecutionConfig(steps_per_dispatch=K, **fields), CONFIG.data, CONFIG.model.num_layers)


def rows_of(seed):
    """Rows whose records end in the middle, and more so in the first half of the batch, which one device reads."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 40, (K, 4, 17), dtype=np.int32)
    ends = rng.random((K, 4, 17)) < np.array([0.6, 0.3, 0.1, 0.0])[:, None]
    return {"tokens": tokens, "segments": 1 + np.cumsum(ends, axis=-1, dtype=np.int32)}


def hyper_of(clip=0.5):
    return Hyper(np.float32([0.01, 0.02, 0.01, 0.005]), np.full(K, 0.1, np.float32), np.full(K, clip, np.float32))


@functools.cache
def reference():
    """The steps of the next test, written plainly: mean loss of the whole batch, one gradient, one update."""
    state, rows, hyper = first_state(CONFIG, resolved(devices=1)), rows_of(0), hyper_of()
    loss = loss_fn(CONFIG.model, next_token, resolved(devices=1, microbatches=1))
    params, opt_state, metrics = state.params, state.opt_state, []

    @jax.jit
    @jax.value_and_grad
    def mean(params, batch):
        nats, count = loss(params, batch)
        return nats / count

    for i in range(K):
        value, gradient = mean(params, {name: x[i] for name, x in rows.items()})
        step = optimizer(CONFIG.optimizer, CONFIG.model, Hyper(*(x[i] for x in hyper)))
        updates, opt_state = step.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        metrics.append((float(value), float(optax.tree.norm(gradient))))
    return params, np.array(metrics).T


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("devices", [1, 2])
def test_step_is_the_gradient_of_the_whole_batchs_mean(devices, microbatches):
    execution = resolved(devices=devices, microbatches=microbatches)
    assert (execution.devices, execution.microbatches) == (devices, microbatches)
    expected, (losses, norms) = reference()
    assert norms.min() > 0.5  # clipped, so that a gradient of another scale would show
    state, metrics = dispatch_for(CONFIG, execution)(first_state(CONFIG, execution), rows_of(0), hyper_of(), K)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], norms, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), state.params, expected)
    assert int(state.step) == K


def test_steps_together_and_one_by_one_have_the_same_bits():
    execution, rows, hyper = resolved(), rows_of(1), hyper_of()
    dispatch = dispatch_for(CONFIG, execution)
    together, metrics = dispatch(first_state(CONFIG, execution), rows, hyper, 3)
    state, losses = first_state(CONFIG, execution), []
    for i in range(3):
        at = [i] * K
        state, found = dispatch(state, {name: x[at] for name, x in rows.items()}, Hyper(*(x[at] for x in hyper)), 1)
        losses.append(float(found["loss"][0]))
    jax.tree.map(np.testing.assert_array_equal, together, state)
    assert losses == np.asarray(metrics["loss"])[:3].tolist()
    assert float(metrics["loss"][3]) == 0  # not computed


def test_hyper_parameters_do_not_recompile():
    execution = resolved()
    dispatch = dispatch_for(CONFIG, execution)
    state = first_state(CONFIG, execution)
    for clip, count in ((0.5, 4), (2.0, 1), (1.0, 3)):
        state, _ = dispatch(state, rows_of(2), hyper_of(clip), count)
    assert dispatch.cache_size() == 1
    other = dataclasses.replace(CONFIG, seed=7, optimizer=dataclasses.replace(CONFIG.optimizer, weight_decay=0.5))
    assert dispatch_for(other, execution) is dispatch


class FakeTraining:
    """`train` around a stand-in for the compiled program, whose losses are given."""

    def __init__(self, losses, stop_at=None, norms=None):
        self.losses = np.asarray(losses, np.float32)
        self.norms = self.losses if norms is None else np.asarray(norms, np.float32)
        self.stop_at = stop_at
        self.events = []

    def dispatch(self, state, rows, hyper, count):
        at = int(state.step)
        pad = np.zeros(K, np.float32)
        metrics = {
            name: jnp.asarray(np.concatenate([x[at : at + count], pad])[:K])
            for name, x in (("loss", self.losses), ("grad_norm", self.norms))
        }
        return TrainState(state.params, None, state.step + count), metrics

    def stacks(self, start, stop):
        for first in range(start, stop, K):
            yield min(K, stop - first), {"tokens": np.zeros(K)}

    def run(self, start=0, stop=None, every=1e9):
        return train(
            TrainState({}, None, np.int32(start)),
            start,
            len(self.losses) if stop is None else stop,
            dispatch=self.dispatch,
            stacks=self.stacks,
            hyper=lambda first, count: Hyper(np.arange(first, first + count, dtype=np.float32), None, None),
            tokens_at=lambda step: 10 * step,
            record=lambda rows: self.events.extend(("row", r.step, r.tokens, r.learning_rate, r.loss) for r in rows),
            save=lambda step, state: self.events.append(("save", step, int(state.step))),
            save_every_seconds=every,
            stop_requested=lambda: self.stop_at is not None and self.saw() >= self.stop_at,
        )

    def saw(self):
        return max((event[1] for event in self.events), default=0)


def rows_until(losses, stop, start=0):
    return [("row", i + 1, 10 * (i + 1), float(i), losses[i]) for i in range(start, stop)]


LOSSES = [float(x) for x in range(20, 9, -1)]


def test_every_step_is_recorded_once_and_the_end_is_saved():
    training = FakeTraining(LOSSES)
    training.run()
    assert training.events == [*rows_until(LOSSES, 11), ("save", 11, 11)]


def test_rows_are_on_disk_before_the_checkpoint_behind_them():
    training = FakeTraining(LOSSES)
    training.run(start=3, every=-1.0)
    assert training.events == [
        *rows_until(LOSSES, 7, start=3),
        ("save", 7, 7),
        *rows_until(LOSSES, 11, start=7),
        ("save", 11, 11),
    ]


def test_stop_request_saves_and_says_where():
    training = FakeTraining(LOSSES, stop_at=4)
    with pytest.raises(InterruptedRunError, match="stopped and saved at step 8 of 11"):
        training.run()
    assert training.events == [*rows_until(LOSSES, 8), ("save", 8, 8)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["loss", "norm"])
@pytest.mark.parametrize("at", [0, 5, 10])
def test_first_value_that_is_not_finite_ends_it_and_nothing_behind_is_recorded_or_saved(bad, what, at):
    wrong = [*LOSSES[:at], bad, *LOSSES[at + 1 :]]
    training = FakeTraining(wrong) if what == "loss" else FakeTraining(LOSSES, norms=wrong)
    with pytest.raises(NonFiniteError, match=rf"non-finite loss .* at step {at}") as caught:
        training.run(every=-1.0)
    assert caught.value.step == at
    assert [event for event in training.events if event[0] == "row"] == rows_until(LOSSES, at)
    assert all(event[1] <= at for event in training.events)
