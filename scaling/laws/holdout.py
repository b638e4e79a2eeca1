"""The held-out check: fit without the largest runs, predict them, and say how far off that was."""

import dataclasses
from typing import Literal, get_args

import numpy as np

from scaling.errors import UserError
from scaling.laws import costs, table, uncertainty
from scaling.laws import fit as fitting
from scaling.laws.form import Form
from scaling.laws.intervals import Interval

By = Literal["largest_n", "largest_d", "largest_c"]
_COLUMN = {"largest_n": "n", "largest_d": "d"}
HELDOUT_NAMES = {"largest_n": "largest N", "largest_d": "largest D", "largest_c": "largest C"}
SAME = 1.1  # values within 10% of the largest go with it: steps of a ladder are wider, digitised sizes are not


@dataclasses.dataclass(frozen=True)
class Holdout:
    """A prediction of points that the fit did not see.

    Attributes:
        by: what was left out.
        bootstrap: replicates of the law fitted to the rest.
        heldout: the points left out.
        rows: (points of the whole table,) which those are.
        predicted: (points,) losses of the law.
        interval: (points,) prediction intervals for a new run there.
        relative_error: (points,) predicted / loss - 1.
        covered: (points,) whether the loss lies in the interval.
    """

    by: By
    bootstrap: uncertainty.Bootstrap
    heldout: table.Table
    rows: np.ndarray
    predicted: np.ndarray
    interval: Interval
    relative_error: np.ndarray
    covered: np.ndarray

    @property
    def fit(self) -> fitting.Fit:
        """The law fitted to the rest."""
        return self.bootstrap.fit

    @property
    def mean_error(self) -> float:
        """Mean absolute relative error."""
        return float(np.mean(np.abs(self.relative_error)))


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the runs up to a compute cut predict.

    Attributes:
        cut: the largest budget among them.
        spent: FLOPs that they took together, shared trunks counted once where the table says what is shared.
        check: the prediction of the held-out runs.
    """

    cut: float
    spent: float
    check: Holdout


@dataclasses.dataclass(frozen=True)
class ErrorAgainstCompute:
    """How well cheaper and dearer parts of a table predict its largest runs.

    Attributes:
        by: what is predicted.
        rows: by ascending cut; cuts that cannot identify the law are left out.
        counting: how FLOPs were counted, in words.
    """

    by: By
    rows: tuple[Prediction, ...]
    counting: str

    def spent_for(self, error: float) -> float | None:
        """The least FLOPs from which on every larger fit's mean error stays within `error`; None where none does."""
        enough = None
        for row in reversed(self.rows):
            if row.check.mean_error > error:
                break
            enough = row.spent
        return enough


def holdout(
    form: Form,
    points: table.Table,
    by: By = "largest_n",
    *,
    delta: float = 1e-3,
    level: float = 0.9,
    replicates: int = 1000,
    seed: int = 0,
) -> Holdout:
    """Leaves out all points at the largest N, D or C (to 10%), fits the rest and predicts them.

    Of a trunk some of whose points are left out, the others stay: with the largest D or C its seed is on both sides,
    which `error_against_compute` avoids.

    Raises:
        UserError: what is left cannot be fitted.
    """
    out = _largest(points, by)
    try:
        return _check(form, points, ~out, out, by, delta, level, replicates, seed)
    except UserError as error:
        raise UserError(f"holding out the {HELDOUT_NAMES[by]}: of what is left, {error}") from error


def all_holdouts(
    form: Form,
    points: table.Table,
    *,
    delta: float = 1e-3,
    level: float = 0.9,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[By, Holdout | str]:
    """The check on the largest N, D and C: each as `holdout` has it, or the sentence why it cannot be made."""
    checks: dict[By, Holdout | str] = {}
    for by in get_args(By):
        try:
            checks[by] = holdout(form, points, by, delta=delta, level=level, replicates=replicates, seed=seed)
        except UserError as error:
            checks[by] = str(error)
    return checks


def error_against_compute(
    form: Form,
    points: table.Table,
    by: By = "largest_c",
    *,
    cuts: int = 6,
    delta: float = 1e-3,
    level: float = 0.9,
    replicates: int = 300,
    seed: int = 0,
) -> ErrorAgainstCompute:
    """Predicts the largest runs from growing shares of the others, cheapest first.

    A cut is a largest budget per run: all points up to it are fitted, as someone would have them who had stopped
    there (a trunk's early branches are known before it is continued). Points that share a cluster with a predicted
    run are left out at every cut: its seed would be on both sides of the check. Cuts run from the first that
    determines every parameter to the whole rest, and hold about equally many new points each.

    Args:
        form: the law's form.
        points: the table; has columns n and d.
        by: which runs are predicted.
        cuts: at most so many fits.
        delta, level, replicates, seed: as in `holdout`.

    Raises:
        UserError: not even all other runs can identify the law.
    """
    out = _largest(points, by)
    rest = ~np.isin(points.cluster, points.cluster[out])
    rows: list[Prediction] = []
    problem = "every point shares a cluster with them"
    for cut in _cuts(points.budgets[rest], cuts):
        keep = rest & (points.budgets <= cut)
        try:
            check = _check(form, points, keep, out, by, delta, level, replicates, seed)
        except UserError as error:
            problem = str(error)
            continue
        if check.fit.certificate.identified:
            rows.append(Prediction(cut=float(cut), spent=costs.spent(points.select(keep)), check=check))
        else:
            problem = "the other points do not determine every parameter"
    if not rows:
        raise UserError(f"predicting the {HELDOUT_NAMES[by]} from cheaper runs: {problem}")
    return ErrorAgainstCompute(by=by, rows=tuple(rows), counting=costs.counting(points))


def _largest(points: table.Table, by: By) -> np.ndarray:
    """The points at the largest N, D or budget, as the table counts budgets."""
    if by != "largest_c" and _COLUMN[by] not in points.columns:
        raise UserError(f"no {HELDOUT_NAMES[by]} to hold out: the points have {', '.join(points.columns)} only")
    values = points.budgets if by == "largest_c" else points.columns[_COLUMN[by]]
    return np.asarray(values >= values.max() / SAME)


def _check(
    form: Form,
    points: table.Table,
    keep: np.ndarray,
    out: np.ndarray,
    by: By,
    delta: float,
    level: float,
    replicates: int,
    seed: int,
) -> Holdout:
    """Fits the points to keep and predicts those left out."""
    fit = fitting.fit(form, points.select(keep), delta=delta, seed=seed)
    replicated = uncertainty.bootstrap(fit, replicates=replicates, level=level, seed=seed)
    heldout = points.select(out)
    predicted = fit.predict(heldout.columns)
    interval = replicated.prediction_interval(heldout.columns, seed=seed)
    return Holdout(
        by=by,
        bootstrap=replicated,
        heldout=heldout,
        rows=out,
        predicted=predicted,
        interval=interval,
        relative_error=predicted / heldout.loss - 1,
        covered=(interval.low <= heldout.loss) & (heldout.loss <= interval.high),
    )


def _cuts(budgets: np.ndarray, count: int) -> np.ndarray:
    """At most `count` ascending budgets, the last the largest, with about equally many points between them."""
    if not len(budgets):
        return budgets
    last = np.ceil(np.arange(1, count + 1) * len(budgets) / count).astype(int) - 1
    return np.unique(np.sort(budgets)[last])
