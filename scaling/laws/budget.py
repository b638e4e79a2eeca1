"""A budget and what it buys: FLOPs per token in, the columns of least loss out, for any form with N and D.

Training costs in proportion to the tokens trained on and serving to the tokens served, so a budget fixes D once N
(and whatever else has a price) is chosen: D = (C - served tokens * serving) / training. What is left is a minimum
along log N, found for all replicates of a law at once.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize
from scipy.optimize import elementwise

from scaling.errors import UserError
from scaling.laws.form import Columns, Form, Params

COARSE = 200  # sizes from 1 parameter to the largest that the budget could train on one token
BARRED = 1e9  # stands for the loss of a choice that the budget cannot pay
AXIS_STARTS = 4  # values of every further axis from which its optimum is sought


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs per token, as functions of every column but d.

    Attributes:
        training: of a token trained on.
        serving: of a token served.
        name: what is counted, in words: C = this.
    """

    training: Callable[[Columns], Any]
    serving: Callable[[Columns], Any]
    name: str = "as given"


SIX_ND = Cost(lambda columns: 6 * columns["n"], lambda columns: 2 * columns["n"], "6 N D")


@dataclasses.dataclass(frozen=True)
class Axis:
    """A column beside N and D that may be chosen, within bounds: bits of the weights, visible tokens."""

    name: str
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Market:
    """What can be bought: a form, its prices, and what is settled already.

    Attributes:
        form: a form with columns n and d.
        cost: FLOPs per token.
        served: tokens served over the model's life.
        axes: further columns to choose.
        given: columns that are settled, by name.

    Raises:
        UserError: the form has no n and d, or another of its columns is neither an axis nor given.
    """

    form: Form
    cost: Cost = SIX_ND
    served: float = 0.0
    axes: tuple[Axis, ...] = ()
    given: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not {"n", "d"} <= set(self.form.columns):
            raise UserError(f"{self.form.name!r} has columns {', '.join(self.form.columns)}: spending needs n and d")
        open_columns = set(self.form.columns) - {"n", "d"} - {axis.name for axis in self.axes} - set(self.given)
        if open_columns:
            raise UserError(
                f"{self.form.name!r} also reads {', '.join(sorted(open_columns))}: give a value, or an axis with bounds"
            )

    def columns(self, log_n: Any, flops: Any, chosen: Columns) -> dict[str, Any]:
        """All columns when N = exp(log_n) and the rest of the budget buys tokens; d <= 0 where nothing is left."""
        known = {**self.given, **chosen, "n": np.exp(log_n)}
        return known | {"d": (flops - self.served * self.cost.serving(known)) / self.cost.training(known)}

    def spent(self, columns: Columns) -> tuple[Any, Any]:
        """FLOPs of training and of serving."""
        return columns["d"] * self.cost.training(columns), self.served * self.cost.serving(columns)

    def loss(self, params: Params, columns: Columns) -> Any:
        """The law's loss, BARRED where no tokens are left."""
        d = np.asarray(columns["d"])
        loss = self.form.predict(params, {**columns, "d": np.where(d > 0, d, 1.0)})
        return np.where(d > 0, loss, BARRED)

    def optimum(self, params: Params, flops: Any) -> dict[str, Any]:
        """Columns of least loss at a budget; params and flops floats or (R,)."""
        if not self.axes:
            return self._best_size(params, flops, {})
        lanes = np.broadcast(np.asarray(flops), *(np.asarray(value) for value in params.values()))
        flops_R = np.broadcast_to(flops, lanes.shape).ravel()
        params_R = [
            {name: np.broadcast_to(value, lanes.shape).ravel()[r] for name, value in params.items()}
            for r in range(lanes.size)
        ]
        start = self._axes_start(params_R[0], flops_R[0])
        best = [self._polish(p, f, start) for p, f in zip(params_R, flops_R, strict=True)]
        return {name: np.reshape([row[name] for row in best], lanes.shape) for name in best[0]}

    def along(self, params: Params, flops: float, log_n_M: np.ndarray) -> dict[str, np.ndarray]:
        """Columns (M,) along the budget, further axes at their best for every N under one law's parameters."""
        if not self.axes:
            return {k: np.broadcast_to(v, log_n_M.shape) for k, v in self.columns(log_n_M, flops, {}).items()}
        start = self._axes_start(params, flops)
        rows = [self._polish(params, flops, start, size) for size in log_n_M]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def _largest(self, flops: Any, chosen: Columns) -> Any:
        """log N of a model whose training cost per token is the whole budget, to within a factor of e."""
        lanes = np.broadcast(flops, *chosen.values())
        sizes = np.arange(0.0, 120.0).reshape(-1, *[1] * lanes.ndim)
        return np.sum(self.columns(sizes, flops, chosen)["d"] >= 1, axis=0, dtype=float)

    def _best_size(self, params: Params, flops: Any, chosen: Columns) -> dict[str, Any]:
        """Least loss over N alone: the best of a coarse grid, then Chandrupatla's method between its neighbours."""
        flops = np.asarray(flops, float)
        top = np.maximum(self._largest(flops, chosen), 1.0)
        shape = np.broadcast_shapes(top.shape, *(np.shape(v) for v in (*params.values(), *chosen.values())))
        values = [np.broadcast_to(v, shape).astype(float) for v in (*params.values(), *chosen.values())]
        grid = np.linspace(0.0, np.broadcast_to(top, shape), COARSE)

        def loss(log_n: Any, flops: Any, *values: Any) -> Any:
            law, rest = values[: len(params)], values[len(params) :]
            columns = self.columns(log_n, flops, dict(zip(chosen, rest, strict=True)))
            return self.loss(dict(zip(params, law, strict=True)), columns)

        flops = np.broadcast_to(flops, shape)
        best = np.argmin(loss(grid, flops, *values), axis=0)
        inner = np.clip(best, 1, COARSE - 2)
        low, middle, high, end = (
            np.take_along_axis(grid, at[None], 0)[0] for at in (inner - 1, inner, inner + 1, best)
        )
        found = elementwise.find_minimum(loss, (low, middle, high), args=(flops, *values))
        # Where the coarse grid's best is an end, there is no bracket: the end itself is what can be had.
        return self.columns(np.where(found.success, found.x, end), flops, chosen)

    def _axes_start(self, params: Params, flops: float) -> dict[str, float]:
        """The best of a coarse grid over the further axes, N at its best for each."""
        values = [np.geomspace(axis.low, axis.high, AXIS_STARTS) for axis in self.axes]
        chosen = {a.name: v.ravel() for a, v in zip(self.axes, np.meshgrid(*values, indexing="ij"), strict=True)}
        found = self._best_size(params, flops, chosen)
        best = int(np.argmin(self.loss(params, found)))
        return {name: float(np.broadcast_to(v, chosen[self.axes[0].name].shape)[best]) for name, v in found.items()}

    def _polish(
        self, params: Params, flops: float, start: Mapping[str, float], log_n: float | None = None
    ) -> dict[str, float]:
        """A local optimum over log N (unless it is given) and the further axes' logs, from a start."""
        names = [axis.name for axis in self.axes]

        def columns(x: np.ndarray) -> dict[str, Any]:
            size = x[-1] if log_n is None else log_n
            return self.columns(size, flops, dict(zip(names, np.exp(x[: len(names)]), strict=True)))

        settled = {name: start[name] for name in names}
        bounds = [(np.log(axis.low), np.log(axis.high)) for axis in self.axes]
        x = np.log([start[name] for name in names])
        if log_n is None:
            x, bounds = np.append(x, np.log(start["n"])), [*bounds, (0.0, float(self._largest(flops, settled)))]
        # Nelder and Mead ask for no derivatives, and a choice that cannot be paid is just a bad one.
        found = optimize.minimize(  # type: ignore[call-overload]
            lambda x: float(np.log(self.loss(params, columns(x)))),
            x,
            method="Nelder-Mead",
            bounds=bounds,
            options={"xatol": 1e-7, "fatol": 1e-15, "maxfev": 2000},
        )
        return {name: float(value) for name, value in columns(found.x).items()}


def best_split(form: Form, cost: Cost = SIX_ND) -> Callable[[Params, Any], dict[str, Any]]:
    """The function (params, flops) -> compute-optimal {"n", "d"}, training alone: the form's own where it has one.

    A closed form is exact and much faster, and holds where C = 6 N D; any other cost takes a search.

    Raises:
        UserError: as `Market`.
    """
    return form.optimum if form.optimum is not None and cost is SIX_ND else Market(form, cost).optimum


def region(position_M: np.ndarray, excess_M: np.ndarray, start: int) -> tuple[float, float]:
    """Ends of the range around position `start` in which `excess` stays at or below 0, linearly interpolated.

    Where it never rises above 0 on a side, that side ends with the last position.
    """

    def end(path: Sequence[int]) -> float:
        for here, there in itertools.pairwise(path):
            if excess_M[there] > 0:
                share = excess_M[here] / (excess_M[here] - excess_M[there])
                return float(position_M[here] + share * (position_M[there] - position_M[here]))
        return float(position_M[path[-1]])

    return end(range(start, -1, -1)), end(range(start, len(position_M)))
