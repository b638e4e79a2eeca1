"""Plans of runs: what trunks and branches cost, and the search for those that tell the most for a budget."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scaling.errors import UserError
from scaling.laws.budget import SIX_ND, Cost
from scaling.laws.design import Design, squares

LEAST_GAIN = 0.02  # in log variance: less than 1% of a width is not worth a run
THRIFT = (0.25, 0.5)  # powers of a move's cost that its gain is divided by; neither is best throughout
PASSES = 2  # of exchanges through a plan
APART = 0.05  # in log D: nearer to a branch that a trunk has, another tells nothing new


class Trunk(NamedTuple):
    """A trunk with planned branches.

    Attributes:
        label: the table's, or a number for a new one.
        n: parameters.
        trained: tokens that it has been trained to; 0 for a new one.
        taken: D of the branches that it has.
        tokens: D of the planned ones.
    """

    label: str | int
    n: float
    trained: float = 0.0
    taken: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()

    def flops(self, decay_share: float, cost: Cost = SIX_ND) -> float:
        """What the planned branches cost: a share of the sum of D, and the stable phase up to where the last decays."""
        reach = (1 - decay_share) * max(self.tokens, default=0.0)
        tokens = max(reach - self.trained, 0.0) + decay_share * sum(self.tokens)
        return float(cost.training({"n": self.n}) * tokens)


class _Move(NamedTuple):
    """A step of a plan: a trunk as it becomes, what that costs, and what the points added tell (sums over them)."""

    trunk: Trunk
    flops: float
    squares: np.ndarray
    sums: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """Candidates and how they are judged.

    Attributes:
        start: the design so far.
        trunks: those of the table that can be branched from again.
        sizes: N of new trunks.
        ratios: D/N of branches, increasing.
        least: tokens, D, of any point.
        decay_share: of a branch's tokens; 1 for points that are each trained from scratch.
        most: trunks in a plan.
        cost: FLOPs per token, that budgets are counted in.
    """

    start: Design
    trunks: tuple[Trunk, ...]
    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    least: float
    decay_share: float
    most: int
    cost: Cost = SIX_ND

    def plan(self, budget: float) -> tuple[Trunk, ...]:
        """The plan of least variance that was found.

        Plans grow greedily by gain per FLOP^power for some powers; the best is improved by taking out one trunk at
        a time and spending again what that frees.

        Raises:
            UserError: there is no candidate, or the budget is smaller than every one's cost.
        """
        moves = self._moves(())
        if not moves:
            raise UserError(
                f"no candidate: at D/N up to {self.ratios[-1]:.3g} models of N up to {max(self.sizes):.3g} end before "
                f"D = {self.least:.3g}, the least so far; name sizes or ratios"
            )
        cheapest = min(moves, key=lambda move: move.flops)
        if not budget >= cheapest.flops:
            raise UserError(
                f"budget {budget:.3g} FLOPs buys no run: the cheapest candidate, N = {cheapest.trunk.n:.3g} at "
                f"D = {cheapest.trunk.tokens[0]:.3g}, costs {cheapest.flops:.3g}"
            )
        best, value = min((self._grow((), budget, power) for power in THRIFT), key=lambda found: found[1])
        for _ in range(PASSES):
            before = value
            for trunk in best:
                rest = tuple(other for other in best if other.label != trunk.label)
                if len(rest) == len(best):
                    continue  # an exchange has already taken it out
                other, other_value = min(
                    (self._grow(rest, budget, power) for power in THRIFT), key=lambda found: found[1]
                )
                if other_value < value:
                    best, value = other, other_value
            if value > before - LEAST_GAIN:
                break
        return best

    def design(self, plan: Sequence[Trunk]) -> Design:
        """The design with a plan's points."""
        return functools.reduce(self.grown, plan, self.start)

    def grown(self, design: Design, trunk: Trunk) -> Design:
        """A design with a trunk's planned points."""
        return design.plus(trunk.label, *self._told(trunk.n, trunk.tokens))

    def _grow(self, plan: tuple[Trunk, ...], budget: float, power: float) -> tuple[tuple[Trunk, ...], float]:
        """Adds the move of most gain per FLOP^power while there is one; the plan and its log variance."""
        left = budget - sum(trunk.flops(self.decay_share, self.cost) for trunk in plan)
        design = self.design(plan)
        value = design.log_variance()
        while moves := [move for move in self._moves(plan) if move.flops <= left]:
            values = design.log_variances(
                [move.trunk.label for move in moves],
                np.stack([move.squares for move in moves]),
                np.stack([move.sums for move in moves]),
            )
            gains = value - values
            score = np.where(gains >= LEAST_GAIN, gains / np.array([move.flops for move in moves]) ** power, -np.inf)
            best = int(np.argmax(score))
            if score[best] == -np.inf:
                break
            trunk, flops, squares_KPP, sums_KP = moves[best]
            plan = (*(other for other in plan if other.label != trunk.label), trunk)
            design = design.plus(trunk.label, squares_KPP, sums_KP)
            value, left = float(values[best]), left - flops
        return plan, value

    def _moves(self, plan: Sequence[Trunk]) -> list[_Move]:
        """Every way to add to a plan: a branch of a trunk, or a new trunk."""
        labels = {trunk.label for trunk in plan}
        more = len(plan) < self.most
        moves = []
        if self.decay_share < 1:  # else no run continues another
            for trunk in (*plan, *(t for t in self.trunks if more and t.label not in labels)):
                known = np.log([*trunk.taken, *trunk.tokens])
                free = [d for d in self._library[trunk.n] if np.abs(np.log(d) - known).min() > APART]
                moves += [self._move(trunk, (d,)) for d in free]
        if more:
            label = max((other for other in labels if isinstance(other, int)), default=-1) + 1
            moves += [move._replace(trunk=move.trunk._replace(label=label)) for move in self._new]
        return moves

    @functools.cached_property
    def _new(self) -> list[_Move]:
        """New trunks: with one branch, or with all up to their last."""
        moves = []
        for n in self.sizes:
            tokens = tuple(self._library[n])
            moves += [self._move(Trunk(0, n), (d,)) for d in tokens]
            if self.decay_share < 1:
                moves += [self._move(Trunk(0, n), tokens[:last]) for last in range(2, len(tokens) + 1)]
        return moves

    def _move(self, trunk: Trunk, added: tuple[float, ...]) -> _Move:
        grown = trunk._replace(tokens=tuple(sorted((*trunk.tokens, *added))))
        flops = grown.flops(self.decay_share, self.cost) - trunk.flops(self.decay_share, self.cost)
        return _Move(grown, flops, *self._told(trunk.n, added))

    def _told(self, n: float, tokens: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Sums over points at a candidate size of j j^T, (K, P, P), and of j, (K, P)."""
        squares_DKPP, gradients_DKP = zip(*(self._library[n][d] for d in tokens), strict=True)
        return np.sum(squares_DKPP, 0), np.sum(gradients_DKP, 0)

    @functools.cached_property
    def _library(self) -> dict[float, dict[float, tuple[np.ndarray, np.ndarray]]]:
        """By N and D of every candidate, j j^T and j: each is computed once."""
        library: dict[float, dict[float, tuple[np.ndarray, np.ndarray]]] = {}
        for n in {*self.sizes, *(trunk.n for trunk in self.trunks)}:
            d = np.array([r * n for r in self.ratios if r * n >= self.least])
            gradients_KDP = self.start.laws.gradients({"n": np.full(len(d), n), "d": d, "flops": 6 * n * d})
            points = ((squares(gradients_KDP[:, [i]]), gradients_KDP[:, i]) for i in range(len(d)))
            library[n] = dict(zip(d.tolist(), points, strict=True))
        return library
