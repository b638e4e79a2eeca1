"""A study: runs that belong together, declared in one file, and the plan that comes out of it.

A study is data until it is executed. `plan_study` turns it into a list of `Planned` runs (the DAG, parents
first) with ids, steps, tokens and FLOPs; `scaling.execute` does what is missing of it.
"""

import dataclasses
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from models.config import LEFT_OUT_AT_DEFAULT
from scaling import schedules
from scaling.accounting import Convention, parameter_counts, training_flops
from scaling.branches.contract import BranchSpec
from scaling.config import ExecutionConfig, RetrievalConfig, RunConfig, TaskConfig, canonical, to_json
from scaling.errors import UserError
from scaling.identity import run_id


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """A run with no parent, and the branches that leave it.

    With a decay in its schedule it is a whole run (cosine, say) whose end is a point; without, it is a trunk as
    long as its last branch needs.
    """

    label: str
    config: RunConfig
    branches: tuple[BranchSpec, ...] = ()

    @property
    def steps(self) -> int:
        """How far the run is trained."""
        own = self.config.schedule.decay
        ends = [own.start + own.steps] if own else []
        return max(ends + [branch.start for branch in self.branches], default=0)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Fixed held-out text on which the end of every branch is evaluated.

    Attributes:
        tasks: held-out splits, reported under their source's domain.
        tokens: at most this many of each.
        sequence_length: T of the evaluation rows.
        position_bins: if not 0, also the loss in so many even bins of position.
        retrieval: also these tests.
    """

    tasks: tuple[TaskConfig, ...]
    tokens: int = 131_072
    sequence_length: int = 128
    position_bins: int = dataclasses.field(default=0, metadata=LEFT_OUT_AT_DEFAULT)
    retrieval: RetrievalConfig | None = dataclasses.field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    @property
    def measures(self) -> set[str]:
        """What is measured beside the mean loss."""
        wanted = {"loss_by_position": self.position_bins, "retrieval": self.retrieval}
        return {name for name, value in wanted.items() if value}


@dataclasses.dataclass(frozen=True)
class LawConfig:
    """How a study's points become a law.

    Attributes:
        n: the column that is N: "N" (non-embedding) or "N_total".
        flops: the convention of C: a column `C_<flops>`, which budgets, allocations, the exponent and the approaches of
            a report count in.
        holdout: what is left out of the fit and predicted: "largest_n", "largest_d" or "largest_c".
        budgets: training budgets in FLOPs of that convention at which the optimum is reported.
    """

    n: Literal["N", "N_total"] = "N"
    flops: Convention = "6ND"
    holdout: Literal["largest_n", "largest_d", "largest_c"] = "largest_n"
    budgets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, allowed = getattr(self, field.name), get_args(field.type)
            if field.name != "budgets" and value not in allowed:
                raise UserError(f"law.{field.name} is {value!r}: one of {', '.join(allowed)}")
        if any(not budget > 0 for budget in self.budgets):
            raise UserError(f"law.budgets are {self.budgets}: FLOPs, all above 0")


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and the runs that answer it. `law` is None where the points are not meant for one."""

    name: str
    question: str
    runs: tuple[RunSpec, ...]
    evaluation: EvaluationConfig
    law: LawConfig | None = LawConfig()
    execution: ExecutionConfig = ExecutionConfig()

    def __post_init__(self) -> None:
        domains = [task.source.domain for task in self.evaluation.tasks]
        for name in (self.name, *domains):  # they name folders
            if not name or not all(c.isalnum() or c in "-_." for c in name) or name[0] == ".":
                raise UserError(f"study {self.name!r}: {name!r} names a folder; use letters, digits, - _ .")
        if len(set(domains)) < len(domains):
            raise UserError(f"study {self.name!r} evaluates two tasks of one domain ({', '.join(domains)}): rename one")

    def tasks(self) -> list[TaskConfig]:
        """Every task that training or evaluation reads, once each.

        Raises:
            UserError: two different tasks under one name.
        """
        by_name: dict[str, TaskConfig] = {}
        for task in self._all_tasks():
            if by_name.setdefault(task.name, task) != task:
                raise UserError(f"study {self.name!r} has two different tasks named {task.name!r}: rename one")
        return list(by_name.values())

    def _all_tasks(self) -> Iterator[TaskConfig]:
        for run in self.runs:
            datas = [run.config.data, *(branch.data for branch in _all_branches(run.branches) if branch.data)]
            yield from (component.task for data in datas for component in data.mixture)
        yield from self.evaluation.tasks


def _all_branches(branches: Sequence[BranchSpec]) -> Iterator[BranchSpec]:
    """Branches, and what leaves them."""
    for branch in branches:
        yield branch
        yield from _all_branches(branch.branches)


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a plan.

    Attributes:
        label: what tables call it; unique in the study.
        kind: "trunk", "whole" (a run with a decay of its own), or the kind of branch.
        run: its id; "" while the data is not prepared, since ids cover the shards' digests.
        trunk: the id of the run it hangs on (its own, without parent): a trunk, or a branch that is left in turn.
        config: the mathematics.
        start: step of its first update's predecessor: 0, or the branch point.
        stop: step it is trained to.
        parent: of a branch, the plan of the run it hangs on.
    """

    label: str
    kind: str
    run: str
    trunk: str
    trunk_label: str
    config: RunConfig
    start: int
    stop: int
    parent: "Planned | None" = None

    @property
    def is_point(self) -> bool:
        """Whether its end is an L(N, D) point: only a decayed end is (MiniCPM, figure 17)."""
        return self.kind != "trunk"

    def tokens(self, start: int, stop: int) -> int:
        """Tokens between two steps."""
        return (stop - start) * self.config.data.tokens_per_step

    def tokens_at(self, step: int) -> int:
        """Tokens trained on after `step` updates, the parents' included."""
        before = self.parent.tokens_at(self.start) if self.parent else 0
        return before + self.tokens(self.start, step)

    def flops_at(self, step: int, convention: Convention) -> float:
        """FLOPs of training up to `step`, each parent's part at its own row length and attention."""
        before = self.parent.flops_at(self.start, convention) if self.parent else 0.0
        length = self.config.data.sequence_length
        return before + training_flops(self.config.model, length, self.tokens(self.start, step), convention)

    def entry(self) -> dict[str, Any]:
        """The row of plan.json: everything a reader of results needs, without the training code."""
        decay, counts = self.config.schedule.decay, parameter_counts(self.config.model)
        total = self.tokens_at(self.stop)
        # a run may stop before its decay's end, or go on after it
        d_decay = self.tokens(decay.start, min(decay.start + decay.steps, self.stop)) if decay else 0
        return {
            "label": self.label,
            "kind": self.kind,
            "run": self.run,
            "trunk": self.trunk,
            "trunk_label": self.trunk_label,
            "is_point": self.is_point,
            "seed": self.config.seed,
            "N": counts.non_embedding,
            "N_total": counts.total,
            "start": self.start,
            "stop": self.stop,
            "D_total": total,
            "D_stable": total - d_decay,
            "D_decay": d_decay,
            "flops": {name: self.flops_at(self.stop, name) for name in get_args(Convention)},
        }


def plan_study(study: Study, digests: Mapping[str, str] | None = None) -> list[Planned]:
    """The study's DAG as a list, parents before their branches.

    Args:
        study: the study.
        digests: of the training shards, by task name; None plans without run ids (nothing is prepared yet).
    """
    planned: list[Planned] = []
    for spec in study.runs:
        if spec.steps == 0:
            raise UserError(f"run {spec.label!r} has neither a decay nor branches: nothing says how long it is")
        root = run_id(spec.config, digests) if digests is not None else ""
        kind = "whole" if spec.config.schedule.decay else "trunk"
        trunk = Planned(spec.label, kind, root, root, spec.label, spec.config, 0, spec.steps)
        planned += [trunk, *_planned_branches(trunk, spec.branches, digests)]
    for entry in planned:
        schedules.check(entry.config.schedule)
        if study.law is not None and entry.is_point:
            _check_decayed(study.name, entry)
    labels = [entry.label for entry in planned]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise UserError(f"study {study.name!r} has more than one run labelled {', '.join(sorted(twice))}")
    return planned


def _check_decayed(study: str, entry: Planned) -> None:
    """Raises a UserError for an end that a law would take for a decayed one, which would lie lower."""
    decay = entry.config.schedule.decay
    if decay is None or entry.stop < decay.start + decay.steps:
        how = f"before its decay does, at step {decay.start + decay.steps}" if decay else "without a decay"
        raise UserError(
            f"study {study!r}: {entry.label!r} ends at step {entry.stop} {how}, and a law is fitted to decayed ends: "
            f"let it decay to its end, or set law=None"
        )


def _planned_branches(
    parent: Planned, branches: Sequence[BranchSpec], digests: Mapping[str, str] | None
) -> Iterator[Planned]:
    """The branches of a run, each followed by what leaves it."""
    for branch in branches:
        if parent.config.parent and not parent.start <= branch.start <= parent.stop:
            raise UserError(
                f"branch {branch.label!r} leaves {parent.label!r} at step {branch.start}, which trains from step "
                f"{parent.start} to {parent.stop}: leave it there or in between"
            )
        config = branch.config(parent.config, parent.run)
        entry = Planned(
            label=f"{parent.label}/{branch.label}",
            kind=branch.kind,
            run=run_id(config, digests) if digests is not None else "",
            trunk=parent.run,
            trunk_label=parent.label,
            config=config,
            start=branch.start,
            stop=branch.stop,
            parent=parent,
        )
        yield entry
        yield from _planned_branches(entry, branch.branches, digests)


def training(planned: Sequence[Planned]) -> list[Planned]:
    """What a plan trains: every run once, by its longest entry; a run read off at several steps has one for each."""
    longest: dict[tuple[str, RunConfig, int], Planned] = {}
    for entry in planned:
        key = entry.run, entry.config, entry.start
        if key not in longest or longest[key].stop < entry.stop:
            longest[key] = entry
    return list(longest.values())


def flops_with_and_without_branching(planned: Sequence[Planned]) -> tuple[float, float]:
    """6ND FLOPs of a plan, and of training every one of its points from scratch to the same length instead."""

    def flops(entry: Planned, tokens: int) -> float:
        return training_flops(entry.config.model, entry.config.data.sequence_length, tokens, "6ND")

    spent = sum(flops(entry, entry.tokens(entry.start, entry.stop)) for entry in training(planned))
    cosine = sum(flops(entry, entry.entry()["D_total"]) for entry in planned if entry.is_point)
    return spent, cosine


def evaluation_digest(evaluation: EvaluationConfig, heldout_digests: Mapping[str, str]) -> str:
    """The key of evaluation rows: what text was read, how much of it, in rows of what length."""
    plain = to_json(evaluation) | {"tasks": [heldout_digests[task.name] for task in evaluation.tasks]}
    return hashlib.sha256(canonical(plain).encode()).hexdigest()[:16]


def load_study(name_or_path: str) -> Study:
    """A study by name (a file of `experiments/`) or by path to a Python file with a function `study()`.

    Raises:
        UserError: no such file, no such function, or it returned something else.
    """
    ours = Path(__file__).resolve().parent.parent / "experiments"
    path = Path(name_or_path) if name_or_path.endswith(".py") else ours / f"{name_or_path}.py"
    if not path.is_file():
        known = sorted(p.stem for p in ours.glob("*.py") if "def study()" in p.read_text())
        raise UserError(f"no study {name_or_path!r}: give the path of a Python file, or one of {', '.join(known)}")
    spec = importlib.util.spec_from_file_location(f"study_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "study"):
            raise UserError(f"{path} has no function study(): write one that returns a scaling.study.Study")
        made = module.study()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{_place(error, path)}: {type(error).__name__}: {_line(error)}{_keys(error)}") from error
    if not isinstance(made, Study):
        raise UserError(f"study() of {path} returned {type(made).__name__}, not a scaling.study.Study")
    return made


def _place(error: Exception, path: Path) -> str:
    """File and line of a study file at which it went wrong."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}"
    frames, here = traceback.extract_tb(error.__traceback__), path.resolve()  # the path may be given relatively
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == here]
    return f"{path}:{lines[-1]}" if lines else str(path)


def _line(error: Exception) -> str:
    return error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())


def _keys(error: Exception) -> str:
    """For a keyword that a config does not have: those that it has."""
    found = re.match(r"(\w+)\.__init__\(\) got an unexpected keyword", str(error))
    if not found:
        return ""
    *_, (caller, _) = traceback.walk_tb(error.__traceback__)
    made = caller.f_globals.get(found.group(1))
    if made is None or not dataclasses.is_dataclass(made):
        return ""
    return f" (it has {', '.join(field.name for field in dataclasses.fields(made))})"
