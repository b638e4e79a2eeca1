"""Published laws with their conventions, and their compute-optimal D/N side by side with ours."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaling.laws.forms import CHINCHILLA


@dataclasses.dataclass(frozen=True)
class Published:
    """A law from a paper.

    Exactly one of `params` (chinchilla form, N and D in ones) and `anchor` is given.

    Attributes:
        name: short name.
        source: paper and place.
        n_convention: which parameters N counts.
        bytes_per_token: of its tokens.
        bytes_source: where that comes from; says "assumed" where the paper has no such figure.
        flops_range: budgets of the runs it was fitted to; beyond them it is an extrapolation of theirs.
        params: of L = E + A/N^alpha + B/D^beta.
        anchor: (C, D/N in tokens at C, slope of log D/N in log C), where only the ratio was published.
    """

    name: str
    source: str
    n_convention: str
    bytes_per_token: float
    bytes_source: str
    flops_range: tuple[float, float]
    params: Mapping[str, float] | None = None
    anchor: tuple[float, float, float] | None = None

    @property
    def conversion(self) -> str:
        """Bytes per token in words, and where that figure comes from."""
        return f"{self.bytes_per_token:.2f} bytes per token ({self.bytes_source})"

    def tokens_per_parameter(self, flops: Any) -> Any:
        """Compute-optimal D/N at a budget C = 6 N D, in this law's own tokens."""
        if self.params is not None:
            best = CHINCHILLA.optimum(self.params, flops)
            return best["d"] / best["n"]
        assert self.anchor is not None
        at, ratio, slope = self.anchor
        return ratio * (flops / at) ** slope


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One published law at one budget.

    Attributes:
        name: of the published law.
        n_convention: which parameters its N counts.
        flops: the budget.
        tokens_per_parameter: D/N in its own tokens.
        bytes_per_parameter: the same in bytes of text.
        our_tokens_per_parameter: the same text in tokens of `bytes_per_token` bytes.
        extrapolation: orders of magnitude of the budget outside the law's own runs, either way; 0 inside.
        conversion: the bytes per token used, in words.
    """

    name: str
    n_convention: str
    flops: float
    tokens_per_parameter: float
    bytes_per_parameter: float
    our_tokens_per_parameter: float
    extrapolation: float
    conversion: str


def _in_billions(params: dict[str, float]) -> dict[str, float]:
    """Constants fitted with N and D in units of 1e9, for N and D in ones."""
    scaled = {"A": params["A"] * 1e9 ** params["alpha"], "B": params["B"] * 1e9 ** params["beta"]}
    return params | scaled


# Gopher (Rae et al. 2021, arXiv 2112.11446), section 3.1: MassiveText is 10.5 TB of text, of which 300 B tokens
# are 12.8%, so 10.5e12 / (300e9 / 0.128) bytes per token.
_MASSIVE_TEXT = 4.48
_MASSIVE_TEXT_SOURCE = "assumed: MassiveText's 10.5 TB over 300 B tokens / 12.8% (Gopher, section 3.1)"
_CHINCHILLA_RUNS = (1.4e18, 1.3e22)  # budgets of the points that Besiroglu et al. read off figure 4
_MINICPM_TOKENS = "120K vocabulary, average over corpora (arXiv 2404.06395, table 9)"
_MINICPM_RUNS = (1e17, 1.5e21)  # 0.04 B parameters on 10 N tokens to 2 B on 60 N

HOFFMANN_ROUNDED = Published(
    name="Chinchilla (Hoffmann, as printed)",
    source="Hoffmann et al. 2022 (arXiv 2203.15556), equation 10",
    n_convention="all parameters",
    bytes_per_token=_MASSIVE_TEXT,
    bytes_source=_MASSIVE_TEXT_SOURCE,
    flops_range=_CHINCHILLA_RUNS,
    params={"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
)
HOFFMANN = dataclasses.replace(
    HOFFMANN_ROUNDED,
    name="Chinchilla (Hoffmann)",
    source="Hoffmann et al. 2022, approach 3: TeX source of equation 10, unrounded, as read by Besiroglu et al. 2024",
    params={"E": 1.6934, "A": 406.4, "B": 410.7, "alpha": 0.3392, "beta": 0.2849},
)
BESIROGLU = dataclasses.replace(
    HOFFMANN_ROUNDED,
    name="Chinchilla (Besiroglu)",
    source="Besiroglu et al. 2024 (arXiv 2404.10102): 240 points of Hoffmann's figure 4",
    params={"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
)
CHINCHILLA_CONVERGED = dataclasses.replace(
    HOFFMANN_ROUNDED,
    name="Chinchilla (our refit)",
    source="not published: our refit of Besiroglu's 240 points, at the minimum of his objective (1.0182740178e-3)",
    params={"E": 1.8172181, "A": 477.82587, "B": 2143.41737, "alpha": 0.34731050, "beta": 0.36717243},
)
# Only the average's exponents (.29, .23) and its ratio were printed; eta = (beta - alpha) / (alpha + beta) is
# printed as -0.10, so D/N grows as C^0.10. That the ratio holds at C = 1e21 is assumed: the one panel of figure 10
# that could be read prints its own D/N there, and the average is taken to be stated at the same budget.
MINICPM = Published(
    name="MiniCPM (average)",
    source="MiniCPM (arXiv 2404.06395), section 4.5: D/N = 192 on average, assumed to be meant at C = 1e21; eta -.10",
    n_convention="non-embedding parameters",
    bytes_per_token=3.40,
    bytes_source=_MINICPM_TOKENS,
    flops_range=_MINICPM_RUNS,
    anchor=(1e21, 192.0, 0.10),
)
MINICPM_ULTRATEXT = Published(
    name="MiniCPM (Ultratext)",
    source="MiniCPM (arXiv 2404.06395), figure 10, Ultratext panel (second-hand reading; prints D/N 95.60)",
    n_convention="non-embedding parameters",
    bytes_per_token=3.40,
    bytes_source=_MINICPM_TOKENS,
    flops_range=_MINICPM_RUNS,
    params=_in_billions({"E": 0.25, "A": 7.54e-2, "B": 2.92e-1, "alpha": 0.30, "beta": 0.30}),
)

ALL = (HOFFMANN_ROUNDED, HOFFMANN, BESIROGLU, CHINCHILLA_CONVERGED, MINICPM, MINICPM_ULTRATEXT)
HEADLINE = (HOFFMANN, CHINCHILLA_CONVERGED, MINICPM)  # those that every report and figure shows


def compare(budgets: Sequence[float], bytes_per_token: float, laws: Sequence[Published] = ALL) -> list[Comparison]:
    """Compute-optimal D/N of published laws at budgets, in their tokens, in bytes and in ours.

    A law is evaluated at the budget itself: where alpha and beta differ, D/N depends on C. Text is compared by
    its bytes, because FLOPs buy tokens and tokenizers differ in how much text a token holds.

    Args:
        budgets: FLOPs, C = 6 N D.
        bytes_per_token: of our tokens.
        laws: which.
    """
    rows = []
    for flops in budgets:
        for law in laws:
            ratio = float(law.tokens_per_parameter(flops))
            low, high = law.flops_range
            rows.append(
                Comparison(
                    name=law.name,
                    n_convention=law.n_convention,
                    flops=flops,
                    tokens_per_parameter=ratio,
                    bytes_per_parameter=ratio * law.bytes_per_token,
                    our_tokens_per_parameter=ratio * law.bytes_per_token / bytes_per_token,
                    extrapolation=orders_outside(flops, low, high),
                    conversion=law.conversion,
                )
            )
    return rows


def orders_outside(flops: float, low: float, high: float) -> float:
    """Orders of magnitude by which a budget lies outside a range; 0 inside."""
    return float(max(0.0, np.log10(flops / high), np.log10(low / flops)))
