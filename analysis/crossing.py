"""Where one model's losses, branch by branch, cross another's: the data and the compute of matching it."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pandas as pd


def tokens_to_reach(tokens: npt.ArrayLike, losses: npt.ArrayLike, target: float) -> float:
    """Tokens at which a model comes down to a loss, log-linear between its branches; NaN outside of them.

    Args:
        tokens: D of branches, ascending.
        losses: at their ends.
        target: the loss to be reached.
    """
    points = list(zip(np.log(np.asarray(tokens, float)), np.asarray(losses, float), strict=True))
    for (left, above), (right, below) in itertools.pairwise(points):
        if above >= target >= below:
            share = (above - target) / (above - below) if above > below else 0.0
            return math.exp(left + share * (right - left))
    return math.nan


def matches(points: pd.DataFrame, loss: str, reference_ratio: float = 40.0) -> pd.DataFrame:
    """For every pair of sizes and seed: what it takes the smaller to reach the larger's loss at `reference_ratio` D/N.

    Columns: small, large (N), seed, target (the larger's loss), tokens (NaN: not reached by the smaller's longest
    branch), D/N, compute (6ND of the smaller over the larger's), inference (FLOPs per token, small / large: N ratio),
    best (the smaller's lowest loss), longest (D/N of its longest branch).
    """
    rows = []
    sizes = sorted(points["N"].unique())
    for (small, large), seed in itertools.product(itertools.combinations(sizes, 2), sorted(points["seed"].unique())):
        ours = points[(points["N"] == small) & (points["seed"] == seed)].sort_values("D_total")
        theirs = points[(points["N"] == large) & (points["seed"] == seed)]
        theirs = theirs[(theirs["D_total"] / large / reference_ratio - 1).abs() < 0.02]
        if ours.empty or theirs.empty:
            continue
        reference = theirs.iloc[0]
        reached = tokens_to_reach(ours["D_total"], ours[loss], reference[loss])
        rows.append(
            {
                "small": small,
                "large": large,
                "seed": seed,
                "target": reference[loss],
                "tokens": reached,
                "D/N": reached / small,
                "compute": small * reached / (large * reference["D_total"]),
                "inference": small / large,
                "best": ours[loss].min(),
                "longest": ours["D_total"].max() / small,
            }
        )
    return pd.DataFrame(rows)
