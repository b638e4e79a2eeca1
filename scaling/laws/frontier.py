"""What approaches 1 and 2 share: losses of one run brought to common budgets, and the line through optima.

Everything is linear in the table's log losses (a weight matrix), so replicates of the losses cost a product.
"""

import dataclasses
from typing import Any, Literal

import numpy as np

from scaling.laws.intervals import Interval, expanded_tail
from scaling.laws.table import Table

LEAST_OPTIMA = 3  # optima at distinct budgets that a line is drawn through
SAME_SIZE = 1.01  # sizes that agree to 1% are one: less is rounding, not a design
ONE_KNOT = 1.15  # token counts of one curve that agree to 15% are averaged
ROOM = 1.5  # sizes reach this factor beyond the optimum on both sides of a slice or budget that is used
ROUNDS = 20  # of dropping what is not bracketed; two or three are enough
ROUNDING = 1e-9  # in log C: a point's own budget is not outside its curve


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """N_opt = n_centre (C / centre)^a, and the same for every replicate.

    Attributes:
        centre: budget C that n_centre belongs to.
        a, n_centre: of the points themselves.
        a_replicates, n_centre_replicates: of the replicates, (R,); NaN where a replicate left too few optima.
        level: nominal coverage of intervals.
        freedom: degrees of freedom that the replicates' noise was estimated with; None where none was.
    """

    centre: float
    a: float
    n_centre: float
    a_replicates: np.ndarray
    n_centre_replicates: np.ndarray
    level: float
    freedom: int | None = None

    def n(self, flops: float) -> float:
        """N_opt at a budget."""
        return float(self.n_centre * (flops / self.centre) ** self.a)

    def n_replicates(self, flops: float) -> np.ndarray:
        """N_opt at a budget under every replicate, (R,)."""
        return self.n_centre_replicates * (flops / self.centre) ** self.a_replicates

    @property
    def failed(self) -> int:
        """Replicates through whose optima no line could be drawn; intervals leave them out."""
        return int(np.isnan(self.a_replicates).sum())

    def interval(self, values_R: np.ndarray) -> Interval:
        """Percentile interval of a quantity computed from the replicates that could be fitted."""
        return percentiles(values_R, self.level, self.freedom)


def percentiles(values_R: np.ndarray, level: float, freedom: int | None = None) -> Interval:
    """Percentile interval over the first axis; replicates that are NaN are left out, NaN where all are.

    Taken at the wider level that Student's quantiles ask for where noise was estimated with few degrees of freedom
    (expanded percentile interval, as in `intervals.expanded_percentiles`).
    """
    tail = (1 - level) / 2 if freedom is None else expanded_tail(level, freedom)
    if np.isnan(values_R).all():
        return Interval(np.nan, np.nan)
    return Interval(*np.nanquantile(values_R, [tail, 1 - tail], axis=0))


def draw_line(
    budgets_S: Any, log_n_RS: np.ndarray, weight_S: np.ndarray, level: float, freedom: int | None = None
) -> Line:
    """The weighted least-squares line through (log C, log N_opt): row 0 holds the points, the others replicates.

    Args:
        budgets_S: budgets C, (S,).
        log_n_RS: log N_opt; NaN where there is no optimum.
        weight_S: weights of the budgets.
        level, freedom: of the line's intervals.
    """
    log_c_S = np.log(budgets_S)
    centre = float(np.average(log_c_S, weights=weight_S))
    x_S = log_c_S - centre
    found_RS = np.isfinite(log_n_RS)
    weight_RS = np.where(found_RS, weight_S, 0.0)
    y_RS = np.where(found_RS, log_n_RS, 0.0)
    total, mean_x = weight_RS.sum(1), weight_RS @ x_S
    squares, mean_y = weight_RS @ x_S**2, (weight_RS * y_RS).sum(1)
    products = (weight_RS * y_RS) @ x_S
    with np.errstate(invalid="ignore", divide="ignore"):
        a_R = (total * products - mean_x * mean_y) / (total * squares - mean_x**2)
        level_R = (mean_y - a_R * mean_x) / total
    few = found_RS.sum(1) < LEAST_OPTIMA
    a_R, n_R = np.where(few, np.nan, a_R), np.where(few, np.nan, np.exp(level_R))
    return Line(float(np.exp(centre)), float(a_R[0]), float(n_R[0]), a_R[1:], n_R[1:], level, freedom)


def bracketed(log_c_B: np.ndarray, log_n_B: np.ndarray, ends_2B: np.ndarray) -> np.ndarray:
    """Budgets at which the sizes looked at lie on both sides of the optimum, judged by the line through all, (B,).

    To judge each budget by its own optimum would keep, near the edges, those that noise moved inwards, and so turn
    the line flatter; the line is drawn through what it keeps until that stays the same.

    Args:
        log_c_B: log C.
        log_n_B: log N_opt; NaN where there is none.
        ends_2B: log of the smallest and of the largest size looked at.
    """
    found_B = np.isfinite(log_n_B)
    keep_B = found_B
    for _ in range(ROUNDS):
        if keep_B.sum() < LEAST_OPTIMA:
            break
        slope, level = np.polyfit(log_c_B[keep_B], log_n_B[keep_B], 1)
        room_B = np.minimum(level + slope * log_c_B - ends_2B[0], ends_2B[1] - level - slope * log_c_B)
        previous_B, keep_B = keep_B, found_B & (room_B >= np.log(ROOM))
        if np.array_equal(previous_B, keep_B):
            break
    return keep_B


def size_groups(n: np.ndarray, within: float = SAME_SIZE) -> np.ndarray:
    """A label per value such that values of one label lie within a factor of each other, smallest label first."""
    order = np.argsort(n, kind="stable")
    labels, label, start = np.empty(len(n), int), 0, n[order[0]]
    for index in order:
        if n[index] > within * start:
            label, start = label + 1, n[index]
        labels[index] = label
    return labels


def curves(points: Table, *, of: Literal["size", "run", "size of a run"]) -> list[np.ndarray]:
    """Rows of the table that lie along one curve of loss over tokens, each with at least two token counts.

    Args:
        points: the table.
        of: what a curve belongs to: a size, whatever the seeds; a run, which is a cluster; or a size within a
            cluster, where no cluster holds two points a size.
    """
    size_N = size_groups(points.columns["n"])
    _, cluster_N = np.unique(points.cluster, return_inverse=True)
    if of == "run":
        size_N = np.zeros_like(size_N)
    elif of == "size" or np.bincount(cluster_N).max() == 1:
        cluster_N = np.zeros_like(cluster_N)
    _, curve_N = np.unique(np.stack([size_N, cluster_N], 1), axis=0, return_inverse=True)
    rows = [np.flatnonzero(curve_N == curve) for curve in range(curve_N.max() + 1)]
    d = points.columns["d"]
    return [row for row in rows if d[row].max() > ONE_KNOT * d[row].min()]


def knots(points: Table, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve's log C, ascending, (K,), and the averages of its rows there, (K, rows).

    Points whose tokens agree to 15% are averaged: a curve through neighbours would swing with their noise.
    """
    knot_K = size_groups(points.columns["d"][rows], ONE_KNOT)
    average_KR = (knot_K == np.arange(knot_K.max() + 1)[:, None]).astype(float)
    average_KR /= average_KR.sum(1, keepdims=True)
    return average_KR @ np.log(points.budgets[rows]), average_KR


def weights_at(points: Table, rows: np.ndarray, budgets_B: np.ndarray) -> np.ndarray:
    """Weights on a curve's log losses that give its log loss at budgets, (budgets, rows); NaN outside its range.

    The least-squares cubic of log loss in log C through the curve's knots (lower where there are fewer than four): a
    power law with an offset bends little, and a curve through every knot would swing between noisy ones.
    """
    x_K, average_KR = knots(points, rows)
    centre, degree = x_K.mean(), min(3, len(x_K) - 1)
    fit_PK = np.linalg.pinv(np.vander(x_K - centre, degree + 1))
    x_B = np.log(budgets_B)
    inside_B = (x_B >= x_K[0] - ROUNDING) & (x_B <= x_K[-1] + ROUNDING)
    return np.where(inside_B[:, None], np.vander(x_B - centre, degree + 1) @ fit_PK @ average_KR, np.nan)
