"""Executing a study: whatever is missing of its plan, in order, beside other processes that do the same."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from scaling import storage
from scaling.config import to_json
from scaling.data.shards import Prepared
from scaling.errors import UserError
from scaling.evaluate import evaluate
from scaling.objectives import next_token
from scaling.records import RunStore, cannot_leave
from scaling.run import Runner, loss_fn
from scaling.study import (
    Planned,
    Study,
    evaluation_digest,
    flops_with_and_without_branching,
    plan_study,
)
from scaling.train import InterruptedRunError

_POLL_SECONDS = 1.0


class Executor:
    """A study, its plan over the prepared data, and the runner that trains it.

    Args:
        study: what to execute.
        runner: trains single runs.
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
        for entry in self.entries:
            runner.plan(entry.run, entry.config)
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

        A run that another process holds is left to it and looked at again later.

        Raises:
            InterruptedRunError: stopped on request.
        """
        self.write_plan()
        while held := [entry for entry in self.entries if not self._advance(entry)]:
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
            return cannot_leave(self.store, entry.trunk, entry.start) is not None
        return result.state == "failed" or (result.step >= entry.stop and self._is_evaluated(entry))

    def _is_evaluated(self, entry: Planned) -> bool:
        if not entry.is_point:
            return True
        done = {
            row["domain"]
            for row in self.store.evaluations(entry.run)
            if row["step"] == entry.stop and row["digest"] == self.evaluation_digest
        }
        return {task.source.domain for task in self.study.evaluation.tasks} <= done

    def _advance(self, entry: Planned) -> bool:
        """Brings one run to its end. Returns False if it has to wait for another process."""
        if self._is_finished(entry):
            return True
        if entry.is_point:
            ready = self._reach_branch_point(entry)
            return ready and (self._is_finished(entry) or self._train(entry, [entry.stop]))
        ahead = [branch for branch in self.entries if branch.trunk == entry.run and not self._is_finished(branch)]
        return self._train(entry, [branch.start for branch in ahead if branch.config.parent])

    def _reach_branch_point(self, entry: Planned) -> bool:
        """Whether there is something to begin a run from, once its trunk has replayed to the branch point if need be.

        False also when another process holds the trunk.
        """
        parent, own = entry.config.parent, self.runner.checkpoints(entry.run)
        if parent is None or any(own.is_intact(step) for step in own.steps()):
            return True
        trunk = next(other for other in self.entries if other.run == parent.run)
        return self.runner.checkpoints(parent.run).is_intact(parent.step) or self._train(trunk, [parent.step])

    def _train(self, entry: Planned, save_at: list[int]) -> bool:
        """Trains a run to its end, and evaluates it if it is a point. Returns False if another process holds it."""
        with storage.try_lock(self.store.run_dir(entry.run) / "lock") as locked:
            if not locked:
                return False
            self.announce(entry.label)
            self.runner.ensure(entry.config, entry.stop, save_at)
            if entry.is_point and not self._is_finished(entry):
                self._evaluate(entry)
        return True

    def _evaluate(self, entry: Planned) -> None:
        params = self.runner.state_at(entry.config, entry.run, entry.stop).state.params
        config, wanted = entry.config, self.study.evaluation
        execution = self.runner.resolved(config)
        loss = loss_fn(config.model, next_token, execution)
        rows: list[dict[str, Any]] = []
        for task in wanted.tasks:
            heldout = self.runner.prepared(task).heldout
            found = evaluate(params, heldout, wanted.tokens, wanted.sequence_length, loss, execution)
            if not math.isfinite(found["nats_per_token"]):  # the last update, after which no loss was taken
                self.runner.fail(entry.run, f"the loss on {task.name} after step {entry.stop} is not finite")
                return
            key = {"step": entry.stop, "digest": self.evaluation_digest, "domain": task.source.domain}
            rows.append(key | found)
        self.store.add_evaluations(entry.run, rows)


def _check_one_vocabulary(study: str, prepared: Mapping[str, Prepared]) -> None:
    """Everything that a model of the study reads, in training or evaluation, must mean the same by a token id."""
    (first, reference), *others = prepared.items()
    for name, other in others:
        if other.manifest.vocabulary_digest != reference.manifest.vocabulary_digest:
            raise UserError(
                f"study {study!r}: tasks {first!r} and {name!r} have different vocabularies: a model that reads one "
                f"cannot be evaluated on, or branch to, the other; use bytes for both, or one model_file"
            )
