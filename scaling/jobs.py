"""A run on its way to a goal: which steps are missing, what it reads, where it is kept and logged."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding, PartitionSpec

from scaling.checkpoint import Checkpoints
from scaling.config import RunConfig
from scaling.data.loader import Loader, TokenStream
from scaling.data.timeline import Timeline
from scaling.identity import provenance
from scaling.mesh import RUNS, Execution
from scaling.optimizers import Hyper, hyper
from scaling.records import ResultRow, RunStore, State
from scaling.schedules import learning_rates
from scaling.step_log import StepLog
from scaling.train import Batch, LogRow, Member, NonFinite, TrainState, side_by_side


class Goal(NamedTuple):
    """What a run is to be brought to.

    Attributes:
        config: the run.
        stop: step it must reach.
        save_at: steps that must have a checkpoint that stays, for branches to leave from.
    """

    config: RunConfig
    stop: int
    save_at: Sequence[int] = ()


class Leg(NamedTuple):
    """Training without a break, from a checkpoint or the beginning, over steps to be saved to the last of them."""

    start: int
    save_at: tuple[int, ...]

    @property
    def steps(self) -> int:
        """How many there are to do."""
        return self.save_at[-1] - self.start


class StoredState(NamedTuple):
    """A state with how it was computed: segments of `from_step` and the fingerprint from there on."""

    state: TrainState
    execution: list[dict[str, Any]]


def targets(checkpoints: Checkpoints, result: ResultRow | None, goal: Goal) -> list[int]:
    """Steps still to be reached, ascending: `stop`, and those of `save_at` without an intact checkpoint."""
    wanted = {goal.stop, *goal.save_at}
    steps = wanted if result is None else {step for step in wanted if step > result.step}
    steps = steps | {step for step in goal.save_at if not checkpoints.is_intact(step)}
    if result is not None and result.state == "failed":  # the same mathematics would fail again
        steps = {step for step in steps if step < result.step}
    return sorted(steps)


@dataclasses.dataclass
class Job:
    """One run being brought to its goal, under its lock.

    Attributes:
        targets: from `targets`, not empty.
        previous: the run's result so far.
        segments: how its state was computed so far, from the execution's first step on.
        failed: whether it met a value that is not finite.
    """

    config: RunConfig
    run: str
    targets: list[int]
    previous: ResultRow | None
    timeline: Timeline
    streams: dict[str, TokenStream]
    store: RunStore
    checkpoints: Checkpoints
    progress: Callable[[list[LogRow]], None]
    segments: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failed: bool = False

    def __post_init__(self) -> None:
        self._started = time.monotonic()
        # what a finished run logged stays, though a checkpoint be damaged; a replay does not log it again
        logged = max(self.checkpoints.newest() or 0, self.previous.step if self.previous else 0)
        self._log = StepLog(self.store.log_path(self.run), logged, self.progress)

    def legs(self) -> list[Leg]:
        """What has to be trained. A target that lies there already, after a kill before the result, is kept."""
        legs: list[Leg] = []
        for target in self.targets:
            nearest = self._nearest(target)
            if nearest == target:
                self.checkpoints.keep(target)
            elif legs and legs[-1].save_at[-1] >= nearest:
                legs[-1] = Leg(legs[-1].start, (*legs[-1].save_at, target))
            else:
                legs.append(Leg(nearest, (target,)))
        return legs

    def _nearest(self, target: int) -> int:
        """The nearest step at or before `target` that training can go on from."""
        own = self.checkpoints.newest(target)
        return own if own is not None else (self.config.parent.step if self.config.parent else 0)

    def member(self, leg: Leg, stack: int) -> Member:
        """The run as the training loop sees it, in stacks of so many steps."""

        def save(step: int, state: TrainState) -> None:
            self.save(step, state, keep=step in leg.save_at)
            if step == self.targets[-1]:
                self.complete()

        return Member(
            start=leg.start,
            save_at=leg.save_at,
            stacks=self._stacks(leg, stack),
            hyper=self._hyper,
            tokens_at=self.timeline.tokens,
            record=self._log.record,
            save=save,
            fail=self._fail,
        )

    def save(self, step: int, state: TrainState, keep: bool) -> None:
        """Writes a checkpoint; one to be kept stays until somebody removes it."""
        origin = {"run": self.run, "execution": self.segments, **provenance()}
        self.checkpoints.save(step, state, self.timeline.position(step), origin, keep=keep)

    def _stacks(self, leg: Leg, stack: int) -> Iterator[tuple[int, Batch]]:
        loader, first = Loader(self.streams, self.timeline), leg.start
        for last in leg.save_at:
            for found in loader.iterate(first, last, stack):
                yield found.valid, found.batch
            first = last

    def _hyper(self, step: int, count: int) -> Hyper:
        """Hyper-parameters of `count` steps, [count] each."""
        rates = learning_rates(self.config.schedule, step, step + count)
        return hyper(self.config.optimizer, self.config.model, rates)

    def complete(self) -> None:
        """Writes the result of a run that has come to its last target, unless that one says more already."""
        if self.previous is None or self.targets[-1] > self.previous.step:
            self._finish(self.targets[-1], "complete", None)

    def _fail(self, problem: NonFinite) -> None:
        self.failed = True
        reason = (
            f"{problem}, where the data stood at {self.timeline.consumed(problem.step)}: lower the learning rate (peak "
            f"{self.config.schedule.peak:g}) or look at that text; then remove {self.store.run_dir(self.run)}"
        )
        self._finish(problem.step, "failed", reason)

    def _finish(self, step: int, state: State, reason: str | None) -> None:
        self.store.write_result(
            ResultRow(
                run=self.run,
                state=state,
                step=step,
                train_loss=self._log.mean_loss,
                reason=reason,
                execution=self.segments,
                provenance=provenance(),
                measured={"seconds": time.monotonic() - self._started},
                **what_was_read(self.timeline, self.streams, step),
            )
        )


def what_was_read(timeline: Timeline, streams: Mapping[str, TokenStream], step: int) -> dict[str, Any]:
    """The fields of a result that tell the text of a run's first `step` steps, its parents' included."""
    sizes = {name: stream.shards.tokens for name, stream in streams.items()}
    return {
        "tokens": timeline.tokens(step),
        "unique_tokens": timeline.unique_tokens(step, sizes),
        "epochs": max(timeline.epochs(step, sizes).values()),
    }


def group_state(states: Mapping[int, TrainState], execution: Execution) -> TrainState:
    """States of single runs, by place, as that of a group on its devices: [R, ...]."""
    sharding = NamedSharding(execution.mesh, PartitionSpec(RUNS))
    state: TrainState = jax.device_put(side_by_side(states, execution.runs), sharding)
    return state


def group_of_one(
    rows: Batch, hyper: Hyper, count: int, execution: Execution
) -> tuple[dict[str, Any], Hyper, list[int]]:
    """What a dispatch is given of a run that is a group by itself, in the first of its places.

    Args:
        rows: [K, B, T+1].
        hyper: [K].
        count: steps of the K that are to be done.
        execution: how the group is computed.

    Returns:
        rows [R, K, B, T+1], hyper-parameters [R, K] and numbers of steps [R].
    """
    together: tuple[dict[str, Any], Hyper] = side_by_side({0: (rows, hyper)}, execution.runs)
    return (*together, [count] + [0] * (execution.runs - 1))
