"""`windtunnel predict` and `windtunnel allocate`: what a fitted law, read from fit.json, says."""

from pathlib import Path
from typing import Annotated

import tyro

from experiments.commands.law_options import Pairs, numbers

Fitted = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FIT.JSON")]


def predict(
    law: Fitted, n: float | None = None, d: float | None = None, flops: float | None = None, column: Pairs = ()
) -> None:
    """Predict the loss of a run, with its interval, and say how far outside the fitted points it lies.

    Args:
        law: fit.json as `windtunnel fit` writes it.
        n: parameters, counted as in the fit.
        d: tokens.
        flops: training FLOPs, for a law of compute.
        column: NAME=VALUE for what else the law reads, such as p_w=4; once for each.
    """
    from analysis.show_saved import show_prediction
    from experiments.commands.console import terminal
    from scaling.laws import saved

    given = {name: value for name, value in (("n", n), ("d", d), ("flops", flops)) if value is not None}
    show_prediction(saved.load(law), given | numbers("column", column), terminal())


def allocate(
    law: Fitted,
    budget: tuple[float, ...] = (),
    loss: float | None = None,
    inference_tokens: float = 0.0,
    column: Pairs = (),
) -> None:
    """Spend a budget under a fitted law: N, D and D/N with intervals and the flat region; or reach a loss cheaply.

    Args:
        law: fit.json as `windtunnel fit` writes it.
        budget: FLOPs, one or several: 6 N D of training and 2 N for every token served, or as the fit's --flops counts.
        loss: instead of a budget, the loss to reach at the least cost.
        inference_tokens: tokens to be served over the model's life.
        column: NAME=VALUE for what else the law reads, such as p_w=4; once for each.
    """
    from analysis.show_saved import show_allocation, show_cheapest
    from experiments.commands.console import terminal
    from scaling.errors import UserError
    from scaling.laws import saved

    if bool(budget) == (loss is not None):
        raise UserError("give either --budget, one or several in FLOPs, or --loss, the loss to reach")
    found, given = saved.load(law), numbers("column", column)
    if loss is None:
        show_allocation(found, budget, inference_tokens, given, terminal())
    else:
        show_cheapest(found, loss, inference_tokens, given, terminal())
