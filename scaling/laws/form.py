"""What a parametric form of a scaling law is: a sum of positive terms, linear in its coefficients.

Every form is L = sum_k c_k exp(g_k(s, x)): coefficients c > 0 enter linearly, shape parameters s (exponents and the
like) through the log basis functions g_k, and x are log columns of the table. Writing g is all that a new form
takes; starts by variable projection, well-conditioned fitting coordinates, derivatives and the transform both ways
follow from it. A form whose terms do not simply add up says how they combine.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from scaling.errors import UserError

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
        log_basis: (shapes by name, log columns by name) -> the g_k in order, broadcastable. Arithmetic and the
            functions of this module (`exp`, ...), so that it runs under numpy and jax alike.
        combine: (shapes by name, log columns by name, logs of the terms) -> log loss, where that is not the log of
            their sum.
        optimum: (params, flops) -> {"n": ..., "d": ...}, the compute-optimal columns where C = 6 N D, for a form
            that has them in closed form; `budget.Market` finds them for any with columns n and d.
        reference: columns whose fitting coordinates are taken at this value instead of the table's centre.
        held: parameters that are not fitted, by name with their values; see `hold`.
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
    combine: Callable[[Mapping[str, Any], Mapping[str, Any], Sequence[Any]], Any] | None = None
    optimum: Callable[[Params, Any], dict[str, Any]] | None = None
    reference: Mapping[str, float] = dataclasses.field(default_factory=dict)
    held: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def params(self) -> tuple[str, ...]:
        """Names of all parameters: coefficients, then shapes."""
        return self.coefficients + tuple(shape.name for shape in self.shapes)

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the parameters that are fitted, in the order of their coordinates."""
        return tuple(name for name in self.params if name not in self.held)

    @property
    def log_held(self) -> dict[str, float]:
        """Held values as the solver reads them: a coefficient as its log."""
        with np.errstate(divide="ignore"):  # a coefficient held at 0 leaves its term out
            return {k: float(np.log(v)) if k in self.coefficients else float(v) for k, v in self.held.items()}

    def hold(self, values: Mapping[str, float]) -> Self:
        """The form with these parameters held at values instead of fitted.

        Raises:
            UserError: no such parameter, or a value outside its range.
        """
        for name, value in values.items():
            self._check_name(name)
            if not np.isfinite(value) or (name in self.coefficients and value < 0):
                raise UserError(f"{name} = {value}: hold a coefficient of {self.name!r} at a finite number from 0 on")
        for shape in self.shapes:
            low, high = shape.bounds
            if not low <= values.get(shape.name, low) <= high:
                raise UserError(f"{shape.name} = {values[shape.name]}: {self.name!r} has it from {low} to {high}")
        held = {**self.held, **values}
        if len(held) == len(self.params):
            raise UserError(f"all parameters of {self.name!r} are held: leave one to be fitted")
        return dataclasses.replace(self, held=held)

    def bound(self, bounds: Mapping[str, tuple[float, float]]) -> Self:
        """The form with other boxes for some of its shape parameters; starts are drawn inside them.

        Raises:
            UserError: no such parameter, a coefficient, or an empty box.
        """
        for name, (low, high) in bounds.items():
            self._check_name(name)
            if name in self.coefficients:
                raise UserError(f"{name} is a coefficient of {self.name!r}: it can be held at a value, but not bounded")
            if not low < high:
                raise UserError(f"bounds of {name}, {low} to {high}: the lower end comes first")
        return dataclasses.replace(self, shapes=tuple(_bounded(s, bounds.get(s.name)) for s in self.shapes))

    def predict(self, params: Params, columns: Columns) -> Any:
        """Loss under physical parameters at columns; broadcasts parameters against columns."""
        logs = {name: np.log(np.asarray(columns[name], float)) for name in self.columns}
        shapes = {shape.name: np.asarray(params[shape.name]) for shape in self.shapes}
        basis = self.log_basis(shapes, logs)
        if self.combine is None:
            return sum(params[c] * np.exp(g) for c, g in zip(self.coefficients, basis, strict=True))
        terms = [np.log(params[c]) + g for c, g in zip(self.coefficients, basis, strict=True)]
        return np.exp(self.combine(shapes, logs, terms))

    def coordinates(self, params: Params, centre: Mapping[str, float]) -> np.ndarray:
        """Physical parameters as unconstrained fitting coordinates of those that are free, (..., P).

        A coefficient becomes the log of its term at the table's centre, relative to the typical loss there
        (centre["loss"]): log c_k + g_k(s, centre) - log loss. This removes the ridge between a coefficient and
        its exponent (log A and alpha are almost collinear at N of 1e9 and almost orthogonal at N / centre).
        """
        offsets = self._offsets(params, centre)
        values = {name: np.log(params[name]) + offsets[name] for name in self.coefficients if name not in self.held}
        values |= {shape.name: params[shape.name] for shape in self.shapes}
        return np.stack(np.broadcast_arrays(*(values[name] for name in self.free)), -1)

    def physical(self, theta_P: np.ndarray, centre: Mapping[str, float]) -> dict[str, Any]:
        """Inverse of `coordinates`: all parameters by name from (..., P), those held too."""
        values = {name: theta_P[..., i] for i, name in enumerate(self.free)}
        values |= {name: np.broadcast_to(np.float64(value), theta_P.shape[:-1]) for name, value in self.held.items()}
        offsets = self._offsets(values, centre)
        for name in set(self.coefficients) - set(self.held):
            values[name] = np.exp(values[name] - offsets[name])
        return {name: values[name] for name in self.params}

    def log_origin(self, centre: Mapping[str, float]) -> dict[str, float]:
        """Log columns where the fitting coordinates are taken."""
        return {name: float(np.log(self.reference.get(name, centre[name]))) for name in self.columns}

    def without(self, column: str) -> tuple[str, ...]:
        """The fitted parameters that act in no term that a column changes; found by trying.

        How terms combine is left out: what a parameter does there, such as r_n of data_constrained, counts as nothing.
        """
        logs = dict.fromkeys(self.columns, 1.0)
        shapes = {shape.name: np.float64(shape.starts[0]) for shape in self.shapes}
        here, there = (self.log_basis(shapes, logs | {column: 1.0 + step}) for step in (0.0, 0.1))
        reads = [bool(np.abs(after - before) > 1e-9) for before, after in zip(here, there, strict=True)]
        with np.errstate(invalid="ignore"):
            among = [self.log_basis(shapes | {name: np.float64(np.nan)}, logs) for name in shapes]
        free = [name for name, read in zip(self.coefficients, reads, strict=True) if not read]
        for name, terms in zip(shapes, among, strict=True):
            if not any(read and np.isnan(g) for read, g in zip(reads, terms, strict=True)):
                free.append(name)
        return tuple(name for name in free if name not in self.held)

    def _offsets(self, params: Params, centre: Mapping[str, float]) -> dict[str, Any]:
        shapes = {shape.name: np.asarray(params[shape.name]) for shape in self.shapes}
        basis = self.log_basis(shapes, self.log_origin(centre))
        return {name: g - np.log(centre["loss"]) for name, g in zip(self.coefficients, basis, strict=True)}

    def _check_name(self, name: str) -> None:
        if name not in self.params:
            raise UserError(f"{name!r} is no parameter of {self.name!r}: it has {', '.join(self.params)}")


def _bounded(shape: Shape, bounds: tuple[float, float] | None) -> Shape:
    if bounds is None:
        return shape
    low, high = max(bounds[0], shape.starts[0]), min(bounds[1], shape.starts[1])
    return dataclasses.replace(shape, bounds=bounds, starts=(low, high) if low < high else bounds)


def _either(name: str) -> Callable[..., Any]:
    def apply(*values: Any) -> Any:
        """The function of numpy, or of jax where jax traces a computation."""
        return getattr(jnp if any(isinstance(value, jax.Array) for value in values) else np, name)(*values)

    return apply


exp, expm1, log, log1p = (_either(name) for name in ("exp", "expm1", "log", "log1p"))
logaddexp, maximum = (_either(name) for name in ("logaddexp", "maximum"))
