"""Replicates of a table for the bootstrap: by variance components, by wild weights, or by drawing clusters again."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from scaling.laws import fit as fitting
from scaling.laws import intervals, noise
from scaling.laws.derivatives import Points

# Webb's six-point distribution: mean 0, variance 1, symmetric; two-point weights have only 2^G distinct draws
# when there are G clusters. Webb 2014, "Reworking wild bootstrap based inference for clustered errors".
WEBB = np.sqrt([1.5, 1.0, 0.5, 0.5, 1.0, 1.5]) * np.array([-1, -1, -1, 1, 1, 1])

LEAST_FREEDOM = 0.02  # share of a residual that the fit must have left over for it to be scaled up in full
QUANTILES = 199  # of the normal distribution, that stand for it where one new run's error is drawn

Method = Literal["components", "wild", "resample"]


class Replicates(NamedTuple):
    """What the law is fitted to again and again.

    Attributes:
        data: the points, with log losses and weights (R, N) by replicate.
        freedom: degrees of freedom that the clusters leave for their own variance, which widen intervals.
        errors: log errors to draw a new run's from.
        words: how errors were made, for a person.
    """

    data: Points
    freedom: int
    errors: np.ndarray
    words: str


def components(fit: fitting.Fit, cluster_N: np.ndarray, count: int, rng: np.random.Generator) -> Replicates:
    """Normal errors of a trunk and a point part around the fitted law, as large as the residuals say.

    The two variances come from the residuals with the law's own pull on them taken into account (`noise.spread`), so
    replicates carry what a cluster's residuals cannot show: few clusters hide most of their own variance. Of the G
    clusters' degrees of freedom those are gone that parameters take which do not act through tokens, and so are fitted
    to differences between trunks: E, A and alpha of chinchilla's form. Where every point is a cluster, all parameters
    take theirs. In 1000 simulated studies of eight trunks a nominal 90% interval of a, log D/N or a loss covers 90 to
    94% this way where trunk noise is half to three times point noise (`experiments/simulations/coverage.py`); wild
    weights covered 75 to 88% in a hundred of them.
    """
    points, clusters = len(fit.residuals), int(cluster_N.max()) + 1
    residuals_N, jacobian_NP = fit.weighed
    parts = noise.NONE if points <= len(fit.theta) else noise.spread(residuals_N, cluster_N, jacobian_NP)
    if parts is noise.NONE:
        shared = own = 0.0
        words = "none: as many parameters as points leave no residuals to tell errors by"
    elif parts.trunk is None or parts.point is None:
        shared, own = 0.0, parts.total
        words = "normal errors by point, as large as the residuals say: no trunk has two points to tell more"
    else:
        shared, own = parts.trunk, parts.point
        words = f"normal errors, {shared:.2%} shared by a trunk's points and {own:.2%} by point, from the residuals"
    error_RN = shared * rng.standard_normal((count, clusters))[:, cluster_N] + own * rng.standard_normal(
        (count, points)
    )
    quantiles = special.ndtri((np.arange(QUANTILES) + 0.5) / QUANTILES)
    taken = len(fit.theta) if clusters == points else len(fit.form.without("d"))
    return Replicates(_around(fit, error_RN), max(clusters - taken, 1), np.hypot(shared, own) * quantiles, words)


def wild(fit: fitting.Fit, cluster_N: np.ndarray, count: int, rng: np.random.Generator) -> Replicates:
    """Every cluster's residuals, corrected for the fit's pull on them, times one random Webb weight."""
    clusters = int(cluster_N.max()) + 1
    error_RN = rng.choice(WEBB, (count, clusters))[:, cluster_N] * corrected_residuals(fit, cluster_N)
    words = "residuals divided by 1 - leverage of their cluster (CR3, jackknife)"
    return Replicates(_around(fit, error_RN), max(clusters - 1, 1), _pool(fit), words)


def resample(fit: fitting.Fit, cluster_N: np.ndarray, count: int, rng: np.random.Generator) -> Replicates:
    """Clusters drawn with replacement."""
    clusters = int(cluster_N.max()) + 1
    counts_RG = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=count)
    data = fitting.as_points(fit.form, fit.table, fit.weights)
    drawn = data._replace(
        log_loss=np.broadcast_to(data.log_loss, (count, len(fit.table))),
        weight=counts_RG[:, cluster_N] * fit.weights,
    )
    return Replicates(drawn, max(clusters - 1, 1), _pool(fit), "clusters drawn with replacement")


METHODS: dict[Method, Callable[[fitting.Fit, np.ndarray, int, np.random.Generator], Replicates]] = {
    "components": components,
    "wild": wild,
    "resample": resample,
}


def corrected_residuals(fit: fitting.Fit, cluster_N: np.ndarray) -> np.ndarray:
    """Residuals as each cluster would show them had it been left out of the fit, times the root of their weights, (N,).

    A fit with P parameters pulls its points towards itself, and most those of a cluster that it could not do
    without. To first order the residuals of a cluster left out are (I - H_gg)^-1 r_g, with the hat matrix
    H = J (J^T J)^-1 J^T (jackknife, CR3; MacKinnon, Nielsen and Webb 2023, "Fast and reliable jackknife and
    bootstrap methods for cluster-robust inference"). Where a cluster alone determines a direction (leverage 1) there
    is nothing to see: the factor ends at 1 / LEAST_FREEDOM.
    """
    residuals_N, jacobian_NP = fit.weighed
    q_NP, _ = np.linalg.qr(jacobian_NP)
    corrected_N = np.empty_like(residuals_N)
    for g in range(cluster_N.max() + 1):
        rows = cluster_N == g
        freedom, directions = np.linalg.eigh(np.eye(rows.sum()) - q_NP[rows] @ q_NP[rows].T)
        residuals = directions.T @ residuals_N[rows]
        corrected_N[rows] = directions @ (residuals / np.maximum(freedom, LEAST_FREEDOM))
    return corrected_N


def _around(fit: fitting.Fit, error_RN: np.ndarray) -> Points:
    """Losses around the law; errors are those of a point of weight 1."""
    data = fitting.as_points(fit.form, fit.table, fit.weights)
    return data._replace(
        log_loss=data.log_loss - fit.residuals + error_RN / np.sqrt(fit.weights),
        weight=np.broadcast_to(fit.weights, error_RN.shape),
    )


def _pool(fit: fitting.Fit) -> np.ndarray:
    return intervals.scaled_residuals(fit.weighed[0], len(fit.theta))
