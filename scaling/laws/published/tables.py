"""What papers printed beside their laws' constants: rows of tables, and losses of one variable."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A line of a table of compute-optimal models: parameters, training FLOPs, training tokens."""

    n: float
    flops: float
    d: float


def consistent(rows: Sequence[Row], tolerance: float = 0.1) -> tuple[Row, ...]:
    """The rows whose FLOPs are 6 N D within a relative tolerance; tables round N and D to two or three digits."""
    return tuple(row for row in rows if abs(row.flops / (6 * row.n * row.d) - 1) < tolerance)


# Hoffmann et al. 2022 (arXiv 2203.15556), table 3: approach 1, the envelope of training curves.
HOFFMANN_TABLE_3 = (
    Row(400e6, 1.92e19, 8.0e9),
    Row(1e9, 1.21e20, 20.2e9),
    Row(10e9, 1.23e22, 205.1e9),
    Row(67e9, 5.76e23, 1.5e12),
    Row(175e9, 3.85e24, 3.7e12),
    Row(280e9, 9.90e24, 5.9e12),
    Row(520e9, 3.43e25, 11.0e12),
    Row(1e12, 1.27e26, 21.2e12),
    Row(10e12, 1.30e28, 216.2e12),
)

# Table A3, left half: approach 2, parabolas through IsoFLOP slices.
HOFFMANN_TABLE_A3_ISOFLOP = (
    Row(400e6, 1.84e19, 7.7e9),
    Row(1e9, 1.20e20, 20.0e9),
    Row(10e9, 1.32e22, 219.5e9),
    Row(67e9, 6.88e23, 1.7e12),
    Row(175e9, 4.54e24, 4.3e12),
    Row(280e9, 1.18e25, 7.1e12),
    Row(520e9, 4.19e25, 13.4e12),
    Row(1e12, 1.59e26, 26.5e12),
    Row(10e12, 1.75e28, 292.0e12),
)

# Table A3, right half: approach 3, the parametric fit. The FLOPs of 175B are as printed; 6 N D is 1.26e25, ten
# times as much, so `consistent` leaves this row out.
HOFFMANN_TABLE_A3_PARAMETRIC = (
    Row(400e6, 2.21e19, 9.2e9),
    Row(1e9, 1.62e20, 27.1e9),
    Row(10e9, 2.46e22, 410.1e9),
    Row(67e9, 1.71e24, 4.1e12),
    Row(175e9, 1.26e24, 12.0e12),
    Row(280e9, 3.52e25, 20.1e12),
    Row(520e9, 1.36e26, 43.5e12),
    Row(1e12, 5.65e26, 94.1e12),
    Row(10e12, 8.55e28, 1425.5e12),
)


class Correction(NamedTuple):
    """One step from Kaplan's exponent to Chinchilla's, each on top of those before it.

    Attributes:
        step: what was changed.
        openwebtext2, refinedweb: a in N_opt ~ C^a on two corpora.
        interval: 95% of the RefinedWeb figure.
        n: what the RefinedWeb law makes of Chinchilla's budget, C = 5.88e23.
    """

    step: str
    openwebtext2: float
    refinedweb: float
    interval: tuple[float, float]
    n: float


# Porian et al. 2024 (arXiv 2406.19146), figure 1 and the tables behind it; exponents from two second-hand readings
# that agree, intervals and N from one of them.
PORIAN_CORRECTIONS = (
    Correction("Kaplan's setup reproduced", 0.864, 0.835, (0.82, 0.85), 3e12),
    Correction("the output head's FLOPs counted", 0.699, 0.706, (0.69, 0.72), 787e9),
    Correction("warm-up as long as the model is large", 0.603, 0.602, (0.59, 0.62), 292e9),
    Correction("cosine decay over the run's length", 0.574, 0.571, (0.56, 0.59), 183e9),
    Correction("rates, batches and beta2 tuned by size; no decay", 0.518, 0.497, (0.49, 0.50), 77e9),
)

# Kaplan et al. 2020 (arXiv 2001.08361), table 2: the joint fit of L(N, D).
KAPLAN_LOSS = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}


def kaplan_loss(n: Any, d: Any) -> Any:
    """Kaplan's L(N, D) = [(N_c / N)^(alpha_N / alpha_D) + D_c / D]^alpha_D with the constants of table 2.

    Args:
        n: non-embedding parameters.
        d: tokens of WebText2, trained on until the test loss stops falling.

    Returns:
        Nats per token.

    Source: Kaplan et al. 2020, equation 1.5.
    """
    c = KAPLAN_LOSS
    return ((c["N_c"] / n) ** (c["alpha_N"] / c["alpha_D"]) + c["D_c"] / d) ** c["alpha_D"]
