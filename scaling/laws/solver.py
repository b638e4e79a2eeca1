"""The solver behind every fit: many starts at once, each to the optimum that it leads to, in float64.

Float64 holds inside `jax.enable_x64` scopes of this file alone; the rest of the process stays as it is.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws import derivatives
from scaling.laws.derivatives import Evaluation, Points, Skeleton
from scaling.laws.descent import descend
from scaling.laws.form import Form

# Coefficient coordinates are logs of terms relative to the typical loss. No term of a law can exceed the loss
# by much, and one below 1e-6 of it has vanished, so this box is wide; reaching it is reported.
COEFFICIENT_BOX = (-14.0, 7.0)

LANES = 32  # starts solved at once: fits the cache, and a slow one holds up only its chunk


# Rows that a program is compiled for at least: compilation is dearer than any smaller table's fit. Forms that are
# differentiated automatically take many times as long by row.
FEWEST_ROWS, FEWEST_ROWS_OF_OTHERS = 256, 64


class Stage(NamedTuple):
    """One leg of a descent: Huber threshold in multiples of delta, curvature, and most iterations."""

    widening: float
    newton: float
    iterations: int


# A descent first looks almost like least squares, then almost like least absolute deviations: this way many more
# starts reach the optimum than at delta at once, and a replicate's optimum is found from the table's own. Reweighted
# least squares (positive semi-definite, good far away) comes before Newton (quadratic at the end). The few that have
# not arrived by then go on among themselves; a leg less would be another program to compile.
DESCENT = (Stage(30.0, 0.0, 12), Stage(3.0, 0.0, 8), Stage(1.0, 0.0, 8), Stage(1.0, 1.0, 12))
STRAGGLERS = (Stage(1.0, 0.0, 0), Stage(1.0, 0.0, 0), Stage(1.0, 0.0, 0), Stage(1.0, 1.0, 80))


def box(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the fitted coordinates, each (P,)."""
    bounds = dict.fromkeys(form.coefficients, COEFFICIENT_BOX) | {shape.name: shape.bounds for shape in form.shapes}
    low, high = zip(*(bounds[name] for name in form.free), strict=True)
    return np.array(low), np.array(high)


def draw_starts(form: Form, data: Points, count: int, seed: int) -> np.ndarray:
    """Starts by variable projection, (count, P).

    Shape parameters are a Latin hypercube over their start ranges; given them the law is linear, and the
    coefficients solve least squares on relative error, kept positive. (Where a form combines its terms in another
    way than by adding them, that is only a start.)
    """
    rng = np.random.default_rng(seed)
    low_Q, high_Q = np.array([shape.starts for shape in form.shapes]).reshape(-1, 2).T
    strata_QS = rng.permuted(np.tile(np.arange(count), (len(low_Q), 1)), axis=1)
    shape_SQ = low_Q + (high_Q - low_Q) * (strata_QS.T + rng.random((count, len(low_Q)))) / count
    shapes = {shape.name: shape_SQ[:, q, None] for q, shape in enumerate(form.shapes)}
    shapes |= {name: value for name, value in data.held.items() if name in shapes}
    here, there = form.log_basis(shapes, data.log_x), form.log_basis(shapes, data.origin)
    loss_N, columns, target_SN = np.exp(data.log_loss), [], np.ones((1, len(data.log_loss)))
    for name, g, g0 in zip(form.coefficients, here, there, strict=True):
        if name in form.held:
            target_SN = target_SN - np.exp(data.held[name] - data.origin_loss + g) / loss_N
        else:
            columns.append(np.exp(np.atleast_2d(g - g0)) / loss_N)  # (S, N), or (1, N) for a term without shapes
    free_SP = [shapes[name] for name in form.free if name in shapes]
    if columns:
        weighted = [column * data.weight for column in columns]
        gram_SKK = np.stack([np.stack([_dot(w, c, count) for c in columns], -1) for w in weighted], -1)
        ridge_S = 1e-6 * np.trace(gram_SKK, axis1=1, axis2=2)
        gram_SKK = gram_SKK + ridge_S[:, None, None] * np.eye(gram_SKK.shape[-1])
        right_SK = np.stack([_dot(w, target_SN, count) for w in weighted], -1)
        coefficient_SK = np.linalg.solve(gram_SKK, right_SK[..., None])[..., 0]
        free_SP = [np.log(np.maximum(coefficient_SK, 1e-3)), *free_SP]
    return np.concatenate(free_SP, -1)


def _dot(a_SN: np.ndarray, b_SN: np.ndarray, count: int) -> np.ndarray:
    """Products summed over points, (S,)."""
    return np.broadcast_to(np.einsum("sn,sn->s", *np.broadcast_arrays(a_SN, b_SN)), count)


def solve(form: Form, data: Points, theta_SP: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Descends from every start to a local optimum, chunks of starts on all cores.

    Args:
        form: the form.
        data: the points; log_loss and weight are (N,), or (S, N) to give every start its own (bootstrap).
        theta_SP: starts, (S, P).
        delta: Huber threshold.

    Returns:
        Coordinates (S, P) and objectives (S,).
    """
    theta_SP, value_S, done_S = _run(form, data, theta_SP, delta, DESCENT)
    rest = np.flatnonzero(~done_S)
    if len(rest):
        mine = data._replace(log_loss=_rows(data.log_loss, rest), weight=_rows(data.weight, rest))
        theta_SP[rest], value_S[rest], _ = _run(form, mine, theta_SP[rest], delta, STRAGGLERS)
    return theta_SP, value_S


def diagnose(form: Form, data: Points, theta_P: np.ndarray, delta: float) -> dict[str, np.ndarray]:
    """Residuals (N,), their Jacobian (N, P), gradient (P,) and Hessian (P, P) of the objective at a point."""
    rows = len(data.log_loss)
    with jax.enable_x64(True):
        residual_N, jacobian_NP, here = _diagnose(Skeleton.of(form), _padded(form, data), theta_P, delta)
        return {
            "residuals": np.asarray(residual_N)[:rows],
            "jacobian": np.asarray(jacobian_NP)[:rows],
            "gradient": np.asarray(here.gradient),
            "hessian": np.asarray(here.curvature),
        }


def _rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return values if values.ndim == 1 else values[rows]


def _run(
    form: Form, data: Points, theta_SP: np.ndarray, delta: float, stages: tuple[Stage, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates (S, P), objectives (S,) and whether they are final (S,), in chunks of starts on all cores."""
    count = len(theta_SP)
    data = _padded(form, data)
    log_loss_SN, weight_SN = (
        np.broadcast_to(values, (count, values.shape[-1])) for values in (data.log_loss, data.weight)
    )
    legs = jax.tree.map(lambda *leg: np.array(leg), *stages)
    low_P, high_P = box(form)
    law = Skeleton.of(form)

    def run(start: int) -> tuple[np.ndarray, ...]:
        rows = np.arange(start, start + LANES) % count
        with jax.enable_x64(True):
            mine = data._replace(log_loss=log_loss_SN[rows], weight=weight_SN[rows])
            ends = _solve_lanes(law, mine, theta_SP[rows], delta, legs, low_P, high_P)
            return tuple(np.asarray(end) for end in ends)

    # XLA on CPU runs a program of small operations on one core, and releases the interpreter meanwhile.
    with ThreadPoolExecutor(_cores()) as pool:
        chunks = zip(*pool.map(run, range(0, count, LANES)), strict=True)
    theta, value, done = (np.concatenate(chunk)[:count] for chunk in chunks)
    return theta, value, done


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _padded(form: Form, data: Points) -> Points:
    """The points, padded at weight 0 to a power of two: tables share programs, and a fit and its checks always do."""
    rows = data.log_loss.shape[-1]
    fewest = FEWEST_ROWS_OF_OTHERS if derivatives.dependence(Skeleton.of(form)) is None else FEWEST_ROWS
    extra = (1 << max(rows - 1, fewest - 1).bit_length()) - rows

    def pad(values: np.ndarray, mode: Literal["edge", "constant"]) -> np.ndarray:
        return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, extra)], mode=mode)

    log_x = {name: pad(data.log_x[name], "edge") for name in form.columns}
    return data._replace(log_x=log_x, log_loss=pad(data.log_loss, "edge"), weight=pad(data.weight, "constant"))


@functools.partial(jax.jit, static_argnums=0)
def _solve_lanes(
    law: Skeleton, data: Points, theta_SP: Any, delta: Any, stages: Stage, low_P: Any, high_P: Any
) -> tuple[Any, Any, Any]:
    known = derivatives.features(law, data)

    def lane(log_loss_N: Any, weight_N: Any, theta_P: Any) -> tuple[Any, Any, Any]:
        mine = data._replace(log_loss=log_loss_N, weight=weight_N)

        def leg(theta_P: Any, stage: Stage) -> tuple[Any, tuple[Any, Any]]:
            def evaluate(theta_P: Any) -> Evaluation:
                return derivatives.evaluate(law, mine, known, theta_P, stage.widening * delta, stage.newton)

            theta_P, *end = descend(evaluate, theta_P, low_P, high_P, stage.iterations)
            return theta_P, tuple(end)

        theta_P, (values, done) = jax.lax.scan(leg, jnp.clip(theta_P, low_P, high_P), stages)
        return theta_P, values[-1], done[-1]

    return jax.vmap(lane)(data.log_loss, data.weight, theta_SP)


@functools.partial(jax.jit, static_argnums=0)
def _diagnose(law: Skeleton, data: Points, theta_P: Any, delta: Any) -> tuple[Any, Any, Evaluation]:
    jacobian_NP = jax.jacfwd(lambda theta: derivatives.residuals(law, data, theta))(theta_P)
    here = derivatives.evaluate(law, data, derivatives.features(law, data), theta_P, delta, 1.0)
    return derivatives.residuals(law, data, theta_P), jacobian_NP, here
