"""Noise of the losses that IsoFLOP slices are made of: how large it is, and tables with it redrawn."""

import dataclasses

import numpy as np

from scaling.laws import frontier, slices
from scaling.laws.noise import noise_floor
from scaling.laws.table import Table

LEAST_FREEDOM = 10  # degrees of freedom of residuals, below which repeats of a design are asked for the noise


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise of a log loss: standard deviations, which add in squares.

    Attributes:
        point: of each point's own.
        shared: of what points of one cluster have in common.
        freedom: degrees of freedom that they were estimated with; None where they are known.
        source: where they come from, in words.
    """

    point: float
    shared: float
    freedom: int | None
    source: str

    @property
    def total(self) -> float:
        """Of one point."""
        return float(np.hypot(self.point, self.shared))

    def of(self, one: slices.Slice) -> float:
        """Of a typical loss of a slice, whose weights may have averaged noise of several points."""
        return float(np.sqrt(self.point**2 * (one.weights**2).sum(1).mean() + self.shared**2))


SILENT = Noise(0.0, 0.0, None, "none")


def estimate(points: Table, cuts: slices.Slices, given: float | None = None) -> Noise:
    """Noise of a log loss: given, or from residuals of slices about a cubic of their own, or from seed repeats.

    Residuals are asked first: they hold whatever scatters losses about a smooth slice, such as shapes of one size.
    Two moments, their squares and their products within clusters across slices, are set to what noise by point and
    noise by cluster would make them, given the weights by which slices are made of points. Where the size of the
    noise is known, its split is still estimated so.
    """
    cluster_N = np.unique(points.cluster, return_inverse=True)[1]
    operators, rows, freedom = [], [], 0
    for one in cuts.slices:
        x_M = np.log(one.n)
        degree = min(3, int(frontier.size_groups(one.n).max()) - 1)
        q_MP, _ = np.linalg.qr(np.vander(x_M - x_M.mean(), degree + 1))
        operators.append(one.weights - q_MP @ (q_MP.T @ one.weights))
        rows.append(one.row)
        freedom += len(x_M) - degree - 1
    left_KN = np.concatenate(operators)  # residuals of all slices from the log losses of the table
    label_K = cluster_N[np.concatenate(rows)]
    slice_K = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    left_KG = left_KN @ (cluster_N[:, None] == np.arange(cluster_N.max() + 1))
    across_KK = (label_K[:, None] == label_K) & (slice_K[:, None] != slice_K)
    point, shared = _components(left_KN @ np.log(points.loss), left_KN, left_KG, across_KK)
    if given is not None:
        total = np.hypot(point, shared)
        share = shared / total if total > 0 else 0.0
        return Noise(given * float(np.sqrt(1 - share**2)), given * share, None, "as given")
    floor = noise_floor(points) if freedom < LEAST_FREEDOM else None
    if floor is not None and floor.spread.freedom > freedom:
        repeats = f"repeats of {floor.points} points by other clusters ({floor.spread.freedom:.1f} degrees of freedom)"
        trunk = floor.spread.trunk or 0.0
        point = float(np.sqrt(floor.spread.total**2 - trunk**2))
        return Noise(point, trunk, round(floor.spread.freedom), repeats)
    source = f"residuals of {len(cuts.slices)} slices about a cubic in log N each ({freedom} degrees of freedom)"
    return Noise(point, shared, freedom, source)


def redraw(points: Table, noise: Noise, replicates: int, seed: int) -> np.ndarray:
    """Log losses with noise added, (R, points)."""
    cluster_N = np.unique(points.cluster, return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    shared_RN = rng.normal(0, noise.shared, (replicates, cluster_N.max() + 1))[:, cluster_N]
    return np.asarray(np.log(points.loss) + shared_RN + rng.normal(0, noise.point, shared_RN.shape))


def _components(
    residual_K: np.ndarray, left_KN: np.ndarray, left_KG: np.ndarray, across_KK: np.ndarray
) -> tuple[float, float]:
    """Standard deviations by point and by cluster from two moments of residuals that are linear in both."""
    squares = float(residual_K @ residual_K)
    products = float(residual_K @ across_KK @ residual_K)
    expected = np.array(
        [
            [(left_KN**2).sum(), (left_KG**2).sum()],
            [(across_KK * (left_KN @ left_KN.T)).sum(), (across_KK * (left_KG @ left_KG.T)).sum()],
        ]
    )
    if abs(np.linalg.det(expected)) < 1e-9 * expected[0, 0] * expected[0, 1]:
        return float(np.sqrt(squares / expected[0, 0])), 0.0  # no cluster in two slices: nothing tells them apart
    point, shared = np.linalg.solve(expected, [squares, products])
    if shared < 0:
        point, shared = squares / expected[0, 0], 0.0
    elif point < 0:
        point, shared = 0.0, squares / expected[0, 1]
    return float(np.sqrt(point)), float(np.sqrt(shared))
