"""The batch-size law bs = a / L^b: how many tokens a step should hold to come down to a loss L with the fewest.

Method (MiniCPM, arXiv 2404.06395, section 3.2, appendix A.2, figures 1 and 2): train a few sizes with several batch
sizes each; for a loss level, log tokens to reach it against log batch is a parabola; its minimum is the best batch at
that loss; minima of all levels and sizes lie on a power law. That sizes share one law of the loss is a finding of the
paper, not a need: critical batches were found to grow with the tokens trained on and hardly with the size (Zhang et
al., arXiv 2410.21676), so the same minima are also fitted against tokens.

The learning rate is one for all batches and constant (after warm-up; no decay). That is what makes a minimum: with the
rate tuned for each batch a smaller batch never needs more tokens, E = E_min (1 + B / B_crit) (McCandlish et al., arXiv
1812.06162, equation 2.11), while at a constant rate the gradient noise of small batches keeps the loss up. So the law
belongs to a rate, and to losses before a decay, which takes most of that noise away: constant-rate losses lie above
decayed ones. MiniCPM searched rate and batch in turn.

If loss is reducible loss plus noise, L = A s^-g + q / B after s steps of B tokens, the best batch is exactly
q (1 + 1/g) / L: b = 1 for the loss above its floor E, and larger for L itself, which falls less than L - E does.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import pandas as pd

from scaling.errors import UserError
from scaling.laws import frontier
from scaling.laws.intervals import Interval
from scaling.tuning import valleys

# A batch weighs the less in a parabola the more tokens it needs: (least tokens / its tokens)^3. The curve is none far
# from its minimum. For loss with the noise floor above, parabolas through all batches alike put the best batch 29% too
# high (median of 12 cases; worst 53%, and b off by 1.9), these 15% (worst 17%, and 0.17).
POWER = 3.0
POWER_OF_LOSS = 25.0  # the same for losses after equal tokens, where loss falls as tokens^-0.12

# Why the law leaves a parabola out.
TOO_FEW = f"fewer than {valleys.LEAST_BATCHES} batch sizes come down to the loss"
DOWNWARD = "the parabola does not open upward"
OUTSIDE = "its minimum lies outside the batch sizes tried"
AT_THE_EDGE = (
    f"the batch sizes tried do not reach {frontier.ROOM:g} times beyond the batch that the size's other minima point to"
)


class PowerLaw(NamedTuple):
    """bs = a / L^b, tokens per step and nats per token (or both per byte)."""

    a: float
    b: float

    def batch(self, loss: float) -> float:
        """Tokens per step at a loss."""
        return float(self.a / loss**self.b)

    def in_bytes(self, bytes_per_token: float) -> "PowerLaw":
        """The same law with bytes per step and nats per byte, where a token is so many bytes."""
        return PowerLaw(self.a * bytes_per_token ** (1 - self.b), self.b)


# Section 3.2: C4, sizes of 0.009, 0.03 and 0.17 billion, cosine schedule at rate 0.01; in BPE tokens. Figure 2 has
# ln bs = -6.24 ln L + 20.91.
MINICPM = PowerLaw(1.21e9, 6.24)
# Bytes per token of its 122,753-piece vocabulary, averaged over MiniCPM's corpora (table 9); C4's own is not printed.
MINICPM_BYTES_PER_TOKEN = 3.40


@dataclasses.dataclass(frozen=True, eq=False)
class BatchLaw:
    """The law through the best batches, and the same for replicates of the seeds.

    Attributes:
        optima: a row per size and level: N, level, batch, tokens (of the parabola at its minimum), curvature (of log
            tokens in log batch), batches (that come down to the level), low, high (interval of the batch) and problem
            (why the law does not use it, or "").
        line: batch against loss: its budgets are losses, its n are batches.
        tokens_line: batch against the tokens of the minimum: its budgets are these.
        clusters: seeds, over all sizes.
    """

    optima: pd.DataFrame
    line: frontier.Line
    tokens_line: frontier.Line
    clusters: int

    @property
    def used(self) -> pd.DataFrame:
        """The minima that the lines go through."""
        return self.optima[self.optima["problem"] == ""]

    @property
    def law(self) -> PowerLaw:
        """The estimate."""
        return PowerLaw(self.line.n(1.0), -self.line.a)

    @property
    def b_interval(self) -> Interval:
        """Interval of b."""
        low, high = self.line.interval(self.line.a_replicates)
        return Interval(-high, -low)

    def batch_interval(self, loss: float) -> Interval:
        """Interval of the best batch at a loss; at loss 1 it is that of a."""
        return self.line.interval(self.line.n_replicates(loss))

    @property
    def scatter(self) -> float:
        """Root mean square of the log batches about the law."""
        return _scatter(self.line, self.used["level"], self.used["batch"])

    @property
    def tokens_scatter(self) -> float:
        """Root mean square of the log batches about the line against tokens."""
        return _scatter(self.tokens_line, self.used["tokens"], self.used["batch"])

    @property
    def left_out(self) -> dict[str, int]:
        """How many parabolas the law does not use, by the reason."""
        counts = self.optima["problem"][self.optima["problem"] != ""].value_counts()
        return {str(reason): int(count) for reason, count in counts.items()}


def fit_law(reached: pd.DataFrame, *, replicates: int = 2000, level: float = 0.9, seed: int = 0) -> BatchLaw:
    """The law from the tokens that runs needed for losses, with intervals by cluster bootstrap.

    A seed of a size is a cluster: its runs share initialisation, data and therefore noise. Replicates draw seeds anew
    within each size (`valleys.bootknife`) and go through parabolas and line again. Intervals are widened for the
    degrees of freedom that the seeds leave (all sizes' for the law, a size's own for its minima). Minima weigh the
    same. The intervals hold the noise of seeds; that sizes may not share a line is not in them, but in `scatter`.

    In 150 simulated studies of three sizes that do, 90% intervals of b and of a batch held the truth in 71 and 75% with
    two seeds of each size, in 85 and 89% with three, in 91 and 88% with four.

    Args:
        reached: of `token_curves.tokens_to_loss`: N, seed, batch, level, tokens.
        replicates: R.
        level: nominal coverage of intervals.
        seed: of the replicates.

    Raises:
        UserError: fewer than two seeds of a size, or fewer than three usable minima.
    """
    seeds = reached.groupby("N")["seed"].nunique()
    if len(seeds) == 0 or seeds.min() < 2:
        raise UserError(f"batch-size law: seeds by size {seeds.to_dict()}; its interval needs two or more of each")
    rng = np.random.default_rng(seed)
    optima, log_batch = [], []
    for n, size in reached.groupby("N"):
        found = valleys.fit(size, valleys.bootknife(int(seeds[n]), replicates, rng), POWER)
        room_L = frontier.bracketed(np.log(found.level), found.log_batch[0], np.log(found.ends))
        optima.append(_described(found, room_L, level, int(seeds[n]) - 1).assign(N=n))
        log_batch.append(found.log_batch)
    table, log_batch_RS = pd.concat(optima, ignore_index=True), np.hstack(log_batch)
    used_S = (table["problem"] == "").to_numpy()
    if used_S.sum() < frontier.LEAST_OPTIMA:
        raise UserError(
            f"batch-size law: {used_S.sum()} of {len(table)} losses have a best batch well within the batches tried, "
            f"and a line needs {frontier.LEAST_OPTIMA}: try batches further apart, or longer runs"
        )
    even_S, freedom = np.ones(used_S.sum()), int((seeds - 1).sum())
    by_level, by_tokens = (
        frontier.draw_line(table[name][used_S].to_numpy(), log_batch_RS[:, used_S], even_S, level, freedom)
        for name in ("level", "tokens")
    )
    return BatchLaw(table, by_level, by_tokens, int(seeds.sum()))


def best_batch_at_end(ends: pd.DataFrame, *, replicates: int = 2000, level: float = 0.9, seed: int = 0) -> pd.DataFrame:
    """The batch of least loss after equal tokens: where tokens-to-loss is least too, but for decayed losses.

    Args:
        ends: N, seed, batch, loss of runs of one length per size, two seeds or more.
        replicates, level, seed: of the intervals, as in `fit_law`.

    Returns:
        A row per size: N, loss and batch at the minimum of the parabola of log loss in log batch, low and high of the
        batch, curvature, batches, and problem where there is no minimum within the batches tried.
    """
    rng, rows = np.random.default_rng(seed), []
    for n, size in ends.groupby("N"):
        seeds = size["seed"].nunique()
        points = size.assign(tokens=size["loss"], level=0.0)
        found = valleys.fit(points, valleys.bootknife(seeds, replicates, rng), POWER_OF_LOSS)
        rows.append(_described(found, np.array([True]), level, seeds - 1).assign(N=n))
    return pd.concat(rows, ignore_index=True).drop(columns="level").rename(columns={"tokens": "loss"})


def _described(found: valleys.Valleys, room_L: np.ndarray, level: float, freedom: int) -> pd.DataFrame:
    """A row per parabola: its minimum with an interval, and why it has none or is not used for want of room."""
    intervals = [frontier.percentiles(np.exp(column), level, freedom) for column in found.log_batch[1:].T]
    sound_L = np.isfinite(found.log_batch[0])
    few_L = (found.batches < valleys.LEAST_BATCHES) | np.isnan(found.curvature)
    problem_L = np.select(
        [sound_L & room_L, sound_L, few_L, found.curvature <= 0],
        ["", AT_THE_EDGE, TOO_FEW, DOWNWARD],
        OUTSIDE,
    )
    return pd.DataFrame(
        {
            "level": found.level,
            "batch": np.exp(found.log_batch[0]),
            "low": np.where(sound_L, [one.low for one in intervals], np.nan),
            "high": np.where(sound_L, [one.high for one in intervals], np.nan),
            "tokens": np.where(sound_L, found.lowest, np.nan),
            "curvature": found.curvature,
            "batches": found.batches,
            "problem": problem_L,
        }
    )


def _scatter(line: frontier.Line, x: pd.Series, batch: pd.Series) -> float:
    miss = np.log(batch) - np.log([line.n(value) for value in x])
    return float(np.sqrt(np.mean(miss**2)))
