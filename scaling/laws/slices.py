"""Tables cut at equal budgets: IsoFLOP slices, by grouping points or by interpolating every run's curve."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from scaling.errors import UserError
from scaling.laws import frontier
from scaling.laws.table import Table

LEAST_SIZES = 4  # distinct sizes in a slice: a parabola goes through any three
DISTINCT = 1.1  # sizes within 10% are not two looks at a valley
TOLERANCE = 0.1  # budgets that agree to 10% are one slice
ROUNDING = 0.01  # budgets within 1% of each other differ by rounding of steps to batches
CROWDED = 2.0  # a group of points is this much denser in log C than its surroundings, out to 3 tolerances
INTERPOLATED = 9  # slices made by interpolation, as many as Hoffmann et al. ran

How = Literal["auto", "grouped", "interpolated"]


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """Losses at one budget.

    Attributes:
        budget: C.
        n: sizes, (M,), ascending.
        weights: log losses of the slice from the table's, (M, points).
        row: the point, or the first point of the curve, that each size comes from, (M,): names its cluster.
    """

    budget: float
    n: np.ndarray
    weights: np.ndarray
    row: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Slices:
    """A table cut at equal budgets.

    Attributes:
        how: "grouped" (points whose budgets agree) or "interpolated" (each curve brought to common budgets).
        slices: at least `frontier.LEAST_OPTIMA`, by budget.
        note: what was done, in words.
    """

    how: Literal["grouped", "interpolated"]
    slices: tuple[Slice, ...]
    note: str

    @property
    def budgets(self) -> np.ndarray:
        """Budgets of the slices, (S,)."""
        return np.array([cut.budget for cut in self.slices])

    @property
    def ends(self) -> np.ndarray:
        """Log of the smallest and of the largest size of every slice, (2, S)."""
        return np.log([[cut.n[end] for cut in self.slices] for end in (0, -1)])


def cut(points: Table, *, how: How = "auto", budgets: Sequence[float] = ()) -> Slices:
    """Cuts a table at equal budgets.

    Args:
        points: the table.
        how: "grouped" takes points whose budgets agree, "interpolated" brings every curve of loss over tokens to
            common budgets; "auto" groups where groups hold half of the points.
        budgets: of interpolated slices; by default nine, spread over where there are enough sizes.

    Raises:
        UserError: fewer than three slices can be had.
    """
    groups = () if how == "interpolated" or budgets else _grouped(points)
    held = sum(len(one.n) for one in groups)
    if len(groups) >= frontier.LEAST_OPTIMA and (how == "grouped" or 2 * held >= len(points)):
        note = (
            f"{len(groups)} groups of points whose budgets agree to {TOLERANCE:.0%} ({held} of {len(points)} "
            "points), losses moved to each group's mean budget along their slope in log C"
        )
        return Slices("grouped", groups, note)
    if how == "grouped":
        raise UserError(
            f"{len(groups)} groups of at least {LEAST_SIZES} sizes whose budgets {points.cost.name} agree to "
            f"{TOLERANCE:.0%}; IsoFLOP slices need {frontier.LEAST_OPTIMA}: interpolate, or add runs at equal budgets"
        )
    made = _interpolated(points, budgets)
    if len(made) < frontier.LEAST_OPTIMA:
        raise UserError(
            f"{len(made)} budgets at which {LEAST_SIZES} sizes (10% apart) have points on both sides, and budgets of "
            f"points do not agree either: {frontier.LEAST_OPTIMA} IsoFLOP slices need sizes whose ranges of "
            f"{points.cost.name} overlap"
        )
    fewest, most = (end(len(one.n) for one in made) for end in (min, max))
    note = (
        f"{len(made)} budgets to which the loss of every run with points on both sides was interpolated along D "
        f"(cubic of log loss in log C; {fewest} to {most} losses each)"
    )
    return Slices("interpolated", made, note)


def _distinct(n: np.ndarray) -> int:
    """How many sizes 10% apart there are."""
    return int(frontier.size_groups(n, DISTINCT).max()) + 1 if len(n) else 0


def _grouped(points: Table) -> tuple[Slice, ...]:
    """Points in windows of log C that hold many sizes and are crowded against their surroundings."""
    log_c, log_n = np.log(points.budgets), np.log(points.columns["n"])
    window = np.abs(log_c - log_c[:, None]) <= TOLERANCE
    free = np.ones(len(points), bool)
    members = []
    while free.any():
        fullest = int(np.argmax((window & free).sum(1) * free))
        rows = np.flatnonzero(window[fullest] & free)
        free[rows] = False
        away = np.abs(log_c - log_c[rows].mean())
        density, beside = (away <= TOLERANCE).sum(), ((away > TOLERANCE) & (away <= 3 * TOLERANCE)).sum() / 2
        if _distinct(points.columns["n"][rows]) >= LEAST_SIZES and density >= CROWDED * beside:
            members.append(rows[np.argsort(log_n[rows], kind="stable")])
    members.sort(key=lambda rows: float(log_c[rows].mean()))
    moved = _moves(log_c, log_n, members)
    return tuple(
        Slice(float(np.exp(log_c[rows].mean())), points.columns["n"][rows], np.eye(len(points))[rows] - move_MN, rows)
        for rows, move_MN in zip(members, moved, strict=True)
    )


def _moves(log_c: np.ndarray, log_n: np.ndarray, members: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Weights on all log losses that give what members owe to their budgets' being off the mean, (M, points) by group.

    The slope of log loss in log C at equal N, which is steeper for larger models and smaller budgets, is a plane in
    log N and log C that all groups share: least squares with a cubic in log N of each group's own. Nothing is moved
    where budgets agree to rounding.
    """
    effects, left, rows_K = [], [], np.concatenate([np.zeros(0, int), *members])
    for rows in members:
        off_M, x_M = log_c[rows] - log_c[rows].mean(), log_n[rows] - log_n[rows].mean()
        effects.append(off_M[:, None] * np.stack([np.ones_like(x_M), x_M, log_c[rows] - log_c[rows_K].mean()], 1))
        q_MP, _ = np.linalg.qr(np.vander(x_M, 4))
        left.append(effects[-1] - q_MP @ (q_MP.T @ effects[-1]))
    if not members or np.mean(np.concatenate(effects)[:, 0] ** 2) < ROUNDING**2:
        return [np.zeros((len(rows), len(log_c))) for rows in members]
    slopes_3N = np.linalg.pinv(np.concatenate(left)) @ np.eye(len(log_c))[rows_K]
    return [effects_M3 @ slopes_3N for effects_M3 in effects]


def _interpolated(points: Table, budgets: Sequence[float]) -> tuple[Slice, ...]:
    """Every curve of the table brought to common budgets; those with too few sizes are left out."""
    lines = frontier.curves(points, of="size of a run")
    if not lines:
        return ()
    ends = np.array([[points.budgets[rows].min(), points.budgets[rows].max()] for rows in lines])
    n_curves = np.array([np.exp(np.log(points.columns["n"][rows]).mean()) for rows in lines])
    if not budgets:
        tries = np.geomspace(ends[:, 0].min(), ends[:, 1].max(), 400)
        covered = [_distinct(n_curves[(ends[:, 0] <= c) & (c <= ends[:, 1])]) >= LEAST_SIZES for c in tries]
        if not any(covered):
            return ()
        budgets = list(np.geomspace(tries[covered][0], tries[covered][-1], INTERPOLATED))
    made = []
    by_curve = [frontier.weights_at(points, rows, np.array(budgets)) for rows in lines]
    for index, budget in enumerate(budgets):
        there = [curve for curve, weights in enumerate(by_curve) if np.isfinite(weights[index]).all()]
        if _distinct(n_curves[there]) < LEAST_SIZES:
            continue
        weights = np.zeros((len(there), len(points)))
        for member, curve in enumerate(there):
            weights[member, lines[curve]] = by_curve[curve][index]
        n_M = n_curves[there]
        order = np.argsort(n_M, kind="stable")
        first = np.array([lines[curve][0] for curve in there])
        made.append(Slice(float(budget), n_M[order], weights[order], first[order]))
    return tuple(made)
