"""Exponents of width: what a coordinate check's sizes should grow as under muP, what they do, and which rule is broken.

Sizes are fitted as rms ~ width^exponent. A rule that is forgotten is off by a half or a whole power of width, and its
traces are everywhere downstream; `broken_rules` names the rule and not the traces.
"""

from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

HIDDEN = ("query", "key", "value", "output", "gate", "up", "down")
NORMS = ("attention_norm", "mlp_norm", "final_norm")
TABLES = ("embedding", "head")  # a tied table's effects are two: of the embedding, and of the head
TOLERANCE = 0.25  # half of the smallest error a forgotten rule makes


def expected(quantity: str, part: str, step: int) -> tuple[float, float] | None:
    """The least and the largest exponent that muP allows, for infinite width; None where it says nothing.

    Initial logits are sums of D random terms over m, so they shrink as width^-1/2; under a tied table a token's own
    logit is a sum of squares and does not. All else that is not a hidden matrix or its update stays.
    """
    if step == 0 and quantity in ("change", "update", "effect"):
        return None  # nothing has changed yet
    if quantity == "weight":
        return ((-0.5, -0.5) if part in HIDDEN else (0.0, 0.0)) if step == 0 else None
    if quantity == "update":
        return (-1.0, -1.0) if part in HIDDEN else (0.0, 0.0)
    if (quantity, part) == ("activation", "logits"):
        return -0.5, 0.0
    return 0.0, 0.0


def exponents(sizes: pd.DataFrame) -> pd.DataFrame:
    """The slope of log rms against log width with its standard error, for every step, quantity, part and layer.

    Args:
        sizes: as `scaling.tuning.coordinate_check.coordinate_check` returns them; two widths or more.

    Returns:
        step, quantity, part, layer, exponent, standard_error (NaN where there are two sizes only), low and high (what
        muP allows; NaN where it says nothing), wrong: whether the exponent is further than `TOLERANCE` from that, and
        not_finite: the least width at which a size is not finite (then exponent is NaN, and wrong), else NaN.
    """
    rows: list[tuple[Any, ...]] = []
    keys = ["step", "quantity", "part", "layer"]
    for key, group in sizes.groupby(keys, sort=False):
        step, quantity, part, layer = cast(tuple[Any, ...], key)
        low, high = expected(quantity, part, step) or (np.nan, np.nan)
        lost = group["width"][~np.isfinite(group["rms"])]
        if len(lost):
            rows.append((step, quantity, part, layer, np.nan, np.nan, low, high, True, lost.min()))
            continue
        if (group["rms"] <= 0).any():
            continue  # no change yet
        fit = stats.linregress(np.log(group["width"]), np.log(group["rms"]))
        error = fit.stderr if len(group) > 2 else np.nan
        wrong = bool(fit.slope < low - TOLERANCE or fit.slope > high + TOLERANCE)
        rows.append((step, quantity, part, layer, fit.slope, error, low, high, wrong, np.nan))
    return pd.DataFrame(rows, columns=[*keys, "exponent", "standard_error", "low", "high", "wrong", "not_finite"])


def broken_rules(table: pd.DataFrame) -> list[str]:
    """Which of muP's rules of width a model breaks, in words; empty if none.

    Causes before traces: what an initial weight or an update's own size shows is said of it alone; a multiplier is
    blamed where the initial activation behind it is off and the weights are not; and only where none of them explains
    it, a change that grows or shrinks is reported as such. Before all of them comes what was not finite.

    Args:
        table: as `exponents` returns it.
    """
    lost = table[table["not_finite"].notna()]
    wrong = table[table["wrong"] & table["not_finite"].isna()]

    def parts(quantity: str, among: tuple[str, ...], step: int | None = None) -> list[str]:
        rows = wrong[(wrong["quantity"] == quantity) & (step is None or wrong["step"] == step)]
        return [part for part in among if part in set(rows["part"])]

    tensors = (*TABLES, *HIDDEN, *NORMS)
    causes = [f"initial size of {part}" for part in parts("weight", tensors, step=0)]
    if not causes:
        # not of the stream and the features, which are sums of these
        outputs = parts("activation", ("embedding", "attention", "mlp", "logits"), step=0)
        causes = [f"multiplier of {part}" for part in outputs]
    # of the first step alone, which an adaptive optimiser makes as large as the rate whatever else is wrong
    causes += [f"learning rate of {part}" for part in parts("update", tensors, step=1)]
    if not causes:
        activations = ("embedding", "attention", "mlp", "residual", "features", "logits")
        causes = [f"effect of {part}'s update" for part in parts("effect", (*TABLES, *HIDDEN))]
        causes += [f"change of {part}" for part in parts("change", activations)]
    if lost.empty:
        return causes
    first = lost[lost["step"] == lost["step"].min()]
    return [f"not finite from step {first['step'].iloc[0]} at width {first['not_finite'].min():.0f}", *causes]
