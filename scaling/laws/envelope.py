"""Chinchilla's approach 1: which size attains the least loss at every budget, and a line through these sizes.

Hoffmann et al. 2022, section 3.1, take the envelope over training curves of runs with several horizons. A study of
trunks and decay branches has branch ends instead: each size's ends lie on one curve, and the stable phase, which
lies above its decayed ends, is no part of it.
"""

import dataclasses
from typing import Literal

import numpy as np
from scipy import interpolate

from scaling.errors import UserError
from scaling.laws import frontier
from scaling.laws.frontier import Line
from scaling.laws.table import Table

BUDGETS = 300  # log-spaced over the table's; Hoffmann et al. take 1500
LEAST_WINNERS = 3  # distinct sizes on the envelope that a line is drawn through

Of = Literal["size", "run"]


@dataclasses.dataclass(frozen=True, eq=False)
class Envelope:
    """Approach 1 on one table.

    Attributes:
        points: the table.
        of: what a curve belongs to: "size" for branch ends, "run" for training curves.
        budgets: where it is used, (B,).
        n: the size of least loss there, (B,).
        loss: that loss, (B,).
        alone: budgets, of the 300 looked at, that fewer than two sizes reach.
        edge: budgets left out because the sizes that reach them do not lie on both sides of the optimum (by the
            factor `frontier.ROOM`): the true best may be none of them.
        line: N_opt = k C^a through the rest.
    """

    points: Table
    of: Of
    budgets: np.ndarray
    n: np.ndarray
    loss: np.ndarray
    alone: int
    edge: int
    line: Line


def fit(points: Table, *, of: Of | None = None, replicates: int = 200, level: float = 0.9, seed: int = 0) -> Envelope:
    """Approach 1 with a bootstrap over clusters.

    Args:
        points: the table.
        of: "size" where points are ends of runs (branch ends; each size's points are a curve), "run" where points
            lie along training curves and clusters are runs (tables of cosine runs); by default as `curves_of` finds.
        replicates: R; each draws clusters with replacement, and repeats of a cluster count once.
        level: nominal coverage of intervals.
        seed: of the replicates.

    Raises:
        UserError: fewer than three sizes are best at some budget that smaller and larger ones reach too.
    """
    grid_B = np.geomspace(points.budgets.min(), points.budgets.max(), BUDGETS)
    of = curves_of(points) if of is None else of
    look = _Look(points, of, grid_B)
    log_loss_B, log_n_B, used_B, alone = look.envelope(np.ones(len(points), bool))
    winners = len(np.unique(log_n_B[used_B]))
    if winners < LEAST_WINNERS:
        raise UserError(
            f"{winners} sizes are best at budgets that sizes {frontier.ROOM:g} times smaller and larger than the "
            f"optimum reach (of {BUDGETS} budgets {alone} are reached by fewer than two sizes): the envelope needs "
            f"{LEAST_WINNERS}; let ranges of {points.cost.name} overlap more"
        )
    labels, cluster_N = np.unique(points.cluster, return_inverse=True)
    rng = np.random.default_rng(seed)
    rows = [np.where(used_B, log_n_B, np.nan)]
    for _ in range(replicates):
        drawn = np.bincount(rng.integers(0, len(labels), len(labels)), minlength=len(labels))
        _, log_n_R, used_R, _ = look.envelope(drawn[cluster_N] > 0)
        enough = len(np.unique(log_n_R[used_R])) >= LEAST_WINNERS
        rows.append(np.where(used_R & enough, log_n_R, np.nan))
    return Envelope(
        points=points,
        of=of,
        budgets=grid_B[used_B],
        n=np.exp(log_n_B[used_B]),
        loss=np.exp(log_loss_B[used_B]),
        alone=alone,
        edge=BUDGETS - alone - int(used_B.sum()),
        line=frontier.draw_line(grid_B, np.stack(rows), np.ones(BUDGETS), level),
    )


def curves_of(points: Table) -> Of:
    """What a table's curves belong to, by its design.

    Runs with a horizon of their own, as under a cosine, show as clusters with points at several D and one N, of which
    most sizes have some that end at different D. Trunks of one size are branched at the same D, whatever their seed.
    """
    size_N = frontier.size_groups(points.columns["n"])
    ends: dict[int, list[float]] = {int(size): [] for size in size_N}
    for rows in frontier.curves(points, of="run"):
        if len(np.unique(size_N[rows])) == 1:
            ends[int(size_N[rows[0]])].append(float(points.columns["d"][rows].max()))
    several = [max(d) > frontier.ONE_KNOT * min(d) for d in ends.values() if d]
    return "run" if several and 2 * sum(several) > len(ends) else "size"


class _Look:
    """Curves of a table at a grid of budgets, each subset of a curve's points interpolated once.

    Log loss in log C by PCHIP, which does not swing below the points and win where nothing was trained.
    """

    def __init__(self, points: Table, of: Of, grid_B: np.ndarray):
        self.points, self.grid_B = points, grid_B
        self.curves = frontier.curves(points, of=of)
        if not self.curves:
            raise UserError("no size has points at several token counts: the envelope needs curves of loss over tokens")
        n = np.array([np.exp(np.log(points.columns["n"][rows]).mean()) for rows in self.curves])
        self.size_of_curve = frontier.size_groups(n)
        counts = np.bincount(self.size_of_curve)
        self.log_sizes = np.bincount(self.size_of_curve, np.log(n)) / counts
        self.seen: dict[tuple[int, bytes], np.ndarray] = {}

    def envelope(self, keep_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Least log loss at every budget, log of its size, whether it is used, and how many see a single size."""
        log_loss_SB = np.full((len(self.log_sizes), len(self.grid_B)), np.inf)
        for curve, rows in enumerate(self.curves):
            size = self.size_of_curve[curve]
            log_loss_SB[size] = np.fmin(log_loss_SB[size], self._at_grid(curve, keep_N[rows]))
        reached_SB = np.isfinite(log_loss_SB)
        several_B = reached_SB.sum(0) >= 2
        first_B, last_B = np.argmax(reached_SB, 0), len(reached_SB) - 1 - np.argmax(reached_SB[::-1], 0)
        log_n_B = np.where(several_B, self.log_sizes[np.argmin(log_loss_SB, 0)], np.nan)
        ends_2B = np.stack([self.log_sizes[first_B], self.log_sizes[last_B]])
        used_B = frontier.bracketed(np.log(self.grid_B), log_n_B, ends_2B)
        return log_loss_SB.min(0), log_n_B, used_B, int(np.sum(~several_B))

    def _at_grid(self, curve: int, keep: np.ndarray) -> np.ndarray:
        """Log loss of a curve's points that are kept, at every budget; NaN out of their range."""
        rows, key = self.curves[curve], (curve, keep.tobytes())
        if key not in self.seen:
            d = self.points.columns["d"][rows][keep]
            if len(d) < 2 or d.max() <= frontier.ONE_KNOT * d.min():
                self.seen[key] = np.full(len(self.grid_B), np.nan)
            else:
                x_K, average_KR = frontier.knots(self.points, rows[keep])
                curve_K = interpolate.PchipInterpolator(
                    x_K, average_KR @ np.log(self.points.loss[rows[keep]]), extrapolate=False
                )
                self.seen[key] = curve_K(np.log(self.grid_B))
        return self.seen[key]
