"""Settings side by side: each trained under the same seeds, with intervals, so that luck is not taken for merit.

The lowest trial of a search was partly lucky in its seed. So the finalists of a search are trained again under further
seeds, the best of them by their mean is the winner, and the winner is measured under yet other seeds beside its peers.
A seed fixes initialisation and data order, so settings are compared seed by seed.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

from scaling import records
from scaling.config import RunConfig
from scaling.execute import Executor
from scaling.run import Runner
from scaling.study import RunSpec, Study

LEVEL = 0.9


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run: its id, and either its loss or the reason that it has none."""

    run: str
    loss: float | None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """One setting under several seeds.

    Attributes:
        name: what it is called.
        config: its run, under any seed.
        losses: by seed; null where the run failed.
    """

    name: str
    config: RunConfig
    losses: dict[int, float | None]

    @property
    def mean(self) -> float:
        """Mean loss over the seeds; infinite where one failed."""
        return float(np.mean([math.inf if loss is None else loss for loss in self.losses.values()]))

    def interval(self) -> tuple[float, float] | None:
        """90% interval of the mean over seeds; None where a seed failed or there is but one."""
        return mean_interval(list(self.losses.values()))

    def minus(self, other: "Measured") -> dict[str, float | list[float] | None]:
        """Mean difference of the losses, seed by seed, over seeds at which neither failed, with its 90% interval."""
        pairs = [(mine, other.losses.get(seed)) for seed, mine in self.losses.items()]
        differences = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
        ends = mean_interval(differences)
        return {"mean": float(np.mean(differences)) if differences else None, "interval": list(ends) if ends else None}


def mean_interval(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Student's 90% interval of a mean; None for fewer than two values, or where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < max(2, len(values)):
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known))
    return float(np.mean(known) - half), float(np.mean(known) + half)


def train_runs(
    study: Study, runs: Sequence[RunSpec], runner: Runner, announce: Callable[[str], None] = lambda text: None
) -> dict[str, Outcome]:
    """Trains whole runs, as the study's own would be, and evaluates their ends.

    Args:
        study: gives the name under which the plan is kept, and what is evaluated; its own runs are not trained.
        runs: whole runs (with a decay).
        runner: trains them.
        announce: told in words what is being done.

    Returns:
        By label: the loss is in nats per token on held-out text, the mean over the study's evaluation domains.
    """
    made = Executor(dataclasses.replace(study, runs=tuple(runs), law=None), runner, announce)
    made.run()
    states, found = records.status(made.store, study.name), records.points(made.store, study.name)
    columns = [f"nats_per_token/{task.source.domain}" for task in study.evaluation.tasks]
    losses = {} if found.empty else dict(zip(found["label"], found[columns].mean(axis=1), strict=True))
    return {
        entry.label: Outcome(
            entry.run, float(losses[entry.label]) if entry.label in losses else None, states[entry.label].reason
        )
        for entry in made.entries
    }


def measure(
    settings: Mapping[str, RunConfig],
    seeds: Sequence[int],
    study: Study,
    runner: Runner,
    announce: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Every setting trained under every seed, in one study.

    Args:
        settings: whole runs by name; their own seed does not matter.
        seeds: of initialisation and data order.
        study: as in `train_runs`.
        runner: trains the runs.
        announce: told in words what is being done.
    """
    runs = [
        RunSpec(f"{name}-seed{seed}", dataclasses.replace(config, seed=seed))
        for name, config in settings.items()
        for seed in seeds
    ]
    found = train_runs(study, runs, runner, announce)
    return [
        Measured(name, config, {seed: found[f"{name}-seed{seed}"].loss for seed in seeds})
        for name, config in settings.items()
    ]
