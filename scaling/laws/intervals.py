"""Intervals from bootstrap replicates: one rule for the process that fitted and for a law read from a file."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import special

from scaling.laws.budget import Cost
from scaling.laws.form import Form


class Interval(NamedTuple):
    """Lower and upper end, floats or arrays."""

    low: Any
    high: Any


class ReplicatedLaw(Protocol):
    """A law and its bootstrap replicates: what an allocation needs, from a fit of this process or from a file."""

    @property
    def form(self) -> Form:
        """The form."""

    @property
    def estimate(self) -> Mapping[str, float]:
        """Parameters of the fit by name."""

    @property
    def replicates(self) -> Mapping[str, np.ndarray]:
        """Parameters of the replicates by name, (R,) each."""

    @property
    def identified(self) -> bool:
        """Whether the points determine every parameter."""

    @property
    def indicative(self) -> bool:
        """Whether there are too few clusters for the level to be taken at its word."""

    @property
    def cost(self) -> Cost:
        """FLOPs per token, as budgets are counted."""

    @property
    def largest_budget(self) -> float:
        """Largest budget among the points fitted."""

    def interval(self, values_R: Any) -> Interval:
        """Interval of a quantity computed from the replicates (replicates on the first axis)."""


def expanded_percentiles(values_R: Any, level: float, freedom: int) -> Interval:
    """Percentile interval of a quantity computed from replicates (replicates on the first axis).

    Percentiles carry over to any monotone function of a parameter. They are taken at a wider level that makes
    up for normal quantiles being narrower than Student's (Hesterberg 2015, "What teachers should know about the
    bootstrap", section 4.3: expanded percentile interval).

    Args:
        values_R: (R, ...).
        level: nominal coverage.
        freedom: degrees of freedom that the clusters leave for their own variance.
    """
    tail = expanded_tail(level, freedom)
    return Interval(*np.quantile(np.asarray(values_R), [tail, 1 - tail], axis=0))


def expanded_tail(level: float, freedom: int) -> float:
    """The share that an expanded percentile interval leaves out on either side."""
    return float(special.ndtr(special.stdtrit(freedom, (1 - level) / 2)))


def scaled_residuals(residuals_N: np.ndarray, params: int) -> np.ndarray:
    """Residuals r scaled to the size of errors, r sqrt(N / (N - P)): what a new point's noise is drawn from.

    Davison and Hinkley 1997, "Bootstrap methods and their application", section 6.3.3. The residuals that
    replicates are made of are larger, because they hold the law's own uncertainty, and would count it twice.
    """
    points = len(residuals_N)
    return np.asarray(residuals_N * np.sqrt(points / max(points - params, 1)))


def with_noise(loss_RM: np.ndarray, pool_N: np.ndarray, seed: int) -> np.ndarray:
    """Losses of new runs: every replicate's prediction times the exponential of a log error drawn from the pool."""
    noise_RM = np.random.default_rng(seed).choice(pool_N, loss_RM.shape)
    return np.asarray(loss_RM * np.exp(noise_RM))
