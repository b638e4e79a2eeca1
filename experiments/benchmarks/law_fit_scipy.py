"""The peer of the fitting benchmark: Chinchilla's law by scipy, as it is usually published. Imports nothing of ours.

The objective is Hoffmann et al. 2022, equation 3: Huber loss (delta = 1e-3) of the log of
exp(a - alpha log N) + exp(b - beta log D) + exp(e) against the log loss, over theta = (a, b, e, alpha, beta).
"""

import itertools
import time
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

DELTA = 1e-3
HOFFMANN = np.array([np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28])
TIGHT = {"ftol": 1e-15, "gtol": 1e-12, "maxiter": 10_000, "maxfun": 100_000}


class Data(NamedTuple):
    """Logs of parameters, tokens and losses, (points,) each."""

    log_n: np.ndarray
    log_d: np.ndarray
    log_loss: np.ndarray


class Work(NamedTuple):
    """What a batch of fits came to.

    Attributes:
        objectives: reached by each.
        evaluations: of the objective, by all together.
        seconds: that all took, one after the other.
    """

    objectives: list[float]
    evaluations: int
    seconds: float


def grid() -> np.ndarray:
    """The published grid of 4500 starts (Hoffmann et al. 2022, appendix D.3), (4500, 5)."""
    coefficient, exponent = np.arange(0, 26, 5), np.arange(0, 2.1, 0.5)
    return np.array(
        list(itertools.product(coefficient, coefficient, np.arange(-1, 1.1, 0.5), exponent, exponent)), float
    )


def objective(theta: np.ndarray, data: Data) -> float:
    """Sum of Huber losses of the log residuals."""
    return float(special.huber(DELTA, _residuals(theta, data)[0]).sum())


def gradient(theta: np.ndarray, data: Data) -> np.ndarray:
    """Of the objective, (5,)."""
    residual, terms = _residuals(theta, data)
    share = terms / terms.sum(0) * np.clip(residual, -DELTA, DELTA)
    return np.array([*share.sum(1), -share[0] @ data.log_n, -share[1] @ data.log_d])


def _residuals(theta: np.ndarray, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Log residuals (points,), and the law's three terms relative to its largest, (3, points)."""
    a, b, e, alpha, beta = theta
    logs = np.stack([a - alpha * data.log_n, b - beta * data.log_d, np.full_like(data.log_n, e)])
    largest = logs.max(0)
    terms = np.exp(logs - largest)
    return largest + np.log(terms.sum(0)) - data.log_loss, terms


def from_starts(starts: np.ndarray, data: Data, analytic: bool, tight: bool = False) -> Work:
    """L-BFGS-B from every start, with scipy's finite differences or the analytic gradient.

    Args:
        starts: (starts, 5).
        data: the points.
        analytic: which gradient.
        tight: tolerances near machine precision instead of scipy's defaults.
    """
    began = time.perf_counter()
    options: Any = {"method": "L-BFGS-B", "jac": gradient if analytic else None, "options": TIGHT if tight else {}}
    ends = [optimize.minimize(objective, start, args=(data,), **options) for start in starts]
    return _work(ends, began)


def replicates(rows: np.ndarray, data: Data, analytic: bool) -> Work:
    """BFGS once from Hoffmann's parameters for every resampled table, rows (replicates, points).

    As Besiroglu et al. 2024 published it, the scale of residuals is a sixth parameter and gradients are finite
    differences; with analytic ones the scale is left at 1.
    """
    began = time.perf_counter()
    ends = []
    for row in rows:
        drawn = Data(*(values[row] for values in data))
        if analytic:
            ends.append(optimize.minimize(objective, HOFFMANN, args=(drawn,), jac=gradient, method="BFGS"))
        else:
            ends.append(optimize.minimize(_free_scale, [*HOFFMANN, 0.0], args=(drawn,), method="BFGS"))
    return _work(ends, began)


def _free_scale(theta: np.ndarray, data: Data) -> float:
    """Negative log-likelihood of residuals with a Huber density of unknown scale, up to a constant."""
    *law, log_scale = theta
    residual = _residuals(np.asarray(law), data)[0] * np.exp(-log_scale)
    return float(special.huber(DELTA, residual).sum() + len(residual) * log_scale)


def _work(ends: list[Any], began: float) -> Work:
    return Work([float(end.fun) for end in ends], sum(int(end.nfev) for end in ends), time.perf_counter() - began)
