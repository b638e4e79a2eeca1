import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from models import transformer
from scaling import mesh
from scaling.config import ExecutionConfig
from scaling.jobs import group_of_one, group_state
from scaling.objectives import next_token
from scaling.optimizers import Hyper, hyper, optimizer
from scaling.run import dispatch_for, first_state, loss_fn
from scaling.train import InterruptedRunError, Member, TrainState, train

CONFIG = tiny.TRUNK
K = 4


def resolved(**fields):
    return mesh.resolve(ExecutionConfig(steps_per_dispatch=K, **fields), CONFIG.data, CONFIG.model)


def rows_of(seed):
    """Rows whose records end in the middle, and more so in the first half of the batch, which one device reads."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 40, (K, 4, 17), dtype=np.int32)
    ends = rng.random((K, 4, 17)) < np.array([0.6, 0.3, 0.1, 0.0])[:, None]
    return {"tokens": tokens, "segments": 1 + np.cumsum(ends, axis=-1, dtype=np.int32)}


def hyper_of(clip=0.5):
    config = dataclasses.replace(CONFIG.optimizer, weight_decay=0.1, clip_norm=clip)
    return hyper(config, CONFIG.model, [0.01, 0.02, 0.01, 0.005])


def first(config, execution):
    """The first state of a group of one."""
    return group_state({0: jax.device_get(first_state(config, execution))}, execution)


def advance(execution, state, rows, scalars, count):
    """What the program of a group of one makes of its run."""
    return dispatch_for(CONFIG, execution)(state, *group_of_one(rows, scalars, count, execution))


def of_run(tree, place=0):
    """The part of one run in what came out for a group."""
    return jax.tree.map(lambda x: np.asarray(x)[place], tree)


@functools.cache
def reference():
    """The steps of the next test, written plainly: mean loss of the whole batch, one gradient, one update."""
    state, rows, scalars = first_state(CONFIG, resolved(devices=1)), rows_of(0), hyper_of()
    loss = loss_fn(CONFIG.model, next_token, resolved(devices=1, microbatches=1))
    params, opt_state, metrics = state.params, state.opt_state, []

    @jax.jit
    @jax.value_and_grad
    def mean(params, batch, at):
        nats, count = loss(params, batch, at)
        return nats / count

    for i in range(K):
        at = Hyper(*(x[i] for x in scalars))
        value, gradient = mean(params, {name: x[i] for name, x in rows.items()}, at)
        step = optimizer(CONFIG.optimizer, CONFIG.model, at)
        updates, opt_state = step.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        metrics.append((float(value), float(optax.tree.norm(gradient))))
    return params, np.array(metrics).T


@pytest.mark.parametrize(
    ("devices", "microbatches", "loss_chunk"), [(1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, 0), (2, 1, 24)]
)
def test_step_is_the_gradient_of_the_whole_batchs_mean(devices, microbatches, loss_chunk):
    execution = dataclasses.replace(resolved(devices=devices, microbatches=microbatches), loss_chunk=loss_chunk)
    assert (execution.devices, execution.microbatches) == (devices, microbatches)
    expected, (losses, norms) = reference()
    assert norms.min() > 0.5  # clipped, so that a gradient of another scale would show
    state, metrics = of_run(advance(execution, first(CONFIG, execution), rows_of(0), hyper_of(), K))
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], norms, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), state.params, expected)
    assert int(state.step) == K


def test_a_row_without_segments_is_one_record():
    execution, tokens = resolved(devices=1), rows_of(4)["tokens"][0]
    loss, params = loss_fn(CONFIG.model, next_token, execution), first_state(CONFIG, execution).params
    scalars = hyper(CONFIG.optimizer, CONFIG.model, 0.0)
    nats, count = loss(params, {"tokens": tokens}, scalars)
    marked = loss(params, {"tokens": tokens, "segments": np.ones_like(tokens)}, scalars)
    assert (float(nats), int(count)) == (pytest.approx(float(marked[0]), rel=1e-6), int(marked[1]))
    assert count == 4 * 16


def test_steps_together_and_one_by_one_have_the_same_bits():
    execution, rows, scalars = resolved(), rows_of(1), hyper_of()
    together, metrics = advance(execution, first(CONFIG, execution), rows, scalars, 3)
    state, losses = first(CONFIG, execution), []
    for i in range(3):
        at = [i] * K
        state, found = advance(execution, state, *jax.tree.map(lambda x, at=at: x[at], (rows, scalars)), 1)
        losses.append(float(found["loss"][0, 0]))
    jax.tree.map(np.testing.assert_array_equal, together, state)
    assert losses == np.asarray(metrics["loss"])[0, :3].tolist()
    assert float(metrics["loss"][0, 3]) == 0  # not computed


def test_hyper_parameters_do_not_recompile(caplog):
    execution = resolved()
    dispatch = dispatch_for(CONFIG, execution)
    state = first(CONFIG, execution)
    for clip, count in ((0.5, 4), (2.0, 1), (1.0, 3)):
        state, _ = advance(execution, state, rows_of(2), hyper_of(clip), count)
    assert dispatch.cache_size() == 1
    other = dataclasses.replace(
        CONFIG,
        seed=7,
        optimizer=dataclasses.replace(CONFIG.optimizer, weight_decay=0.5),
        model=dataclasses.replace(CONFIG.model, scale_emb=3.0, scale_depth=0.7, init_std=0.02),
    )
    assert dispatch_for(other, execution) is dispatch
    first_state(CONFIG, execution)
    with jax.log_compiles():
        first_state(other, execution)
    assert not [record for record in caplog.records if "jit(build)" in record.getMessage()]


@pytest.mark.parametrize("field", ["scale_emb", "scale_depth", "init_std"])
def test_a_tuned_scale_is_that_of_a_model_built_with_it(field):
    """It enters the one program as data; the model with it in its config, applied directly, says what it must do."""
    model = dataclasses.replace(CONFIG.model, **{field: 0.6})
    config, execution, rows = dataclasses.replace(CONFIG, model=model), resolved(), rows_of(3)
    state = first_state(config, execution)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.params, transformer.init(model, config.seed)
    )
    tokens, segments = (jnp.asarray(rows[name][0]) for name in ("tokens", "segments"))
    logp_BTV = jax.nn.log_softmax(transformer.apply(model, state.params, tokens[:, :-1], segments[:, :-1]))
    nats_BT = -jnp.take_along_axis(logp_BTV, tokens[:, 1:, None], axis=-1)[..., 0]
    expected = nats_BT[segments[:, 1:] == segments[:, :-1]].mean()
    scalars = hyper(config.optimizer, model, [0.0] * K)
    _, metrics = advance(execution, first(config, execution), rows, scalars, 1)
    _, plain = advance(execution, first(CONFIG, execution), rows, hyper_of(), 1)
    assert float(metrics["loss"][0, 0]) == pytest.approx(float(expected), rel=1e-6)
    assert abs(float(plain["loss"][0, 0] - metrics["loss"][0, 0])) > 1e-3


class FakeRun:
    """A member of a group whose losses are given, and all that is told of it."""

    def __init__(self, losses, start=0, save_at=(), norms=None):
        self.losses = np.asarray(losses, np.float32)
        self.norms = self.losses if norms is None else np.asarray(norms, np.float32)
        self.start, self.save_at = start, (*save_at, len(losses))
        self.events, self.failure = [], None

    def stacks(self):
        first = self.start
        for last in self.save_at:
            for at in range(first, last, K):
                yield min(K, last - at), {"tokens": np.zeros(K)}
            first = last

    def member(self):
        return Member(
            start=self.start,
            save_at=self.save_at,
            stacks=self.stacks(),
            hyper=lambda first, count: Hyper(np.arange(first, first + count, dtype=np.float32), *[None] * 4),
            tokens_at=lambda step: 10 * step,
            record=lambda rows: self.events.extend(("row", r.step, r.tokens, r.learning_rate, r.loss) for r in rows),
            save=lambda step, state: self.events.append(("save", step, int(state.step))),
            fail=self.fail,
        )

    def fail(self, problem):
        assert self.failure is None
        self.failure = problem

    def rows(self, start, stop):
        return [("row", i + 1, 10 * (i + 1), float(i), float(self.losses[i])) for i in range(start, stop)]

    def saves(self):
        return [event[1] for event in self.events if event[0] == "save"]


class FakeGroup:
    """`train` around a stand-in for the compiled program."""

    def __init__(self, *runs, run_devices=1, run_axis="map"):
        lanes = -(-len(runs) // run_devices)
        self.runs = [*runs, *[None] * (run_devices * lanes - len(runs))]
        self.execution = dataclasses.replace(resolved(), run_devices=run_devices, lanes=lanes, run_axis=run_axis)
        self.counts = []

    def dispatch(self, state, rows, rates, counts):
        self.counts.append(counts)
        metrics = {name: np.zeros((len(self.runs), K), np.float32) for name in ("loss", "grad_norm")}
        for place, run in enumerate(self.runs):
            at, count = int(state.step[place]), counts[place]
            if run is not None:
                metrics["loss"][place, :count] = run.losses[at : at + count]
                metrics["grad_norm"][place, :count] = run.norms[at : at + count]
        metrics = {name: jnp.asarray(values) for name, values in metrics.items()}
        return TrainState(state.params, None, state.step + np.asarray(counts, np.int32)), metrics

    def train(self, every=1e9, stop_requested=lambda: False):
        starts = np.array([run.start if run else 0 for run in self.runs], np.int32)
        train(
            TrainState({}, None, starts),
            {place: run.member() for place, run in enumerate(self.runs) if run},
            dispatch=self.dispatch,
            execution=self.execution,
            save_every_seconds=every,
            stop_requested=stop_requested,
        )


LOSSES = [float(x) for x in range(20, 9, -1)]


def test_every_step_is_recorded_once_and_the_end_is_saved():
    run = FakeRun(LOSSES)
    FakeGroup(run).train()
    assert run.events == [*run.rows(0, 11), ("save", 11, 11)]


def test_rows_are_on_disk_before_the_checkpoint_behind_them():
    run = FakeRun(LOSSES, start=3)
    FakeGroup(run).train(every=-1.0)
    assert run.events == [*run.rows(3, 7), ("save", 7, 7), *run.rows(7, 11), ("save", 11, 11)]


def test_steps_to_be_saved_are_saved_on_the_way():
    run, other = FakeRun(LOSSES, save_at=(2, 9)), FakeRun(LOSSES)
    FakeGroup(run, other).train()
    assert run.events == [
        *run.rows(0, 2),
        ("save", 2, 2),
        *run.rows(2, 9),
        ("save", 9, 9),
        *run.rows(9, 11),
        ("save", 11, 11),
    ]
    assert other.events == [*other.rows(0, 11), ("save", 11, 11)]


def test_stop_request_saves_and_says_where():
    run = FakeRun(LOSSES)
    with pytest.raises(InterruptedRunError, match="stopped and saved at step 8 of 11"):
        FakeGroup(run).train(stop_requested=lambda: len(run.events) >= 4)
    assert run.events == [*run.rows(0, 8), ("save", 8, 8)]


def test_stop_request_saves_every_run_that_has_done_something_since():
    runs = [FakeRun(LOSSES), FakeRun(LOSSES[:3]), FakeRun(LOSSES, start=5)]
    asked = iter([False, True])
    with pytest.raises(InterruptedRunError, match="stopped and saved at step 8 of 11"):
        FakeGroup(*runs).train(stop_requested=lambda: next(asked))
    assert [run.saves() for run in runs] == [[8], [3], [11]]
    with pytest.raises(InterruptedRunError, match="stopped and saved 2 runs at steps 4 to 9"):
        FakeGroup(FakeRun(LOSSES), FakeRun(LOSSES, start=5)).train(stop_requested=lambda: True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("what", ["loss", "norm"])
@pytest.mark.parametrize("at", [0, 5, 10])
@pytest.mark.parametrize(("run_axis", "every"), [("map", -1.0), ("vmap", -1.0), ("map", 1e9)])
def test_first_value_that_is_not_finite_ends_that_run_and_no_other(bad, what, at, run_axis, every):
    wrong = [*LOSSES[:at], bad, *LOSSES[at + 1 :]]
    run = FakeRun(wrong) if what == "loss" else FakeRun(LOSSES, norms=wrong)
    others = [FakeRun(LOSSES), FakeRun(LOSSES)]
    FakeGroup(others[0], run, others[1], run_axis=run_axis).train(every)
    assert run.failure.step == at
    assert str(run.failure).startswith("non-finite loss ")
    assert [event for event in run.events if event[0] == "row"] == run.rows(0, at)
    assert all(step <= at for step in run.saves())
    for other in others:
        assert (other.saves(), other.failure) == ([4, 8, 11] if every < 0 else [11], None)
        assert [event for event in other.events if event[0] == "row"] == other.rows(0, 11)


def test_devices_never_wait_for_each_other():
    """With one long run on the first device and four short ones on the second, both are busy until the end."""
    long, short = FakeRun([1.0] * 64), [FakeRun([1.0] * 16) for _ in range(4)]
    group = FakeGroup(long, None, None, None, *short, run_devices=2)
    group.train()
    assert len(group.counts) == 64 / K
    assert all(sum(counts[:4]) == sum(counts[4:]) == K for counts in group.counts)


def test_side_by_side_all_runs_go_on_together():
    runs = [FakeRun([1.0] * 16), FakeRun([1.0] * 8)]
    group = FakeGroup(*runs, run_axis="vmap")
    group.train()
    assert group.counts == [[K, K], [K, K], [K, 0], [K, 0]]
