"""From step logs to the tokens that a run needs for a loss: binning, smoothing and level crossings with errors.

Data is not repeated, so the training loss of a step is an unbiased estimate of the loss that its parameters had before
it, on text they have not seen; it is noisy, and is smoothed over a window of the run. Rows that follow each other come
from one slice of a document, so a step's loss is not independent of the next one's: bins that hold several slices are.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scaling.errors import UserError

BIN = 0.06  # width of a bin in log tokens: from 18k tokens on it holds a slice of 1024
WINDOW = 0.3  # half-width of the smoothing window in log tokens: the loss bends by less than 0.01 nats in it
RUN = ["N", "seed", "batch"]  # what tells curves apart; the batch is in tokens per step


def curve(log: pd.DataFrame, tokens_per_step: int, first: float, last: float, width: float = BIN) -> pd.DataFrame:
    """One run's loss over tokens, in bins of equal width in log tokens.

    Args:
        log: the step log: `tokens` (trained on up to and with the step) and `loss`.
        tokens_per_step: a step's loss is that of the parameters before it, which have seen so many tokens less.
        first, last: tokens between which the curve is wanted: after warm-up, and where the decay starts.
        width: of a bin.

    Returns:
        A row per bin that holds a step: tokens (geometric mean), loss (mean), steps.
    """
    before = log["tokens"].to_numpy(float) - tokens_per_step
    inside = (before >= first) & (before <= last)
    log_tokens, loss = np.log(before[inside]), log["loss"].to_numpy(float)[inside]
    steps = pd.DataFrame({"bin": np.floor(log_tokens / width), "log_tokens": log_tokens, "loss": loss})
    bins = steps.groupby("bin").agg(log_tokens=("log_tokens", "mean"), loss=("loss", "mean"), steps=("loss", "size"))
    tokens = np.exp(bins["log_tokens"])
    return pd.DataFrame({"tokens": tokens, "loss": bins["loss"], "steps": bins["steps"]}).reset_index(drop=True)


def smooth(
    tokens_K: np.ndarray, loss_K: np.ndarray, steps_K: np.ndarray, window: float = WINDOW
) -> tuple[np.ndarray, np.ndarray]:
    """The curve as lines fitted within a window about every bin: loss and its standard error, (K,) each.

    Bins weigh as many steps as they hold; one that is alone in its window has NaN. The error takes bins as independent
    and their variance per step as constant along the curve; it is estimated from what smoothing leaves over.
    """
    x_K = np.log(tokens_K)
    offset_KK = x_K - x_K[:, None]  # row: where the line is wanted
    weight_KK = np.where(np.abs(offset_KK) <= window, steps_K, 0.0)
    total, first, second = (np.sum(weight_KK * offset_KK**power, 1)[:, None] for power in (0, 1, 2))
    determinant = total * second - first**2
    determinant[determinant <= 0] = np.nan
    line_KK = weight_KK * (second - first * offset_KK) / determinant
    smoothed_K = line_KK @ loss_K
    found_K = np.isfinite(smoothed_K)
    freedom = max(found_K.sum() - np.diag(line_KK)[found_K].sum(), 1.0)
    variance = np.sum(steps_K * (loss_K - smoothed_K) ** 2, where=found_K) / freedom  # of one step's loss
    return smoothed_K, np.sqrt(variance * np.sum(line_KK**2 / steps_K, 1))


def tokens_to_loss(curves: pd.DataFrame, levels: Sequence[float], window: float = WINDOW) -> pd.DataFrame:
    """The tokens at which each run's smoothed loss first comes down to each level.

    A level that one run of a size is below from the start of its curve is left out for the size: without that run,
    which may be the best, the others would have their minimum elsewhere.

    Args:
        curves: bins of several runs: the columns of `RUN`, tokens, loss, steps.
        levels: losses.
        window: of the smoothing.

    Returns:
        A row per run and level that the run comes down to within its curve: `RUN`, level, tokens, and loss_error, the
        standard error of the smoothed loss there.
    """
    rows = []
    for _, size in curves.sort_values("tokens").groupby("N"):
        smoothed = {key: _smoothed(run, window) for key, run in size.groupby(RUN)}
        highest = min(loss_K[0] for _, loss_K, _ in smoothed.values())
        for key, (x_K, loss_K, error_K) in smoothed.items():
            for level in levels:
                below_K = loss_K <= level
                if level >= highest or not below_K.any():
                    continue
                after = int(np.argmax(below_K))
                before = after - 1
                share = (loss_K[before] - level) / (loss_K[before] - loss_K[after])
                log_tokens = x_K[before] + share * (x_K[after] - x_K[before])
                rows.append((*key, float(level), float(np.exp(log_tokens)), float(error_K[after])))
    return pd.DataFrame(rows, columns=[*RUN, "level", "tokens", "loss_error"])


def _smoothed(run: pd.DataFrame, window: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log tokens, loss and its error where the curve can be smoothed."""
    tokens_K, loss_K, steps_K = (run[name].to_numpy(float) for name in ("tokens", "loss", "steps"))
    smoothed_K, error_K = smooth(tokens_K, loss_K, steps_K, window)
    found_K = np.isfinite(smoothed_K)
    if not found_K.any():
        raise UserError(
            f"curve of N, seed, batch {run[RUN].iloc[0].tolist()} has no two steps within its window: train longer"
        )
    return np.log(tokens_K[found_K]), smoothed_K[found_K], error_K[found_K]


def loss_levels(curves: pd.DataFrame, ratio: float) -> list[float]:
    """Losses a factor `ratio` apart, common to all sizes, over all that the curves pass through; highest first."""
    low, high = np.log(curves["loss"].min()), np.log(curves["loss"].max())
    return [float(ratio**k) for k in range(int(high // np.log(ratio)), int(low // np.log(ratio)), -1)]
