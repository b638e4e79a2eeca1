"""Fitting a form to points: robust, from many starts, with a certificate of the optimum."""

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from scaling.errors import UserError
from scaling.laws import certify, solver, table
from scaling.laws.derivatives import Points
from scaling.laws.form import Columns, Form


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        form: the form.
        table: the points it was fitted to.
        params: physical parameters by name.
        theta: the same in fitting coordinates, (P,).
        objective: sum over points of weight * Huber_delta(log predicted - log loss).
        delta: the Huber threshold, in log loss.
        weights: (points,), all above 0: points at 0 are left out.
        residuals: (points,) log loss - log predicted loss.
        jacobian: (points, P) derivatives of log predicted loss in the fitting coordinates, at the optimum.
        certificate: evidence that this is the optimum, and what the data leave open.
    """

    form: Form
    table: table.Table
    params: Mapping[str, float]
    theta: np.ndarray
    objective: float
    delta: float
    weights: np.ndarray
    residuals: np.ndarray
    jacobian: np.ndarray
    certificate: certify.Certificate

    @property
    def weighed(self) -> tuple[np.ndarray, np.ndarray]:
        """Residuals (points,) and jacobian (points, P), each row times the root of its weight: errors of one size."""
        root_N = np.sqrt(self.weights)
        return root_N * self.residuals, root_N[:, None] * self.jacobian

    def predict(self, columns: Columns) -> np.ndarray:
        """Loss under the law at the columns that its form reads."""
        return np.asarray(self.form.predict(self.params, columns))


def fit(
    form: Form,
    points: table.Table,
    *,
    delta: float = 1e-3,
    starts: int = 64,
    seed: int = 0,
    weights: np.ndarray | None = None,
    fixed: Mapping[str, float] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Fit:
    """Fits a form by minimising sum_i w_i Huber_delta(log L(x_i) - log loss_i).

    Args:
        form: the law's form.
        points: the table.
        delta: Huber threshold in log loss; 1e-3 as Hoffmann et al. 2022, equation 3.
        starts: random starts; each draws shape parameters and solves for the coefficients (variable projection).
        seed: of the starts.
        weights: (points,) from 0 on, inverse variances up to a factor; 1 where not given. Points at 0 are left out.
        fixed: parameters held at a value; the form of the result has them as `held`.
        bounds: boxes for shape parameters, instead of the form's own.

    Raises:
        UserError: the design cannot identify the form's parameters, or fixed or bounds make no sense.
    """
    form = form.hold(fixed or {}).bound(bounds or {})
    points, weights_N = _weighted(points, weights)
    table.check_identifiable(points, form)
    data = as_points(form, points, weights_N)
    theta_SP = solver.draw_starts(form, data, starts, seed)
    with ThreadPoolExecutor(1) as aside:
        # Needed later, at the optimum: a process that fits for the first time compiles it while the solver compiles.
        aside.submit(solver.diagnose, form, data, theta_SP[0], delta)
        theta_SP, value_S = solver.solve(form, data, theta_SP, delta)
    best = int(np.nanargmin(value_S))
    params = form.physical(theta_SP[best], points.centre)
    evidence = solver.diagnose(form, data, theta_SP[best], delta)
    root_N = np.sqrt(weights_N)
    weighed = {"residuals": root_N * evidence["residuals"], "jacobian": root_N[:, None] * evidence["jacobian"]}
    return Fit(
        form=form,
        table=points,
        params={name: float(value) for name, value in params.items()},
        theta=theta_SP[best],
        objective=float(value_S[best]),
        delta=delta,
        weights=weights_N,
        residuals=-evidence["residuals"],
        jacobian=evidence["jacobian"],
        certificate=certify.certify(form, points.centre, theta_SP, value_S, evidence | weighed, solver.box(form)),
    )


def as_points(form: Form, points: table.Table, weights_N: np.ndarray) -> Points:
    """The table as the solver reads it."""
    centre = points.centre
    return Points(
        log_x={name: np.log(points.columns[name]) for name in form.columns},
        origin=form.log_origin(centre),
        origin_loss=np.log(centre["loss"]),
        log_loss=np.log(points.loss / centre["loss"]),
        weight=weights_N,
        held=form.log_held,
    )


def _weighted(points: table.Table, weights: np.ndarray | None) -> tuple[table.Table, np.ndarray]:
    """The points that count, and their weights."""
    weights_N = np.ones(len(points)) if weights is None else np.asarray(weights, float)
    if weights_N.shape != (len(points),) or not np.all(np.isfinite(weights_N) & (weights_N >= 0)):
        raise UserError(f"weights of shape {weights_N.shape} for {len(points)} points: one number from 0 on for each")
    if len(points) and not weights_N.any():
        raise UserError(f"all {len(points)} weights are 0: at least as many points as parameters have to count")
    return (points, weights_N) if weights_N.all() else (points.select(weights_N > 0), weights_N[weights_N > 0])
