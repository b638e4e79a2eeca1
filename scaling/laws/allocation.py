"""Allocation: how a budget of training and serving is best spent under a law, with intervals and the flat region."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import elementwise

from scaling.errors import UserError
from scaling.laws.budget import Axis, Cost, Market, region
from scaling.laws.form import Params
from scaling.laws.intervals import Interval, ReplicatedLaw

INDICATIVE_BEYOND = 2.0  # orders of magnitude beyond the largest run from which an allocation is indicative
WIDEST = 12.0  # how far from the optimum, in log N, the flat region is followed
STEPS, STEPS_WITH_AXES = 600, 60  # each way; with further axes every step is an optimisation of its own
DEAREST = 1e15  # times the table's largest run: what `cheapest` is ready to pay


@dataclasses.dataclass(frozen=True)
class Allocation:
    """The best spending of one budget.

    Attributes:
        flops: the budget, of training and serving.
        n, d: parameters and tokens.
        tokens_per_parameter, bytes_per_parameter: D/N in both units.
        loss: what the law predicts there.
        n_interval, d_interval, ratio_interval, loss_interval: from the bootstrap; `ratio_interval` in tokens.
        extrapolation: orders of magnitude of training FLOPs beyond the table's largest; 0 inside.
        indicative: whether that is more than two, the points do not identify the law, or they hold too few clusters.
        training_flops: what of the budget trains; the rest serves.
        chosen: further columns, by name.
        chosen_intervals: theirs.
        tolerance: of the flat region, relative to the loss.
        flat_n, flat_ratio: ranges of N and D/N that cost at most `tolerance` in loss at this budget.
        alike_n, alike_ratio: ranges of N and D/N whose loss the bootstrap cannot tell from the optimum's: the
            interval of the difference holds 0.
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
    training_flops: float
    chosen: Mapping[str, float]
    chosen_intervals: Mapping[str, Interval]
    tolerance: float
    flat_n: Interval
    flat_ratio: Interval
    alike_n: Interval
    alike_ratio: Interval


@dataclasses.dataclass(frozen=True)
class Cheapest:
    """The least that a loss can be had for, training and serving together.

    Attributes:
        loss: the target.
        flops, flops_interval: least total cost; an end is infinite where the law may never reach the loss.
        allocation: how that budget is spent; its intervals are those at this fixed budget.
        out_of_reach: share of replicates whose law does not reach the loss at any budget considered.
        saving: what is saved of the total cost against the model that is optimal for training alone at this loss.
    """

    loss: float
    flops: float
    flops_interval: Interval
    allocation: Allocation
    out_of_reach: float
    saving: float


def allocate(
    law: ReplicatedLaw,
    flops: float,
    bytes_per_token: float,
    *,
    inference_tokens: float = 0.0,
    cost: Cost | None = None,
    axes: tuple[Axis, ...] = (),
    given: Mapping[str, float] | None = None,
    tolerance: float = 1e-3,
) -> Allocation:
    """Least loss for a budget: min L(N, D, ...) where training and serving cost at most C.

    Where C = 6 N D, that is 6 N D + 2 N D_served <= C (Hoffmann et al. 2022, section 3.3; with serving: Sardana et al.
    2023, arXiv 2401.00448, section 2).

    Args:
        law: the bootstrapped fit, of this process or read from a file, of any form with n and d.
        flops: budget C > 0.
        bytes_per_token: of the table's tokens, to state D/N in bytes.
        inference_tokens: tokens served over the model's life.
        cost: FLOPs per token of training and of serving; the law's own where not given.
        axes: further columns of the form to choose, with bounds; the cost names their price.
        given: values of further columns that are settled.
        tolerance: relative loss within which the region around the optimum counts as flat.

    Raises:
        UserError: the form has a column that is neither chosen nor given, a number makes no sense, or loss has no
            least value along the budget.
    """
    if not 0 < flops < np.inf:
        raise UserError(f"budget {flops}: FLOPs must be a positive, finite number")
    if not 0 <= inference_tokens < np.inf:
        raise UserError(f"{inference_tokens} tokens to serve: 0 or a positive, finite number")
    market = Market(law.form, cost or law.cost, inference_tokens, axes, given or {})
    best = {name: float(value) for name, value in market.optimum(law.estimate, flops).items()}
    if min(best["n"], best["d"]) < 1:
        beside = f" beside {inference_tokens:.3g} tokens served" if inference_tokens else ""
        raise UserError(f"{flops:.3g} FLOPs train nothing{beside}: offer more FLOPs, or serve fewer tokens")
    spread = market.optimum(law.replicates, flops)
    flat, alike = _flat_regions(market, law, flops, best, tolerance)
    beyond = max(0.0, float(np.log10(law.cost.training(best) * best["d"] / law.largest_budget)))
    ratio = best["d"] / best["n"]
    return Allocation(
        flops=flops,
        n=best["n"],
        d=best["d"],
        tokens_per_parameter=ratio,
        bytes_per_parameter=ratio * bytes_per_token,
        loss=float(law.form.predict(law.estimate, best)),
        n_interval=law.interval(spread["n"]),
        d_interval=law.interval(spread["d"]),
        ratio_interval=law.interval(spread["d"] / spread["n"]),
        loss_interval=law.interval(law.form.predict(law.replicates, spread)),
        extrapolation=beyond,
        indicative=beyond > INDICATIVE_BEYOND or not law.identified or law.indicative,
        training_flops=float(market.spent(best)[0]),
        chosen={axis.name: best[axis.name] for axis in axes},
        chosen_intervals={axis.name: law.interval(spread[axis.name]) for axis in axes},
        tolerance=tolerance,
        flat_n=flat[0],
        flat_ratio=flat[1],
        alike_n=alike[0],
        alike_ratio=alike[1],
    )


def cheapest(
    law: ReplicatedLaw,
    loss: float,
    bytes_per_token: float,
    *,
    inference_tokens: float = 0.0,
    cost: Cost | None = None,
    axes: tuple[Axis, ...] = (),
    given: Mapping[str, float] | None = None,
) -> Cheapest:
    """Least cost for a loss: the budget at which the best spending reaches it (Sardana et al. 2023, equation 3).

    Least loss falls as the budget grows, so this is `allocate` read backwards.

    Args:
        law: the bootstrapped fit.
        loss: the target.
        bytes_per_token: as in `allocate`, and so are the other arguments.

    Raises:
        UserError: the law never reaches the loss (it lies below its floor), every run does, or as `allocate`.
    """
    largest = law.largest_budget
    market = Market(law.form, cost or law.cost, inference_tokens, axes, given or {})
    flops = float(_budget_for(market, law.estimate, loss, largest))
    if not np.isfinite(flops):
        raise UserError(
            f"loss {loss:.6g} is out of the law's reach at {DEAREST:.0e} times the largest run's FLOPs: "
            f"ask for more than {float(market.loss(law.estimate, market.optimum(law.estimate, DEAREST * largest))):.6g}"
        )
    least = float(market.loss(law.estimate, market.optimum(law.estimate, largest / DEAREST)))
    if loss >= least:
        raise UserError(
            f"loss {loss:.6g}: any run is below it, even one of {largest / DEAREST:.1e} FLOPs: ask for less than "
            f"{least:.6g}"
        )
    flops_R = _budget_for(market, law.replicates, loss, largest)
    for_training = dataclasses.replace(market, served=0.0)
    small = for_training.optimum(law.estimate, _budget_for(for_training, law.estimate, loss, largest))
    finite_R = np.minimum(flops_R, DEAREST * largest)
    ends = (float(end) if end < 0.99 * DEAREST * largest else np.inf for end in law.interval(finite_R))
    return Cheapest(
        loss=loss,
        flops=flops,
        flops_interval=Interval(*ends),
        allocation=allocate(
            law, flops, bytes_per_token, inference_tokens=inference_tokens, cost=cost, axes=axes, given=given
        ),
        out_of_reach=float(np.mean(~np.isfinite(flops_R))),
        saving=float(1 - flops / sum(market.spent(small))),
    )


def exponent(law: ReplicatedLaw) -> tuple[float, Interval]:
    """The exponent a of N_opt ~ C^a, with its interval: d log N_opt / d log C over a decade from the largest run.

    Where the optimum is a power law, as in the chinchilla form (a = beta / (alpha + beta)), that is a everywhere.
    """
    market = Market(law.form, law.cost)
    slope = local_exponent(market, law.largest_budget)
    return float(slope(law.estimate)), law.interval(slope(law.replicates))


def local_exponent(market: Market, flops: float) -> Any:
    """The function params -> d log N_opt / d log C over the decade above a budget."""

    def slope(params: Params) -> Any:
        small, large = (market.optimum(params, c)["n"] for c in (flops, 10 * flops))
        return np.log10(large / small)

    return slope


def _flat_regions(
    market: Market, law: ReplicatedLaw, flops: float, best: Mapping[str, float], tolerance: float
) -> tuple[tuple[Interval, Interval], tuple[Interval, Interval]]:
    """Ranges of N and D/N within tolerance of the optimum, and within what the bootstrap can tell apart."""
    steps = STEPS_WITH_AXES if market.axes else STEPS
    centre = np.log(best["n"])
    log_n_M = centre + WIDEST * np.linspace(-1, 1, 2 * steps + 1) ** 3  # finest where regions end when they are narrow
    columns = market.along(law.estimate, flops, log_n_M)
    payable_M = (columns["d"] >= 1) & (columns["n"] >= 1)
    bought = {name: values[payable_M] for name, values in columns.items()}
    loss_M = market.loss(law.estimate, bought)
    if np.argmin(loss_M) in (0, len(loss_M) - 1):
        raise UserError(
            f"{flops:.3g} FLOPs: {market.form.formula} has no best split of this budget under these values: name "
            "another budget, or fit a form that has one, such as chinchilla"
        )
    start = int(np.argmin(np.abs(np.log(bought["n"]) - centre)))
    difference = law.interval(
        law.form.predict({name: values[:, None] for name, values in law.replicates.items()}, bought)
        / law.form.predict(law.replicates, best)[:, None]
        - 1
    )
    ends = []
    for excess in (loss_M / loss_M[start] - 1 - tolerance, difference.low):
        low, high = region(np.log(bought["n"]), excess, start)
        at_ends = market.along(law.estimate, flops, np.array([low, high]))
        ratio_high, ratio_low = at_ends["d"] / at_ends["n"]
        ends.append(
            (
                Interval(float(np.exp(low)), float(np.exp(high))),
                Interval(float(ratio_low), float(ratio_high)),
            )
        )
    return ends[0], ends[1]


def _budget_for(market: Market, params: Params, loss: float, largest: float) -> Any:
    """Budgets at which the least loss is the target, (R,) or a float; infinite where that is out of reach."""
    names = list(params)

    def excess(log_flops: Any, *values: Any) -> Any:
        lane = dict(zip(names, values, strict=True))
        return np.log(market.loss(lane, market.optimum(lane, np.exp(log_flops))) / loss)

    ends = np.log(largest / DEAREST), np.log(largest * DEAREST)
    return np.exp(_root(excess, *ends, tuple(np.asarray(params[name], float) for name in names)))


def _root(function: Any, low: float, high: float, args: tuple[Any, ...]) -> Any:
    """Roots of a decreasing function of each lane; infinite where it is still positive at `high`."""
    found = elementwise.find_root(function, (low, high), args=args, tolerances={"xrtol": 1e-10})
    return np.where(found.success, found.x, np.where(function(np.full_like(found.x, high), *args) > 0, np.inf, low))
