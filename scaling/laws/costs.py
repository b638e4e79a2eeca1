"""What the points of a table cost together, a trunk that several share paid for once."""

import numpy as np

from scaling.laws.table import Table


def spent(points: Table, decay_share: float | None = None) -> float:
    """FLOPs, as the table counts them, that its points took.

    Where the table says up to where a branch shares its trunk (column d_stable), a trunk, which is a cluster at one N,
    is paid for once up to its last branch, and every branch from there to its end.

    Args:
        points: the table.
        decay_share: of its tokens, what a point has of its own where the table does not say; without, every point is
            paid for in full.
    """
    stable = points.columns.get("d_stable")
    if stable is None and decay_share is not None:
        stable = (1 - decay_share) * points.columns["d"]
    if stable is None:
        return float(points.budgets.sum())
    d, per_token = points.columns["d"], points.budgets / points.columns["d"]
    _, cluster_N = np.unique(points.cluster, return_inverse=True)
    _, trunk_N = np.unique(np.stack([cluster_N, points.columns["n"]], -1), axis=0, return_inverse=True)
    trunks = np.zeros(trunk_N.max(initial=-1) + 1)
    np.maximum.at(trunks, trunk_N, per_token * stable)
    return float(trunks.sum() + (per_token * (d - stable)).sum())


def counting(points: Table) -> str:
    """How `spent` counts where no share is given, in words."""
    how = "a trunk once and its branches on top" if "d_stable" in points.columns else "every point in full"
    return f"{points.cost.name}, {how}"
