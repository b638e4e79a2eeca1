"""One run, end to end: the only place that puts model, data, optimiser and objective together.

`Runner.ensure` brings a run to a step and leaves checkpoints where branches want to leave it. It continues from
whatever intact checkpoint lies nearest, so it is at once the first start, the resume after a kill, the
extension of a trunk and the replay to a new branch point.
"""

import functools
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

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
from scaling.records import ResultRow, RunStore
from scaling.schedules import learning_rates
from scaling.train import (
    Dispatch,
    LogRow,
    LossFn,
    NonFiniteLossError,
    TrainState,
    compile_dispatch,
    train,
)

_SAVE_EVERY_SECONDS = 30.0
_LOSS_MEAN_OVER = 50


def loss_fn(model: ModelConfig, objective: Objective, execution: mesh.Execution) -> LossFn:
    """The objective of this model on rows of tokens and segments [B, T+1]."""

    def loss(params: Any, rows: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tokens, segments = rows["tokens"], rows["segments"]
        logits_BTV = transformer.apply(
            model, params, tokens[:, :-1], segments[:, :-1], unroll=execution.unroll, remat=execution.remat
        )
        return objective(logits_BTV, tokens, segments)

    return loss


@functools.lru_cache
def _dispatch(
    model: ModelConfig, config: OptimizerConfig, objective: Objective, execution: mesh.Execution
) -> Dispatch:
    return compile_dispatch(
        loss_fn(model, objective, execution), lambda hyper: optimizer(config, model, hyper), execution
    )


def dispatch_for(config: RunConfig, execution: mesh.Execution) -> Dispatch:
    """The compiled program for a run: one for all runs of its size, whatever their rates and schedules."""
    objective = BRANCHES[config.branch].objective if config.branch else next_token
    # what enters the step as arrays is not part of the program
    static = OptimizerConfig(kind=config.optimizer.kind, b1=config.optimizer.b1, b2=config.optimizer.b2,
                             eps=config.optimizer.eps)
    return _dispatch(config.model, static, objective, execution)


def first_state(config: RunConfig, execution: mesh.Execution) -> TrainState:
    """The state before the first update, replicated on the mesh."""

    def build() -> TrainState:
        params = transformer.init(config.model, config.seed)
        return TrainState(params, init_optimizer(config.optimizer, config.model, params), jnp.int32(0))

    return jax.jit(build, out_shardings=mesh.replicated(execution.mesh))()


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

    def prepared(self, task: TaskConfig) -> Prepared:
        """The task's shards, opened once."""
        if task not in self._prepared:
            self._prepared[task] = open_prepared(task, self.data_dir)
        return self._prepared[task]

    def run_id(self, config: RunConfig) -> str:
        """The run's id over the shards as they lie in the data folder."""
        tasks = [component.task for component in config.data.mixture]
        return run_id(config, {task.name: self.prepared(task).train.digest for task in tasks})

    def timeline(self, config: RunConfig) -> Timeline:
        """What is read at which step, the parents' data included."""
        if config.parent is None:
            return Timeline.start(config.data)
        return self.timeline(self._parent(config)).branch(config.parent.step, config.data)

    def _parent(self, config: RunConfig) -> RunConfig:
        assert config.parent is not None
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

    def checkpoints(self, run: str) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.store.run_dir(run) / "checkpoints")

    def is_done(self, run: str, stop: int, save_at: Iterable[int] = ()) -> bool:
        """Whether the run has come to `stop` and has intact checkpoints where they are asked for."""
        return not self._targets(run, stop, save_at)

    def _targets(self, run: str, stop: int, save_at: Iterable[int]) -> list[int]:
        """Steps still to be reached, ascending."""
        result = self.store.result(run)
        checkpoints = self.checkpoints(run)
        targets = {step for step in save_at if checkpoints.newest(step) != step}
        if result is None or result.step < stop:
            targets.add(stop)
        return sorted(targets)

    def ensure(self, config: RunConfig, stop: int, save_at: Iterable[int] = ()) -> None:
        """Trains what is missing of a run; the caller holds its lock.

        Args:
            config: the run.
            stop: step it must reach.
            save_at: steps that must have a checkpoint for branches to leave from.

        Raises:
            UserError: the run failed before (a non-finite loss), or asks for more data than there is.
            InterruptedRunError: stopped on request.
        """
        run = self.run_id(config)
        targets = self._targets(run, stop, save_at)
        if not targets:
            return
        previous = self.store.result(run)
        if previous is not None and previous.state == "failed" and previous.step < targets[-1]:
            return  # its row says why; the same mathematics would fail again
        timeline, streams = self.timeline(config), self._streams(config)
        check_budget(timeline, targets[-1], streams, config.data.max_epochs)
        execution = mesh.resolve(self.execution, config.data, config.model.num_layers)
        self.store.write_config(run, {"run": run, "config": to_json(config)})
        started = time.monotonic()
        self.checkpoints(run).clean()
        log = _Log(self.store, run, self.checkpoints(run), self.progress)
        try:
            state, step = None, -1
            for target in targets:
                nearest = self._nearest(config, run, target)
                if step != nearest:
                    state, step = self._load(config, run, nearest, execution, timeline), nearest
                    self._note_execution(run, step, execution)
                state = self._train(
                    config, run, state, step, target, execution, Loader(streams, timeline), log
                )
                step = target
        except NonFiniteLossError as error:
            reason = (
                f"non-finite loss {error.loss} at step {error.step}; the batch stood at {timeline.position(error.step)['consumed']}: "
                f"lower the learning rate (peak {config.schedule.peak}) or look at that text"
            )
            self._finish(run, error.step, timeline, streams, "failed", reason, log, started)
            return
        self._finish(run, max(stop, previous.step if previous else 0), timeline, streams, "complete", None, log,
                     started)

    def _nearest(self, config: RunConfig, run: str, target: int) -> int:
        """The nearest step at or before `target` that training can go on from."""
        own = self.checkpoints(run).newest(target)
        return own if own is not None else (config.parent.step if config.parent else 0)

    def state_at(self, config: RunConfig, run: str, step: int) -> TrainState:
        """The state of a run after `step` updates, from its checkpoint."""
        execution = mesh.resolve(self.execution, config.data, config.model.num_layers)
        return self._load(config, run, step, execution, self.timeline(config))

    def _load(
        self, config: RunConfig, run: str, step: int, execution: mesh.Execution, timeline: Timeline
    ) -> TrainState:
        own = self.checkpoints(run)
        if own.newest(step) == step:
            like = jax.eval_shape(lambda: first_state(config, execution))
            sharding = mesh.replicated(execution.mesh)
            like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like)
            state, position = own.restore(step, like)
            timeline.check_position(position)
            return state
        if config.parent is None:
            return first_state(config, execution)
        parent_state = self.state_at(self._parent(config), config.parent.run, config.parent.step)
        return BRANCHES[config.branch].start(config, parent_state)

    def _train(
        self,
        config: RunConfig,
        run: str,
        state: TrainState,
        start: int,
        target: int,
        execution: mesh.Execution,
        loader: Loader,
        log: "_Log",
    ) -> TrainState:
        checkpoints, tokens_at = self.checkpoints(run), loader.timeline.tokens
        transient: list[int] = []

        def hyper(step: int, count: int) -> Hyper:
            constants = [
                np.full(count, value, np.float32)
                for value in (config.optimizer.weight_decay, config.optimizer.clip_norm)
            ]
            return Hyper(learning_rates(config.schedule, step, step + count), *constants)

        def save(step: int, state: TrainState) -> None:
            checkpoints.save(step, state, loader.timeline.position(step), {"run": run, **provenance()})
            if transient:  # the newer one serves a crash as well
                checkpoints.remove(transient.pop())
            if step != target:
                transient.append(step)

        return train(
            state,
            start,
            target,
            dispatch=dispatch_for(config, execution),
            stacks=lambda first, last: (
                (stack.valid, stack.batch) for stack in loader.iterate(first, last, execution.steps_per_dispatch)
            ),
            hyper=hyper,
            tokens_at=tokens_at,
            record=log.record,
            save=save,
            save_every_seconds=_SAVE_EVERY_SECONDS,
            stop_requested=self.stop_requested,
        )

    def _note_execution(self, run: str, step: int, execution: mesh.Execution) -> None:
        """Records how the run is computed from this step on; another fingerprint than before is a warning."""
        segments = [s for s in self.store.execution(run) if s["from_step"] < step or step == s["from_step"] == 0]
        fingerprint = execution.fingerprint()
        if segments and segments[-1]["fingerprint"] == fingerprint:
            return
        if segments:
            before = segments[-1]["fingerprint"]
            changed = [f"{k} {before.get(k)} -> {fingerprint[k]}" for k in fingerprint if before.get(k) != fingerprint[k]]
            warnings.warn(
                f"run {run} goes on from step {step} under another execution ({'; '.join(changed)}): last digits "
                f"may differ from an undisturbed run's",
                stacklevel=2,
            )
        self.store.write_execution(run, [*segments, {"from_step": step, "fingerprint": fingerprint}])

    def _finish(
        self,
        run: str,
        step: int,
        timeline: Timeline,
        streams: dict[str, TokenStream],
        state: Any,
        reason: str | None,
        log: "_Log",
        started: float,
    ) -> None:
        losses = log.last_losses()
        seconds = time.monotonic() - started
        self.store.write_result(
            ResultRow(
                run=run,
                state=state,
                step=step,
                tokens=timeline.tokens(step),
                unique_tokens=timeline.unique_tokens(step, {name: s.shards.tokens for name, s in streams.items()}),
                train_loss=float(np.mean(losses)) if losses else None,
                reason=reason,
                execution=self.store.execution(run),
                provenance=provenance(),
                measured={"seconds": seconds, "tokens_per_second": log.tokens_per_second(seconds)},
            )
        )


class _Log:
    """A run's step log: cut back to the newest checkpoint at the start, then appended to without repeats."""

    def __init__(
        self, store: RunStore, run: str, checkpoints: Checkpoints, progress: Callable[[list[LogRow]], None]
    ) -> None:
        self.path = store.log_path(run)
        self.progress = progress
        reached = max(checkpoints.steps(), default=-1)
        storage.keep_lines(self.path, lambda row: row["step"] <= reached)
        rows = storage.read_lines(self.path)
        self.last = rows[-1]["step"] if rows else -1
        self._losses = [row["loss"] for row in rows[-_LOSS_MEAN_OVER:]]
        self._first_tokens: int | None = None
        self._last_tokens = 0

    def record(self, rows: list[LogRow]) -> None:
        new = [row for row in rows if row.step > self.last]
        storage.append_lines(
            self.path,
            [
                {
                    "step": row.step,
                    "tokens": row.tokens,
                    "learning_rate": row.learning_rate,
                    "loss": row.loss,
                    "grad_norm": row.grad_norm,
                    "measured": {"seconds": row.seconds},
                }
                for row in new
            ],
        )
        if new:
            self.last = new[-1].step
            self._losses = [*self._losses, *(row.loss for row in new)][-_LOSS_MEAN_OVER:]
        if rows:
            self._first_tokens = rows[0].tokens if self._first_tokens is None else self._first_tokens
            self._last_tokens = rows[-1].tokens
        self.progress(rows)

    def last_losses(self) -> list[float]:
        return self._losses

    def tokens_per_second(self, seconds: float) -> float | None:
        return None if self._first_tokens is None else (self._last_tokens - self._first_tokens) / seconds
