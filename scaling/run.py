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
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import transformer
from models.config import ModelConfig
from scaling import mesh
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
from scaling.train import Batch, Dispatch, LogRow, LossFn, NonFiniteLossError, TrainState, compile_dispatch, train

# How much work a crash may cost; writing a checkpoint takes less than a hundredth of it.
SAVE_EVERY_SECONDS = 30.0


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

    def build() -> TrainState:
        params = transformer.init(config.model, config.seed)
        return TrainState(params, init_optimizer(config.optimizer, config.model, params), jnp.int32(0))

    state: TrainState = jax.jit(build, out_shardings=mesh.replicated(execution.mesh))()
    return state


@dataclasses.dataclass(frozen=True)
class _Job:
    """One run about to be trained: what it is, what it reads, how it is computed, where it is logged."""

    config: RunConfig
    run: str
    execution: mesh.Execution
    timeline: Timeline
    streams: dict[str, TokenStream]
    log: StepLog

    def hyper(self, step: int, count: int) -> Hyper:
        """Hyper-parameters of `count` steps, [count] each."""
        wanted = self.config.optimizer
        constants = (np.full(count, value, np.float32) for value in (wanted.weight_decay, wanted.clip_norm))
        return Hyper(learning_rates(self.config.schedule, step, step + count), *constants)


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
        tasks = [component.task for component in config.data.mixture]
        return run_id(config, {task.name: self.prepared(task).train.digest for task in tasks})

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

    def missing(self, run: str, stop: int, save_at: Iterable[int] = ()) -> list[int]:
        """Steps still to be reached, ascending: `stop`, and those of `save_at` without an intact checkpoint."""
        result, checkpoints = self.store.result(run), self.checkpoints(run)
        steps = {step for step in save_at if checkpoints.newest(step) != step}
        if result is None or result.step < stop:
            steps.add(stop)
        return sorted(steps)

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
        run, started = self.run_id(config), time.monotonic()
        targets, previous = self.missing(run, stop, save_at), self.store.result(run)
        if not targets or (previous is not None and previous.state == "failed"):
            return  # the same mathematics would fail again
        timeline, streams, checkpoints = self.timeline(config), self._streams(config), self.checkpoints(run)
        check_budget(timeline, targets[-1], streams, config.data.max_epochs)
        self.store.write_config(run, {"run": run, "config": to_json(config)})
        checkpoints.clean()
        log = StepLog(self.store.log_path(run), max(checkpoints.steps(), default=-1), self.progress)
        job = _Job(config, run, self.resolved(config), timeline, streams, log)
        try:
            state, step = None, -1
            for target in targets:
                nearest = self._nearest(config, run, target)
                if state is None or step != nearest:
                    state, step = self._load(config, run, nearest), nearest
                    self._note_execution(job, step)
                state, step = self._train(job, state, step, target), target
        except NonFiniteLossError as error:
            reason = (
                f"non-finite loss {error.loss} at step {error.step}, where the data stood at "
                f"{timeline.consumed(error.step)}: lower the learning rate (peak {config.schedule.peak:g}) or look "
                f"at that text; then remove {self.store.run_dir(run)}"
            )
            self._finish(job, error.step, "failed", reason, started)
            return
        self._finish(job, max(stop, previous.step if previous else 0), "complete", None, started)

    def state_at(self, config: RunConfig, run: str, step: int) -> TrainState:
        """The state of a run after `step` updates, from its checkpoint.

        Raises:
            UserError: there is no intact checkpoint at that step.
        """
        if self.checkpoints(run).newest(step) != step:
            raise UserError(
                f"run {run} has no intact checkpoint at step {step} (it has {self.checkpoints(run).steps()}): run "
                f"its study again, which replays to it"
            )
        return self._load(config, run, step)

    def _parent(self, config: RunConfig) -> RunConfig:
        assert config.parent is not None
        if config.parent.run in self._planned:
            return self._planned[config.parent.run]
        found = self.store.config(config.parent.run)
        if found is None:
            raise UserError(
                f"run {config.parent.run}, which a branch at step {config.parent.step} leaves, is not in "
                f"{self.store.root}: run the study that trains it"
            )
        return from_json(RunConfig, found["config"])

    def _streams(self, config: RunConfig) -> dict[str, TokenStream]:
        """The streams of every source that the run or its parents read."""
        before = self._streams(self._parent(config)) if config.parent is not None else {}
        return before | open_streams(config.data, self.data_dir, config.seed, config.model.vocab_size)

    def _nearest(self, config: RunConfig, run: str, target: int) -> int:
        """The nearest step at or before `target` that training can go on from."""
        own = self.checkpoints(run).newest(target)
        return own if own is not None else (config.parent.step if config.parent else 0)

    def _load(self, config: RunConfig, run: str, step: int) -> TrainState:
        """The state after `step` updates: from the run's checkpoint, its parent's, or from initialisation."""
        own, execution = self.checkpoints(run), self.resolved(config)
        if own.newest(step) == step:
            sharding = mesh.replicated(execution.mesh)
            like = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                jax.eval_shape(lambda: first_state(config, execution)),
            )
            state, position = own.restore(step, like)
            self.timeline(config).check_position(position)
            return TrainState(*state)
        if config.parent is None:
            return first_state(config, execution)
        parent = self._parent(config)
        state = self.state_at(parent, config.parent.run, config.parent.step)
        state = jax.device_put(state, mesh.replicated(execution.mesh))  # its batch may lie on other devices
        return BRANCHES[config.branch].start(config, state)

    def _train(self, job: _Job, state: TrainState, start: int, target: int) -> TrainState:
        checkpoints, loader = self.checkpoints(job.run), Loader(job.streams, job.timeline)
        passing: list[int] = []  # saved for a crash only

        def save(step: int, state: TrainState) -> None:
            checkpoints.save(step, state, job.timeline.position(step), {"run": job.run, **provenance()})
            while passing:
                checkpoints.remove(passing.pop())
            if step != target:
                passing.append(step)

        def stacks(first: int, last: int) -> Any:
            for stack in loader.iterate(first, last, job.execution.steps_per_dispatch):
                yield stack.valid, stack.batch

        return train(
            state,
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

    def _note_execution(self, job: _Job, step: int) -> None:
        """Records how the run is computed from this step on; another fingerprint than before is a warning."""
        segments = [segment for segment in self.store.execution(job.run) if segment["from_step"] < step]
        fingerprint = job.execution.fingerprint()
        if segments and segments[-1]["fingerprint"] == fingerprint:
            return
        if segments:
            before = segments[-1]["fingerprint"]
            changes = {name: value for name, value in fingerprint.items() if before.get(name) != value}
            changed = "; ".join(f"{name} {before.get(name)} -> {value}" for name, value in changes.items())
            warnings.warn(
                f"run {job.run} goes on from step {step} under another execution ({changed}): its last digits may "
                f"differ from an undisturbed run's",
                stacklevel=2,
            )
        self.store.write_execution(job.run, [*segments, {"from_step": step, "fingerprint": fingerprint}])

    def _finish(self, job: _Job, step: int, state: State, reason: str | None, started: float) -> None:
        sizes = {name: stream.shards.tokens for name, stream in job.streams.items()}
        self.store.write_result(
            ResultRow(
                run=job.run,
                state=state,
                step=step,
                tokens=job.timeline.tokens(step),
                unique_tokens=job.timeline.unique_tokens(step, sizes),
                train_loss=job.log.mean_loss,
                reason=reason,
                execution=self.store.execution(job.run),
                provenance=provenance(),
                measured={"seconds": time.monotonic() - started},
            )
        )
