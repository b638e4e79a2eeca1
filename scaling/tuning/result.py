"""What a search found, as plain data: the table of trials, and the best setting with its uncertainty."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from scaling.accounting import parameter_counts, training_flops
from scaling.config import RunConfig, to_json
from scaling.identity import provenance
from scaling.tuning.comparison import LEVEL, Measured
from scaling.tuning.search import Search, Trial, best_trials, importances
from scaling.tuning.space import setting_of


@dataclasses.dataclass(frozen=True)
class Found:
    """One search with what came of it.

    Attributes:
        search: what was searched.
        trials: all of them, told.
        finalists: its best trials, under further seeds.
    """

    search: Search
    trials: Sequence[Trial]
    finalists: Sequence[Measured]

    @property
    def winner(self) -> Measured:
        """The finalist of lowest mean."""
        return min(self.finalists, key=lambda finalist: finalist.mean)


def trial_label(search: Search, trial: Trial) -> str:
    """What tables call a trial: tpe-007."""
    return f"{search.sampler}-{trial.number:03d}"


def trials_table(found: Sequence[Found]) -> pd.DataFrame:
    """A row per trial: label, sampler, number, round, the parameters' values, state, loss, run, reason."""
    rows = [
        {
            "label": trial_label(one.search, trial),
            "sampler": one.search.sampler,
            "number": trial.number,
            "round": trial.number // one.search.per_round,
            **trial.values,
            "state": trial.state,
            "loss": trial.loss,
            "run": trial.run,
            "reason": trial.reason,
        }
        for one in found
        for trial in one.trials
    ]
    return pd.DataFrame(rows)


def record(question: str, base: RunConfig, found: Sequence[Found], compared: Sequence[Measured]) -> dict[str, Any]:
    """The result of a comparison of searches' winners with their peers.

    Args:
        question: of the study.
        base: the run that was varied.
        found: the searches.
        compared: the searches' winners and their peers, under seeds that chose nothing.
    """
    # chosen by the finalists' seeds, not by those it is measured under
    chosen = min((one.winner for one in found), key=lambda winner: winner.mean).name
    best = next(one for one in compared if one.name == chosen)
    searched = found[0].search.parameters
    names = [parameter.name for parameter in searched]
    counts, length = parameter_counts(base.model), base.data.sequence_length
    tokens = run_tokens(base)
    return {
        "question": question,
        "best": _measured(best, names),
        "interval_level": LEVEL,
        "comparison": [
            _measured(one, names) | {"minus_best": one.minus(best) if one.name != chosen else None} for one in compared
        ],
        "searches": [
            {
                "search": to_json(one.search),
                "failed": sum(trial.state == "failed" for trial in one.trials),
                "winner": one.winner.name,
                "finalists": [_measured(finalist, names) for finalist in one.finalists],
                "importance": importances(one.search, one.trials),
                "as_good": as_good_as_the_best(one),
            }
            for one in found
        ],
        "budget": {
            "N": counts.non_embedding,
            "D": tokens,
            "flops_6ND": training_flops(base.model, length, tokens, "6ND"),
        },
        "base": to_json(base),
        "provenance": provenance(),
    }


def run_tokens(config: RunConfig) -> int:
    """D of a whole run."""
    decay = config.schedule.decay
    return 0 if decay is None else (decay.start + decay.steps) * config.data.tokens_per_step


def seed_deviation(measured: Sequence[Measured]) -> float:
    """Standard deviation of a loss over seeds, pooled over settings; NaN where none has two losses."""
    known = [[loss for loss in one.losses.values() if loss is not None] for one in measured]
    squares = sum(float(np.var(losses)) * len(losses) for losses in known if losses)
    freedom = sum(len(losses) - 1 for losses in known if losses)
    return math.sqrt(squares / freedom) if freedom else math.nan


def as_good_as_the_best(one: Found) -> dict[str, Any]:
    """The trials within two standard deviations (over seeds) of the best trial, and each parameter's range there.

    A range as wide as the space says that the parameter was not determined. Empty where failures leave no deviation.
    """
    deviation = seed_deviation(one.finalists)
    if math.isnan(deviation):
        return {}
    complete = best_trials(one.trials, len(one.trials))
    losses = np.array([trial.loss for trial in complete], float)
    near = [trial for trial, loss in zip(complete, losses, strict=True) if loss <= losses[0] + 2 * deviation]
    ranges = {
        parameter.name: [f(trial.values[parameter.name] for trial in near) for f in (min, max)]
        for parameter in one.search.parameters
    }
    return {"trials": len(near), "seed_deviation": deviation, "ranges": ranges}


def _measured(one: Measured, names: Sequence[str]) -> dict[str, Any]:
    values, ends = setting_of(one.config), one.interval()
    return {
        "name": one.name,
        "values": {name: values[name] for name in names},
        "mup_base_width": one.config.model.mup_base_width,
        "loss": one.mean if math.isfinite(one.mean) else None,
        "interval": list(ends) if ends else None,
        "losses": {str(seed): loss for seed, loss in one.losses.items()},
    }
