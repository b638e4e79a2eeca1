"""One run, end to end: the only place that puts model, data, optimiser and objective together.

`Runner.ensure` brings a run to a step and leaves checkpoints where branches want to leave it. It continues from
whatever intact checkpoint lies nearest, so it is at once the first start, the resume after a kill, the extension of
a trunk and the replay to a new branch point.
"""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.config import ModelConfig
from scaling import mesh, storage
from scaling.branches import BRANCHES
from scaling.checkpoint import Checkpoints
from scaling.config import ExecutionConfig, OptimizerConfig, RunConfig, TaskConfig, from_json, to_json
from scaling.data.loader import Loader, TokenStream, check_budget, open_streams
from scaling.data.shards import Prepared, open_prepared
from scaling.data.timeline import Timeline
from scaling.errors import UserError
from scaling.identity import provenance, run_id
from scaling.objectives import Objective, next_token
from scaling.optimizers import Hyper, init_optimizer, optimizer
from scaling.records import ResultRow, RunStore, State
from scaling.schedules import learning_rates
from scaling.step_log import StepLog
from scaling.train import Batch, Dispatch, LogRow, LossFn, NonFiniteError, TrainState, compile_dispatch, train

# How much work a crash may cost; writing a checkpoint takes less than a hundredth of it.
SAVE_EVERY_SECONDS = 30.0


@functools.lru_cache  # one function, so that what is compiled from it is compiled once
def loss_fn(model: ModelConfig, objective: Objective, execution: mesh.Execution) -> LossFn:
    """The objective of this model on rows of tokens and segments [B, T+1]."""

    def loss(params: Any, rows: Batch) -> tuple[jax.Array, jax.Array]:
        tokens, segments = rows["tokens"], rows["segments"]
        logits_BTV = transformer.apply(
            model,
            params,
            tokens[:, :-1],
            segments[:, :-1],
            unroll=execution.unroll,
            remat=execution.remat,
            attention=execution.attention,
        )
        return objective(logits_BTV, tokens, segments)

    return loss


def dispatch_for(config: RunConfig, execution: mesh.Execution) -> Dispatch:
    """The compiled program of a run: one for all runs of its size, whatever their rates and schedules."""
    objective = BRANCHES[config.branch].objective if config.branch else next_token
    # weight decay and clip value enter the step as arrays, so they are no part of the program
    static = dataclasses.replace(config.optimizer, weight_decay=0.0, clip_norm=0.0)
    return _dispatch(config.model, static, objective, execution)


@functools.lru_cache
def _dispatch(model: ModelConfig, config: OptimizerConfig, objective: Objective, execution: mesh.Execution) -> Dispatch:
    return compile_dispatch(
        loss_fn(model, objective, execution), lambda hyper: optimizer(config, model, hyper), execution
    )


def first_state(config: RunConfig, execution: mesh.Execution) -> TrainState:
    """The state before the first update, whole on every device of the mesh."""
    state: TrainState = _initializer(config.model, config.optimizer, execution)(config.seed)
    return state


@functools.lru_cache
def _initializer(model: ModelConfig, config: OptimizerConfig, execution: mesh.Execution) -> Callable[[int], TrainState]:
    """The compiled program that makes a first state from a seed: one for all runs of a size."""

    def build(seed: jax.Array) -> TrainState:
        params = transformer.init(model, seed)
        return TrainState(params, init_optimizer(config, model, params), jnp.int32(0))

    return jax.jit(build, out_shardings=mesh.replicated(execution.mesh))


class StoredState(NamedTuple):
    """A state with how it was computed: segments of `from_step` and the fingerprint from there on."""

    state: TrainState
    execution: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Job:
    """One run about to be trained: what it is, what it reads, how it is computed, where it is kept and logged."""

    config: RunConfig
    run: str
    execution: mesh.Execution
    timeline: Timeline
    streams: dict[str, TokenStream]
    checkpoints: Checkpoints
    log: StepLog

    def hyper(self, step: int, count: int) -> Hyper:
        """Hyper-parameters of `count` steps, [count] each."""
        wanted = self.config.optimizer
        constants = (np.full(count, value, np.float32) for value in (wanted.weight_decay, wanted.clip_norm))
        return Hyper(learning_rates(self.config.schedule, step, step + count), *constants)


def _targets(checkpoints: Checkpoints, result: ResultRow | None, stop: int, save_at: Iterable[int]) -> list[int]:
    """Steps still to be reached, ascending: `stop`, and those of `save_at` without an intact checkpoint."""
    steps = {stop, *save_at} if result is None else {step for step in (stop, *save_at) if step > result.step}
    steps |= {step for step in save_at if not checkpoints.is_intact(step)}
    if result is not None and result.state == "failed":  # the same mathematics would fail again
        steps = {step for step in steps if step < result.step}
    return sorted(steps)


def _warn_of_another_execution(run: str, step: int, before: dict[str, Any], now: dict[str, Any]) -> None:
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
        progress: called with log rows as they are made.
        stop_requested: asked between dispatches; true saves and raises `InterruptedRunError`.
    """

    def __init__(
        self,
        store: RunStore,
        data_dir: Path,
        execution: ExecutionConfig,
        progress: Callable[[list[LogRow]], None] = lambda rows: None,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.data_dir = data_dir
        self.execution = execution
        self.progress = progress
        self.stop_requested = stop_requested
        self._prepared: dict[TaskConfig, Prepared] = {}
        self._planned: dict[str, RunConfig] = {}

    def prepared(self, task: TaskConfig) -> Prepared:
        """The task's shards, opened once."""
        if task not in self._prepared:
            self._prepared[task] = open_prepared(task, self.data_dir)
        return self._prepared[task]

    def run_id(self, config: RunConfig) -> str:
        """The run's id over the shards as they lie in the data folder."""
        return run_id(config, self._digests(config))

    def plan(self, run: str, config: RunConfig) -> None:
        """Makes a run known to its branches before it is in the store."""
        self._planned[run] = config

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

    def resolved(self, config: RunConfig) -> mesh.Execution:
        """How this run is computed here."""
        return mesh.resolve(self.execution, config.data, config.model.num_layers)

    def ensure(self, config: RunConfig, stop: int, save_at: Iterable[int] = ()) -> None:
        """Trains what is missing of a run; the caller holds its lock.

        A non-finite loss ends the run: its result says "failed", with the step and where the data stood.

        Args:
            config: the run.
            stop: step it must reach.
            save_at: steps that must have a checkpoint for branches to leave from.

        Raises:
            UserError: more data asked than there is, or data that the run was not begun with.
            InterruptedRunError: stopped on request; the state is saved.
        """
        run, started, checkpoints = self.run_id(config), time.monotonic(), self.checkpoints(self.run_id(config))
        previous = self.store.result(run)
        targets = _targets(checkpoints, previous, stop, save_at)
        if not targets:
            return
        timeline, streams = self.timeline(config), self._streams(config)
        check_budget(timeline, targets[-1], streams, config.data.max_epochs)
        self.store.write_config(run, {"run": run, "config": to_json(config), "digests": self._digests(config)})
        checkpoints.clean()
        # what a finished run logged stays, though a checkpoint be damaged; a replay does not log it again
        logged = max(checkpoints.newest() or 0, previous.step if previous else 0)
        log = StepLog(self.store.log_path(run), logged, self.progress)
        job = _Job(config, run, self.resolved(config), timeline, streams, checkpoints, log)
        at, step = None, -1
        try:
            for target in targets:
                nearest = self._nearest(job, target)
                if at is None or step != nearest:
                    at, step = self._start(job, nearest), nearest
                at, step = self._train(job, at, step, target), target
        except NonFiniteError as error:
            assert at is not None
            reason = (
                f"{error}, where the data stood at {timeline.consumed(error.step)}: lower the learning rate (peak "
                f"{config.schedule.peak:g}) or look at that text; then remove {self.store.run_dir(run)}"
            )
            self._finish(job, error.step, "failed", reason, at.execution, started)
            return
        if at is not None and (previous is None or step > previous.step):
            self._finish(job, step, "complete", None, at.execution, started)

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

    def fail(self, run: str, reason: str) -> None:
        """Marks a run that came to its end as failed all the same."""
        result = self.store.result(run)
        assert result is not None
        self.store.write_result(dataclasses.replace(result, state="failed", reason=reason))

    def _digests(self, config: RunConfig) -> dict[str, str]:
        tasks = [component.task for component in config.data.mixture]
        return {task.name: self.prepared(task).train.digest for task in tasks}

    def _parent(self, config: RunConfig) -> RunConfig:
        assert config.parent is not None
        run = config.parent.run
        if run in self._planned:
            return self._planned[run]
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

    def _nearest(self, job: _Job, target: int) -> int:
        """The nearest step at or before `target` that training can go on from."""
        own = job.checkpoints.newest(target)
        return own if own is not None else (job.config.parent.step if job.config.parent else 0)

    def _start(self, job: _Job, step: int) -> StoredState:
        """The state to go on from: from the run's checkpoint, from its parent's, or from initialisation.

        If it was computed in another way than this process would have done it, that is a warning.
        """
        config, parent = job.config, None
        if job.checkpoints.is_intact(step):
            state, segments = self._restore(config, job.checkpoints, step)
        elif config.parent is None:
            state, segments = first_state(config, job.execution), []
        else:
            parent = self._parent(config)
            state, segments = self.state_at(parent, config.parent.run, step)
            state = jax.device_put(state, mesh.replicated(job.execution.mesh))  # its batch may lie on other devices
            state = BRANCHES[config.branch].start(config, state)
        if segments:
            here = self.resolved(parent or config).fingerprint()
            _warn_of_another_execution(job.run, step, segments[-1]["fingerprint"], here)
        now = job.execution.fingerprint()
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

    def _train(self, job: _Job, at: StoredState, start: int, target: int) -> StoredState:
        if start == target:  # a kill between the last checkpoint and the result
            job.checkpoints.keep(target)
            return at
        loader = Loader(job.streams, job.timeline)
        origin = {"run": job.run, "execution": at.execution, **provenance()}

        def save(step: int, state: TrainState) -> None:
            job.checkpoints.save(step, state, job.timeline.position(step), origin, keep=step == target)

        def stacks(first: int, last: int) -> Any:
            for stack in loader.iterate(first, last, job.execution.steps_per_dispatch):
                yield stack.valid, stack.batch

        state = train(
            at.state,
            start,
            target,
            dispatch=dispatch_for(job.config, job.execution),
            stacks=stacks,
            hyper=job.hyper,
            tokens_at=job.timeline.tokens,
            record=job.log.record,
            save=save,
            save_every_seconds=SAVE_EVERY_SECONDS,
            stop_requested=self.stop_requested,
        )
        return StoredState(state, at.execution)

    def _finish(
        self, job: _Job, step: int, state: State, reason: str | None, execution: list[dict[str, Any]], started: float
    ) -> None:
        sizes = {name: stream.shards.tokens for name, stream in job.streams.items()}
        self.store.write_result(
            ResultRow(
                run=job.run,
                state=state,
                step=step,
                tokens=job.timeline.tokens(step),
                unique_tokens=job.timeline.unique_tokens(step, sizes),
                epochs=max(job.timeline.epochs(step, sizes).values()),
                train_loss=job.log.mean_loss,
                reason=reason,
                execution=execution,
                provenance=provenance(),
                measured={"seconds": time.monotonic() - started},
            )
        )
