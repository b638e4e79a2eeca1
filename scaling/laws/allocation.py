"""Allocation: how a training budget is best spent on parameters and tokens under a law, with intervals."""

import dataclasses
from typing import Any

import numpy as np

from scaling.laws.forms import Params
from scaling.laws.uncertainty import Bootstrap, Interval

INDICATIVE_BEYOND = 2.0  # orders of magnitude beyond the largest run from which an allocation is indicative


@dataclasses.dataclass(frozen=True)
class Allocation:
    """The compute-optimal spending of one budget, C = 6 N D.

    Attributes:
        flops: the budget C.
        n, d: parameters and tokens.
        tokens_per_parameter, bytes_per_parameter: D/N in both units.
        loss: what the law predicts there.
        n_interval, d_interval, ratio_interval, loss_interval: from the bootstrap; `ratio_interval` in tokens.
        extrapolation: orders of magnitude of C beyond the table's largest 6 N D; 0 inside.
        indicative: whether that is more than two, the points do not identify the law, or they hold too few clusters.
    """

    flops: float
    n: float
    d: float
    tokens_per_parameter: float
    bytes_per_parameter: float
    loss: float
    n_interval: Interval
    d_interval: Interval
    ratio_interval: Interval
    loss_interval: Interval
    extrapolation: float
    indicative: bool


def allocate(replicates: Bootstrap, flops: float, bytes_per_token: float) -> Allocation:
    """Compute-optimal N and D at a budget.

    Args:
        replicates: the bootstrapped fit.
        flops: budget C > 0.
        bytes_per_token: of the table's tokens, to state D/N in bytes.
    """
    fit = replicates.fit
    best = fit.form.optimum(fit.params, flops)
    spread = fit.form.optimum(replicates.params, flops)
    loss_R = fit.form.predict(replicates.params, spread)
    beyond = max(0.0, float(np.log10(flops / fit.table.budgets.max())))
    ratio = float(best["d"] / best["n"])
    return Allocation(
        flops=flops,
        n=float(best["n"]),
        d=float(best["d"]),
        tokens_per_parameter=ratio,
        bytes_per_parameter=ratio * bytes_per_token,
        loss=float(fit.predict(best)),
        n_interval=replicates.interval(spread["n"]),
        d_interval=replicates.interval(spread["d"]),
        ratio_interval=replicates.interval(spread["d"] / spread["n"]),
        loss_interval=replicates.interval(loss_R),
        extrapolation=beyond,
        indicative=beyond > INDICATIVE_BEYOND or not fit.certificate.identified or replicates.indicative,
    )


def exponent(replicates: Bootstrap) -> tuple[float, Interval]:
    """The exponent a of N_opt ~ C^a, with its interval: d log N_opt / d log C over a decade from the largest run.

    Where the optimum is a power law, as in the chinchilla form (a = beta / (alpha + beta)), that is a everywhere.
    """
    form, largest = replicates.fit.form, float(replicates.fit.table.budgets.max())

    def slope(params: Params) -> Any:
        small, large = (form.optimum(params, flops)["n"] for flops in (largest, 10 * largest))
        return np.log10(large / small)

    return float(slope(replicates.fit.params)), replicates.interval(slope(replicates.params))
