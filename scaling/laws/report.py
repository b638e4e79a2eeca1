"""From points to an answer: fit, intervals, held-out checks, allocation and comparison, as one value."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from scaling.errors import UserError
from scaling.laws import (
    allocation,
    approaches,
    conventions,
    fit,
    holdout,
    noise,
    published,
    table,
    uncertainty,
)
from scaling.laws.form import Form
from scaling.laws.forms import CHINCHILLA

LEAST_REPLICATES = 100  # the 5% tail of fewer holds fewer than five of them
APPROACH_REPLICATES = 200  # of approaches 1 and 2, whose intervals take a fit of every slice
ASSUMED_BYTES_PER_TOKEN = published.CHINCHILLA_CONVERGED.bytes_per_token
NO_BUDGET = "this form says nothing on N and D: no budget can be allocated"
TRAINING_ALONE = ", training alone"  # behind answers that leave out the tokens to be served


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a fit of one table says.

    Attributes:
        fit: the law on all points.
        bootstrap: its replicates.
        by: the held-out check that was asked for.
        holdouts: the check on the largest N, D and C: each with its error, or the sentence why it cannot be made.
        error_against_compute: how well cheaper parts of the table predict the runs of that check, or why not.
        lack_of_fit: the residuals beside the noise floor, where runs are repeated under other seeds.
        allocations: compute-optimal spending, one per budget; none where the form has no N and D.
        inference_tokens: that the budgets also pay for.
        comparisons: published laws at the same budgets.
        fitted: Chinchilla's three approaches, to be asked at any budgets; None where the form has no N and D.
        approaches: their answers at the budgets, side by side.
        sensitivity: the answer under every other convention of N and C that the file holds, this one first.
        bytes_per_token: of the table's tokens.
        conventions: what N, D, C, loss and bytes per token mean here, in words by name.
    """

    fit: fit.Fit
    bootstrap: uncertainty.Bootstrap
    by: holdout.By
    holdouts: Mapping[holdout.By, holdout.Holdout | str]
    error_against_compute: holdout.ErrorAgainstCompute | str
    lack_of_fit: noise.LackOfFit | None
    allocations: tuple[allocation.Allocation, ...]
    inference_tokens: float
    comparisons: tuple[published.Comparison, ...]
    fitted: approaches.Fitted | None
    approaches: tuple[approaches.Approach, ...]
    sensitivity: tuple[conventions.Outcome, ...]
    bytes_per_token: float
    conventions: dict[str, str]

    @property
    def holdout(self) -> holdout.Holdout | None:
        """The check that was asked for, or None where what is left cannot be fitted."""
        check = self.holdouts[self.by]
        return None if isinstance(check, str) else check

    @property
    def holdout_problem(self) -> str:
        """Then why, in a sentence; else ""."""
        check = self.holdouts[self.by]
        return check if isinstance(check, str) else ""


def analyse(
    points: table.Table,
    form: Form = CHINCHILLA,
    *,
    by: holdout.By = "largest_n",
    budgets: Sequence[float] = (),
    inference_tokens: float = 0.0,
    bytes_per_token: float | None = None,
    n_means: str = "",
    alternatives: Sequence[conventions.Alternative] = (),
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    delta: float = 1e-3,
    starts: int = 64,
    replicates: int = 1000,
    level: float = 0.9,
    seed: int = 0,
    announce: Callable[[str], None] = lambda text: None,
) -> Report:
    """Fits, bootstraps, holds out, allocates and compares.

    Args:
        points: the table.
        form: the law's form.
        by: which held-out check is shown in detail; all are made.
        budgets: FLOPs to allocate, as the table counts them (`Table.cost`); by default 1, 10 and 100 times its largest.
        inference_tokens: tokens to be served, each at a third of what training on it takes, that budgets also pay for.
        bytes_per_token: of the table's tokens; where not given, Chinchilla's is assumed and marked so.
        n_means: which parameters N counts, in words, where that is known.
        alternatives: other ways to count the same runs (`conventions.alternatives`).
        fixed, bounds: parameters held, and boxes of shape parameters.
        delta: Huber threshold in log loss.
        starts: starts of the fit.
        replicates: of the bootstrap.
        level: nominal coverage of intervals.
        seed: of starts and replicates.
        announce: told what is being done, in words.

    Raises:
        UserError: the table cannot identify the form, or another argument makes no sense.
    """
    _check(budgets, bytes_per_token, replicates, level, starts, delta)
    form = form.hold(fixed or {}).bound(bounds or {})
    announce(f"1 of 4: fitting from {starts} starts")
    fitted = fit.fit(form, points, delta=delta, starts=starts, seed=seed)
    announce(f"2 of 4: fitting {replicates} replicates")
    replicated = uncertainty.bootstrap(fitted, replicates=replicates, level=level, seed=seed)
    has_sizes = set(form.columns) == {"n", "d"}  # nothing else to be settled before a budget can be spent
    if has_sizes:
        largest = float(points.budgets.max())
        budgets = tuple(budgets) or (largest, 10 * largest, 100 * largest)
    elif budgets:
        raise UserError(f"{form.name!r} reads {', '.join(form.columns)}: a budget is allocated under n and d alone")
    ratio = ASSUMED_BYTES_PER_TOKEN if bytes_per_token is None else bytes_per_token
    origin = "assumed, as Chinchilla's" if bytes_per_token is None else "as given"
    announce("3 of 4: fitting without the largest runs, and predicting them")
    checks = holdout.all_holdouts(form, points, delta=delta, level=level, replicates=replicates, seed=seed)
    against_compute = _error_against_compute(form, points, by, delta, level, seed)
    announce("4 of 4: allocation, approaches and conventions")
    side_by_side = (
        approaches.fit(points, replicated, level=level, seed=seed, replicates=APPROACH_REPLICATES)
        if has_sizes
        else None
    )
    return Report(
        fit=fitted,
        bootstrap=replicated,
        by=by,
        holdouts=checks,
        error_against_compute=against_compute,
        lack_of_fit=noise.lack_of_fit(fitted) if has_sizes else None,
        allocations=tuple(
            allocation.allocate(replicated, budget, ratio, inference_tokens=inference_tokens) for budget in budgets
        ),
        inference_tokens=inference_tokens,
        comparisons=tuple(published.compare(budgets, ratio)),
        approaches=() if side_by_side is None else side_by_side.at(budgets),
        fitted=side_by_side,
        sensitivity=_sensitivity(alternatives, replicated, starts, seed) if has_sizes else (),
        bytes_per_token=ratio,
        conventions=_conventions(points, n_means) | {"bytes_per_token": f"{ratio:.3g} ({origin})"},
    )


def _check(
    budgets: Sequence[float], bytes_per_token: float | None, replicates: int, level: float, starts: int, delta: float
) -> None:
    for budget in budgets:
        if not 0 < budget < np.inf:
            raise UserError(f"budget {budget}: FLOPs must be a positive, finite number")
    if bytes_per_token is not None and not 0 < bytes_per_token < np.inf:
        raise UserError(f"bytes per token {bytes_per_token}: a positive number, such as 1 for bytes or 4 for a BPE")
    if replicates < LEAST_REPLICATES:
        raise UserError(f"{replicates} replicates: an interval's ends need at least {LEAST_REPLICATES}")
    if not 0 < level < 1:
        raise UserError(f"level {level}: the coverage of intervals lies between 0 and 1, for example 0.9")
    if starts < 1:
        raise UserError(f"{starts} starts: a fit needs at least one, and 64 to be trusted")
    if not 0 < delta < np.inf:
        raise UserError(f"delta {delta}: a positive Huber threshold in log loss, such as 1e-3")


def _error_against_compute(
    form: Form, points: table.Table, by: holdout.By, delta: float, level: float, seed: int
) -> holdout.ErrorAgainstCompute | str:
    try:
        return holdout.error_against_compute(form, points, by, delta=delta, level=level, replicates=100, seed=seed)
    except UserError as error:
        return str(error)


def _sensitivity(
    alternatives: Sequence[conventions.Alternative], replicated: uncertainty.Bootstrap, starts: int, seed: int
) -> tuple[conventions.Outcome, ...]:
    """Nothing to compare where the file holds one convention."""
    if len(alternatives) < 2:
        return ()
    outcomes = conventions.sensitivity(
        alternatives,
        replicated.form,
        known=replicated,
        delta=replicated.fit.delta,
        starts=starts,
        replicates=len(replicated.theta),
        level=replicated.level,
        seed=seed,
    )
    return tuple(outcomes)


def _conventions(points: table.Table, n_means: str) -> dict[str, str]:
    """What the columns mean, in words by role."""
    found = dict(points.conventions)
    if n_means:
        found["n"] = ", ".join(filter(None, (found.get("n", ""), n_means)))
    if not {"n", "d"} <= set(points.columns):
        return found
    if points.counted is None:
        return found | {"budget": "C = 6 N D with this N, for the range of runs too, whatever the flops column counts"}
    counted = points.counted
    how = f"a function of N and D within {counted.residual:.2%} of each run's own"
    return found | {"budget": f"C as column {counted.name!r} counts it, for the range of runs too; {how}"}
