"""Executing a study: whatever is missing of its plan, in order, beside other processes that do the same."""

import time
from collections.abc import Callable
from typing import Any

from scaling import storage
from scaling.config import to_json
from scaling.evaluate import evaluate
from scaling.objectives import next_token
from scaling.records import RunStore
from scaling.run import Runner, loss_fn
from scaling.study import (
    Planned,
    Study,
    evaluation_digest,
    flops_with_and_without_branching,
    plan_study,
)

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
            "bytes_per_token": {
                task.source.domain: self.runner.prepared(task).heldout.bytes_per_token
                for task in self.study.evaluation.tasks
            },
            "law": to_json(self.study.law),
            "flops_spent": spent,
            "flops_cosine": cosine,
            "entries": [entry.entry() for entry in self.entries],
        }
        storage.write_json(self.store.study_dir(self.study.name) / "plan.json", plan)

    def run(self) -> None:
        """Trains and evaluates what is missing; returns when nothing is, whoever did it.

        A run that another process holds is left to it and looked at again later.
        """
        self.write_plan()
        waiting = list(self.entries)
        while waiting:
            held = [entry for entry in waiting if not self._advance(entry)]
            if len(held) == len(waiting):
                self.announce(f"waiting for {held[0].label}, which another process is training")
                time.sleep(_POLL_SECONDS)
            waiting = held

    def is_finished(self) -> bool:
        """Whether nothing is left to train or evaluate."""
        return all(self._is_finished(entry) for entry in self.entries)

    def branch_points(self, entry: Planned) -> list[int]:
        """Steps of a trunk at which branches that have not begun leave it."""
        return [
            branch.start
            for branch in self.entries
            if branch.config.parent is not None
            and branch.config.parent.run == entry.run
            and not self.runner.checkpoints(branch.run).steps()
            and not self._is_finished(branch)
        ]

    def _is_finished(self, entry: Planned) -> bool:
        result = self.store.result(entry.run)
        if result is None:
            return False
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
        points = [] if entry.is_point else self.branch_points(entry)
        if self._is_finished(entry) and not self.runner.missing(entry.run, entry.stop, points):
            return True
        if entry.config.parent is not None:
            parent = entry.config.parent
            result = self.store.result(parent.run)
            if result is not None and result.state == "failed":
                self.announce(f"{entry.label}: left out, because {entry.trunk_label} failed: {result.reason}")
                return True
            own = self.runner.checkpoints(entry.run).newest(entry.stop)
            if own is None and self.runner.checkpoints(parent.run).newest(parent.step) != parent.step:
                return False
        with storage.try_lock(self.store.run_dir(entry.run) / "lock") as locked:
            if not locked:
                return False
            self.announce(entry.label)
            self.runner.ensure(entry.config, entry.stop, points)
            if not self._is_finished(entry) and entry.is_point:
                self._evaluate(entry)
        return True

    def _evaluate(self, entry: Planned) -> None:
        state = self.runner.state_at(entry.config, entry.run, entry.stop)
        config, wanted = entry.config, self.study.evaluation
        execution = self.runner.resolved(config)
        loss = loss_fn(config.model, next_token, execution)
        rows: list[dict[str, Any]] = []
        for task in wanted.tasks:
            heldout = self.runner.prepared(task).heldout
            found = evaluate(state.params, heldout, wanted.tokens, wanted.sequence_length, loss, execution)
            key = {"step": entry.stop, "digest": self.evaluation_digest, "domain": task.source.domain}
            rows.append(key | found)
        self.store.add_evaluations(entry.run, rows)
