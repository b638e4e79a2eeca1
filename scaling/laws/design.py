"""What a design would tell: the variance that an answer has once a law is fitted to it, before any run is made.

A fit weighs points as if they were independent, but points of a trunk share an error. So its variance is the
sandwich (Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models", equation 6)

    Var(theta) = M^-1 (sigma_point^2 sum_i j_i j_i^T + sigma_trunk^2 sum_g s_g s_g^T) M^-1,   M = sum_i j_i j_i^T

with j_i the gradient of log loss i in the fitting coordinates and s_g the sum of its trunk's: more branches of one
trunk average its point errors and never its own. The formula is local, and the law is not known yet; it is averaged
over laws drawn from the bootstrap (Chaloner and Verdinelli 1995, "Bayesian experimental design", section 4).
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws import noise
from scaling.laws.fit import Fit
from scaling.laws.form import Columns, Form, Params
from scaling.laws.uncertainty import Bootstrap

STEP = 1e-3  # of central differences, in fitting coordinates: their error is its square
PRIOR_COEFFICIENT = 3.0  # standard deviation of a log coefficient before any point
LEAST_NOISE = 1e-6  # relative; a law through every point would promise certainty

Value = Callable[[Form, Params], Any]


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard deviations of log loss: what all points of a trunk share, and what each has of its own."""

    trunk: float
    point: float


def estimate_noise(fit: Fit) -> Noise:
    """Trunk and point noise from a fit's residuals by cluster; all of it by point where no trunk has two points."""
    labels_N = np.unique(fit.table.cluster, return_inverse=True)[1]
    if len(fit.table) <= len(fit.theta):
        return Noise(0.0, LEAST_NOISE)
    residuals_N, jacobian_NP = fit.weighed
    found = noise.spread(residuals_N, labels_N, jacobian_NP)
    if found.trunk is None or found.point is None:
        return Noise(0.0, max(found.total, LEAST_NOISE))
    return Noise(found.trunk, max(found.point, LEAST_NOISE))


def gradients(form: Form, theta_KP: np.ndarray, centre: Mapping[str, float], columns: Columns) -> np.ndarray:
    """Gradients of log loss at columns (N,) under each of K laws, (K, N, P)."""

    def log_loss(theta_KP: np.ndarray) -> np.ndarray:
        params = {name: np.asarray(v)[:, None] for name, v in form.physical(theta_KP, centre).items()}
        return np.asarray(np.log(form.predict(params, columns)))

    return _differences(log_loss, theta_KP)


def _differences(function: Callable[[np.ndarray], np.ndarray], theta_KP: np.ndarray) -> np.ndarray:
    """Central differences, one more axis of P at the end."""
    steps = STEP * np.eye(theta_KP.shape[1])
    return np.stack([(function(theta_KP + h) - function(theta_KP - h)) / (2 * STEP) for h in steps], -1)


@dataclasses.dataclass(frozen=True)
class Laws:
    """Laws over which a design is judged, and what is asked of them.

    Attributes:
        form: the form.
        centre: of the fitting coordinates.
        theta: one law per row, (K, P).
        answer: gradient of the answer, (K, P).
        noise: of the runs.
    """

    form: Form
    centre: Mapping[str, float]
    theta: np.ndarray
    answer: np.ndarray
    noise: Noise

    def gradients(self, columns: Columns) -> np.ndarray:
        """Of log loss at columns (N,), (K, N, P)."""
        return gradients(self.form, self.theta, self.centre, columns)


def draw_laws(replicates: Bootstrap, value: Value, noise: Noise, count: int) -> Laws:
    """The fitted law and the first `count` - 1 replicates at which the answer has a gradient."""
    fit = replicates.fit
    theta_KP = np.concatenate([fit.theta[None], replicates.theta[: 2 * count]])
    answer_KP = _differences(lambda t_KP: value(fit.form, fit.form.physical(t_KP, fit.table.centre)), theta_KP)
    usable = np.flatnonzero(np.isfinite(answer_KP).all(1))[:count]
    return Laws(fit.form, fit.table.centre, theta_KP[usable], answer_KP[usable], noise)


@dataclasses.dataclass(frozen=True)
class Design:
    """Points so far as a fit sees them.

    Attributes:
        laws: what they are judged under.
        gram: sum of j j^T and the prior's, (K, P, P).
        spread: the middle of the sandwich, (K, P, P).
        sums: by trunk, the sum of its gradients, (K, P).
    """

    laws: Laws
    gram: np.ndarray
    spread: np.ndarray
    sums: Mapping[Hashable, np.ndarray]

    def log_variance(self) -> float:
        """Log variance of the answer, averaged over the laws."""
        return float(_log_variance(self.laws, self.gram[None], self.spread[None])[0])

    def with_points(self, trunk: Hashable, gradients_KNP: np.ndarray) -> "Design":
        """The design with points added to a trunk, old or new."""
        return self.plus(trunk, squares(gradients_KNP), gradients_KNP.sum(1))

    def plus(self, trunk: Hashable, squares_KPP: np.ndarray, sums_KP: np.ndarray) -> "Design":
        """The design with points added to a trunk, given as their sums of j j^T and of j."""
        gram, spread, total = self._grown(self._sum(trunk), squares_KPP, sums_KP)
        return dataclasses.replace(self, gram=gram, spread=spread, sums={**self.sums, trunk: total})

    def log_variances(self, trunks: Sequence[Hashable], squares: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Log variance with each of M additions, (M,).

        Args:
            trunks: (M,) where each goes.
            squares: sum of j j^T over each one's points, (M, K, P, P).
            sums: sum of j, (M, K, P).
        """
        so_far = np.stack([self._sum(trunk) for trunk in trunks])
        gram, spread, _ = self._grown(so_far, squares, sums)
        return _log_variance(self.laws, gram, spread)

    def _sum(self, trunk: Hashable) -> np.ndarray:
        return self.sums.get(trunk, np.zeros_like(self.laws.answer))

    def _grown(self, so_far: np.ndarray, squares: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, ...]:
        noise, total = self.laws.noise, so_far + sums
        shared = total[..., :, None] * total[..., None, :] - so_far[..., :, None] * so_far[..., None, :]
        return self.gram + squares, self.spread + noise.point**2 * squares + noise.trunk**2 * shared, total


def design_of(fit: Fit, laws: Laws) -> Design:
    """The design of a fit's table, with a weak prior that keeps coordinates which no point speaks of finite."""
    deviations = dict.fromkeys(fit.form.coefficients, PRIOR_COEFFICIENT)
    deviations |= {shape.name: (shape.starts[1] - shape.starts[0]) / 4 for shape in fit.form.shapes}
    total = laws.noise.point**2 + laws.noise.trunk**2
    prior_PP = total * np.diag([deviations[name] ** -2.0 for name in fit.form.free])
    count = len(laws.theta)
    design = Design(laws, np.tile(prior_PP, (count, 1, 1)), np.tile(total * prior_PP, (count, 1, 1)), {})
    gradients_KNP = np.sqrt(fit.weights)[:, None] * laws.gradients(fit.table.columns)
    for trunk in np.unique(fit.table.cluster):
        design = design.with_points(trunk, gradients_KNP[:, fit.table.cluster == trunk])
    return design


def squares(gradients_KNP: np.ndarray) -> np.ndarray:
    """Sum of j j^T over points, (K, P, P)."""
    return np.asarray(gradients_KNP.swapaxes(1, 2) @ gradients_KNP)


def _log_variance(laws: Laws, gram_MKPP: np.ndarray, spread_MKPP: np.ndarray) -> np.ndarray:
    """Mean over laws of log g^T M^-1 S M^-1 g, (M,): a mean of logs, as a few laws are far more uncertain than most."""
    influence_MKP = np.linalg.solve(gram_MKPP, np.broadcast_to(laws.answer, gram_MKPP.shape[:-1])[..., None])[..., 0]
    variance_MK = np.einsum("mkp,mkpq,mkq->mk", influence_MKP, spread_MKPP, influence_MKP)
    return np.asarray(np.log(variance_MK).mean(1))
