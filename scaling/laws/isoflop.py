"""Chinchilla's approach 2: loss against N at equal budgets, the N of least loss at each, and a line through them.

Two estimators of a slice's minimum. The parabola in log N is Hoffmann et al.'s (2022, section 3.2); its vertex is off
wherever the slice is no parabola: on wide grids, off-centre grids, and where alpha and beta differ (Czech et al.
2026, arXiv 2603.22339). The shape-free one smooths the slice towards a parabola only as far as the noise asks for.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from scipy import interpolate, linalg

from scaling.laws import frontier, slice_noise, slices
from scaling.laws.budget import best_split
from scaling.laws.forms import CHINCHILLA, Form, Params
from scaling.laws.frontier import Line
from scaling.laws.intervals import Interval
from scaling.laws.slice_noise import SILENT, Noise
from scaling.laws.table import Table

# Of a degree of freedom of the shape-free curve, in noise variances. Mallows' 2 often follows noise: with 4 the mean
# square error of log N_opt was 23% to 66% smaller in five simulated designs (±3x to ±16x, noise of 0.2% and 0.3%).
PRICE = 4.0
LEAST_VARIANCE = 1e-12  # of log N_opt: slices without noise weigh the same

Estimator = Literal["parabola", "shape-free"]
ESTIMATORS: tuple[Estimator, ...] = ("parabola", "shape-free")


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The minimum of one slice by one estimator.

    Attributes:
        budget: C.
        points: losses in the slice.
        n, loss: of the minimum; None where there is none.
        n_interval: of N_opt.
        problem: why the line does not use it, or "".
    """

    budget: float
    points: int
    n: float | None
    loss: float | None
    n_interval: Interval | None
    problem: str


@dataclasses.dataclass(frozen=True, eq=False)
class IsoFlop:
    """Approach 2 on one table.

    Attributes:
        points: the table.
        cuts: its slices.
        noise: of a log loss.
        optima: minimum of every slice, by estimator.
        lines: N_opt = k C^a, by estimator; absent where fewer than three slices can be used.
    """

    points: Table
    cuts: slices.Slices
    noise: Noise
    optima: dict[Estimator, tuple[Optimum, ...]]
    lines: dict[Estimator, Line]


@dataclasses.dataclass(frozen=True)
class Bias:
    """What an estimator makes of a law's own losses, without noise: exact.

    Attributes:
        estimator: which.
        budgets: of the slices used.
        n: N_opt found over true, minus 1, by slice.
        a: exponent found minus true; None with fewer than three slices.
        at: budget that `n_at` is for.
        n_at: N_opt of the line found over true there, minus 1; None as `a`.
    """

    estimator: Estimator
    budgets: tuple[float, ...]
    n: tuple[float, ...]
    a: float | None
    at: float
    n_at: float | None


def fit(
    points: Table,
    *,
    how: slices.How = "auto",
    budgets: Sequence[float] = (),
    noise: float | None = None,
    replicates: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> IsoFlop:
    """Approach 2 with a noise-aware bootstrap: slices, their minima, and the line through these.

    Replicates add noise to the observed losses, keep the design, and go through every later step, as Porian et al.
    2024 (arXiv 2406.19146) do; noise that points of one cluster share is drawn once for the cluster. The line weighs
    a slice by the inverse of its variance over replicates and of what slices scatter about the line beyond that, which
    replicates draw too.

    Args:
        points: the table.
        how, budgets: of the slices, as in `slices.cut`.
        noise: standard deviation of a log loss, where it is known.
        replicates: R.
        level: nominal coverage of intervals.
        seed: of the replicates.

    Raises:
        UserError: fewer than three slices.
    """
    cuts = slices.cut(points, how=how, budgets=budgets)
    found = slice_noise.estimate(points, cuts, noise)
    log_loss_RN = np.vstack([np.log(points.loss), slice_noise.redraw(points, found, replicates, seed)])
    optima: dict[Estimator, tuple[Optimum, ...]] = {}
    lines = {}
    for estimator in ESTIMATORS:
        log_n_RS, loss_RS = minima(cuts, log_loss_RN, estimator, found)
        used_S = frontier.bracketed(np.log(cuts.budgets), log_n_RS[0], cuts.ends)
        optima[estimator] = tuple(
            _optimum(one, bool(used_S[s]), log_n_RS[:, s], loss_RS[0, s], level, found.freedom)
            for s, one in enumerate(cuts.slices)
        )
        if used_S.sum() >= frontier.LEAST_OPTIMA:
            lines[estimator] = _line(cuts.budgets[used_S], log_n_RS[:, used_S], found, level, seed)
    return IsoFlop(points, cuts, found, optima, lines)


def minima(
    cuts: slices.Slices, log_loss_RN: np.ndarray, estimator: Estimator, noise: Noise = SILENT
) -> tuple[np.ndarray, np.ndarray]:
    """log N_opt and the loss there for every row of log losses and every slice, (R, S) each; NaN without a minimum.

    Args:
        cuts: the slices.
        log_loss_RN: log losses of the table; the shape-free estimator chooses its smoothing on row 0.
        estimator: which.
        noise: that the shape-free estimator smooths for.
    """
    found = []
    for one in cuts.slices:
        loss_MR = np.exp(one.weights @ log_loss_RN.T)
        curve = CURVES[estimator](np.log(one.n), loss_MR, noise.of(one))
        found.append(extremum(curve, np.log(one.n[[0, -1]])))
    return np.stack([log_n for log_n, _ in found], 1), np.stack([loss for _, loss in found], 1)


def parabola(x_M: np.ndarray, loss_MR: np.ndarray, sigma: float = 0.0) -> interpolate.PPoly:
    """The least-squares parabola of loss in log N over the range of x; it does not depend on the noise."""
    del sigma
    coefficients_3R = np.linalg.lstsq(np.vander(x_M - x_M[0], 3), loss_MR, rcond=None)[0]
    return interpolate.PPoly(coefficients_3R[:, None], x_M[[0, -1]])


def spline(x_M: np.ndarray, loss_MR: np.ndarray, sigma: float) -> interpolate.PPoly:
    """A cubic spline of loss in log N, smoothed towards a parabola as far as the noise asks for.

    Whittaker's smoothing with third divided differences as penalty (Whittaker 1923; Eilers 2003), whose limit is a
    parabola; its strength has the least RSS + PRICE sigma^2 trace on the first column (Mallows' C_p, at a higher
    price), so that without noise the spline goes through every loss. Losses of one size are averaged.

    Args:
        x_M: log N, ascending.
        loss_MR: losses, a column per replicate.
        sigma: noise of a log loss.
    """
    knot_M = frontier.size_groups(np.exp(x_M))
    count_K = np.bincount(knot_M)
    average_KM = (knot_M == np.arange(len(count_K))[:, None]) / count_K[:, None]
    x_K, loss_KR = average_KM @ x_M, average_KM @ loss_MR
    if sigma > 0 and len(x_K) > 3:
        loss_KR = _smooth(x_K, loss_KR, count_K, sigma * loss_KR[:, 0].mean())
    if len(x_K) < 4:  # a cubic spline through fewer is the parabola
        return parabola(x_K, loss_KR)
    return interpolate.CubicSpline(x_K, loss_KR)


CURVES: dict[Estimator, Callable[[np.ndarray, np.ndarray, float], interpolate.PPoly]] = {
    "parabola": parabola,
    "shape-free": spline,
}


def extremum(curve: interpolate.PPoly, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where piecewise parabolas or cubics of several columns are least, and the value there, (R,) each.

    NaN for a column that is least at either end: its minimum lies outside what was seen.
    """
    pieces = curve.c if len(curve.c) == 4 else np.concatenate([np.zeros_like(curve.c[:1]), curve.c])
    cubic, square, slope, level = pieces  # (intervals, R) each, in powers of x - left end
    width = np.diff(curve.x)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = -slope / (square + np.sqrt(square**2 - 3 * cubic * slope))  # the derivative turns positive here
    inside = (step > 0) & (step <= width)
    step = np.where(inside, step, 0.0)
    value = np.where(inside, level + step * (slope + step * (square + step * cubic)), np.inf)
    best_R, columns = np.argmin(value, 0), np.arange(value.shape[1])
    x_R, least_R = curve.x[best_R] + step[best_R, columns], value[best_R, columns]
    found_R = least_R < np.minimum(*curve(ends))
    return np.where(found_R, x_R, np.nan), np.where(found_R, least_R, np.nan)


def parabola_bias(
    params: Params,
    points: Table,
    cuts: slices.Slices,
    *,
    at: float | None = None,
    noise: Noise = SILENT,
    form: Form = CHINCHILLA,
) -> tuple[Bias, ...]:
    """What both estimators return for a law's noise-free losses at these very points, relative to its true optimum.

    Args:
        params: of the law.
        points: the design; its losses do not matter.
        cuts: its slices.
        at: budget to compare the lines at; by default the table's largest.
        noise: that the shape-free estimator smooths for.
        form: of the law.

    Raises:
        UserError: the form does not read n and d alone.
    """
    optimum = best_split(form, points.cost)
    log_loss_N = np.log(form.predict(params, points.columns))
    at = float(points.budgets.max()) if at is None else at
    rows = []
    for estimator in ESTIMATORS:
        log_n_S = minima(cuts, log_loss_N[None], estimator, noise)[0][0]
        used_S = frontier.bracketed(np.log(cuts.budgets), log_n_S, cuts.ends)
        budgets, log_n_S = cuts.budgets[used_S], log_n_S[used_S]
        true_S = np.log(optimum(params, budgets)["n"])
        a = n_at = None
        if used_S.sum() >= frontier.LEAST_OPTIMA:
            lines = [frontier.draw_line(budgets, y_S[None], np.ones(len(budgets)), 0.9) for y_S in (log_n_S, true_S)]
            a, n_at = lines[0].a - lines[1].a, lines[0].n(at) / float(optimum(params, at)["n"]) - 1
        off = tuple(float(value) for value in np.expm1(log_n_S - true_S))
        rows.append(Bias(estimator, tuple(map(float, budgets)), off, a, at, n_at))
    return tuple(rows)


def _smooth(x_K: np.ndarray, loss_KR: np.ndarray, count_K: np.ndarray, sigma: float) -> np.ndarray:
    """Whittaker's smoother of the columns; its strength is chosen on the first."""
    differences = np.eye(len(x_K))
    for order in (1, 2, 3):
        differences = order * np.diff(differences, axis=0) / (x_K[order:] - x_K[:-order])[:, None]
    roughness_K, basis_KK = linalg.eigh(differences.T @ differences, np.diag(count_K.astype(float)))
    roughness_K[:3] = 0  # parabolas have none; what eigh leaves there is rounding
    rotated_KR = basis_KK.T @ (count_K[:, None] * loss_KR)
    strength_L = np.concatenate([[0.0], np.geomspace(1e-3 / roughness_K[-1], 1e3 / roughness_K[3], 200)])
    keep_LK = 1 / (1 + strength_L[:, None] * roughness_K)
    risk_L = ((1 - keep_LK) ** 2) @ rotated_KR[:, 0] ** 2 + PRICE * sigma**2 * keep_LK.sum(1)
    return np.asarray(basis_KK @ (keep_LK[np.argmin(risk_L)][:, None] * rotated_KR))


def _line(budgets_S: np.ndarray, log_n_RS: np.ndarray, noise: Noise, level: float, seed: int) -> Line:
    """The line through slices that differ in their noise and scatter beyond it (DerSimonian and Laird 1986)."""
    noise_S = np.array([np.var(column[np.isfinite(column)]) for column in log_n_RS[1:].T])
    variance_S = np.maximum(noise_S, LEAST_VARIANCE)
    beyond = _scatter(np.log(budgets_S), log_n_RS[0], variance_S)
    drawn_RS = np.random.default_rng(seed).normal(0, np.sqrt(beyond), log_n_RS.shape)
    drawn_RS[0] = 0.0  # the points themselves
    return frontier.draw_line(budgets_S, log_n_RS + drawn_RS, 1 / (variance_S + beyond), level, noise.freedom)


def _scatter(x_S: np.ndarray, y_S: np.ndarray, variance_S: np.ndarray) -> float:
    """Variance about a line beyond what is known of each point: where Cochran's Q has its expectation, at least 0."""
    root_S = 1 / np.sqrt(variance_S)
    design_S2 = np.stack([np.ones_like(x_S), x_S - x_S.mean()], 1) * root_S[:, None]
    basis_S2, _ = np.linalg.qr(design_S2)
    scaled_S = y_S * root_S
    left_S = scaled_S - basis_S2 @ (basis_S2.T @ scaled_S)
    per_variance = (root_S**2).sum() - ((basis_S2 * root_S[:, None]) ** 2).sum()
    excess = float(left_S @ left_S) - (len(x_S) - 2)
    return max(0.0, excess / float(per_variance))


def _optimum(
    one: slices.Slice, used: bool, log_n_R: np.ndarray, loss: float, level: float, freedom: int | None
) -> Optimum:
    problem = ""
    if not np.isfinite(log_n_R[0]):
        problem = f"not used: the least loss at C = {one.budget:.3g} lies at the smallest or largest of its sizes"
        return Optimum(one.budget, len(one.n), None, None, None, problem)
    if not used:
        problem = (
            f"not used: at C = {one.budget:.3g} the sizes do not reach {frontier.ROOM:g} times beyond the optimum that "
            "the other slices point to"
        )
    interval = frontier.percentiles(np.exp(log_n_R[1:]), level, freedom)
    return Optimum(one.budget, len(one.n), float(np.exp(log_n_R[0])), float(loss), interval, problem)
