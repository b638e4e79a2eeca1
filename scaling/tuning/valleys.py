"""Parabolas of log tokens in log batch, one per loss level, through the runs of one size; and replicates of them."""

from typing import NamedTuple

import numpy as np
import pandas as pd

LEAST_BATCHES = 4  # that come down to a level: a parabola goes through any three


class Valleys(NamedTuple):
    """The parabolas of one size, one for each of L levels.

    Attributes:
        level: losses, (L,).
        batches: how many batch sizes come down to the level, (L,).
        ends: the smallest and the largest of these, (2, L).
        log_batch: of the minimum, (1 + R, L): of all seeds, then of each replicate; NaN where the parabola has no
            minimum between the ends, or fewer than `LEAST_BATCHES` come down to the level.
        lowest: tokens at the minimum, mean of the seeds, (L,); NaN where the parabola opens downward.
        curvature: second coefficient, (L,); NaN where the runs do not determine it.
    """

    level: np.ndarray
    batches: np.ndarray
    ends: np.ndarray
    log_batch: np.ndarray
    lowest: np.ndarray
    curvature: np.ndarray


def fit(points: pd.DataFrame, weight_RS: np.ndarray, power: float) -> Valleys:
    """Least-squares parabolas of log tokens in log batch, which seeds share up to an offset of their own.

    Args:
        points: seed, batch, level, tokens of one size; not every run comes down to every level.
        weight_RS: how often each replicate drew each seed.
        power: a batch weighs (least tokens / its tokens)^power.
    """
    seeds, batches = np.unique(points["seed"]), np.unique(points["batch"])
    table = points.pivot_table(index=["seed", "batch"], columns="level", values="tokens")
    table = table.reindex(pd.MultiIndex.from_product([seeds, batches]))
    tokens_SBL = table.to_numpy(float).reshape(len(seeds), len(batches), -1)
    reached_SBL = np.isfinite(tokens_SBL)
    y_SBL = np.log(np.where(reached_SBL, tokens_SBL, 1.0))
    least_SL = np.where(reached_SBL, y_SBL, np.inf).min(1)
    near_SBL = np.exp(power * np.where(reached_SBL, least_SL[:, None] - y_SBL, -np.inf))

    log_batch_B = np.log(batches.astype(float))
    x_B = log_batch_B - log_batch_B.mean()
    design_B2 = np.stack([x_B, x_B**2], 1)
    total_SL = np.maximum(near_SBL.sum(1), 1e-12)  # a seed whose runs all miss the level weighs nothing
    mean_SL2 = np.einsum("sbl,bi->sli", near_SBL, design_B2) / total_SL[..., None]
    mean_y_SL = np.einsum("sbl,sbl->sl", near_SBL, y_SBL) / total_SL
    off_SBL2 = design_B2[:, None] - mean_SL2[:, None]
    square_SL22 = np.einsum("sbl,sbli,sblj->slij", near_SBL, off_SBL2, off_SBL2)
    cross_SL2 = np.einsum("sbl,sbli,sbl->sli", near_SBL, off_SBL2, y_SBL)

    weight_RS = np.vstack([np.ones(len(seeds)), weight_RS])
    square_RL22 = np.tensordot(weight_RS, square_SL22, 1)
    few_RL = np.linalg.det(square_RL22) < 1e-9
    square_RL22[few_RL] = np.eye(2)
    slope_RL, curvature_RL = np.moveaxis(
        np.linalg.solve(square_RL22, np.tensordot(weight_RS, cross_SL2, 1)[..., None])[..., 0], -1, 0
    )
    upward_RL = (curvature_RL > 0) & ~few_RL
    vertex_RL = np.where(upward_RL, -slope_RL / np.where(upward_RL, 2 * curvature_RL, 1.0), np.nan)
    offset_SL = mean_y_SL - slope_RL[0] * mean_SL2[..., 0] - curvature_RL[0] * mean_SL2[..., 1]
    seen_SL = reached_SBL.any(1)
    offset_L = np.where(seen_SL, offset_SL, 0.0).sum(0) / seen_SL.sum(0)
    lowest_L = offset_L + slope_RL[0] * vertex_RL[0] + curvature_RL[0] * vertex_RL[0] ** 2

    reached_BL = reached_SBL.any(0)
    ends_2L = np.stack([batches[reached_BL.argmax(0)], batches[::-1][reached_BL[::-1].argmax(0)]])
    log_batch_RL = log_batch_B.mean() + vertex_RL
    inside_RL = (log_batch_RL > np.log(ends_2L[0])) & (log_batch_RL < np.log(ends_2L[1]))
    log_batch_RL = np.where(inside_RL & (reached_BL.sum(0) >= LEAST_BATCHES), log_batch_RL, np.nan)
    curvature_L = np.where(few_RL[0], np.nan, curvature_RL[0])
    levels = table.columns.to_numpy(float)
    return Valleys(levels, reached_BL.sum(0), ends_2L, log_batch_RL, np.exp(lowest_L), curvature_L)


def bootknife(clusters: int, replicates: int, rng: np.random.Generator) -> np.ndarray:
    """How often each cluster is drawn, (replicates, clusters): as many as there are, from all but one left out.

    Plain draws with replacement would show (G - 1) / G of the variance: half of it with two clusters (Hesterberg 2004,
    "Unbiasing the bootstrap: bootknife sampling vs. smoothing").
    """
    left_out_R = rng.integers(0, clusters, replicates)
    share_RS = (np.arange(clusters) != left_out_R[:, None]) / (clusters - 1)
    return rng.multinomial(clusters, share_RS)
