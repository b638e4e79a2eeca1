"""Executing a study: whatever is missing of its plan, in order, beside other processes that do the same."""

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scaling import long_context, mesh, storage
from scaling.config import to_json
from scaling.data.heldout import heldout_rows
from scaling.data.shards import Prepared
from scaling.errors import UserError
from scaling.evaluate import evaluate
from scaling.groups import Group, groups
from scaling.jobs import Goal
from scaling.objectives import next_token
from scaling.optimizers import Hyper, hyper
from scaling.records import RunStore, cannot_leave
from scaling.run import Runner, loss_fn, target_fn
from scaling.study import (
    Planned,
    Study,
    evaluation_digest,
    flops_with_and_without_branching,
    plan_study,
)
from scaling.train import InterruptedRunError, Params

_POLL_SECONDS = 1.0


class Executor:
    """A study, its plan over the prepared data, and the runner that trains it.

    Args:
        study: what to execute.
        runner: trains its runs, group by group.
        announce: told in words what is being done.
    """

    def __init__(self, study: Study, runner: Runner, announce: Callable[[str], None]) -> None:
        self.study = study
        self.runner = runner
        self.announce = announce
        self.store: RunStore = runner.store
        prepared = {task.name: runner.prepared(task) for task in study.tasks()}
        _check_one_vocabulary(study.name, prepared)
        self._prepared = prepared
        self.entries = plan_study(study, {name: p.train.digest for name, p in prepared.items()})
        self.groups = groups(self.entries, functools.partial(mesh.room, runner.execution))
        for group in self.groups:
            for entry in group.entries:
                runner.plan(entry.run, entry.config, group.runs)
        for entry in self.entries:
            runner.check_budget(entry.config, entry.stop)
        self.evaluation_digest = evaluation_digest(
            study.evaluation, {name: p.heldout.digest for name, p in prepared.items()}
        )

    def write_plan(self) -> None:
        """Writes plan.json, from which reports are made without training code."""
        spent, cosine = flops_with_and_without_branching(self.entries)
        plan = {
            "study": self.study.name,
            "question": self.study.question,
            "evaluation_digest": self.evaluation_digest,
            "domains": [task.source.domain for task in self.study.evaluation.tasks],
            "bytes_per_token": self.bytes_per_token(),
            "law": to_json(self.study.law) if self.study.law else None,
            "flops_spent": spent,
            "flops_cosine": cosine,
            "entries": [entry.entry() for entry in self.entries],
            "groups": [[entry.label for entry in group.entries] for group in self.groups],
        }
        storage.write_json(self.store.study_dir(self.study.name) / "plan.json", plan)

    def bytes_per_token(self) -> float:
        """Bytes that a token of training text stands for, over all that the study's points were trained on."""
        size = tokens = 0.0
        for entry in self.entries:
            if entry.is_point:
                for name, count in self.runner.timeline(entry.config).consumed(entry.stop).items():
                    size += count * self._prepared[name].train.bytes_per_token
                    tokens += count
        return size / tokens if tokens else 1.0

    def run(self) -> None:
        """Trains and evaluates what is missing; returns when nothing is, whoever did it.

        What another process holds is left to it and looked at again later.

        Raises:
            InterruptedRunError: stopped on request.
        """
        self.write_plan()
        while held := [group for group in self.groups if not self._advance(group)]:
            if self.runner.stop_requested():
                raise InterruptedRunError("stopped")
            self.announce(f"waiting for {held[0].label}, which another process is training")
            time.sleep(_POLL_SECONDS)

    def is_finished(self) -> bool:
        """Whether nothing is left to train or evaluate."""
        return all(self._is_finished(entry) for entry in self.entries)

    def _is_finished(self, entry: Planned) -> bool:
        result = self.store.result(entry.run)
        if result is None:
            return self._is_lost(entry)
        return result.failed_by(entry.stop) or (result.reached(entry.stop) and self._is_evaluated(entry))

    def _is_lost(self, entry: Planned) -> bool:
        """Whether a run that it would leave, or one further up, failed before the branch point."""
        if entry.parent is None or self.store.result(entry.run) is not None:
            return False
        lost = cannot_leave(self.store, entry.trunk, entry.start) is not None
        return lost or self._is_lost(entry.parent)

    def _is_evaluated(self, entry: Planned) -> bool:
        if not entry.is_point:
            return True
        done = {
            row["domain"]
            for row in self.store.evaluations(entry.run)
            if row["step"] == entry.stop and row["digest"] == self.evaluation_digest
        }
        key = entry.stop, self.evaluation_digest
        measured = {x["measure"] for x in self.store.measurements(entry.run) if (x["step"], x["digest"]) == key}
        wanted = self.study.evaluation
        return {task.source.domain for task in wanted.tasks} <= done and wanted.measures <= measured

    def _advance(self, group: Group) -> bool:
        """Brings a group's runs to their ends. Returns False if some have to wait for another process."""
        open_entries = [entry for entry in group.entries if not self._is_finished(entry)]
        ready = self._reach_branch_points(open_entries)
        missing = [entry for entry in open_entries if entry.run in ready and not self._is_finished(entry)]
        steps = {entry.run: {e.stop for e in missing if e.run == entry.run and e.is_point} for entry in missing}
        for branch in self.entries:  # trunks are to be left where their branches wait for it
            if branch.config.parent and branch.trunk in steps and not self._is_finished(branch):
                steps[branch.trunk].add(branch.start)
        return self._train(group, steps) and len(ready) == len({entry.run for entry in open_entries})

    def _reach_branch_points(self, entries: Sequence[Planned]) -> set[str]:
        """The runs that there is something to begin from, once their trunks have replayed to it where need be.

        The others' trunks are held by another process.
        """
        lost: dict[str, set[int]] = {}
        for entry in entries:
            parent, own = entry.config.parent, self.runner.checkpoints(entry.run)
            if parent is None or any(own.is_intact(step) for step in own.steps()):
                continue
            if not self.runner.checkpoints(parent.run).is_intact(parent.step):
                lost.setdefault(parent.run, set()).add(parent.step)
        held = set[str]()
        for group in self.groups:
            steps = {entry.run: lost[entry.run] for entry in group.entries if entry.run in lost}
            if steps and not self._train(group, steps):
                held |= steps.keys()
        return {entry.run for entry in entries if not (entry.config.parent and entry.config.parent.run in held)}

    def _train(self, group: Group, steps: Mapping[str, Iterable[int]]) -> bool:
        """Trains runs of a group to their ends, with checkpoints at these steps, and evaluates those that are points.

        Returns False if another process holds one of them, which is left out: its place in the program stays, so the
        others come out the same.
        """
        with contextlib.ExitStack() as stack:
            locks = {run: stack.enter_context(storage.try_lock(self.store.run_dir(run) / "lock")) for run in steps}
            mine = [run for run, locked in locks.items() if locked]
            if not mine:
                return not steps
            ends = {run: [entry for entry in group.entries if entry.run == run] for run in mine}
            self.announce(group.label)
            goals = [Goal(of[0].config, max(e.stop for e in of), sorted(steps[run])) for run, of in ends.items()]
            self.runner.ensure(goals, group.runs)
            for entry in itertools.chain.from_iterable(ends.values()):
                if entry.is_point and not self._is_finished(entry):
                    self._evaluate(entry)
        return len(mine) == len(steps)

    def _evaluate(self, entry: Planned) -> None:
        params = self.runner.state_at(entry.config, entry.run, entry.stop).state.params
        config, wanted = entry.config, self.study.evaluation
        execution = self.runner.for_evaluation(config, wanted.sequence_length)
        loss = loss_fn(config.model.compiled(), next_token, execution)
        scalars = hyper(config.optimizer, config.model, learning_rate=0.0)
        rows: list[dict[str, Any]] = []
        for task in wanted.tasks:
            heldout = self.runner.prepared(task).heldout
            found = evaluate(params, heldout, wanted.tokens, wanted.sequence_length, loss, scalars, execution)
            if not math.isfinite(found["nats_per_token"]):  # the last update, after which no loss was taken
                reason = f"the loss on {task.name} after step {entry.stop} is not finite"
                self.runner.fail(entry.config, entry.stop, reason)
                return
            key = {"step": entry.stop, "digest": self.evaluation_digest, "domain": task.source.domain}
            rows.append(key | found)
        self._measure(entry, params, scalars, execution)
        self.store.add_evaluations(entry.run, rows)

    def _measure(self, entry: Planned, params: Params, scalars: Hyper, execution: mesh.Execution) -> None:
        """What the study wants to know of a checkpoint beside its mean loss."""
        wanted, key = self.study.evaluation, (entry.stop, self.evaluation_digest)
        scores = long_context.scorer(params, target_fn(entry.config.model.compiled(), execution), scalars, execution)
        if wanted.position_bins:
            rows = [
                {"domain": task.source.domain} | row
                for task in wanted.tasks
                for row in long_context.loss_by_position(
                    heldout_rows(self.runner.prepared(task).heldout, wanted.tokens, wanted.sequence_length),
                    wanted.position_bins,
                    scores,
                )
            ]
            self.store.add_measurements(entry.run, *key, "loss_by_position", rows)
        if wanted.retrieval:
            found = long_context.retrieval(wanted.retrieval, self.runner.prepared(wanted.tasks[0]).heldout, scores)
            self.store.add_measurements(entry.run, *key, "retrieval", found)


def _check_one_vocabulary(study: str, prepared: Mapping[str, Prepared]) -> None:
    """Everything that a model of the study reads, in training or evaluation, must mean the same by a token id."""
    (first, reference), *others = prepared.items()
    for name, other in others:
        if other.manifest.vocabulary_digest != reference.manifest.vocabulary_digest:
            raise UserError(
                f"study {study!r}: tasks {first!r} and {name!r} have different vocabularies: a model that reads one "
                f"cannot be evaluated on, or branch to, the other; use bytes for both, or one model_file"
            )
