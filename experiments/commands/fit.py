"""`windtunnel fit`: the law of a table of points from any trainer. Needs no accelerator, model or TensorFlow."""

from pathlib import Path
from typing import Annotated, Literal

import tyro


def fit(
    points: Annotated[Path, tyro.conf.Positional],
    n: str = "",
    d: str = "",
    loss: str = "",
    flops: str = "",
    cluster: str = "",
    where: str = "",
    form: str = "chinchilla",
    holdout: Literal["largest_n", "largest_d", "largest_c"] = "largest_n",
    budget: tuple[float, ...] = (),
    bytes_per_token: float | None = None,
    replicates: int = 1000,
    seed: int = 0,
    out_dir: Path | None = None,
) -> None:
    """Fit L(N, D) to a table of points, with intervals, a held-out check and the compute-optimal ratio.

    Args:
        points: a .csv, .jsonl or .parquet file, one row per point.
        n: column of parameters; like the next four, guessed when not given.
        d: column of tokens; derived as C / (6 N) when there is none.
        loss: column of losses, in nats per token.
        flops: column of training FLOPs; 6 N D when there is none.
        cluster: column that names the trunk (or seed) a point belongs to.
        where: keep only rows for which this expression holds, such as "loss < 4".
        form: the law's form.
        holdout: what the check leaves out and predicts.
        budget: training budgets C = 6 N D in FLOPs to allocate; by default 1, 10 and 100 times the largest run.
        bytes_per_token: of the table's tokens, to compare D/N across vocabularies.
        replicates: of the bootstrap, at least 100.
        seed: of starts and replicates.
        out_dir: where fit.json and the figures go; by default, for runs.csv, the folder runs-law beside it.
    """
    from analysis.fit_table import fit_table
    from experiments.commands.console import terminal

    fit_table(
        points,
        n=n,
        d=d,
        loss=loss,
        flops=flops,
        cluster=cluster,
        where=where,
        form=form,
        by=holdout,
        budgets=budget,
        bytes_per_token=bytes_per_token,
        replicates=replicates,
        seed=seed,
        out_dir=out_dir,
        console=terminal(),
    )
