"""Parametric forms of a scaling law, each a small value: a sum of positive terms, linear in its coefficients.

Every form is L = sum_k c_k exp(g_k(s, x)): coefficients c > 0 enter linearly, shape parameters s (exponents)
through the log basis functions g_k, and x are log columns of the table. Writing g is all that a new form
takes; starts by variable projection, well-conditioned fitting coordinates and the transform both ways follow
from it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Params = Mapping[str, Any]  # parameter name -> float, or an array of bootstrap replicates
Columns = Mapping[str, Any]  # column name -> values (not logs), broadcastable against each other


@dataclasses.dataclass(frozen=True)
class Shape:
    """A shape parameter: the box that a fit stays in, and the part of it where starts are drawn.

    Touching the box is reported in the certificate, never silently accepted.
    """

    name: str
    bounds: tuple[float, float] = (0.01, 4.0)
    starts: tuple[float, float] = (0.02, 2.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """A law L(x) = sum_k c_k exp(g_k(s, log x)).

    Attributes:
        name: how the command line calls it.
        formula: the law in one line of text.
        mathtext: the same for a figure's title, with a {field} for every parameter.
        columns: table columns it reads.
        coefficients: names of the c_k, in the order of the terms; positive.
        shapes: the shape parameters s.
        units: unit of each parameter, in words.
        source: paper and equation.
        log_basis: (shapes by name, log columns by name) -> the g_k in order, broadcastable. Plain
            arithmetic, so that it runs under numpy and jax alike.
        optimum: (params, flops) -> {"n": ..., "d": ...}, the compute-optimal columns where C = 6 N D.
    """

    name: str
    formula: str
    mathtext: str
    columns: tuple[str, ...]
    coefficients: tuple[str, ...]
    shapes: tuple[Shape, ...]
    units: Mapping[str, str]
    source: str
    log_basis: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Any, ...]]
    optimum: Callable[[Params, Any], dict[str, Any]]

    @property
    def params(self) -> tuple[str, ...]:
        """Names of all parameters: coefficients, then shapes."""
        return self.coefficients + tuple(shape.name for shape in self.shapes)

    def predict(self, params: Params, columns: Columns) -> Any:
        """Loss under physical parameters at columns; broadcasts parameters against columns."""
        logs = {name: np.log(np.asarray(columns[name], float)) for name in self.columns}
        terms = self.log_basis({shape.name: np.asarray(params[shape.name]) for shape in self.shapes}, logs)
        return sum(params[c] * np.exp(term) for c, term in zip(self.coefficients, terms, strict=True))

    def coordinates(self, params: Params, centre: Mapping[str, float]) -> np.ndarray:
        """Physical parameters as unconstrained fitting coordinates, (..., P).

        A coefficient becomes the log of its term at the table's centre, relative to the typical loss there
        (centre["loss"]): log c_k + g_k(s, centre) - log loss. This removes the ridge between a coefficient and
        its exponent (log A and alpha are almost collinear at N of 1e9 and almost orthogonal at N / centre).
        """
        offsets = self._offsets(params, centre)
        coefficients = [np.log(params[c]) + offset for c, offset in zip(self.coefficients, offsets, strict=True)]
        return np.stack(np.broadcast_arrays(*coefficients, *(params[s.name] for s in self.shapes)), -1)

    def physical(self, theta_P: np.ndarray, centre: Mapping[str, float]) -> dict[str, Any]:
        """Inverse of `coordinates`: parameters by name from (..., P)."""
        params = {s.name: theta_P[..., len(self.coefficients) + i] for i, s in enumerate(self.shapes)}
        offsets = self._offsets(params, centre)
        values = {
            c: np.exp(theta_P[..., i] - offset)
            for i, (c, offset) in enumerate(zip(self.coefficients, offsets, strict=True))
        }
        return values | params

    def _offsets(self, params: Params, centre: Mapping[str, float]) -> list[Any]:
        logs = {name: np.log(centre[name]) for name in self.columns}
        basis = self.log_basis({s.name: np.asarray(params[s.name]) for s in self.shapes}, logs)
        return [g - np.log(centre["loss"]) for g in basis]


def _chinchilla_basis(s: Mapping[str, Any], x: Mapping[str, Any]) -> tuple[Any, ...]:
    return 0.0, -s["alpha"] * x["n"], -s["beta"] * x["d"]


def _chinchilla_optimum(params: Params, flops: Any) -> dict[str, Any]:
    """N = G (C/6)^a, D = (C/6)^(1-a) / G, G = (alpha A / beta B)^(1/(alpha+beta)), a = beta/(alpha+beta)."""
    alpha, beta = params["alpha"], params["beta"]
    scale = (alpha * params["A"] / (beta * params["B"])) ** (1 / (alpha + beta))
    n = scale * (flops / 6) ** (beta / (alpha + beta))
    return {"n": n, "d": flops / 6 / n}


CHINCHILLA = Form(
    name="chinchilla",
    formula="L = E + A / N^alpha + B / D^beta",
    mathtext="$L = {E} + {A} / N^{{{alpha}}} + {B} / D^{{{beta}}}$",
    columns=("n", "d"),
    coefficients=("E", "A", "B"),
    shapes=(Shape("alpha"), Shape("beta")),
    units={"E": "loss", "A": "loss * parameters^alpha", "B": "loss * tokens^beta", "alpha": "1", "beta": "1"},
    source="Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3 equation 2; optimum: equation 4",
    log_basis=_chinchilla_basis,
    optimum=_chinchilla_optimum,
)

FORMS = {form.name: form for form in (CHINCHILLA,)}
