"""A published law as a value: what was printed, in which conventions, and what it says at a budget."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws.forms import CHINCHILLA, chinchilla_optimum
from scaling.laws.published.tables import Row, consistent


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """An allocation N_opt = k C^a with D_opt = C / (6 N_opt), C in FLOPs, N in ones.

    Attributes:
        k: coefficient, parameters / FLOPs^a.
        a: exponent.
    """

    k: float
    a: float

    def n(self, flops: Any) -> Any:
        """Compute-optimal parameters at budgets."""
        return self.k * flops**self.a

    @classmethod
    def through(cls, flops: float, n: float, a: float) -> "PowerLaw":
        """With exponent a, through N = n at C = flops."""
        return cls(n / flops**a, a)

    @classmethod
    def through_ratio(cls, flops: float, ratio: float, slope: float) -> "PowerLaw":
        """Through D/N = ratio at C = flops, where log D/N grows by `slope` per log C."""
        return cls.through(flops, (flops / (6 * ratio)) ** 0.5, (1 - slope) / 2)

    @classmethod
    def of_tokens(cls, k: float, b: float) -> "PowerLaw":
        """The allocation whose tokens are D_opt = k C^b."""
        return cls(1 / (6 * k), 1 - b)

    @classmethod
    def fit(cls, rows: Sequence[Row]) -> "PowerLaw":
        """Least squares of log N on log C over a table's rows with C near 6 N D; the others are misprints."""
        kept = consistent(rows)
        a, intercept = np.polyfit(np.log([row.flops for row in kept]), np.log([row.n for row in kept]), 1)
        return cls(float(np.exp(intercept)), float(a))


@dataclasses.dataclass(frozen=True)
class PowerLoss:
    """A loss that falls as a pure power, L(x) = (scale / x)^exponent, in nats per token.

    Attributes:
        scale: where the loss would be 1.
        exponent: > 0.
        unit: of x and scale, in words.
    """

    scale: float
    exponent: float
    unit: str

    def __call__(self, x: Any) -> Any:
        """Loss at x."""
        return (self.scale / x) ** self.exponent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A law from a paper.

    Exactly one of `params` and `allocation` is given: a full law, or only how it spends a budget.

    Attributes:
        name: short name.
        source: paper and place; says "second-hand" or "unverified" of what was not read there.
        n_convention: which parameters N counts.
        c_convention: what the paper's C counts, where that is not 6 N D with this N.
        bytes_per_token: of its tokens.
        bytes_source: where that comes from; says "assumed" where the paper has no such figure.
        flops_range: budgets of the runs it was fitted to; beyond them it is an extrapolation of theirs.
        params: of L = E + A/N^alpha + B/D^beta, and further ones of its form.
        loss_unit: of the loss, in words.
        standard_errors: of params and of the exponent "a", by name, where published.
        allocation: the power law of N_opt, where no loss was published or the paper's own allocation is another.
        loss_of_flops: loss of the compute-optimal model by budget, for a law given by its allocation.
        exponent_interval: published interval of a in N_opt ~ C^a.
        interval_meaning: of which kind that interval is.
    """

    name: str
    source: str
    n_convention: str
    bytes_per_token: float
    bytes_source: str
    flops_range: tuple[float, float]
    c_convention: str = "6 N D"
    params: Mapping[str, float] | None = None
    loss_unit: str = "nats per token of its own"
    standard_errors: Mapping[str, float] | None = None
    allocation: PowerLaw | None = None
    loss_of_flops: PowerLoss | None = None
    exponent_interval: tuple[float, float] | None = None
    interval_meaning: str = ""

    @property
    def conversion(self) -> str:
        """Bytes per token in words, and where that figure comes from."""
        return f"{self.bytes_per_token:.2f} bytes per token ({self.bytes_source})"

    @property
    def exponent(self) -> float:
        """a in N_opt ~ C^a: of the allocation, or beta / (alpha + beta)."""
        if self.params is not None:
            return self.params["beta"] / (self.params["alpha"] + self.params["beta"])
        assert self.allocation is not None
        return self.allocation.a

    def optimum(self, flops: Any) -> dict[str, Any]:
        """Compute-optimal {"n", "d"} at budgets C = 6 N D, parameters and tokens in the law's own count."""
        if self.params is not None:
            return chinchilla_optimum(self.params, flops)
        assert self.allocation is not None
        n = self.allocation.n(flops)
        return {"n": n, "d": flops / (6 * n)}

    def tokens_per_parameter(self, flops: Any) -> Any:
        """Compute-optimal D/N at a budget C = 6 N D, in this law's own tokens."""
        best = self.optimum(flops)
        return best["d"] / best["n"]

    def optimal_loss(self, flops: Any) -> Any:
        """Loss of the compute-optimal model at budgets, in `loss_unit`; None where nothing predicts it."""
        if self.params is not None:
            return CHINCHILLA.predict(self.params, self.optimum(flops))
        return None if self.loss_of_flops is None else self.loss_of_flops(flops)
