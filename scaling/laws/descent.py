"""Damped, projected Newton descent from one start: the loop inside every fit, written for `jax.vmap`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from scaling.laws.derivatives import Evaluation

LONGEST_MOVE = 3.0  # in any coordinate, in one step


class _State(NamedTuple):
    iteration: Any
    theta: Any
    here: Evaluation
    damping: Any
    done: Any


def descend(
    evaluate: Callable[[Any], Evaluation], theta_P: Any, low_P: Any, high_P: Any, iterations: Any
) -> tuple[Any, Any, Any]:
    """Steps from one start until nothing is gained any more: coordinates, objective, and whether that point came.

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
        move_P, positive = solve_definite(damped_PP, -gradient_P)
        move_P = move_P * jnp.minimum(1.0, LONGEST_MOVE / jnp.maximum(jnp.max(jnp.abs(move_P)), 1e-300))
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
    end = jax.lax.while_loop(unfinished, step, _State(0, theta_P, unknown, 1e-2, False))
    return end.theta, end.here.value, end.done


def solve_definite(matrix_PP: Any, right_P: Any) -> tuple[Any, Any]:
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
