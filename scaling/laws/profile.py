"""Profile of the objective over one parameter: how much worse a fit gets when the parameter is held elsewhere."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import special

from scaling.errors import UserError
from scaling.laws import fit as fitting
from scaling.laws import resampling
from scaling.laws.form import Form, Params, Shape
from scaling.laws.forms import CHINCHILLA, chinchilla_optimum
from scaling.laws.intervals import Interval

STARTS = 32  # of every fit with the parameter held, one dimension less than the fit itself

# Reaches of the grid, in half-widths of a symmetric interval; where the last does not cross the threshold, that end of
# the interval is open. The first is small: far out on a wide log scale lie values at which no fit makes sense.
REACHES = (0.4, 0.8, 1.6, 3.2, 6.4, 12.8)


@dataclasses.dataclass(frozen=True)
class Profile:
    """The least objective with one parameter held, over a grid of its values.

    Attributes:
        fit: the fit at whose optimum the profile is zero.
        name: of the parameter.
        values: (K,) ascending; evenly spaced on either side of the optimum, for a coefficient in its log.
        rise: (K,) objective above the optimum's.
        params: (K,) of all parameters there.
        threshold: rise at which the interval ends.
        ratio: sandwich over inverse-Hessian variance of the parameter, which scales the threshold.
        level: nominal coverage of the interval.
        interval: an end is the parameter's bound (0 or infinity for a coefficient) where the rise never gets so high.
    """

    fit: fitting.Fit
    name: str
    values: np.ndarray
    rise: np.ndarray
    params: Mapping[str, np.ndarray]
    threshold: float
    ratio: float
    level: float
    interval: Interval

    @property
    def estimate(self) -> float:
        """The parameter at the optimum."""
        return float(self.fit.params[self.name])


def _optimum(params: Params, flops: Any) -> dict[str, Any]:
    return chinchilla_optimum(
        {**params, "alpha": params["s"] * (1 - params["a"]), "beta": params["s"] * params["a"]}, flops
    )


# The same law with the exponent of N_opt ~ C^a as a parameter of its own, so that it can be held like any other.
BY_EXPONENT = dataclasses.replace(
    CHINCHILLA,
    name="chinchilla by its allocation exponent",
    formula="L = E + A / N^(s (1 - a)) + B / D^(s a)",
    mathtext="$L = {E} + {A} / N^{{{s} (1 - {a})}} + {B} / D^{{{s} \\cdot {a}}}$",
    shapes=(Shape("a", (0.005, 0.995), (0.1, 0.9)), Shape("s", (0.02, 8.0), (0.1, 3.0))),
    units={"E": "loss", "A": "loss * parameters^(s (1 - a))", "B": "loss * tokens^(s a)", "a": "1", "s": "1"},
    log_basis=lambda s, x: (0.0, -s["s"] * (1 - s["a"]) * x["n"], -s["s"] * s["a"] * x["d"]),
    optimum=_optimum,
)


def profile(fit: fitting.Fit, name: str, *, level: float = 0.9, points: int = 21) -> Profile:
    """Profiles a parameter and reads an interval off: where the objective rises by less than a threshold.

    The Huber objective is no log-likelihood: its scale is arbitrary, and errors of one trunk move together. With H
    the objective's Hessian and V the variance of its gradient (sums over clusters), twice the rise at the true value
    is distributed as (H^-1 V H^-1 / H^-1) chi-square, the quotient taken at the parameter (Kent 1982, "Robust
    properties of likelihood ratio tests", theorem 3.1, for one parameter). So the threshold is t^2 / 2 times that
    ratio of sandwich to inverse-Hessian variance, with Student's t for G - 1 degrees of freedom. For least squares with
    independent errors the ratio is their variance, and the interval the classical one. V is from scores corrected for
    what each cluster pulls the fit towards itself (one-step jackknife, CR3, as in the bootstrap).

    For a of N_opt ~ C^a: `profile(fit.fit(BY_EXPONENT, ...), "a")`.

    Args:
        fit: a fit at its optimum, with the parameter free.
        name: of the parameter.
        level: nominal coverage.
        points: of the grid, half of them on each side, as far as it takes to cross the threshold.

    Raises:
        UserError: no such parameter, it is held or at a bound, or a lower objective turned up.
    """
    if name not in fit.form.params:
        raise UserError(f"parameter {name!r}: {fit.form.name} has {', '.join(fit.form.params)}")
    if name in fit.certificate.at_bounds or name in fit.form.held:
        raise UserError(f"{name} is held at {fit.params[name]:.4g} in this fit: there is nothing to profile")
    scale, low, high = _scale(fit.form, name)
    centre = float(scale.to(fit.params[name]))
    ratio, error = _variance(fit, scale.to, name)
    clusters = len(np.unique(fit.table.cluster))
    student = float(special.stdtrit(max(clusters - 1, 1), (1 + level) / 2))
    threshold = student**2 / 2 * ratio
    found: dict[float, fitting.Fit] = {centre: fit}

    def rise_at(position: float) -> float:
        if position not in found:
            found[position] = _held(fit, name, float(scale.back(position)))
        return found[position].objective - fit.objective

    def reach(side: float, bound: float) -> float:
        for far in REACHES:
            end = float(np.clip(centre + side * far * student * error, low, high))
            if rise_at(end) > threshold or end == bound:
                break
        return end

    left, right = (np.linspace(centre, reach(*side), points // 2 + 1)[1:] for side in ((-1.0, low), (1.0, high)))
    positions = np.array([*left[::-1], centre, *right])
    rise = np.array([rise_at(float(position)) for position in positions])
    return Profile(
        fit=fit,
        name=name,
        values=scale.back(positions),
        rise=rise,
        params={key: np.array([found[p].params[key] for p in positions]) for key in fit.form.params},
        threshold=threshold,
        ratio=ratio,
        level=level,
        interval=Interval(*scale.back(np.array(_crossings(positions, rise, centre, threshold, (low, high))))),
    )


@dataclasses.dataclass(frozen=True)
class _Scale:
    """The scale of a grid: logs for a coefficient."""

    to: Callable
    back: Callable


def _scale(form: Form, name: str) -> tuple[_Scale, float, float]:
    """The scale that a parameter is profiled on, and its bounds there."""
    if name in form.coefficients:
        return _Scale(np.log, np.exp), -np.inf, np.inf
    (shape,) = (shape for shape in form.shapes if shape.name == name)
    return _Scale(np.asarray, np.asarray), *shape.bounds


def _held(fit: fitting.Fit, name: str, value: float) -> fitting.Fit:
    held = fitting.fit(fit.form, fit.table, delta=fit.delta, weights=fit.weights, starts=STARTS, fixed={name: value})
    if held.objective < fit.objective * (1 - 1e-8):
        raise UserError(
            f"with {name} = {value:.6g} the objective is {held.objective:.10g}, lower than {fit.objective:.10g} of the "
            "fit: fit again with more starts"
        )
    return held


def _variance(fit: fitting.Fit, to: Callable, name: str) -> tuple[float, float]:
    """Ratio of sandwich to inverse-Hessian variance of a parameter on its scale, and its sandwich standard error.

    Under the Huber objective only points within delta of the law bend it. Where delta is much smaller than the
    residuals that is a handful, so the Hessian counts those within the median residual m, at delta / m each (the kernel
    of Powell 1991, "Estimation of monotonic regression models under quantile restrictions", for least absolute
    deviations). Points count where they are, not on average, because noise differs along a table.
    """
    jacobian_NP = fit.jacobian
    free_P = [key not in fit.certificate.at_bounds for key in fit.form.free]
    window = max(fit.delta, float(np.median(np.abs(fit.residuals))))
    bend_N = fit.weights * (np.abs(fit.residuals) <= window) * fit.delta / window
    inverse_PP = np.linalg.pinv(jacobian_NP[:, free_P].T @ (bend_N[:, None] * jacobian_NP[:, free_P]), hermitian=True)

    cluster_N = np.unique(fit.table.cluster, return_inverse=True)[1]
    clipped = dataclasses.replace(fit, residuals=np.clip(fit.residuals, -fit.delta, fit.delta))
    pull_N = np.sqrt(fit.weights) * resampling.corrected_residuals(clipped, cluster_N)
    score_GP = np.stack([pull_N[cluster_N == g] @ jacobian_NP[cluster_N == g] for g in range(cluster_N.max() + 1)])
    sandwich_PP = inverse_PP @ (score_GP.T @ score_GP)[np.ix_(free_P, free_P)] @ inverse_PP

    steps_PP = 1e-6 * np.eye(len(fit.theta))
    ends = (fit.form.physical(fit.theta + side * steps_PP, fit.table.centre)[name] for side in (1, -1))
    ahead, behind = (np.broadcast_to(to(end), len(steps_PP)) for end in ends)
    slope_P = ((ahead - behind) / 2e-6)[free_P]
    variance = float(slope_P @ sandwich_PP @ slope_P)
    return variance / float(slope_P @ inverse_PP @ slope_P), float(np.sqrt(variance))


def _crossings(
    positions: np.ndarray, rise: np.ndarray, centre: float, threshold: float, bounds: tuple[float, float]
) -> list[float]:
    """Where the rise passes the threshold on either side; interpolated in its root, which is nearly straight."""
    root = np.sqrt(np.maximum(rise, 0.0))
    ends = []
    for side, bound in ((positions <= centre, bounds[0]), (positions >= centre, bounds[1])):
        order = np.argsort(np.abs(positions[side] - centre))
        x, y = positions[side][order], root[side][order]
        beyond = np.flatnonzero(y > np.sqrt(threshold))
        if not len(beyond):
            ends.append(bound)
            continue
        k = beyond[0]
        weight = (np.sqrt(threshold) - y[k - 1]) / (y[k] - y[k - 1])
        ends.append(float(x[k - 1] + weight * (x[k] - x[k - 1])))
    return ends
