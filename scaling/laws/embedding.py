"""Counting parameters with or without embeddings, and what the choice does to a law.

At a fixed aspect ratio the embedding grows as the cube root of the rest, so the two counts are

    N_total = N + omega N^(1/3),

and a Chinchilla law in N_total is, in non-embedding N, no longer a power law: its N_opt(C), C = 6 N D with that N,
has the local exponent beta / (alpha / 3 + beta) where the embedding dominates, and beta / (alpha + beta) where it
is negligible. Kaplan's .73 is mostly this, at the sizes he trained.

A specification: tests hold what `conventions` finds of planted runs against it. No report reads it, because omega is a
property of models that a table of N, D and losses does not tell.

Source: Pearce & Song 2024 (arXiv 2406.12907), sections 2 and 3.
"""

import dataclasses
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws.forms import CHINCHILLA, Params

# What Pearce & Song simulate with: the coefficient of their fit 47491 N^.34 to the models of Hoffmann et al., table A9
# (one table of 32 K entries), used with an exponent of 1/3. Refitted with 1/3 it would be 52960.
CHINCHILLA_OMEGA = 47491.0
KAPLAN_SIZES = (768.0, 1.5e9)  # non-embedding parameters (Kaplan et al. 2020, section 3)


def omega_of_shape(vocabulary: float, aspect_ratio: float, *, tied: bool = True) -> float:
    """omega of models of one aspect ratio: with N = 12 L width^2, width = (aspect_ratio N / 12)^(1/3).

    Args:
        vocabulary: its entries.
        aspect_ratio: width / layers.
        tied: whether embedding and output head are one table; two count twice.

    Raises:
        UserError: an argument that is not positive.
    """
    if not (vocabulary > 0 and aspect_ratio > 0):
        raise UserError(f"vocabulary {vocabulary}, aspect ratio {aspect_ratio}: both must be positive")
    return float((1 if tied else 2) * vocabulary * np.cbrt(aspect_ratio / 12))


def fit_omega(n: Any, n_total: Any) -> float:
    """omega fitted to models by least squares of log N_total, by Gauss-Newton from the geometric mean.

    Args:
        n, n_total: (models,) parameters without and with embeddings.

    Raises:
        UserError: a model without embedding parameters, or without others.
    """
    n, n_total = np.asarray(n, float), np.asarray(n_total, float)
    bad = np.flatnonzero(~((n > 0) & (n_total > n)))
    if len(bad):
        sizes = f"{n.flat[bad[0]]:.6g} of {n_total.flat[bad[0]]:.6g} parameters"
        raise UserError(f"model {bad[0]} has {sizes} outside its embeddings: some must be outside, some inside")
    log_omega = np.mean(np.log((n_total - n) / np.cbrt(n)))
    for _ in range(20):  # the residual is almost linear in log omega: it is done after five
        fitted = total(n, np.exp(log_omega))
        slope = 1 - n / fitted
        log_omega += slope @ np.log(n_total / fitted) / (slope @ slope)
    return float(np.exp(log_omega))


def total(n: Any, omega: float) -> Any:
    """All parameters of models with n outside the embeddings."""
    return n + omega * np.cbrt(n)


def non_embedding(n_total: Any, omega: float) -> Any:
    """Inverse of `total`: the cube of the real root of x^3 + omega x = N_total."""
    half, third = n_total / 2, omega / 3
    large = np.cbrt(half + np.sqrt(half**2 + third**3))
    small = third / large
    # Cardano's x = large - small cancels where embeddings dominate; N_total is large^3 - small^3, so divide instead.
    return (n_total / (large**2 + third + small**2)) ** 3


@dataclasses.dataclass(frozen=True)
class NonEmbeddingLaw:
    """A Chinchilla law fitted in all parameters, restated in those outside the embeddings.

    Attributes:
        params: E, A, B, alpha, beta with N all parameters; floats.
        omega: of the models it speaks of.
    """

    params: Params
    omega: float

    def loss(self, n: Any, d: Any) -> Any:
        """Loss of n non-embedding parameters on d tokens."""
        return CHINCHILLA.predict(self.params, {"n": total(n, self.omega), "d": d})

    def tokens(self, n: Any) -> Any:
        """Tokens for which n non-embedding parameters are compute-optimal, the budget being C = 6 N D with that n.

        Where the loss is least along N D = C / 6: alpha A N N_total' N_total^(-alpha - 1) = beta B D^-beta.
        """
        p, size = self.params, total(n, self.omega)
        slope = 1 + self.omega / (3 * np.cbrt(n) ** 2)
        gain = p["alpha"] * p["A"] * n * slope * size ** (-p["alpha"] - 1)
        return (p["beta"] * p["B"] / gain) ** (1 / p["beta"])

    def flops(self, n: Any) -> Any:
        """The budget C = 6 N D for which n non-embedding parameters are compute-optimal; increases with n."""
        return 6 * n * self.tokens(n)

    def optimum(self, flops: Any) -> dict[str, Any]:
        """Compute-optimal {"n", "d"} at budgets, n without embeddings: `flops` inverted by bisection in log n."""
        flops = np.asarray(flops, float)
        low, high = np.zeros(flops.shape), np.full(flops.shape, np.log(1e30))
        for _ in range(80):
            middle = (low + high) / 2
            below = self.flops(np.exp(middle)) < flops
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        n = np.exp((low + high) / 2)
        return {"n": n, "d": flops / (6 * n)}

    def local_exponent(self, n: Any) -> Any:
        """d log N_opt / d log C at n non-embedding parameters.

        Source: Pearce & Song 2024, section 3 (their 1 / g).
        """
        p, squared = self.params, np.cbrt(n) ** 2
        share = (squared + self.omega / 3) / (squared + self.omega)  # d log N_total / d log N
        curve = (squared + self.omega / 9) / (squared + self.omega / 3)  # d log (N N_total') / d log N
        return 1 / (1 - curve / p["beta"] + (p["alpha"] + 1) * share / p["beta"])

    def fitted_exponent(self, low: float, high: float, points: int = 100) -> float:
        """The exponent a that a power law fitted to this law's optima over a range of sizes would report.

        Args:
            low, high: range of non-embedding parameters.
            points: budgets, evenly spaced in log C between the two sizes' own.
        """
        flops = np.geomspace(self.flops(low), self.flops(high), points)
        slope, _ = np.polyfit(np.log(flops), np.log(self.optimum(flops)["n"]), 1)
        return float(slope)
