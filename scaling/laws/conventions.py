"""How much an answer moves with what N and C count: one table fitted and allocated under every convention it holds.

Embeddings counted in N or not, C = 6 N D with either N or counted by term: Kaplan's N_opt ~ C^.73 against
Chinchilla's C^.5 is mostly this (Pearce & Song 2024, arXiv 2406.12907; Porian et al. 2024, arXiv 2406.19146).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scaling.errors import UserError
from scaling.laws import fit, guesses, reading, uncertainty
from scaling.laws.budget import Cost, Market
from scaling.laws.forms import CHINCHILLA, Form, Params
from scaling.laws.intervals import Interval
from scaling.laws.table import Duplicates, Table, from_frame

TIMES_LARGEST = 10.0  # the budget at which conventions are compared, in multiples of the table's largest C


class Alternative(NamedTuple):
    """One way to count the same runs.

    Attributes:
        name: in words.
        table: the points with this N, their budgets counted as this C.
    """

    name: str
    table: Table

    @property
    def cost(self) -> Cost:
        """C as a function of N and D."""
        return self.table.cost

    @property
    def residual(self) -> float:
        """Largest relative difference between `cost` and the points' own C."""
        return 0.0 if self.table.counted is None else self.table.counted.residual


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one convention makes of the points.

    Attributes:
        name: the convention, in words.
        params: of the law, by name.
        flops: the budget, counted in this convention.
        a: d log N_opt / d log C over the decade that ends there.
        n, d, ratio: compute-optimal N (as this convention counts it), tokens, and D/N at the budget.
        a_interval, n_interval, d_interval, ratio_interval: from the bootstrap.
        level: of the intervals, in words.
        residual: largest relative difference between the convention's cost and the points' own C.
    """

    name: str
    params: Mapping[str, float]
    flops: float
    a: float
    n: float
    d: float
    ratio: float
    a_interval: Interval
    n_interval: Interval
    d_interval: Interval
    ratio_interval: Interval
    level: str
    residual: float


def alternatives(
    frame: pd.DataFrame,
    form: Form = CHINCHILLA,
    columns: Mapping[str, str] = {},
    units: Mapping[str, float] = {},
    duplicates: Duplicates = "refuse",
) -> list[Alternative]:
    """Every pair of an N and a C that a table holds: the asked or guessed N first, and with it the asked C.

    A column that nobody asked for and that cannot be read as an N or a C, in the same units, is left out.

    Args:
        frame: one row per point (`reading.read_frame` reads a file).
        form: the law.
        columns, units, duplicates: as in `table.read_table`.

    Raises:
        UserError: as `table.from_frame`.
    """
    asked = {role: columns.get(role, "") for role in ("n", "flops")}
    sizes, counts = (_candidates(frame, role, name) for role, name in asked.items())

    def read(size: str, count: str, needed: bool) -> Table | None:
        chosen = dict(columns) | {"n": size, "flops": count}
        try:
            return from_frame(frame, form=form, columns=chosen, units=units, duplicates=duplicates)
        except UserError:
            if needed:
                raise
            return None

    found: list[Alternative] = []
    for size in sizes or [""]:
        base = read(size, asked["flops"], not found)
        if base is None or (found and not _alike(base.columns["n"], found[0].table.columns["n"])):
            continue
        name = f"N = {size}" if size else "N derived"
        plain = _six_nd(base)
        mine = [Alternative(f"{name}, C = 6 N D", plain)]
        for count in counts:
            table = read(size, count, count == asked["flops"])
            if table is None or table.counted is None or not _alike(table.budgets, plain.budgets):
                continue
            if count == asked["flops"] and not found:
                mine.insert(0, Alternative(f"{name}, C = {count}", table))
            else:
                mine.append(Alternative(f"{name}, C = {count}", table))
        found += mine
    return found


def sensitivity(
    found: Sequence[Alternative],
    form: Form = CHINCHILLA,
    *,
    known: uncertainty.Bootstrap | None = None,
    times_largest: float = TIMES_LARGEST,
    delta: float = 1e-3,
    starts: int = 64,
    replicates: int = 300,
    level: float = 0.9,
    seed: int = 0,
) -> list[Outcome]:
    """Fits, bootstraps and allocates under each convention.

    The budget is the same multiple of the largest run everywhere, counted in each convention's own FLOPs: tokens may
    be compared between rows, N only where it counts the same parameters.

    Args:
        found: from `alternatives`.
        form: the law.
        known: the replicated fit of one of them, which is not made again: one quantity has one interval.
        times_largest: the budget, in multiples of the table's largest C.
        delta: Huber threshold in log loss.
        starts: of every fit.
        replicates: of the bootstrap.
        level: nominal coverage of intervals.
        seed: of starts and replicates.

    Raises:
        UserError: the table cannot identify the form, or a budget cannot be spent under it.
    """
    # The law depends on N, not on C: one fit for each N.
    replicated = {} if known is None else {_fitted(known.fit.table): known}
    outcomes = []
    for alternative in found:
        key = _fitted(alternative.table)
        if key not in replicated:
            fitted = fit.fit(form, alternative.table, delta=delta, starts=starts, seed=seed)
            replicated[key] = uncertainty.bootstrap(fitted, replicates=replicates, level=level, seed=seed)
        outcomes.append(_outcome(alternative, replicated[key], times_largest))
    return outcomes


def _outcome(alternative: Alternative, replicated: uncertainty.Bootstrap, times_largest: float) -> Outcome:
    market = Market(replicated.fit.form, alternative.cost)
    budget = times_largest * float(alternative.table.budgets.max())

    def at(params: Params) -> dict[str, Any]:
        before, best = (market.optimum(params, flops) for flops in (budget / 10, budget))
        return best | {"ratio": best["d"] / best["n"], "a": np.log10(best["n"] / before["n"])}

    best, spread = at(replicated.fit.params), at(replicated.params)
    interval = {name: replicated.interval(values) for name, values in spread.items()}
    return Outcome(
        name=alternative.name,
        params=replicated.fit.params,
        flops=budget,
        a=float(best["a"]),
        n=float(best["n"]),
        d=float(best["d"]),
        ratio=float(best["ratio"]),
        a_interval=interval["a"],
        n_interval=interval["n"],
        d_interval=interval["d"],
        ratio_interval=interval["ratio"],
        level=replicated.label,
        residual=alternative.residual,
    )


def _fitted(table: Table) -> tuple[bytes, ...]:
    """What a fit of N and D reads of a table."""
    return table.columns["n"].tobytes(), table.columns["d"].tobytes(), table.loss.tobytes()


def _candidates(frame: pd.DataFrame, role: str, asked: str) -> list[str]:
    """Columns that could be N or C: the asked one, then by preference those of numbers that none before them has."""
    names, seen = [asked] if asked else [], list[np.ndarray]()
    for name in guesses.candidates(map(str, frame.columns), role):
        values = np.array([reading.number(value, count=True) for value in frame[name]])
        if name != asked and (values > 0).all() and not any(np.array_equal(values, other) for other in seen):
            names.append(name)
        seen.append(values)
    return names


def _alike(values: np.ndarray, others: np.ndarray) -> bool:
    """Whether two columns can count the same thing in the same unit: within a factor of 100 of each other."""
    return len(values) == len(others) and abs(float(np.median(np.log10(values / others)))) < 2


def _six_nd(table: Table) -> Table:
    flops = {"flops": 6 * table.columns["n"] * table.columns["d"]}
    note = {"flops": "C = 6 N D"}
    return dataclasses.replace(
        table, columns=dict(table.columns) | flops, conventions=dict(table.conventions) | note, counted=None
    )
