"""The best learning rate of a size, from a sweep: the vertex of a parabola through the lowest points, with an interval.

Loss is a parabola in log2 of the rate near its minimum, with one height per seed and one vertex for all. What points
differ from it by is noise and lack of fit, pooled over the curves of a table; the interval is Fieller's (1954) for a
ratio of two normal estimates, which is open where the curvature is not known to be positive.
"""

import dataclasses
import math

import numpy as np
import pandas as pd
from scipy import stats

from scaling.errors import UserError

REACH = 2.0  # the fit takes rates within 2^REACH of the one with the lowest loss
LEVEL = 0.9


@dataclasses.dataclass(frozen=True)
class _Fit:
    """A least-squares parabola: slope and curvature at `centre` (log2), and how well they are known."""

    centre: float
    slope: float
    curvature: float  # second derivative
    inverse_design: np.ndarray  # covariance of (slope, curvature) over the variance of a loss
    squared_errors: float
    freedom: int
    bracketed: bool  # whether the lowest point has higher ones on both sides


def best_rates(sweep: pd.DataFrame, curves: list[str], loss: str) -> pd.DataFrame:
    """The best rate of every curve.

    Args:
        sweep: a row per run, with columns `learning_rate`, `seed`, `loss` and those of `curves`.
        curves: columns whose values tell curves apart.
        loss: the column to be lowest.

    Returns:
        A row per curve: `curves`, best_rate, low and high (the `LEVEL` interval; NaN where it is open, and all three
        where the lowest mean loss lies at an end of the sweep), lowest_rate (of the sweep itself), runs and bracketed.

    Raises:
        UserError: a curve has fewer than three rates.
    """
    fits = {key: _fit(group, key, loss) for key, group in sweep.groupby(curves, sort=False)}
    freedom = sum(fit.freedom for fit in fits.values())
    variance = sum(fit.squared_errors for fit in fits.values()) / freedom if freedom else math.nan
    rows = []
    for key, fit in fits.items():
        low, high = _fieller(fit, variance, freedom)
        vertex = -fit.slope / fit.curvature if fit.bracketed and fit.curvature > 0 else math.nan
        group = sweep.groupby(curves, sort=False).get_group(key)
        named = dict(zip(curves, key, strict=True))
        rates = {"best_rate": vertex, "low": low, "high": high, "lowest_rate": 0.0}
        rates = {name: 2.0 ** (fit.centre + shift) for name, shift in rates.items()}
        rows.append(named | rates | {"runs": len(group), "bracketed": fit.bracketed})
    return pd.DataFrame(rows)


def _fit(curve: pd.DataFrame, key: object, loss: str) -> _Fit:
    """The parabola about the lowest mean loss of one curve."""
    means = curve.groupby("learning_rate")[loss].mean()
    if len(means) < 3:
        raise UserError(f"{key}: {len(means)} learning rates, and a parabola takes three or more")
    lowest = float(means.index[int(means.argmin())])
    centre = math.log2(lowest)
    near = curve[np.abs(np.log2(curve["learning_rate"]) - centre) <= REACH + 1e-6]
    x = np.log2(near["learning_rate"].to_numpy()) - centre
    heights = pd.get_dummies(near["seed"]).to_numpy(float)  # a seed is easier or harder at every rate
    design = np.column_stack([x, x**2 / 2, heights])
    found, _, rank, _ = np.linalg.lstsq(design, near[loss].to_numpy(), rcond=None)
    errors = near[loss].to_numpy() - design @ found
    inverse = np.linalg.pinv(design.T @ design)[:2, :2]
    bracketed = bool(means.index.min() < lowest < means.index.max())
    return _Fit(centre, found[0], found[1], inverse, float(errors @ errors), len(x) - int(rank), bracketed)


def _fieller(fit: _Fit, variance: float, freedom: int) -> tuple[float, float]:
    """Where slope + curvature x may be zero at `LEVEL`; NaN where that is no interval."""
    if not fit.bracketed or not freedom:
        return math.nan, math.nan
    t2 = stats.t.ppf((1 + LEVEL) / 2, freedom) ** 2 * variance
    (v11, v12), (_, v22) = fit.inverse_design
    # (slope + curvature x)^2 <= t^2 Var(slope + curvature x), a quadratic in x
    a, b, c = fit.curvature**2 - t2 * v22, 2 * (fit.slope * fit.curvature - t2 * v12), fit.slope**2 - t2 * v11
    discriminant = b**2 - 4 * a * c
    if a <= 0 or fit.curvature <= 0 or discriminant < 0:
        return math.nan, math.nan
    low, high = sorted((-b + sign * math.sqrt(discriminant)) / (2 * a) for sign in (-1, 1))
    return low, high
