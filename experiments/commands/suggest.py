"""`windtunnel suggest`: which runs to make next."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.commands.law_options import PointsOptions, natural


def suggest(
    source: Annotated[PointsOptions, tyro.conf.arg(name="")],
    budget: float,
    answer: Literal["exponent", "ratio", "loss"] = "ratio",
    at: float | None = None,
    target_n: float | None = None,
    target_d: float | None = None,
    decay_share: float = 0.1,
    most_runs: int = 8,
    replicates: int = 1000,
    seed: int = 0,
    out_dir: Path | None = None,
) -> None:
    """Suggest the next runs: those sizes and token counts that narrow the interval of an answer most for a budget.

    Args:
        source: the points so far.
        budget: FLOPs for new runs, 6 N D or as the column named with --flops counts them.
        answer: what is to be known better: the exponent of N_opt ~ C^a, the compute-optimal D/N at a budget, or the
            loss of a model.
        at: the budget that exponent and ratio are wanted at (a loss has a target instead); by default 10 times the
            largest run.
        target_n: parameters of the model whose loss is wanted.
        target_d: its tokens.
        decay_share: of a branch's tokens, all that a further branch of a trunk costs; 1 where every point is a run from
            scratch, as under a cosine.
        most_runs: trunks to suggest at most.
        replicates: of the bootstrap.
        seed: of starts and replicates.
        out_dir: where suggestion.json and its figure go; by default, for runs.csv, the folder runs-law beside it.
    """
    from analysis.suggest_runs import suggest_runs
    from experiments.commands.console import terminal

    suggest_runs(
        source.source(),
        source.form,
        budget,
        answer=answer,
        at=at,
        target=(target_n, target_d),
        decay_share=decay_share,
        most_runs=most_runs,
        replicates=replicates,
        seed=natural("seed", seed),
        out_dir=out_dir,
        console=terminal(),
    )
