"""The noise floor from repeats, and how far above it a law's misses lie.

Points at the same N and D from different trunks differ by their seeds, and by whatever else the table does not say.
What they differ by is the least that any law of N and D can miss by; one that misses by more has the wrong form.
"""

import dataclasses

import numpy as np
from scipy import sparse, spatial, special

from scaling.laws import fit as fitting
from scaling.laws.intervals import Interval
from scaling.laws.table import Table

SAME = 1.01  # N and D of repeats agree to 1%: less than that is rounding of steps to batches


@dataclasses.dataclass(frozen=True)
class Spread:
    """Standard deviation of log losses around a design, by its sources.

    Attributes:
        total: of one point.
        trunk: of what all points of a trunk share, and
        point: of the rest; None where no trunk has two points to tell them apart by.
        freedom: degrees of freedom of `total`, fewer than differences where points share a trunk.
    """

    total: float
    trunk: float | None
    point: float | None
    freedom: float

    def interval(self, level: float = 0.9) -> Interval:
        """Interval of `total` by chi-square."""
        tails = np.array([(1 + level) / 2, (1 - level) / 2])
        return Interval(*(self.total * np.sqrt(self.freedom / special.chdtri(self.freedom, 1 - tails))))


NONE = Spread(0.0, None, None, 1.0)  # of points that a law goes through exactly


@dataclasses.dataclass(frozen=True)
class NoiseFloor:
    """What losses at the same N and D differ by.

    Attributes:
        spread: of log loss (so, nearly, relative) between repeats.
        points: points with a repeat.
        places: distinct (N, D) at which they lie.
        trunks: clusters that they belong to.
    """

    spread: Spread
    points: int
    places: int
    trunks: int

    def words(self, level: float = 0.9) -> str:
        """The floor in a sentence."""
        low, high = self.spread.interval(level)
        split = ""
        if self.spread.trunk is not None and self.spread.point is not None:
            split = f": {self.spread.trunk:.2%} shared by a trunk's points, {self.spread.point:.2%} by point"
        return (
            f"{self.points} points of {self.trunks} trunks repeat {self.places} (N, D); there the loss varies by "
            f"{self.spread.total:.2%} ({level:.0%} interval {low:.2%} to {high:.2%}){split}"
        )


@dataclasses.dataclass(frozen=True)
class LackOfFit:
    """A law's misses beside the noise floor: the classical test of lack of fit (Draper and Smith 1998, section 2.1).

    Attributes:
        misses: what a point would have to scatter by for the law to miss the means of places as it does: noise, and
            whatever its form misses.
        floor: of seed repeats, which is noise alone; no part of `misses`.
    """

    misses: Spread
    floor: NoiseFloor

    @property
    def ratio(self) -> float:
        """Misses over floor; near 1 where the law misses by nothing but noise."""
        return self.misses.total / self.floor.spread.total

    def interval(self, level: float = 0.9) -> Interval:
        """Interval of the ratio, by F."""
        tails = np.array([(1 + level) / 2, (1 - level) / 2])
        quantiles = special.fdtri(self.misses.freedom, self.floor.spread.freedom, tails)
        return Interval(*(self.ratio / np.sqrt(quantiles)))

    def words(self, level: float = 0.9) -> str:
        """The comparison in a sentence."""
        low, high = self.interval(level)
        missed = (
            f"the law misses by {self.misses.total:.2%}, {self.ratio:.2g} times the noise floor "
            f"({level:.0%} interval {low:.2g} to {high:.2g})"
        )
        if low > 1:
            return f"{missed}: its form misses something that the points show"
        if high < 1:
            return f"{missed}: repeats differ by more than the law misses by; were they trained alike?"
        return f"{missed}: no more than noise, as far as these repeats can tell"


def noise_floor(points: Table) -> NoiseFloor | None:
    """The spread of log loss between points that share N and D (to 1%) but not their cluster, or None without any.

    Points of one cluster at one place count as one, their mean.
    """
    cluster_N = np.unique(points.cluster, return_inverse=True)[1]
    place_N = _places(points)
    pairs_M2, pair_N = np.unique(np.stack([place_N, cluster_N], -1), axis=0, return_inverse=True)
    mean_M = np.bincount(pair_N, np.log(points.loss)) / np.bincount(pair_N)
    repeated_M = np.bincount(pairs_M2[:, 0])[pairs_M2[:, 0]] > 1
    place_M, cluster_M = pairs_M2[repeated_M].T
    design_MX = _indicators(place_M)
    if np.allclose(_projection_off(design_MX) @ mean_M[repeated_M], 0.0, atol=1e-12):
        return None  # there are none, or they are copies of each other
    return NoiseFloor(
        spread=spread(mean_M[repeated_M], cluster_M, design_MX),
        points=int(np.isin(pair_N, np.flatnonzero(repeated_M)).sum()),
        places=len(np.unique(place_M)),
        trunks=len(np.unique(cluster_M)),
    )


def lack_of_fit(fit: fitting.Fit) -> LackOfFit | None:
    """How far a law misses the means of places, beside its table's noise floor; None where either cannot be told.

    Residuals hold the differences between repeats too, so their spread over the floor's would not be distributed as F.
    What the law leaves over is split: differences within places, which no law of N and D can touch, and what is left of
    the places themselves once the law's parameters are taken off (SS_res - SS_pure on df_res - df_pure degrees of
    freedom). Under the law alone that has the floor's variances, whose trunk and point parts decide what it amounts to.
    """
    floor = noise_floor(fit.table)
    if floor is None:
        return None
    cluster_N = np.unique(fit.table.cluster, return_inverse=True)[1]
    places_NX = _indicators(_places(fit.table))
    between_NN = _projection_off(fit.jacobian) - _projection_off(np.concatenate([fit.jacobian, places_NX], 1))
    if np.trace(between_NN) < 0.5:  # as many parameters as places
        return None
    trunk, point = floor.spread.trunk, floor.spread.point
    share = 0.0 if trunk is None or point is None else (trunk / floor.spread.total) ** 2
    alike_NN = _indicators(cluster_N) @ _indicators(cluster_N).T
    relative_NN = between_NN @ (share * alike_NN + (1 - share) * np.eye(len(cluster_N)))
    variance = max(float(fit.residuals @ between_NN @ fit.residuals), 0.0) / float(np.trace(relative_NN))
    return LackOfFit(Spread(float(np.sqrt(variance)), None, None, _satterthwaite(relative_NN)), floor)


def spread(values_N: np.ndarray, cluster_N: np.ndarray, design_NX: np.ndarray) -> Spread:
    """Splits what a linear design leaves over into a part that clusters share and a part by point.

    One-way random effects, y = X b + u_cluster + e, by fitting constants (Henderson 1953, "Estimation of variance and
    covariance components", method 3): the squares left by X and clusters together estimate e's variance, and those that
    clusters take away u's. A law's Jacobian as the design takes the fitted parameters into account; one column per
    (N, D) leaves the differences between repeats. Degrees of freedom are Satterthwaite's for the two variances found.

    Args:
        values_N: log losses or residuals.
        cluster_N: cluster of each, whole numbers.
        design_NX: columns of X; fewer than points.
    """
    share_NG = _indicators(cluster_N)
    left_NN = _projection_off(design_NX)
    left_N = left_NN @ values_N
    squares, freedom = float(left_N @ left_N), float(np.trace(left_NN))
    within_NN = _projection_off(np.concatenate([design_NX, share_NG], 1))
    within_freedom = float(np.trace(within_NN))
    shared_freedom = float(np.trace(share_NG.T @ left_NN @ share_NG))
    if within_freedom < 0.5 or within_freedom > freedom - 0.5:  # whole numbers up to rounding
        covariance_NN = share_NG @ share_NG.T  # nothing tells the parts apart: the fewest degrees of freedom
        return Spread(float(np.sqrt(squares / freedom)), None, None, _satterthwaite(left_NN @ covariance_NN))
    point = max(float(values_N @ within_NN @ values_N), 0.0) / within_freedom  # below 0 only by rounding
    trunk = (squares - freedom * point) / shared_freedom
    if trunk < 0:
        trunk, point = 0.0, squares / freedom
    covariance_NN = point * np.eye(len(values_N)) + trunk * share_NG @ share_NG.T
    return Spread(
        total=float(np.sqrt(point + trunk)),
        trunk=float(np.sqrt(trunk)),
        point=float(np.sqrt(point)),
        freedom=_satterthwaite(left_NN @ covariance_NN),
    )


def _satterthwaite(product_NN: np.ndarray) -> float:
    """Degrees of freedom of the chi-square with mean and variance of y'My, from M times y's covariance."""
    return float(np.trace(product_NN) ** 2 / np.sum(product_NN * product_NN.T))


def _projection_off(design_NX: np.ndarray) -> np.ndarray:
    """I - X X^+, whatever the rank of X."""
    scaled_NX = design_NX / np.maximum(np.linalg.norm(design_NX, axis=0), 1e-300)
    left_NX, sizes_X, _ = np.linalg.svd(scaled_NX, full_matrices=False)
    basis_NX = left_NX[:, sizes_X > 1e-9 * np.max(sizes_X, initial=0.0)]
    return np.asarray(np.eye(len(design_NX)) - basis_NX @ basis_NX.T)


def _indicators(labels_N: np.ndarray) -> np.ndarray:
    """One column per label, 1 in its rows, (N, labels)."""
    return np.asarray(labels_N[:, None] == np.unique(labels_N), float)


def _places(points: Table) -> np.ndarray:
    """A number per point, the same where N and D agree to 1%, (N,)."""
    logs_N2 = np.log(np.stack([points.columns["n"], points.columns["d"]], -1))
    pairs = spatial.cKDTree(logs_N2).query_pairs(np.log(SAME), p=np.inf, output_type="ndarray")
    close = sparse.coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(points), len(points)))
    return np.asarray(sparse.csgraph.connected_components(close, directed=False)[1])
