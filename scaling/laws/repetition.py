"""Training on repeated data: what epochs beyond the first, and parameters beyond the data's own optimum, are worth.

The law is Chinchilla's with effective sizes in place of N and D. Of x = u (1 + R), the first u count in full, and what
comes after with a value that decays by 1/e every r repetitions:

    x_eff = u + u r (1 - exp(-R / r)),    R = x / u - 1.

For tokens u = U_D, the unique ones seen; for parameters u = U_N, the compute-optimal count for U_D tokens. The paper
fits in two steps: the base law on runs of a single epoch, then r_N and r_D on all runs with the base held fixed.

This is the plain specification that tests hold `forms.DATA_CONSTRAINED` (what is fitted) and `budget.Market` (what
spends a budget) against.

Source: Muennighoff et al. 2023 (arXiv 2305.16264), equations 5 to 7, 16 and 17.
"""

from typing import Any

import numpy as np

from scaling.laws.forms import CHINCHILLA, Params, chinchilla_optimum


def effective(x: Any, unique: Any, r: Any) -> Any:
    """What x units are worth of which `unique` are distinct, in distinct units; x itself where x <= unique.

    Args:
        x: units used: tokens trained on, or parameters.
        unique: distinct ones: unique tokens, or the parameters that they are compute-optimal for.
        r: decay constant in repetitions, the paper's R* (15.39 for data on C4); x is worth unique (1 + r) at most.

    Source: equations 5 and 6.
    """
    used = np.minimum(x, unique)
    return used * (1 - r * np.expm1(-(x / used - 1) / r))


def optimal_parameters(base: Params, d: Any) -> Any:
    """The parameters for which D unique tokens are compute-optimal, N = G (G D)^(beta / alpha).

    Args:
        base: E, A, B, alpha, beta of the base law.
        d: tokens.

    Source: from equation 4 of Hoffmann et al. 2022, C eliminated; used in equation 7 of Muennighoff et al.
    """
    alpha, beta = base["alpha"], base["beta"]
    scale = (alpha * base["A"] / (beta * base["B"])) ** (1 / (alpha + beta))
    return scale * (scale * d) ** (beta / alpha)


def loss(params: Params, n: Any, d: Any, d_unique: Any) -> Any:
    """Loss after training N parameters on D tokens of which `d_unique` are distinct; broadcasts.

    Args:
        params: E, A, B, alpha, beta, r_n, r_d.
        n, d: parameters and tokens.
        d_unique: unique tokens there are.

    Source: equation 7 (constants for C4: equation 17).
    """
    seen = np.minimum(d, d_unique)
    sizes = {
        "n": effective(n, np.minimum(n, optimal_parameters(params, seen)), params["r_n"]),
        "d": effective(d, seen, params["r_d"]),
    }
    return CHINCHILLA.predict(params, sizes)


def optimum(params: Params, flops: float, d_unique: float) -> dict[str, float]:
    """Compute-optimal {"n", "d"} of a budget C = 6 N D when there are only so many unique tokens.

    With more data than the base law would use, that is its own optimum. With less, extra compute goes into epochs
    sooner than into parameters where r_d > r_n. There is no closed form: a search over log N, finer in each round.

    Args:
        params: E, A, B, alpha, beta, r_n, r_d.
        flops: the budget.
        d_unique: unique tokens there are.
    """
    centre, width = np.log(chinchilla_optimum(params, flops)["n"]), np.log(1e4)
    for _ in range(6):
        logs = np.linspace(centre - width, centre + width, 201)
        n = np.exp(logs)
        centre, width = logs[np.argmin(loss(params, n, flops / (6 * n), d_unique))], width / 50
    return {"n": float(np.exp(centre)), "d": float(flops / (6 * np.exp(centre)))}
