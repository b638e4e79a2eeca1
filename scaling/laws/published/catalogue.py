"""The published laws."""

import dataclasses

import numpy as np

from scaling.laws.published.law import PowerLaw, PowerLoss, Published
from scaling.laws.published.tables import (
    HOFFMANN_TABLE_3,
    HOFFMANN_TABLE_A3_ISOFLOP,
    PORIAN_CORRECTIONS,
)

PF_DAY = 8.64e19  # FLOPs: 1e15 per second for a day


def _in_billions(params: dict[str, float]) -> dict[str, float]:
    """Constants fitted with N and D in units of 1e9, for N and D in ones."""
    scaled = {"A": params["A"] * 1e9 ** params["alpha"], "B": params["B"] * 1e9 ** params["beta"]}
    return params | scaled


# Gopher (Rae et al. 2021, arXiv 2112.11446), section 3.1: MassiveText is 10.5 TB of text, of which 300 B tokens
# are 12.8%, so 10.5e12 / (300e9 / 0.128) bytes per token.
_MASSIVE_TEXT = 4.48
_MASSIVE_TEXT_SOURCE = "assumed: MassiveText's 10.5 TB over 300 B tokens / 12.8% (Gopher, section 3.1)"
# Kaplan et al., section 2.3: WebText2 is 96 GB of text in 2.29e10 tokens of GPT-2.
_WEBTEXT2 = 4.19
_LIKE_WEBTEXT2 = "assumed: GPT-2's tokens on WebText2 (Kaplan et al., section 2.3)"
_CHINCHILLA_RUNS = (1.4e18, 1.3e22)  # budgets of the points that Besiroglu et al. read off figure 4
_MINICPM_TOKENS = "120K vocabulary, average over corpora (arXiv 2404.06395, table 9)"
_MINICPM_RUNS = (1e17, 1.5e21)  # 0.04 B parameters on 10 N tokens to 2 B on 60 N

# Kaplan's allocation is not the optimum of his L(N, D), which is the loss after early stopping, but of L(N, S_min),
# training far below the critical batch size. At that size itself, D and C are twice as large (equation 6.7).
KAPLAN = Published(
    name="Kaplan",
    source="Kaplan et al. 2020 (arXiv 2001.08361), table 6: N = 1.3e9 (C_min / PF-day)^.73; loss: table 5",
    n_convention="non-embedding parameters",
    c_convention="C_min, 6 N D far below the critical batch size, N without embeddings",
    bytes_per_token=_WEBTEXT2,
    bytes_source="WebText2's 96 GB over 2.29e10 tokens (section 2.3)",
    flops_range=(1e-7 * PF_DAY, 1e-1 * PF_DAY),  # the axis of figure 14
    allocation=PowerLaw.through(PF_DAY, 1.3e9, 0.73),
    loss_of_flops=PowerLoss(3.1e8 * PF_DAY, 0.050, "FLOPs"),
)
# The limits of `KAPLAN_LOSS`, quoted for whoever compares: tests hold its constants against them.
KAPLAN_LOSS_OF_N = PowerLoss(8.8e13, 0.076, "non-embedding parameters")  # unlimited data (table 5)
KAPLAN_LOSS_OF_D = PowerLoss(5.4e13, 0.095, "tokens")  # large models, stopped early (table 5)

HOFFMANN_ROUNDED = Published(
    name="Chinchilla (Hoffmann, as printed)",
    source="Hoffmann et al. 2022 (arXiv 2203.15556), equation 10",
    n_convention="all parameters",
    bytes_per_token=_MASSIVE_TEXT,
    bytes_source=_MASSIVE_TEXT_SOURCE,
    flops_range=_CHINCHILLA_RUNS,
    params={"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
)
_HOFFMANN_INTERVAL = "10th to 90th percentile over 100 subsamples of 80% (table 2)"
# The interval of approach 3 is as printed although it leaves out the exponent: neither has converged (Besiroglu).
HOFFMANN = dataclasses.replace(
    HOFFMANN_ROUNDED,
    name="Chinchilla (Hoffmann)",
    source="Hoffmann et al. 2022, approach 3: TeX source of equation 10, unrounded, as read by Besiroglu et al. 2024",
    params={"E": 1.6934, "A": 406.4, "B": 410.7, "alpha": 0.3392, "beta": 0.2849},
    exponent_interval=(0.454, 0.455),
    interval_meaning=_HOFFMANN_INTERVAL,
)
HOFFMANN_ENVELOPE = dataclasses.replace(
    HOFFMANN_ROUNDED,
    name="Chinchilla (approach 1)",
    source="Hoffmann et al. 2022, approach 1: our power law through table 3 (table 2: a = .50)",
    params=None,
    allocation=PowerLaw.fit(HOFFMANN_TABLE_3),
    exponent_interval=(0.488, 0.502),
    interval_meaning=_HOFFMANN_INTERVAL,
)
HOFFMANN_ISOFLOP = dataclasses.replace(
    HOFFMANN_ENVELOPE,
    name="Chinchilla (approach 2)",
    source="Hoffmann et al. 2022, approach 2: our power law through table A3, left half (table 2: a = .49)",
    flops_range=(6e18, 3e21),  # nine IsoFLOP budgets
    allocation=PowerLaw.fit(HOFFMANN_TABLE_A3_ISOFLOP),
    exponent_interval=(0.462, 0.534),
)
BESIROGLU = dataclasses.replace(
    HOFFMANN_ROUNDED,
    name="Chinchilla (Besiroglu)",
    source="Besiroglu et al. 2024 (arXiv 2404.10102): 240 points of Hoffmann's figure 4",
    params={"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
    standard_errors={"E": 0.03, "A": 124.58, "B": 1293.23, "alpha": 0.02, "beta": 0.02, "a": 0.018},
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
    allocation=PowerLaw.through_ratio(1e21, 192.0, 0.10),
)
MINICPM_ULTRATEXT = Published(
    name="MiniCPM (Ultratext)",
    source="MiniCPM (arXiv 2404.06395), figure 10, Ultratext panel (second-hand reading; prints D/N 95.60)",
    n_convention="non-embedding parameters",
    bytes_per_token=3.40,
    bytes_source=_MINICPM_TOKENS,
    flops_range=_MINICPM_RUNS,
    params=_in_billions({"E": 0.25, "A": 7.54e-2, "B": 2.92e-1, "alpha": 0.30, "beta": 0.30}),
    loss_unit="nats per byte (unit unverified)",
)

# Its optimum here is that of unlimited unique data; `scaling.laws.repetition` has the rest of the law.
MUENNIGHOFF = Published(
    name="Muennighoff (C4, unique data)",
    source="Muennighoff et al. 2023 (arXiv 2305.16264), equation 17, unrounded as in their code; alpha = beta imposed",
    n_convention="all parameters (equation 23)",
    bytes_per_token=_WEBTEXT2,
    bytes_source=_LIKE_WEBTEXT2,
    flops_range=(4.2e15, 9.3e21),  # 7 M parameters on 100 M tokens (assumed) to 8.7 B on 178 B
    params={
        "E": float(np.exp(0.6254804)),
        "A": float(np.exp(6.255414)),
        "B": float(np.exp(7.3049974)),
        "alpha": 0.3526596,
        "beta": 0.3526596,
        "r_n": 5.309743,
        "r_d": 15.387756,
    },
)


def _gadre(corpus: str, e: float, a: float, b: float, alpha: float) -> Published:
    """Gadre's law for one training corpus, as L(N, D) with alpha = beta.

    Table 6 (of the NeurIPS submission) prints the coefficients of their code's
    L = E + a N^-alpha + b 6^(-alpha/2) D^-alpha, although its heading is equation 4,
    L = E + (a M^eta + b M^-eta) C^-eta: there eta is alpha / 2 (as the text has it) and the first coefficient
    6^eta a. Only this reading gives their losses (checked on three of the RedPajama runs).
    """
    return Published(
        name=f"Gadre ({corpus})",
        source="Gadre et al. 2024 (arXiv 2403.08540), table 6, read as in their code; alpha = beta imposed; C4's loss",
        n_convention="all parameters",
        bytes_per_token=_WEBTEXT2,
        bytes_source=f"{_LIKE_WEBTEXT2}; theirs are GPT-NeoX's",
        flops_range=(1.3e16, 2.0e19),  # the five fitted runs have D/N >= 20: optima below that extrapolate
        params={"E": e, "A": a, "B": b * 6 ** (-alpha / 2), "alpha": alpha, "beta": alpha},
    )


GADRE_C4 = _gadre("C4", 1.51, 114.0, 190.0, 0.242)
GADRE_REDPAJAMA = _gadre("RedPajama", 1.84, 166.0, 367.0, 0.272)
GADRE_REFINEDWEB = _gadre("RefinedWeb", 1.73, 125.0, 246.0, 0.254)

# The text prints (alpha, A) = (.53, .29) for tokens D = A C^alpha, which gives 10.5 T at 3.8e25 FLOPs; the legend
# of figure 3 prints (.537, .299), 16.3 T, against 16.55 T in the text. 402 B on 16.55 T are 3.99e25 FLOPs by 6 N D.
LLAMA_3 = Published(
    name="Llama 3",
    source="Llama 3 (arXiv 2407.21783), section 3.2.1: D = A C^alpha with the legend of figure 3 (.537, .299)",
    n_convention="all parameters (assumed)",
    c_convention="training FLOPs, 5.71 N D at its own 402 B on 16.55 T tokens",
    bytes_per_token=3.94,
    bytes_source="characters per token on English (section 3.2), one byte each",
    flops_range=(6e18, 1e22),
    allocation=PowerLaw.of_tokens(0.299, 0.537),
)
PORIAN = Published(
    name="Porian (tuned)",
    source="Porian et al. 2024 (arXiv 2406.19146), RefinedWeb, all corrections: 77 B at C = 5.88e23 (second-hand)",
    n_convention="linear layers with the output head, without the embedding (unverified)",
    bytes_per_token=_WEBTEXT2,
    bytes_source=f"{_LIKE_WEBTEXT2}; theirs are GPT-NeoX's",
    flops_range=(1.25e16, 2.56e19),  # 1.25e16 times 2^0 to 2^11
    allocation=PowerLaw.through(5.88e23, PORIAN_CORRECTIONS[-1].n, PORIAN_CORRECTIONS[-1].refinedweb),
    exponent_interval=PORIAN_CORRECTIONS[-1].interval,
    interval_meaning="95% bootstrap",
)

ALL = (
    KAPLAN,
    HOFFMANN_ENVELOPE,
    HOFFMANN_ISOFLOP,
    HOFFMANN_ROUNDED,
    HOFFMANN,
    BESIROGLU,
    CHINCHILLA_CONVERGED,
    MINICPM,
    MINICPM_ULTRATEXT,
    MUENNIGHOFF,
    GADRE_C4,
    GADRE_REDPAJAMA,
    GADRE_REFINEDWEB,
    LLAMA_3,
    PORIAN,
)
HEADLINE = (HOFFMANN, CHINCHILLA_CONVERGED, MINICPM)  # those that every report and figure shows
