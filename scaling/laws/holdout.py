"""The held-out check: fit without the largest runs, predict them, and say how far off that was."""

import dataclasses
from typing import Literal

import numpy as np

from scaling.errors import UserError
from scaling.laws import fit as fitting
from scaling.laws import table, uncertainty
from scaling.laws.forms import Form

By = Literal["largest_n", "largest_d", "largest_c"]
_COLUMN = {"largest_n": "n", "largest_d": "d", "largest_c": "flops"}
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
    interval: uncertainty.Interval
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

    Raises:
        UserError: what is left cannot be fitted.
    """
    values = points.columns[_COLUMN[by]]
    out = values >= values.max() / SAME
    rest = points.select(~out)
    try:
        fit = fitting.fit(form, rest, delta=delta, seed=seed)
    except UserError as error:
        raise UserError(f"holding out the {HELDOUT_NAMES[by]}: of what is left, {error}") from error
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
