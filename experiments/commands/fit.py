"""`windtunnel fit`: the law of a table of points from any trainer. Needs no accelerator, model or TensorFlow."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.commands.law_options import Pairs, PointsOptions, natural, numbers, ranges


def fit(
    source: Annotated[PointsOptions, tyro.conf.arg(name="")],
    fix: Pairs = (),
    bound: Pairs = (),
    delta: float = 1e-3,
    holdout: Literal["largest-n", "largest-d", "largest-c"] = "largest-n",
    budget: tuple[float, ...] = (),
    inference_tokens: float = 0.0,
    bytes_per_token: float | None = None,
    replicates: int = 1000,
    level: float = 0.9,
    starts: int = 64,
    seed: int = 0,
    figures: bool = True,
    out_dir: Path | None = None,
) -> None:
    """Fit a law to a table of points, with intervals, held-out checks and the compute-optimal ratio.

    Args:
        source: the points.
        fix: NAME=VALUE: a parameter held at a value, such as E=1.69; once for each.
        bound: NAME=LOW,HIGH: a box for an exponent, such as alpha=0.1,1; once for each.
        delta: Huber threshold in log loss.
        holdout: which check is shown in detail and drawn; all are made.
        budget: training budgets in FLOPs to allocate, 6 N D or as the column named with --flops counts them; by
            default 1, 10 and 100 times the largest run.
        inference_tokens: tokens to be served over the model's life, each at a third of what training on one costs, that
            budgets also pay for.
        bytes_per_token: of the table's tokens, to compare D/N across vocabularies.
        replicates: of the bootstrap, at least 100.
        level: coverage of intervals.
        starts: starts of the fit.
        seed: of starts and replicates.
        figures: draw them.
        out_dir: where fit.json and the figures go; by default, for runs.csv, the folder runs-law beside it.
    """
    from analysis.fit_table import fit_table, form_named
    from experiments.commands.console import terminal

    fit_table(
        source.source(),
        form_named(source.form),
        by=holdout.replace("-", "_"),  # type: ignore[arg-type]
        budgets=budget,
        figures=figures,
        out_dir=out_dir,
        console=terminal(),
        fixed=numbers("fix", fix),
        bounds=ranges("bound", bound),
        delta=delta,
        inference_tokens=inference_tokens,
        bytes_per_token=bytes_per_token,
        replicates=replicates,
        level=level,
        starts=starts,
        seed=natural("seed", seed),
    )
