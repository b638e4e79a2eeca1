"""Chinchilla's three approaches on one table, side by side: envelope, IsoFLOP by two estimators, parametric.

Hoffmann et al. 2022, sections 3.1 to 3.3. Where they agree, the answer does not hang on a method; where they differ
by more than their intervals, one of them assumes something that the points do not have.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scaling.errors import UserError
from scaling.laws import envelope, isoflop, slice_noise
from scaling.laws.budget import Cost, best_split
from scaling.laws.envelope import Envelope
from scaling.laws.frontier import Line
from scaling.laws.intervals import Interval
from scaling.laws.isoflop import IsoFlop
from scaling.laws.table import Table
from scaling.laws.uncertainty import INDICATIVE_BELOW, Bootstrap

ENVELOPE = "1: envelope"
ISOFLOP: dict[isoflop.Estimator, str] = {
    "parabola": "2: IsoFLOP, parabola",
    "shape-free": "2: IsoFLOP, shape-free",
}
PARAMETRIC = "3: parametric"
MANY_FAILED = 0.1  # share of replicates without an answer from which an interval is said to lean on the others
MOST_FAILED = 0.5  # and from which there is no interval, and so no answer


@dataclasses.dataclass(frozen=True)
class AtBudget:
    """What an approach says at one budget.

    Attributes:
        flops: the budget C.
        n, d, ratio: N_opt, what C buys of tokens at it, and D/N.
        n_interval, d_interval, ratio_interval: of them.
        loss: at the optimum; None where the approach does not know it (approaches 1 and 2 beyond their budgets).
        loss_interval: of it; None for approaches 1 and 2.
        extrapolation: orders of magnitude between the budget and the nearest that the approach had an optimum at.
    """

    flops: float
    n: float
    n_interval: Interval
    d: float
    d_interval: Interval
    ratio: float
    ratio_interval: Interval
    loss: float | None
    loss_interval: Interval | None
    extrapolation: float


@dataclasses.dataclass(frozen=True)
class Approach:
    """One approach on one table.

    Attributes:
        name: of the approach.
        a, b: N_opt ~ C^a and D_opt ~ C^b; None where the approach cannot run. b = 1 - a where C = 6 N D; of
            another C it is that of the decade above the largest budget.
        a_interval, b_interval: of them.
        at: its answers by budget; empty where it cannot run.
        budgets: smallest and largest budget that it had an optimum at.
        used: what of the table was used, in words.
        problems: why it cannot run, or what weakens its answer, in words.
    """

    name: str
    a: float | None
    a_interval: Interval | None
    b: float | None
    b_interval: Interval | None
    at: tuple[AtBudget, ...]
    budgets: tuple[float, float] | None
    used: str
    problems: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """The approaches fitted to one table, to be asked at any budgets: printed answers and figures are of one fit.

    Attributes:
        bootstrap: of approach 3.
        envelope: approach 1, or the sentence why it cannot run.
        isoflop: approach 2, or the sentence why it cannot run.
    """

    bootstrap: Bootstrap
    envelope: Envelope | str
    isoflop: IsoFlop | str

    def at(self, budgets: Sequence[float]) -> tuple[Approach, ...]:
        """All approaches at budgets C: 1, 2 by parabola, 2 shape-free, 3.

        An approach that cannot run on the table says why in `problems` and has no numbers.
        """
        first, second, third = self.envelope, self.isoflop, self.bootstrap
        rows = [_cannot(ENVELOPE, first) if isinstance(first, str) else _envelope(first, budgets)]
        for estimator, name in ISOFLOP.items():
            rows.append(
                _cannot(name, second) if isinstance(second, str) else _isoflop(second, estimator, third, budgets)
            )
        rows.append(_guarded(PARAMETRIC, lambda: _parametric(third, budgets)))
        return tuple(rows)


def fit(points: Table, bootstrap: Bootstrap, *, level: float = 0.9, seed: int = 0, replicates: int = 1000) -> Fitted:
    """Fits approaches 1 and 2 beside a bootstrapped law.

    Args:
        points: the table.
        bootstrap: of approach 3: a fit of the same table, whose form reads n and d.
        level: nominal coverage of intervals of approaches 1 and 2; that of approach 3 is the bootstrap's.
        seed: of the replicates.
        replicates: of approach 2; approach 1 takes 200.
    """
    return Fitted(
        bootstrap,
        _or_why(lambda: envelope.fit(points, level=level, seed=seed)),
        _or_why(lambda: isoflop.fit(points, replicates=replicates, level=level, seed=seed)),
    )


def three_approaches(
    points: Table,
    bootstrap: Bootstrap,
    budgets: Sequence[float],
    *,
    level: float = 0.9,
    seed: int = 0,
    replicates: int = 1000,
) -> tuple[Approach, ...]:
    """All approaches on one table at some budgets: `fit`, whose arguments these are, and `Fitted.at`."""
    return fit(points, bootstrap, level=level, seed=seed, replicates=replicates).at(budgets)


def _or_why[T](run: Callable[[], T]) -> T | str:
    try:
        return run()
    except UserError as error:
        return str(error)


def _guarded(name: str, run: Callable[[], Approach]) -> Approach:
    try:
        return run()
    except UserError as error:
        return _cannot(name, str(error))


def _cannot(name: str, problem: str, used: str = "") -> Approach:
    return Approach(name, None, None, None, None, (), None, used, (problem,))


def _envelope(found: Envelope, budgets: Sequence[float]) -> Approach:
    winners = len(np.unique(found.n))
    curves = "each size's points" if found.of == "size" else "every run's curve (runs of one size end at different D)"
    used = (
        f"the lower envelope of {curves} at {len(found.budgets)} of {envelope.BUDGETS} log-spaced budgets, {winners} "
        f"sizes on it; left out: {found.alone} budgets that fewer than two sizes reach, {found.edge} where sizes do "
        "not lie on both sides of the optimum"
    )
    if problem := _too_few(found.line):
        return _cannot(ENVELOPE, problem, used)
    problems = _replicate_problems(found.line)
    clusters = len(np.unique(found.points.cluster))
    if clusters < INDICATIVE_BELOW:
        problems += (f"intervals are indicative: {clusters} clusters to resample",)
    return _along(ENVELOPE, found.line, found.budgets, found.loss, budgets, used, problems, found.points.cost)


def _isoflop(found: IsoFlop, estimator: isoflop.Estimator, bootstrap: Bootstrap, budgets: Sequence[float]) -> Approach:
    name, optima = ISOFLOP[estimator], found.optima[estimator]
    held = [one for one in optima if not one.problem]
    losses = sum(one.points for one in held)
    used = f"{found.cuts.note}; {len(held)} slices used, {losses} losses; noise {found.noise.total:.2%}"
    used += f" of a loss from {found.noise.source}" if found.noise.source != "as given" else " of a loss, as given"
    without = tuple(one.problem for one in optima if one.problem)
    if estimator not in found.lines:
        return _cannot(name, f"{len(held)} slices have a minimum well between their sizes, a line needs three", used)
    line = found.lines[estimator]
    if problem := _too_few(line):
        return _cannot(name, problem, used)
    freedom = found.noise.freedom
    if freedom is not None and freedom < slice_noise.LEAST_FREEDOM:
        without += (f"intervals are indicative: {freedom} degrees of freedom to tell the noise by",)
    problems = (*without, *_replicate_problems(line), *_known_bias(found, estimator, bootstrap))
    at = np.array([one.budget for one in held])
    loss = np.array([one.loss for one in held], float)
    return _along(name, line, at, loss, budgets, used, problems, found.points.cost)


def _known_bias(found: IsoFlop, estimator: isoflop.Estimator, bootstrap: Bootstrap) -> tuple[str, ...]:
    """What the estimator would get wrong without any noise, were approach 3's law the truth."""
    form, params = bootstrap.fit.form, bootstrap.fit.params
    if set(form.columns) != {"n", "d"}:
        return ()
    rows = isoflop.parabola_bias(params, found.points, found.cuts, noise=found.noise, form=form)
    (row,) = [row for row in rows if row.estimator == estimator]
    if row.a is None or row.n_at is None:
        return ()
    return (
        f"known bias: on noise-free losses of approach 3's law at these points it would find N_opt {min(row.n):+.1%} "
        f"to {max(row.n):+.1%} off by slice, {row.n_at:+.1%} at C = {row.at:.3g}, and a off by {row.a:+.4f}",
    )


def _too_few(line: Line) -> str:
    """Why an answer that hardly any replicate has is none; "" where enough do."""
    replicates = len(line.a_replicates)
    if line.failed <= MOST_FAILED * replicates:
        return ""
    return f"only {replicates - line.failed} of {replicates} replicates have an answer: the points hardly hold one"


def _replicate_problems(line: Line) -> tuple[str, ...]:
    replicates = len(line.a_replicates)
    if line.failed <= MANY_FAILED * replicates:
        return ()
    return (f"intervals lean on the {replicates - line.failed} of {replicates} replicates that had an answer",)


def _along(
    name: str,
    line: Line,
    at_B: np.ndarray,
    loss_B: np.ndarray,
    budgets: Sequence[float],
    used: str,
    problems: tuple[str, ...],
    cost: Cost,
) -> Approach:
    """An approach whose answer is a line through optima at budgets, with the losses there."""
    span = float(at_B.min()), float(at_B.max())
    rows = []
    for flops in budgets:
        inside = span[0] <= flops <= span[1]
        loss = float(np.exp(np.interp(np.log(flops), np.log(at_B), np.log(loss_B)))) if inside else None
        rows.append(_at(flops, cost, line.n(flops), line.n_replicates(flops), line.interval, loss, None, span))
    a = line.interval(line.a_replicates)
    b, b_R = (_of_tokens(cost, n(span[1]), n(10 * span[1])) for n in (line.n, line.n_replicates))
    return Approach(name, line.a, a, float(b), line.interval(b_R), tuple(rows), span, used, problems)


def _parametric(bootstrap: Bootstrap, budgets: Sequence[float]) -> Approach:
    fit, cost = bootstrap.fit, bootstrap.cost
    optimum = best_split(fit.form, cost)
    span = float(fit.table.budgets.min()), float(fit.table.budgets.max())
    rows = []
    for flops in budgets:
        best, spread = optimum(fit.params, flops), optimum(bootstrap.params, flops)
        loss = float(np.squeeze(fit.predict(best)))
        around = bootstrap.interval(fit.form.predict(bootstrap.params, spread))
        rows.append(_at(flops, cost, float(best["n"]), spread["n"], bootstrap.interval, loss, around, span))
    ends = [[optimum(params, c)["n"] for c in (span[1], 10 * span[1])] for params in (fit.params, bootstrap.params)]
    a, a_R = (np.log10(large / small) for small, large in ends)
    b, b_R = (_of_tokens(cost, small, large) for small, large in ends)
    problems = tuple(fit.certificate.findings)
    if bootstrap.indicative:
        problems += (f"intervals are indicative: {bootstrap.clusters} clusters",)
    return Approach(
        name=PARAMETRIC,
        a=float(a),
        a_interval=Interval(*map(float, bootstrap.interval(a_R))),
        b=float(b),
        b_interval=Interval(*map(float, bootstrap.interval(b_R))),
        at=tuple(rows),
        budgets=span,
        used=f"{fit.form.formula} fitted to all {len(fit.table)} points",
        problems=problems,
    )


def _of_tokens(cost: Cost, small: Any, large: Any) -> Any:
    """The exponent of D_opt ~ C^b over a decade of C from the sizes that are best at its ends."""
    return 1 - np.log10(cost.training({"n": large}) / cost.training({"n": small}))


def _at(
    flops: float,
    cost: Cost,
    n: float,
    n_R: np.ndarray,
    interval: Callable[[np.ndarray], Interval],
    loss: float | None,
    loss_interval: Interval | None,
    span: tuple[float, float],
) -> AtBudget:
    def ends(values_R: np.ndarray) -> Interval:
        return Interval(*map(float, interval(values_R)))

    d, d_R = float(flops / cost.training({"n": n})), flops / cost.training({"n": n_R})
    beyond = max(0.0, float(np.log10(flops / span[1])), float(np.log10(span[0] / flops)))
    around = None if loss_interval is None else Interval(*map(float, loss_interval))
    return AtBudget(flops, n, ends(n_R), d, ends(d_R), d / n, ends(d_R / n_R), loss, around, beyond)
