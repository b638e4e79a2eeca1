"""Published laws side by side at the same budgets."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from scaling.laws.published.catalogue import ALL
from scaling.laws.published.law import Published


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One published law at one budget.

    Attributes:
        name: of the published law.
        source: paper and place.
        n_convention: which parameters its N counts.
        c_convention: what its own C counts.
        flops: the budget, C = 6 N D.
        n, d: compute-optimal parameters and tokens, in its own count.
        tokens_per_parameter: D/N in its own tokens.
        bytes_per_parameter: the same in bytes of text.
        our_tokens_per_parameter: the same text in tokens of `bytes_per_token` bytes.
        exponent: a in N_opt ~ C^a.
        exponent_interval: as published; None where there is none.
        loss: of the compute-optimal model on the law's own evaluation; None where the law has none.
        loss_unit: of it, in words.
        extrapolation: orders of magnitude of the budget outside the law's own runs, either way; 0 inside.
        conversion: the bytes per token used, in words.
    """

    name: str
    source: str
    n_convention: str
    c_convention: str
    flops: float
    n: float
    d: float
    tokens_per_parameter: float
    bytes_per_parameter: float
    our_tokens_per_parameter: float
    exponent: float
    exponent_interval: tuple[float, float] | None
    loss: float | None
    loss_unit: str
    extrapolation: float
    conversion: str


def compare(budgets: Sequence[float], bytes_per_token: float, laws: Sequence[Published] = ALL) -> list[Comparison]:
    """What published laws make of budgets: N, D, and D/N in their tokens, in bytes and in ours.

    A law is evaluated at the budget itself: where alpha and beta differ, D/N depends on C. Text is compared by
    its bytes, because FLOPs buy tokens and tokenizers differ in how much text a token holds.

    Args:
        budgets: FLOPs, C = 6 N D.
        bytes_per_token: of our tokens.
        laws: which.
    """
    return [_at(law, flops, bytes_per_token) for flops in budgets for law in laws]


def _at(law: Published, flops: float, bytes_per_token: float) -> Comparison:
    best, loss = law.optimum(flops), law.optimal_loss(flops)
    ratio = float(best["d"] / best["n"])
    return Comparison(
        name=law.name,
        source=law.source,
        n_convention=law.n_convention,
        c_convention=law.c_convention,
        flops=flops,
        n=float(best["n"]),
        d=float(best["d"]),
        tokens_per_parameter=ratio,
        bytes_per_parameter=ratio * law.bytes_per_token,
        our_tokens_per_parameter=ratio * law.bytes_per_token / bytes_per_token,
        exponent=law.exponent,
        exponent_interval=law.exponent_interval,
        loss=None if loss is None else float(loss),
        loss_unit=law.loss_unit,
        extrapolation=orders_outside(flops, *law.flops_range),
        conversion=law.conversion,
    )


def orders_outside(flops: float, low: float, high: float) -> float:
    """Orders of magnitude by which a budget lies outside a range; 0 inside."""
    return float(max(0.0, np.log10(flops / high), np.log10(low / flops)))
