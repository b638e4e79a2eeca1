"""`windtunnel tune`: hyper-parameters searched around a study's first run, and measured beside its other runs."""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from analysis.plots.search import search_figures
from analysis.plots.style import save
from experiments.commands.common import prepare_data
from experiments.commands.console import duration, terminal, training_progress
from experiments.commands.stopping import StopFlag
from scaling import storage
from scaling.accounting import parameter_counts
from scaling.config import RunConfig
from scaling.errors import UserError
from scaling.execute import Executor
from scaling.records import RunStore
from scaling.run import Runner
from scaling.study import RunSpec, Study, load_study
from scaling.train import InterruptedRunError, LogRow
from scaling.tuning.comparison import Measured, measure, train_runs
from scaling.tuning.result import Found, record, run_tokens, trial_label, trials_table
from scaling.tuning.search import Search, Trial, best_trials, run_search, sampler_library
from scaling.tuning.space import with_setting

SHOWN = 5  # trials of each search in the printed table


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a `tune` does: searches, then finalists and peers under further seeds.

    Attributes:
        searches: one for each sampler.
        finalists: trials of each search that are trained under further seeds.
        seeds: how many further seeds choose among the finalists, and how many others measure.
    """

    searches: tuple[Search, ...]
    finalists: int
    seeds: int

    def __post_init__(self) -> None:
        samplers = [search.sampler for search in self.searches]
        if not samplers or len(set(samplers)) < len(samplers):
            raise UserError(f"samplers are {' '.join(samplers) or 'none'}: give tpe, random, or both")
        if not 1 <= self.finalists <= self.searches[0].rounds * self.searches[0].per_round:
            raise UserError(f"finalists is {self.finalists}: it must lie between 1 and the number of trials")
        if self.seeds < 2:
            raise UserError(f"seeds is {self.seeds}: an interval needs at least 2")


class _Bar:
    """Progress in steps of training; its end is set anew at every round, so that what was found done does not count."""

    def __init__(self, console: Console, steps: int) -> None:
        self.steps = steps
        self.progress = training_progress(console)
        self.task = self.progress.add_task("starting", total=None, detail="")

    def rows(self, run: str, rows: list[LogRow]) -> None:
        self.progress.advance(self.task, len(rows))

    def show(self, description: str, runs_left: int, detail: str) -> None:
        total = self.progress.tasks[0].completed + runs_left * self.steps
        self.progress.update(self.task, description=description, total=total, detail=detail)


class Tuning:
    """A study being tuned: its first run is varied, all its runs are the peers of what is found."""

    def __init__(
        self, study: Study, plan: Plan, runs_dir: Path, data_dir: Path, console: Console, stop: StopFlag
    ) -> None:
        self.plan, self.peers, self.base = plan, study.runs, _base(study)
        # kept under another name, so that the plan of the study itself stays
        self.study = dataclasses.replace(study, name=f"{study.name}-search", law=None)
        decay = self.base.schedule.decay
        assert decay is not None
        self.bar = _Bar(console, decay.start + decay.steps)
        self.runner = Runner(RunStore(runs_dir), data_dir, study.execution, self.bar.rows, stop)
        self.folder = self.runner.store.study_dir(self.study.name)

    def run(self) -> tuple[list[Found], list[Measured]]:
        """Everything that is missing, in order."""
        found = [self._search(i) for i in range(len(self.plan.searches))]
        settings = {one.winner.name: one.winner.config for one in found}
        settings |= {peer.label: peer.config for peer in self.peers}
        compared = self._measure(settings, 1 + self.plan.seeds, "winners and peers", 0)
        self._write_whole_plan(found, compared)
        return found, compared

    def _search(self, i: int) -> Found:
        search, after = self.plan.searches[i], len(self.plan.searches) - i - 1
        each, wanted = search.rounds * search.per_round, self.plan.finalists * self.plan.seeds
        last = (len(self.plan.searches) + len(self.peers)) * self.plan.seeds

        def show(trials: Sequence[Trial]) -> None:
            best = best_trials(trials, 1)
            detail = f"best {best[0].loss:.4f} ({trial_label(search, best[0])})" if best else ""
            round_ = min(len(trials) // search.per_round + 1, search.rounds)
            left = each - len(trials) + wanted + after * (each + wanted) + last
            self.bar.show(f"{search.sampler}, round {round_} of {search.rounds}", left, detail)

        trials = run_search(search, self.folder / f"{search.sampler}.json", self._round_of(search), show)
        finalists = best_trials(trials, self.plan.finalists)
        if not finalists:
            raise UserError(
                f"all {len(trials)} trials of the {search.sampler} search failed, the first with: {trials[0].reason}: "
                f"narrow the space"
            )
        settings = {trial_label(search, trial): with_setting(self.base, trial.values) for trial in finalists}
        measured = self._measure(settings, 1, f"{search.sampler}, finalists", after * (each + wanted) + last)
        return Found(search, trials, measured)

    def _round_of(self, search: Search) -> Callable[[Sequence[Trial]], list[Trial]]:
        def train_round(trials: Sequence[Trial]) -> list[Trial]:
            runs = [RunSpec(trial_label(search, t), with_setting(self.base, t.values)) for t in trials]
            outcomes = train_runs(self.study, runs, self.runner)
            told = zip(trials, outcomes.values(), strict=True)
            return [trial.told(outcome.run, outcome.loss, outcome.reason) for trial, outcome in told]

        return train_round

    def _measure(self, settings: dict[str, RunConfig], first: int, what: str, runs_after: int) -> list[Measured]:
        """Settings under the `seeds` seeds from the base's + `first` on."""
        self.bar.show(what, len(settings) * self.plan.seeds + runs_after, f"{self.plan.seeds} seeds each")
        start = self.base.seed + first
        return measure(settings, range(start, start + self.plan.seeds), self.study, self.runner)

    def _write_whole_plan(self, found: Sequence[Found], compared: Sequence[Measured]) -> None:
        """The plan of all runs in the place of the last round's, so that `status` knows them."""
        runs = [
            RunSpec(trial_label(one.search, trial), with_setting(self.base, trial.values))
            for one in found
            for trial in one.trials
        ]
        settings = [*(finalist for one in found for finalist in one.finalists), *compared]
        runs += [
            RunSpec(f"{one.name}-seed{seed}", dataclasses.replace(one.config, seed=seed))
            for one in settings
            for seed in one.losses
        ]
        Executor(dataclasses.replace(self.study, runs=tuple(runs)), self.runner, lambda text: None).write_plan()


def execute(name: str, plan: Plan, runs_dir: Path, data_dir: Path) -> None:
    """Tunes a study to the end; started again after a stop, it goes on."""
    sampler_library()
    console, study, stop = terminal(), load_study(name), StopFlag()
    tuning = Tuning(study, plan, runs_dir, data_dir, console, stop)
    prepare_data(name, study, data_dir)
    with warnings.catch_warnings(), storage.try_lock(tuning.folder / "lock") as locked:
        warnings.showwarning = lambda message, *_: console.print(f"[yellow]warning:[/] {message}")
        if not locked:
            raise UserError(f"another process is tuning {study.name} in {runs_dir}: wait for it, or stop it")
        try:
            with stop, tuning.bar.progress as progress:
                found, compared = tuning.run()
                tuning.bar.show("done", 0, "")
        except InterruptedRunError as stopped:
            console.print(f"{stopped}; the same command goes on from there")
            sys.exit(128 + stop.signal)  # as the shell says of a process that a signal ended
        console.print(f"done in {duration(progress.tasks[0].elapsed or 0.0)}")
        result = record(study.question, tuning.base, found, compared)
        trials = trials_table(found)
        storage.write_text(tuning.folder / "trials.csv", trials.to_csv(index=False))
        storage.write_json(tuning.folder / "best.json", result)
        for stem, figure in search_figures(trials, result).items():
            save(figure, tuning.folder / stem)
    _print_trials(found, console)
    _print_comparison(result, console)
    console.print(f"Tables and figures: {tuning.folder}")


def _base(study: Study) -> RunConfig:
    """The run that is varied, once its peers are seen to have its budget.

    Raises:
        UserError: a run has branches or no decay, or another size or length than the first.
    """
    base = study.runs[0]

    def size(run: RunSpec) -> str:
        return f"N = {parameter_counts(run.config.model).non_embedding}, D = {run_tokens(run.config)}"

    for run in study.runs:
        problem = f"cannot tune {study.name}: its run {run.label!r} has"
        if run.branches or run.config.schedule.decay is None:
            raise UserError(f"{problem} branches or no decay: give whole runs, with the decay in their schedules")
        if size(run) != size(base):
            raise UserError(f"{problem} {size(run)} where the first has {size(base)}: settings share one budget")
    return base.config


def _print_trials(found: Sequence[Found], console: Console) -> None:
    names = [parameter.name for parameter in found[0].search.parameters]
    table = Table("trial", *names, "loss", title="Best trials: nats per token on held-out text, one seed")
    table.title_justify = "left"
    for one in found:
        for trial in best_trials(one.trials, SHOWN):
            table.add_row(
                trial_label(one.search, trial), *(f"{trial.values[name]:.3g}" for name in names), f"{trial.loss:.4f}"
            )
        table.add_section()
    console.print(table)
    for one in found:
        failed = [trial for trial in one.trials if trial.state == "failed"]
        if failed:
            console.print(f"{len(failed)} of {len(one.trials)} trials of {one.search.sampler} failed (non-finite loss)")


def _print_comparison(result: dict, console: Console) -> None:
    seeds, level = len(result["best"]["losses"]), f"{result['interval_level']:.0%}"
    names = list(result["best"]["values"])
    table = Table("setting", *names, "muP base", f"loss ({level})", f"minus best ({level})")
    table.title, table.title_justify = f"Winners and peers: mean of {seeds} further seeds", "left"
    for one in sorted(result["comparison"], key=lambda row: row["loss"] if row["loss"] is not None else float("inf")):
        values = [f"{one['values'][name]:.3g}" for name in names]
        loss = "failed" if one["loss"] is None else f"{one['loss']:.4f}{_half(one['interval'])}"
        gap = one["minus_best"]
        minus = "" if gap is None or gap["mean"] is None else f"{gap['mean']:+.4f}{_half(gap['interval'])}"
        table.add_row(one["name"], *values, str(one["mup_base_width"]), loss, minus)
    console.print(table)


def _half(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.4f}"
