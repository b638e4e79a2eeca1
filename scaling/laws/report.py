"""From points to an answer: fit, intervals, held-out check, allocation and comparison, as one value."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling import storage
from scaling.errors import UserError
from scaling.laws import allocation, fit, holdout, published, table, uncertainty
from scaling.laws.forms import CHINCHILLA, Form

LEAST_REPLICATES = 100  # the 5% tail of fewer holds fewer than five of them
ASSUMED_BYTES_PER_TOKEN = published.CHINCHILLA_CONVERGED.bytes_per_token


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a fit of one table says.

    Attributes:
        fit: the law on all points.
        bootstrap: its replicates.
        holdout: the check on points left out, or None where what is left cannot be fitted.
        holdout_problem: then why, in a sentence; else "".
        allocations: compute-optimal spending, one per budget.
        comparisons: published laws at the same budgets.
        bytes_per_token: of the table's tokens.
        conventions: what N, D, C, loss and bytes per token mean here, in words by name.
    """

    fit: fit.Fit
    bootstrap: uncertainty.Bootstrap
    holdout: holdout.Holdout | None
    holdout_problem: str
    allocations: tuple[allocation.Allocation, ...]
    comparisons: tuple[published.Comparison, ...]
    bytes_per_token: float
    conventions: dict[str, str]


def analyse(
    points: table.Table,
    form: Form = CHINCHILLA,
    *,
    by: holdout.By = "largest_n",
    budgets: Sequence[float] = (),
    bytes_per_token: float | None = None,
    n_means: str = "",
    delta: float = 1e-3,
    starts: int = 64,
    replicates: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> Report:
    """Fits, bootstraps, holds out, allocates and compares.

    Args:
        points: the table.
        form: the law's form.
        by: what the held-out check leaves out.
        budgets: FLOPs C = 6 N D to allocate; by default 1, 10 and 100 times the table's largest 6 N D.
        bytes_per_token: of the table's tokens; where not given, Chinchilla's is assumed and marked so.
        n_means: which parameters N counts, in words, where that is known.
        delta: Huber threshold in log loss.
        starts: starts of the fit.
        replicates: of the bootstrap.
        level: nominal coverage of intervals.
        seed: of starts and replicates.

    Raises:
        UserError: the table cannot identify the form, or another argument makes no sense.
    """
    _check(budgets, bytes_per_token, replicates, level)
    fitted = fit.fit(form, points, delta=delta, starts=starts, seed=seed)
    replicated = uncertainty.bootstrap(fitted, replicates=replicates, level=level, seed=seed)
    held, problem = None, ""
    try:
        held = holdout.holdout(form, points, by, delta=delta, level=level, replicates=replicates, seed=seed)
    except UserError as error:
        problem = str(error)
    largest = float(points.budgets.max())
    budgets = tuple(budgets) or (largest, 10 * largest, 100 * largest)
    ratio = ASSUMED_BYTES_PER_TOKEN if bytes_per_token is None else bytes_per_token
    origin = "assumed, as Chinchilla's" if bytes_per_token is None else "as given"
    return Report(
        fit=fitted,
        bootstrap=replicated,
        holdout=held,
        holdout_problem=problem,
        allocations=tuple(allocation.allocate(replicated, budget, ratio) for budget in budgets),
        comparisons=tuple(published.compare(budgets, ratio)),
        bytes_per_token=ratio,
        conventions=_conventions(points, n_means) | {"bytes_per_token": f"{ratio:.3g} ({origin})"},
    )


def _check(budgets: Sequence[float], bytes_per_token: float | None, replicates: int, level: float) -> None:
    for budget in budgets:
        if not 0 < budget < np.inf:
            raise UserError(f"budget {budget}: FLOPs must be a positive, finite number")
    if bytes_per_token is not None and not 0 < bytes_per_token < np.inf:
        raise UserError(f"bytes per token {bytes_per_token}: a positive number, such as 1 for bytes or 4 for a BPE")
    if replicates < LEAST_REPLICATES:
        raise UserError(f"{replicates} replicates: an interval's ends need at least {LEAST_REPLICATES}")
    if not 0 < level < 1:
        raise UserError(f"level {level}: the coverage of intervals lies between 0 and 1, for example 0.9")


def _conventions(points: table.Table, n_means: str) -> dict[str, str]:
    """What the columns mean, in words by role."""
    found = dict(points.conventions)
    if n_means:
        found["n"] = ", ".join(filter(None, (found.get("n", ""), n_means)))
    return found | {"budget": "C = 6 N D with this N, for the range of runs too, whatever the flops column counts"}


def to_json(report: Report) -> dict[str, Any]:
    """The report as plain JSON data, numbers in full; a value that does not exist is null."""
    fitted, replicated, held = report.fit, report.bootstrap, report.holdout
    evidence = dataclasses.asdict(fitted.certificate) | {"identified": fitted.certificate.identified}
    data: dict[str, Any] = {
        "form": fitted.form.name,
        "formula": fitted.form.formula,
        "params": dict(fitted.params),
        "units": dict(fitted.form.units),
        "intervals": {name: list(ends) for name, ends in replicated.param_intervals().items()},
        "level": replicated.level,
        "bootstrap": {
            "method": replicated.method,
            "replicates": len(replicated.theta),
            "clusters": replicated.clusters,
            "indicative": replicated.indicative,
            "correction": replicated.correction,
            "audit": replicated.audit._asdict(),
        },
        "objective": fitted.objective,
        "delta": fitted.delta,
        "points": len(fitted.table),
        "certificate": evidence,
        "holdout": None,
        "holdout_problem": report.holdout_problem or None,
        "allocation": [dataclasses.asdict(row) for row in report.allocations],
        "published": [dataclasses.asdict(row) for row in report.comparisons],
        "conventions": report.conventions,
        "data": fitted.table.digest,
    }
    if held is not None:
        data["holdout"] = {
            "by": held.by,
            "params": dict(held.fit.params),
            "mean_error": held.mean_error,
            "covered": int(held.covered.sum()),
            "clusters": held.bootstrap.clusters,
            "indicative": held.bootstrap.indicative,
            "points": [
                {
                    "n": n,
                    "d": d,
                    "loss": loss,
                    "predicted": predicted,
                    "interval": [low, high],
                    "error": error,
                }
                for n, d, loss, predicted, low, high, error in zip(
                    held.heldout.columns["n"],
                    held.heldout.columns["d"],
                    held.heldout.loss,
                    held.predicted,
                    held.interval.low,
                    held.interval.high,
                    held.relative_error,
                    strict=True,
                )
            ],
        }
    return _plain(data)  # type: ignore[no-any-return]


def write(report: Report, path: Path) -> None:
    """Writes the report as JSON, whole or not at all."""
    storage.write_json(path, to_json(report))


def _plain(data: Any) -> Any:
    """Nested data with numpy scalars as Python's and non-finite numbers as null."""
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, np.generic):
        data = data.item()
    return None if isinstance(data, float) and not np.isfinite(data) else data
