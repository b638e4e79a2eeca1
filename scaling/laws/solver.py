"""The solver behind every fit: damped Newton on a robust objective from many starts at once, in float64.

Float64 holds inside `jax.enable_x64` scopes of this file alone; the rest of the process stays as it is.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling.laws.forms import Form

# Coefficient coordinates are logs of terms relative to the typical loss. No term of a law can exceed the loss
# by much, and one below 1e-6 of it has vanished, so this box is wide; reaching it is reported.
COEFFICIENT_BOX = (-14.0, 7.0)

LANES = 64  # starts solved at once: fits the cache, and a slow one holds up only its chunk


class Stage(NamedTuple):
    """One leg of a descent: Huber threshold in multiples of delta, curvature, and most iterations."""

    widening: float
    newton: float
    iterations: int


# From afar a descent first looks almost like least squares, then almost like least absolute deviations: this
# way many more starts reach the optimum than at delta at once. Reweighted least squares (positive
# semi-definite, good far away) comes before Newton (quadratic at the end).
FROM_AFAR = (Stage(30.0, 0.0, 12), Stage(3.0, 0.0, 12), Stage(1.0, 0.0, 12), Stage(1.0, 1.0, 60))
FROM_NEAR = (Stage(1.0, 0.0, 8), Stage(1.0, 1.0, 60))


class Points(NamedTuple):
    """What the solver reads, float64.

    Attributes:
        log_x: log columns, (N,) each.
        origin: log of the table's centre in each column.
        log_loss: log losses relative to the centre's, (N,).
        weight: (N,).
    """

    log_x: dict[str, Any]
    origin: dict[str, Any]
    log_loss: Any
    weight: Any


class Evaluation(NamedTuple):
    """Objective, gradient (P,) and a curvature matrix (P, P) at some coordinates."""

    value: Any
    gradient: Any
    curvature: Any


def box(form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of the fitting coordinates, each (P,)."""
    bounds = [COEFFICIENT_BOX] * len(form.coefficients) + [shape.bounds for shape in form.shapes]
    low, high = zip(*bounds, strict=True)
    return np.array(low), np.array(high)


def draw_starts(form: Form, data: Points, count: int, seed: int) -> np.ndarray:
    """Starts by variable projection, (count, P).

    Shape parameters are a Latin hypercube over their start ranges; given them the law is linear, and the
    coefficients solve least squares on relative error, kept positive.
    """
    low_Q, high_Q = np.array([shape.starts for shape in form.shapes]).T
    rng = np.random.default_rng(seed)
    strata_QS = rng.permuted(np.tile(np.arange(count), (len(low_Q), 1)), axis=1)
    shape_SQ = low_Q + (high_Q - low_Q) * (strata_QS.T + rng.random((count, len(low_Q)))) / count
    basis_SNK = np.exp(np.stack(np.broadcast_arrays(*_centred_basis(form, data, shape_SQ.T[..., None])), -1))
    scale_N = np.sqrt(data.weight) / np.exp(data.log_loss)
    design_SNK = basis_SNK * scale_N[:, None]
    gram_SKK = np.einsum("snk,snl->skl", design_SNK, design_SNK)
    ridge_S = 1e-6 * np.trace(gram_SKK, axis1=1, axis2=2)
    gram_SKK = gram_SKK + ridge_S[:, None, None] * np.eye(gram_SKK.shape[-1])
    right_SK = np.einsum("snk,n->sk", design_SNK, np.sqrt(data.weight))
    coefficient_SK = np.linalg.solve(gram_SKK, right_SK[..., None])[..., 0]
    return np.concatenate([np.log(np.maximum(coefficient_SK, 1e-3)), shape_SQ], -1)


def solve(
    form: Form,
    data: Points,
    theta_SP: np.ndarray,
    delta: float,
    stages: tuple[Stage, ...] = FROM_AFAR,
) -> tuple[np.ndarray, np.ndarray]:
    """Descends from every start to a local optimum.

    Args:
        form: the form.
        data: the points; log_loss and weight are (N,), or (S, N) to give every start its own (bootstrap).
        theta_SP: starts, (S, P).
        delta: Huber threshold.
        stages: FROM_AFAR, or FROM_NEAR for starts that are close to their optimum.

    Returns:
        Coordinates (S, P) and objectives (S,).
    """
    count = len(theta_SP)
    lanes = -(-count // LANES) * LANES
    data = _padded(form, data)
    log_loss_SN, weight_SN, theta_SP = (
        np.resize(np.broadcast_to(a, (count, a.shape[-1])), (lanes, a.shape[-1]))
        for a in (data.log_loss, data.weight, theta_SP)
    )
    legs = jax.tree.map(lambda *leg: np.array(leg), *stages)
    low_P, high_P = box(form)
    thetas, values = [], []
    with jax.enable_x64(True):
        for chunk in (slice(i, i + LANES) for i in range(0, lanes, LANES)):
            theta, value = _solve_lanes(
                form,
                data._replace(log_loss=log_loss_SN[chunk], weight=weight_SN[chunk]),
                theta_SP[chunk],
                delta,
                legs,
                low_P,
                high_P,
            )
            thetas.append(theta)
            values.append(value)
        return np.concatenate(thetas)[:count], np.concatenate(values)[:count]


def diagnose(form: Form, data: Points, theta_P: np.ndarray, delta: float) -> dict[str, np.ndarray]:
    """Residuals (N,), their Jacobian (N, P), gradient (P,) and Hessian (P, P) of the objective at a point."""
    rows = len(data.log_loss)
    with jax.enable_x64(True):
        residual_N, jacobian_NP, here = _diagnose(form, _padded(form, data), theta_P, delta)
        return {
            "residuals": np.asarray(residual_N)[:rows],
            "jacobian": np.asarray(jacobian_NP)[:rows],
            "gradient": np.asarray(here.gradient),
            "hessian": np.asarray(here.curvature),
        }


def _padded(form: Form, data: Points) -> Points:
    """The points, padded at weight 0 to a power of two: a fit and its held-out check share one program."""
    rows = data.log_loss.shape[-1]
    extra = (1 << max(rows - 1, 31).bit_length()) - rows

    def pad(values: np.ndarray, mode: Literal["edge", "constant"]) -> np.ndarray:
        return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, extra)], mode=mode)

    log_x = {name: pad(data.log_x[name], "edge") for name in form.columns}
    return Points(log_x, data.origin, pad(data.log_loss, "edge"), pad(data.weight, "constant"))


def _centred_basis(form: Form, data: Points, shapes_Q: Any) -> list[Any]:
    """g_k(s, x) - g_k(s, centre), one array per term."""
    shapes = {shape.name: shapes_Q[i] for i, shape in enumerate(form.shapes)}
    here, there = form.log_basis(shapes, data.log_x), form.log_basis(shapes, data.origin)
    return [g - g0 for g, g0 in zip(here, there, strict=True)]


def _evaluate(form: Form, data: Points, theta_P: Any, delta: Any, newton: Any) -> tuple[Any, Any, Evaluation]:
    """Residuals, their Jacobian, and the objective with its derivatives.

    Residuals are r = logsumexp_k t_k - log loss with t_k = theta_k + g_k(s, x) - g_k(s, centre); p = softmax t.
    So grad r = sum_k p_k grad t_k, and hess r = sum_k p_k (grad t_k grad t_k^T + hess g_k) - grad r grad r^T:
    only the basis g needs differentiating, the rest is written once for all forms.

    Args:
        newton: 1 for the objective's Hessian, 0 for reweighted least squares (weights w delta / |r| beyond
            delta), which leaves out hess r.
    """
    terms = len(form.coefficients)

    def basis(shapes_Q: Any) -> Any:
        columns = jnp.broadcast_arrays(*_centred_basis(form, data, shapes_Q), data.log_loss)[:terms]
        return jnp.stack(columns)

    shapes_Q = theta_P[terms:]
    slope_KNQ, bend_KNQQ = jax.jacfwd(basis)(shapes_Q), jax.jacfwd(jax.jacfwd(basis))(shapes_Q)
    t_KN = theta_P[:terms, None] + basis(shapes_Q)
    log_law_N = jax.nn.logsumexp(t_KN, axis=0)
    p_KN = jnp.exp(t_KN - log_law_N)
    r_N = log_law_N - data.log_loss
    jacobian_NP = jnp.concatenate([p_KN.T, jnp.einsum("kn,knq->nq", p_KN, slope_KNQ)], axis=1)

    size_N = jnp.abs(r_N)
    inside_N = size_N <= delta
    huber_N = jnp.where(inside_N, 0.5 * r_N**2, delta * (size_N - 0.5 * delta))
    pull_N = data.weight * jnp.clip(r_N, -delta, delta)
    reweighted_N = jnp.minimum(1.0, delta / jnp.maximum(size_N, 1e-300))
    weight_N = data.weight * jnp.where(newton > 0, inside_N, reweighted_N) - newton * pull_N
    curvature_PP = jnp.einsum("np,n,nq->pq", jacobian_NP, weight_N, jacobian_NP)
    share_KN = newton * pull_N * p_KN
    mixed_KQ = jnp.einsum("kn,knq->kq", share_KN, slope_KNQ)
    shape_QQ = jnp.einsum("kn,knq,knr->qr", share_KN, slope_KNQ, slope_KNQ)
    shape_QQ += jnp.einsum("kn,knqr->qr", share_KN, bend_KNQQ)
    curvature_PP += jnp.block([[jnp.diag(share_KN.sum(1)), mixed_KQ], [mixed_KQ.T, shape_QQ]])
    return r_N, jacobian_NP, Evaluation(data.weight @ huber_N, pull_N @ jacobian_NP, curvature_PP)


class _State(NamedTuple):
    iteration: Any
    theta: Any
    here: Evaluation
    damping: Any
    done: Any


def _descend(evaluate: Any, theta_P: Any, low_P: Any, high_P: Any, iterations: Any) -> Any:
    """Damped, projected Newton steps from one start until nothing is gained any more.

    Levenberg-Marquardt damping scales with the curvature's diagonal; coordinates held by the box are left out
    of a step as long as the gradient pushes them outwards.
    """

    def step(state: _State) -> _State:
        theta_P, here = state.theta, state.here
        held_P = ((theta_P <= low_P) & (here.gradient > 0)) | ((theta_P >= high_P) & (here.gradient < 0))
        gradient_P = jnp.where(held_P, 0.0, here.gradient)
        diagonal_P = jnp.abs(jnp.diag(here.curvature))
        damped_PP = here.curvature + jnp.diag(state.damping * (diagonal_P + 1e-3 * jnp.mean(diagonal_P) + 1e-14))
        damped_PP = jnp.where(held_P[:, None] | held_P[None, :], jnp.eye(theta_P.size), damped_PP)
        move_P, positive = _solve_definite(damped_PP, -gradient_P)
        move_P = move_P * jnp.minimum(1.0, 3.0 / jnp.maximum(jnp.max(jnp.abs(move_P)), 1e-300))
        target_P = jnp.clip(theta_P + move_P, low_P, high_P)
        there = evaluate(target_P)
        accept = positive & (there.value <= here.value)
        gain = -jnp.dot(gradient_P, target_P - theta_P)
        damping = jnp.where(accept, jnp.maximum(0.15 * state.damping, 1e-12), jnp.minimum(5 * state.damping, 1e12))
        return _State(
            state.iteration + 1,
            jnp.where(accept, target_P, theta_P),
            jax.tree.map(lambda new, old: jnp.where(accept, new, old), there, here),
            damping,
            (accept & (gain < 1e-15 * there.value) & (state.damping < 1e-2)) | (damping >= 1e10),
        )

    def unfinished(state: _State) -> Any:
        return (state.iteration < iterations) & ~state.done

    # Nothing is known at the start: from an infinite objective with gradient zero the first step stays in place
    # and evaluates. This way `evaluate` is compiled once.
    size = theta_P.size
    unknown = Evaluation(jnp.inf, jnp.zeros(size), jnp.eye(size))
    return jax.lax.while_loop(unfinished, step, _State(0, theta_P, unknown, 1e-2, False))


def _solve_definite(matrix_PP: Any, right_P: Any) -> tuple[Any, Any]:
    """Cholesky solve of a small system, and whether the matrix is positive definite.

    Unrolled, so that it vectorises over starts where LAPACK would be called once for each.
    """
    size = right_P.shape[0]
    lower: list[list[Any]] = [[0.0] * size for _ in range(size)]
    positive: Any = True
    for j in range(size):
        pivot = matrix_PP[j, j] - sum(lower[j][k] ** 2 for k in range(j))
        good = pivot > 1e-14 * jnp.abs(matrix_PP[j, j])
        positive = positive & good
        lower[j][j] = jnp.sqrt(jnp.where(good, pivot, 1.0))
        for i in range(j + 1, size):
            lower[i][j] = (matrix_PP[i, j] - sum(lower[i][k] * lower[j][k] for k in range(j))) / lower[j][j]
    half: list[Any] = []
    for i in range(size):
        half.append((right_P[i] - sum(lower[i][k] * half[k] for k in range(i))) / lower[i][i])
    solution: list[Any] = [0.0] * size
    for i in reversed(range(size)):
        known = sum(lower[k][i] * solution[k] for k in range(i + 1, size))
        solution[i] = (half[i] - known) / lower[i][i]
    return jnp.stack(solution), positive


@functools.partial(jax.jit, static_argnums=0)
def _solve_lanes(
    form: Form, data: Points, theta_SP: Any, delta: Any, stages: Stage, low_P: Any, high_P: Any
) -> tuple[Any, Any]:
    def lane(log_loss_N: Any, weight_N: Any, theta_P: Any) -> tuple[Any, Any]:
        mine = data._replace(log_loss=log_loss_N, weight=weight_N)

        def leg(theta_P: Any, stage: Stage) -> tuple[Any, Any]:
            def evaluate(theta_P: Any) -> Evaluation:
                return _evaluate(form, mine, theta_P, stage.widening * delta, stage.newton)[2]

            end = _descend(evaluate, theta_P, low_P, high_P, stage.iterations)
            return end.theta, end.here.value

        theta_P, values = jax.lax.scan(leg, jnp.clip(theta_P, low_P, high_P), stages)
        return theta_P, values[-1]

    return jax.vmap(lane)(data.log_loss, data.weight, theta_SP)


@functools.partial(jax.jit, static_argnums=0)
def _diagnose(form: Form, data: Points, theta_P: Any, delta: Any) -> tuple[Any, Any, Evaluation]:
    return _evaluate(form, data, theta_P, delta, 1.0)
