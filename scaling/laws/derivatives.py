"""A law's residuals, and the robust objective with its gradient and curvature, at some fitting coordinates.

There are two evaluators. `differentiate` differentiates any form automatically and is the specification.
`differentiate_powers` serves forms that are sums of power laws, which most are: their derivatives are products of
softmax weights and fixed features, and one matrix product sums them for all starts at once, many times as fast.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws.form import Form


class Points(NamedTuple):
    """What the solver reads, float64.

    Attributes:
        log_x: log columns, (N,) each.
        origin: log of the table's centre in each column.
        origin_loss: log loss there.
        log_loss: log losses minus origin_loss, (N,).
        weight: (N,).
        held: values of the parameters that are not fitted; a coefficient's is its log.
    """

    log_x: dict[str, Any]
    origin: dict[str, Any]
    origin_loss: Any
    log_loss: Any
    weight: Any
    held: dict[str, Any]


class Evaluation(NamedTuple):
    """Objective, gradient (P,) and a curvature matrix (P, P) at some coordinates."""

    value: Any
    gradient: Any
    curvature: Any


class Skeleton(NamedTuple):
    """The part of a form that a compiled program depends on: not values held, bounds or data."""

    log_basis: Callable[..., Any]
    combine: Callable[..., Any] | None
    coefficients: tuple[str, ...]
    shapes: tuple[str, ...]
    held: tuple[str, ...]

    @classmethod
    def of(cls, form: Form) -> "Skeleton":
        """The skeleton of a form."""
        names = tuple(shape.name for shape in form.shapes)
        return cls(form.log_basis, form.combine, form.coefficients, names, tuple(form.held))

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the fitted coordinates, in their order."""
        return tuple(name for name in self.coefficients + self.shapes if name not in self.held)


def log_terms(law: Skeleton, data: Points, theta_P: Any) -> tuple[dict[str, Any], list[Any]]:
    """Shape parameters by name, and the log of every term relative to the loss at the centre."""
    values = dict(zip(law.free, theta_P, strict=True)) | data.held
    shapes = {name: values[name] for name in law.shapes}
    here, there = law.log_basis(shapes, data.log_x), law.log_basis(shapes, data.origin)
    terms = [
        values[name] + g - (data.origin_loss if name in law.held else g0)
        for name, g, g0 in zip(law.coefficients, here, there, strict=True)
    ]
    return shapes, terms


def residuals(law: Skeleton, data: Points, theta_P: Any) -> Any:
    """Log law minus log loss, (N,)."""
    shapes, terms = log_terms(law, data, theta_P)
    if law.combine is not None:
        return law.combine(shapes, data.log_x, terms) - data.log_loss
    stacked = jnp.stack([jnp.broadcast_to(term, data.log_loss.shape) for term in terms])
    return jax.nn.logsumexp(stacked, axis=0) - data.log_loss


def _huber(r_N: Any, weight_N: Any, delta: Any, newton: Any) -> tuple[Any, Any, Any]:
    """Objective; its derivative in every residual (N,); and the weight of J^T J in the curvature (N,).

    With newton = 1 that weight is the second derivative; with 0, reweighted least squares: delta / |r| beyond delta.
    """
    size_N = jnp.abs(r_N)
    inside_N = size_N <= delta
    value = weight_N @ jnp.where(inside_N, 0.5 * r_N**2, delta * (size_N - 0.5 * delta))
    reweighted_N = jnp.minimum(1.0, delta / jnp.maximum(size_N, 1e-300))
    return (
        value,
        weight_N * jnp.clip(r_N, -delta, delta),
        weight_N * jnp.where(newton > 0, inside_N, reweighted_N),
    )


def differentiate(law: Skeleton, data: Points, theta_P: Any, delta: Any, newton: Any) -> Evaluation:
    """The objective with its derivatives, for any form, by automatic differentiation.

    Args:
        law: the form's skeleton.
        data: the points.
        theta_P: coordinates.
        delta: Huber threshold.
        newton: 1 for the objective's Hessian; 0 for reweighted least squares, which is positive semi-definite.
    """
    r_N = residuals(law, data, theta_P)
    jacobian_NP = jax.jacfwd(lambda theta: residuals(law, data, theta))(theta_P)
    value, pull_N, weight_N = _huber(r_N, data.weight, delta, newton)
    bend_PP = jax.hessian(lambda theta: pull_N @ residuals(law, data, theta))(theta_P)
    curvature_PP = jacobian_NP.T @ (weight_N[:, None] * jacobian_NP) + newton * bend_PP
    return Evaluation(value, pull_N @ jacobian_NP, curvature_PP)


class Features(NamedTuple):
    """Derivatives of the log terms of a sum of power laws, which do not depend on where they are taken.

    Attributes:
        first: per term, (N, p): its derivatives in the p coordinates that it depends on.
        second: per pair of terms k <= l, (N, p_k p_l): products of those.
        to_gradient: (sum of p, P) adds up what `first` gives by coordinate.
        to_curvature: (sum of p_k p_l, P P), the same for `second`.
    """

    first: list[Any]
    second: list[Any]
    to_gradient: np.ndarray
    to_curvature: np.ndarray


@functools.cache
def dependence(law: Skeleton) -> tuple[tuple[int, ...], ...] | None:
    """For a sum of power laws, the indices of the shapes that every term depends on; None for another form.

    Found by trying: a NaN in a shape shows in the terms that read it, and a term is a power law if its log is
    affine in the shapes.
    """
    if law.combine is not None or law.held:
        return None
    rng = np.random.default_rng(0)
    columns = _Columns(rng)

    def basis(shapes_Q: np.ndarray) -> np.ndarray:
        values = law.log_basis(dict(zip(law.shapes, shapes_Q, strict=True)), columns)
        return np.stack([np.broadcast_to(g, 3) for g in values])

    with np.errstate(invalid="ignore"):
        for a_Q, b_Q in rng.uniform(0.1, 2.0, (4, 2, len(law.shapes))):
            if not np.allclose(basis((a_Q + b_Q) / 2), (basis(a_Q) + basis(b_Q)) / 2, rtol=1e-12, atol=1e-12):
                return None
        reads_QK = [
            np.isnan(basis(np.where(np.arange(len(law.shapes)) == q, np.nan, 1.0))).any(1)
            for q in range(len(law.shapes))
        ]
    return tuple(tuple(q for q, reads_K in enumerate(reads_QK) if reads_K[k]) for k in range(len(law.coefficients)))


class _Columns(dict[str, Any]):
    """Random log columns under any name."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self._rng = rng

    def __missing__(self, name: str) -> np.ndarray:
        return self.setdefault(name, self._rng.normal(size=3))  # type: ignore[no-any-return]


def features(law: Skeleton, data: Points) -> Features | None:
    """The features of a sum of power laws at the points; None for another form."""
    reads = dependence(law)
    if reads is None:
        return None
    terms, size = len(law.coefficients), len(law.free)

    def basis(shapes_Q: Any) -> Any:
        values = log_terms(law, data, jnp.concatenate([jnp.zeros(terms), shapes_Q]))[1]
        return jnp.stack([jnp.broadcast_to(value, data.weight.shape[-1:]) for value in values])

    slope_KNQ = jax.jacfwd(basis)(jnp.ones(len(law.shapes)))
    first = [
        jnp.stack([jnp.ones_like(slope_KNQ[k, :, 0]), *(slope_KNQ[k, :, q] for q in reads[k])], 1) for k in range(terms)
    ]
    index = [np.array([k, *(terms + q for q in reads[k])]) for k in range(terms)]
    second, rows = [], []
    for k in range(terms):
        for m in range(k, terms):
            second.append((first[k][:, :, None] * first[m][:, None, :]).reshape(len(first[k]), -1))
            for i in index[k]:
                for j in index[m]:
                    row = np.zeros((size, size))
                    row[i, j] += 1
                    row[j, i] += k != m
                    rows.append(row.ravel())
    return Features(first, second, np.eye(size)[np.concatenate(index)], np.array(rows))


def differentiate_powers(
    law: Skeleton, data: Points, known: Features, theta_P: Any, delta: Any, newton: Any
) -> Evaluation:
    """The same as `differentiate` for a sum of power laws.

    Residuals are r = logsumexp_k t_k - log loss with t_k affine in the coordinates, gradient f_k; p = softmax t.
    So grad r = sum_k p_k f_k, hess r = sum_k p_k f_k f_k^T - grad r grad r^T, and with w the weight of
    grad r grad r^T and q the derivative of the objective in r the Hessian is the sum over points of
    sum_kl (w - q) p_k p_l f_k f_l^T + sum_k q p_k f_k f_k^T.
    """
    t = log_terms(law, data, theta_P)[1]
    e = [jnp.exp(term) for term in t]  # the box of the coordinates keeps this far from overflow
    sum_N = sum(e)
    p = [term * (1 / sum_N) for term in e]
    value, pull_N, weight_N = _huber(jnp.log(sum_N) - data.log_loss, data.weight, delta, newton)
    # Without the barrier XLA would compute exponentials and quotients anew in each of the products below.
    p, pull_N, rest_N = jax.lax.optimization_barrier((p, pull_N, weight_N - newton * pull_N))
    shares = [pull_N * p_N for p_N in p]
    gradient_P = jnp.concatenate([s_N @ f for s_N, f in zip(shares, known.first, strict=True)]) @ known.to_gradient
    sums, pair = [], iter(known.second)
    for k in range(len(p)):
        for m in range(k, len(p)):
            both_N = rest_N * p[k] * p[m]
            sums.append((both_N + newton * shares[k] if k == m else both_N) @ next(pair))
    curvature_PP = (jnp.concatenate(sums) @ known.to_curvature).reshape(theta_P.size, theta_P.size)
    return Evaluation(value, gradient_P, curvature_PP)


def evaluate(law: Skeleton, data: Points, known: Features | None, theta_P: Any, delta: Any, newton: Any) -> Evaluation:
    """The objective with its derivatives by the evaluator that serves the form; arguments as in `differentiate`."""
    if known is None:
        return differentiate(law, data, theta_P, delta, newton)
    return differentiate_powers(law, data, known, theta_P, delta, newton)
