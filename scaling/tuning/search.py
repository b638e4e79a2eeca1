"""A hyper-parameter search in rounds: a batch of settings is asked for, trained, and told back.

Source: MiniCPM (arXiv 2404.06395), section 3.1 and appendix A.1: Bayesian search over learning rate, init_std,
scale_emb and scale_depth on the smallest model at 10 N tokens. The sampler is Optuna's tree-structured Parzen
estimator (Bergstra et al. 2011; Watanabe, arXiv 2304.11127), over all parameters jointly; trials of the same round
that are not told yet count as bad ones ("constant liar"), so that a batch spreads out.

What a round asks for is a function of the search's seed, the round and what was told before: a sampler is made anew in
every round. So a search that was killed goes on as if it had not been.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scaling import storage
from scaling.config import from_json, to_json
from scaling.errors import UserError
from scaling.tuning.space import Parameter, check_space

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "random"]
TrialState = Literal["asked", "complete", "failed"]


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched, and how. More rounds extend a search; anything else makes another one.

    Attributes:
        parameters: the axes of the space.
        sampler: "tpe" learns from what was told, "random" is the baseline.
        rounds: how often a batch is asked for.
        per_round: trials of a batch; they are trained together.
        seed: of the sampler.
    """

    parameters: tuple[Parameter, ...]
    sampler: Sampler = "tpe"
    rounds: int = 8
    per_round: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_space(self.parameters)
        if self.sampler not in get_args(Sampler):
            raise UserError(f"sampler {self.sampler!r}: one of {', '.join(get_args(Sampler))}")
        for name in ("rounds", "per_round"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}: it must not be negative")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting that was asked for, and what came of it.

    Attributes:
        number: from 0, over all rounds.
        values: of the parameters, by name.
        state: "asked" until it is told; "failed" if its run was, which is told to the sampler as a bad trial.
        loss: what is minimised; null unless complete.
        run: id of its run.
        reason: of a failure.
    """

    number: int
    values: dict[str, float]
    state: TrialState = "asked"
    loss: float | None = None
    run: str = ""
    reason: str | None = None

    def told(self, run: str, loss: float | None, reason: str | None = None) -> "Trial":
        """The trial with what came of it; without a loss it failed."""
        state: TrialState = "failed" if loss is None else "complete"
        return dataclasses.replace(self, state=state, loss=loss, run=run, reason=reason)


# trains a round's trials and returns the same trials told
TrainRound = Callable[[Sequence[Trial]], Sequence[Trial]]


def sampler_library() -> Any:
    """Optuna, quiet.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("searching needs optuna, which is not installed: `pip install 'windtunnel[tune]'`") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def ask(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """The next round's trials, given all trials so far (told ones)."""
    study = _optuna_study(search, trials)
    first, distributions = len(trials), _distributions(search)
    asked = [study.ask(distributions).params for _ in range(search.per_round)]
    return [Trial(first + i, {name: float(params[name]) for name in distributions}) for i, params in enumerate(asked)]


def run_search(
    search: Search,
    journal: Path,
    train_round: TrainRound,
    progress: Callable[[Sequence[Trial]], None] = lambda trials: None,
) -> list[Trial]:
    """Runs a search to its end, or goes on with it from its journal.

    The journal is written, whole or not at all, when a round is asked for and when it is told: after a kill, the same
    settings are trained on, with what the run store has of them.

    Args:
        search: what is searched.
        journal: JSON file that this search alone writes.
        train_round: trains a round.
        progress: called with all trials so far, before the first round and after each.

    Raises:
        UserError: the journal is of another search.
    """
    wanted = search.rounds * search.per_round
    trials = read_journal(search, journal)[:wanted]
    while len(trials) < wanted or trials[-1].state == "asked":
        told = [trial for trial in trials if trial.state != "asked"]
        progress(told)
        asked = trials[len(told) :] or ask(search, told)
        _write_journal(search, journal, [*told, *asked])
        trials = [*told, *train_round(asked)]
        _write_journal(search, journal, trials)
    progress(trials)
    return trials


def read_journal(search: Search, journal: Path) -> list[Trial]:
    """The trials of a search's journal, those asked for included; none where there is no journal.

    Raises:
        UserError: it is of another search, or damaged.
    """
    found = storage.read_json(journal)
    if found is None:
        return []
    try:
        before = from_json(Search, found["search"])
        trials = [from_json(Trial, row) for row in found["trials"]]
    except (KeyError, TypeError, UserError) as error:
        raise storage.damaged(journal, error) from error
    if dataclasses.replace(before, rounds=search.rounds) != search:
        raise UserError(
            f"{journal} holds a search over {_words(before)}, not over {_words(search)}: ask for that one, or move the "
            f"folder {journal.parent} away (the runs stay in the store)"
        )
    return trials


def best_trials(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The complete trials of lowest loss, best first."""
    complete = [(trial.loss, trial.number, trial) for trial in trials if trial.loss is not None]
    return [trial for *_, trial in sorted(complete)[:count]]


def importances(search: Search, trials: Sequence[Trial]) -> dict[str, float]:
    """How much each parameter decides whether a trial is among the best tenth; sums to 1, empty with too few trials.

    Source: PED-ANOVA (Watanabe, Bansal and Hutter, arXiv 2304.10255), as Optuna has it: variance of the densities of
    the best tenth along each axis, against those of all complete trials.
    """
    if sum(trial.state == "complete" for trial in trials) < 20:  # two in the best tenth
        return {}
    evaluator = sampler_library().importance.PedAnovaImportanceEvaluator()
    found = sampler_library().importance.get_param_importances(_optuna_study(search, trials), evaluator=evaluator)
    return {parameter.name: float(found[parameter.name]) for parameter in search.parameters}


def _optuna_study(search: Search, trials: Sequence[Trial]) -> "optuna.Study":
    """An Optuna study in memory that has been told these trials, with the sampler of the round after them."""
    optuna = sampler_library()
    (seed,) = np.random.SeedSequence([search.seed, len(trials)]).generate_state(1)
    if search.sampler == "tpe":
        sampler = optuna.samplers.TPESampler(seed=int(seed), multivariate=True, constant_liar=True)
    else:
        sampler = optuna.samplers.RandomSampler(seed=int(seed))
    study = optuna.create_study(sampler=sampler)
    states, distributions = optuna.trial.TrialState, _distributions(search)
    for trial in trials:
        # Optuna's samplers overlook failed trials, but take a pruned one for worse than any complete one.
        state = states.COMPLETE if trial.state == "complete" else states.PRUNED
        study.add_trial(
            optuna.trial.create_trial(state=state, value=trial.loss, params=trial.values, distributions=distributions)
        )
    return study  # type: ignore[no-any-return]


def _distributions(search: Search) -> dict[str, Any]:
    make = sampler_library().distributions.FloatDistribution
    return {parameter.name: make(parameter.low, parameter.high, log=parameter.log) for parameter in search.parameters}


def _write_journal(search: Search, journal: Path, trials: Sequence[Trial]) -> None:
    storage.write_json(journal, {"search": to_json(search), "trials": [to_json(trial) for trial in trials]})


def _words(search: Search) -> str:
    ranges = ", ".join(f"{p.name}={p.low:g}:{p.high:g}{'' if p.log else ':linear'}" for p in search.parameters)
    return f"{ranges} (sampler {search.sampler}, {search.per_round} a round, seed {search.seed})"
