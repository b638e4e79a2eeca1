"""Runs, end to end: the only place that puts model, data, optimiser and objective together.

`Runner.ensure` brings runs of one program to their steps, together, and leaves checkpoints where branches want to leave
them. Each continues from whatever intact checkpoint lies nearest, so it is at once the first start, the resume after a
kill, the extension of a trunk and the replay to a new branch point.
"""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from models import transformer
from models.config import ModelConfig
from scaling import mesh, storage
from scaling.branches import BRANCHES
from scaling.checkpoint import Checkpoints
from scaling.config import DataConfig, ExecutionConfig, OptimizerConfig, RunConfig, TaskConfig, from_json, to_json
from scaling.data.loader import TokenStream, check_budget, open_streams
from scaling.data.shards import Prepared, open_prepared
from scaling.data.timeline import Timeline
from scaling.errors import UserError
from scaling.evaluate import ROWS_AT_ONCE, TargetFn
from scaling.groups import places
from scaling.identity import run_id
from scaling.jobs import Goal, Job, Leg, StoredState, group_state, targets, what_was_read
from scaling.objectives import Objective, each_target, next_token
from scaling.optimizers import Hyper, init_optimizer, optimizer
from scaling.records import RunStore
from scaling.train import Batch, Dispatch, LogRow, LossFn, TrainState, compile_dispatch, train

# How much work a crash may cost; writing the checkpoints of a group takes about a hundredth of it.
SAVE_EVERY_SECONDS = 30.0


def _features(
    model: ModelConfig, execution: mesh.Execution, params: Any, rows: Batch, hyper: Hyper
) -> tuple[jax.Array, jax.Array]:
    """Features of rows of tokens and (of packed rows) segments [B, T+1], and the output table."""
    tokens, segments = rows["tokens"], rows.get("segments")
    x_BTD = transformer.features(
        model,
        params,
        tokens[:, :-1],
        None if segments is None else segments[:, :-1],
        scales=transformer.Scales(hyper.scale_emb, hyper.scale_depth),
        unroll=execution.unroll,
        remat=execution.remat,
        attention=execution.attention,
        sparse_backend=execution.sparse_attention or "auto",
    )
    return x_BTD, transformer.output_table(model, params)


@functools.lru_cache  # one function, so that what is compiled from it is compiled once
def loss_fn(model: ModelConfig, objective: Objective, execution: mesh.Execution) -> LossFn:
    """The objective of this model on rows of tokens and (of packed rows) segments [B, T+1]; its scales are data."""

    def loss(params: Any, rows: Batch, hyper: Hyper) -> tuple[jax.Array, jax.Array]:
        x_BTD, table_VD = _features(model, execution, params, rows, hyper)
        return objective(x_BTD, table_VD, rows["tokens"], rows.get("segments"), execution.loss_chunk)

    return loss


@functools.lru_cache
def target_fn(model: ModelConfig, execution: mesh.Execution) -> TargetFn:
    """What this model makes of every target of rows, for measures that ask where in a row something is."""

    def targets(params: Any, rows: Batch, hyper: Hyper) -> tuple[jax.Array, jax.Array]:
        x_BTD, table_VD = _features(model, execution, params, rows, hyper)
        return each_target(x_BTD, table_VD, rows["tokens"], execution.loss_chunk)

    return targets


def dispatch_for(config: RunConfig, execution: mesh.Execution) -> Dispatch:
    """The compiled program of a run's group: one for all runs of its size, whatever rates, schedules and scales."""
    objective = BRANCHES[config.branch].objective if config.branch else next_token
    return _dispatch(config.model.compiled(), config.optimizer.compiled(), objective, execution)


@functools.lru_cache
def _dispatch(model: ModelConfig, config: OptimizerConfig, objective: Objective, execution: mesh.Execution) -> Dispatch:
    return compile_dispatch(
        loss_fn(model, objective, execution), lambda hyper: optimizer(config, model, hyper), execution
    )


def first_state(config: RunConfig, execution: mesh.Execution) -> TrainState:
    """The state before the first update, whole on every device of the mesh."""
    build = _initializer(config.model.compiled(), config.optimizer.compiled(), execution)
    return build(config.seed, config.model.init_std)


@functools.lru_cache
def _initializer(
    model: ModelConfig, config: OptimizerConfig, execution: mesh.Execution
) -> Callable[[int, float], TrainState]:
    """The compiled program that makes a first state from seed and `init_std`: one for all runs of a size."""

    def build(seed: jax.Array, init_std: jax.Array) -> TrainState:
        params = transformer.init(model, seed, init_std)
        return TrainState(params, init_optimizer(config, model, params), jnp.int32(0))

    return jax.jit(build, out_shardings=mesh.replicated(execution.mesh))


def _resolved(asked: ExecutionConfig, model: ModelConfig, data: DataConfig, runs: int = 1) -> mesh.Execution:
    execution = mesh.resolve(asked, data, model, runs=runs)
    rows = data.batch_size // execution.devices // execution.microbatches
    backend = transformer.sparse_backend(model, rows, data.sequence_length)
    return dataclasses.replace(execution, sparse_attention=backend)


# How runs were computed whose fingerprint does not say so yet.
_UNRECORDED = {"run_devices": 1, "vmapped_runs": 1, "loss_chunk": 0}


def _warn_of_another_execution(run: str, step: int, before: dict[str, Any], now: dict[str, Any]) -> None:
    before = _UNRECORDED | before
    changes = [f"{name} {before.get(name)} -> {value}" for name, value in now.items() if before.get(name) != value]
    if changes:
        warnings.warn(
            f"run {run} goes on from step {step} under another execution ({'; '.join(changes)}): its last digits may "
            f"differ from an undisturbed run's",
            stacklevel=2,
        )


class Runner:
    """Trains runs into a store, from shards in a data folder.

    Args:
        store: where runs live.
        data_dir: where prepared tasks live.
        execution: how to compute.
        progress: called with a run's id and its log rows as they are made.
        stop_requested: asked between dispatches; true saves and raises `InterruptedRunError`.
    """

    def __init__(
        self,
        store: RunStore,
        data_dir: Path,
        execution: ExecutionConfig,
        progress: Callable[[str, list[LogRow]], None] = lambda run, rows: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.data_dir = data_dir
        self.execution = execution
        self.progress = progress
        self.stop_requested = stop_requested
        self._prepared: dict[TaskConfig, Prepared] = {}
        self._planned: dict[str, tuple[RunConfig, int]] = {}

    def prepared(self, task: TaskConfig) -> Prepared:
        """The task's shards, opened once."""
        if task not in self._prepared:
            self._prepared[task] = open_prepared(task, self.data_dir)
        return self._prepared[task]

    def run_id(self, config: RunConfig) -> str:
        """The run's id over the shards as they lie in the data folder."""
        return run_id(config, self._digests(config))

    def plan(self, run: str, config: RunConfig, runs: int = 1) -> None:
        """Makes a run known to its branches before it is in the store, with the size of the group it trains in."""
        self._planned[run] = config, runs

    def check_budget(self, config: RunConfig, stop: int) -> None:
        """Raises a UserError if the run up to `stop` asks for more data than there is, or for other data."""
        check_budget(self.timeline(config), stop, self._streams(config), config.data.max_epochs)

    def checkpoints(self, run: str) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.store.run_dir(run) / "checkpoints")

    def timeline(self, config: RunConfig) -> Timeline:
        """What is read at which step, the parents' data included."""
        if config.parent is None:
            return Timeline.start(config.data)
        return self.timeline(self._parent(config)).branch(config.parent.step, config.data)

    def resolved(self, config: RunConfig, runs: int = 1) -> mesh.Execution:
        """How this run is computed here, in a group of so many."""
        return _resolved(self.execution, config.model, config.data, runs)

    def for_evaluation(self, config: RunConfig, sequence_length: int) -> mesh.Execution:
        """How held-out rows of this length go through a run's model, on the devices that train it alone."""
        devices = self.resolved(config).devices
        rows = ROWS_AT_ONCE * devices
        data = dataclasses.replace(config.data, sequence_length=sequence_length, batch_size=rows)
        return _resolved(dataclasses.replace(self.execution, devices=devices, microbatches=1), config.model, data)

    def ensure(self, goals: Sequence[Goal], runs: int | None = None) -> None:
        """Trains what is missing of runs that share a program; the caller holds their locks.

        A non-finite loss ends a run and no other: its result says "failed", with the step and where the data stood.

        Args:
            goals: what each run is to be brought to, no run twice.
            runs: how many runs their planned group has, if these are not all; how they are computed depends on it.

        Raises:
            UserError: more data asked than there is, or data that a run was not begun with.
            InterruptedRunError: stopped on request; the states are saved.
        """
        runs = runs or len(goals)
        jobs = [job for goal in goals if (job := self._job(goal)) is not None]
        for job in jobs:
            self._save_first_state(job, runs)
        legs = [job.legs() for job in jobs]
        for together in itertools.zip_longest(*legs):
            work = [(job, leg) for job, leg in zip(jobs, together, strict=True) if leg is not None and not job.failed]
            if work:
                self._train(work, self.resolved(work[0][0].config, runs))
        for job, own in zip(jobs, legs, strict=True):
            last = job.targets[-1]
            trained = job.failed or any(last in leg.save_at for leg in own)
            if not trained:  # a kill between the last checkpoint and the result
                job.segments = self._start(job, last, self.resolved(job.config, runs)).execution
                job.complete()

    def _job(self, goal: Goal) -> Job | None:
        """The run about to be trained, its folder in order; None if nothing is missing."""
        config, run = goal.config, self.run_id(goal.config)
        checkpoints, previous = self.checkpoints(run), self.store.result(run)
        missing = targets(checkpoints, previous, goal)
        if not missing:
            return None
        timeline, streams = self.timeline(config), self._streams(config)
        check_budget(timeline, missing[-1], streams, config.data.max_epochs)
        self.store.write_config(run, {"run": run, "config": to_json(config), "digests": self._digests(config)})
        checkpoints.clean()
        progress = functools.partial(self.progress, run)
        return Job(config, run, missing, previous, timeline, streams, self.store, checkpoints, progress)

    def _save_first_state(self, job: Job, runs: int) -> None:
        """Saves the state that a branch begins with, if it is wanted: of a branch without training it is the end."""
        step = job.config.parent.step if job.config.parent else None
        if step in job.targets and not job.checkpoints.is_intact(step):
            stored = self._start(job, step, self.resolved(job.config, runs))
            job.segments = stored.execution
            job.save(step, stored.state, keep=True)

    def _train(self, work: Sequence[tuple[Job, Leg]], execution: mesh.Execution) -> None:
        states, members = {}, {}
        where = places([leg.steps for _, leg in work], execution.run_devices, execution.lanes)
        for place, (job, leg) in zip(where, work, strict=True):
            stored = self._start(job, leg.start, execution)
            job.segments, states[place] = stored.execution, jax.device_get(stored.state)
            members[place] = job.member(leg, execution.steps_per_dispatch)
        train(
            group_state(states, execution),
            members,
            dispatch=dispatch_for(work[0][0].config, execution),
            execution=execution,
            save_every_seconds=SAVE_EVERY_SECONDS,
            stop_requested=self.stop_requested,
        )

    def state_at(self, config: RunConfig, run: str, step: int) -> StoredState:
        """The state of a run after `step` updates, from its checkpoint.

        Raises:
            UserError: there is no intact checkpoint at that step.
        """
        checkpoints = self.checkpoints(run)
        if not checkpoints.is_intact(step):
            raise UserError(
                f"run {run} has no intact checkpoint at step {step} (it has {checkpoints.steps()}): run its study "
                f"again, which replays to it"
            )
        return self._restore(config, checkpoints, step)

    def fail(self, config: RunConfig, step: int, reason: str) -> None:
        """Marks a run that came to a step, or beyond it, as failed there all the same."""
        result = self.store.result(self.run_id(config))
        assert result is not None
        if step < result.step:
            read = what_was_read(self.timeline(config), self._streams(config), step)
            result = dataclasses.replace(result, step=step, train_loss=None, **read)
        self.store.write_result(dataclasses.replace(result, state="failed", reason=reason))

    def _digests(self, config: RunConfig) -> dict[str, str]:
        tasks = [component.task for component in config.data.mixture]
        return {task.name: self.prepared(task).train.digest for task in tasks}

    def _parent(self, config: RunConfig) -> RunConfig:
        assert config.parent is not None
        run = config.parent.run
        if run in self._planned:
            return self._planned[run][0]
        found = self.store.config(run)
        if found is None:
            raise UserError(
                f"run {run}, which a branch at step {config.parent.step} leaves, is not in {self.store.root}: run the "
                f"study that trains it"
            )
        path = self.store.run_dir(run) / "config.json"
        try:
            parent = from_json(RunConfig, found["config"])
            if run_id(parent, found["digests"]) != run:
                raise storage.damaged(path, f"it is not the config of {run}")
        except (KeyError, UserError) as error:
            raise storage.damaged(path, error) from error
        return parent

    def _streams(self, config: RunConfig) -> dict[str, TokenStream]:
        """The streams of every source that the run or its parents read."""
        before = self._streams(self._parent(config)) if config.parent is not None else {}
        return before | open_streams(config.data, self.data_dir, config.seed, config.model.vocab_size)

    def _start(self, job: Job, step: int, execution: mesh.Execution) -> StoredState:
        """The state to go on from: from the run's checkpoint, from its parent's, or from initialisation.

        If it was computed in another way than this process would have done it, that is a warning.
        """
        config, here = job.config, execution
        if job.checkpoints.is_intact(step):
            state, segments = self._restore(config, job.checkpoints, step)
        elif config.parent is None:
            state, segments = first_state(config, self.resolved(config)), []
        else:
            parent, trunk = self._parent(config), config.parent.run
            state, segments = self.state_at(parent, trunk, step)
            state = BRANCHES[config.branch].start(config, state)
            _, runs = self._planned.get(trunk, (parent, 1))
            here = self.resolved(parent, runs)
        if segments:
            _warn_of_another_execution(job.run, step, segments[-1]["fingerprint"], here.fingerprint())
        now = execution.fingerprint()
        if not segments or segments[-1]["fingerprint"] != now:
            segments = [*segments, {"from_step": step, "fingerprint": now}]
        return StoredState(state, segments)

    def _restore(self, config: RunConfig, checkpoints: Checkpoints, step: int) -> StoredState:
        execution = self.resolved(config)
        sharding = mesh.replicated(execution.mesh)
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            jax.eval_shape(lambda: first_state(config, execution)),
        )
        state, position, provenance = checkpoints.restore(step, like)
        self.timeline(config).check_position(position)
        return StoredState(TrainState(*state), provenance["execution"])
