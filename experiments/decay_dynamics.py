"""What changes in weights, gradients and curvature when the learning rate decays?

The last part of a trunk's stable phase and two decays of it (exponential as in MiniCPM, and 1-sqrt) are trained again
step by step, gradients compared at every step, on the training batches and on one fixed batch (MiniCPM, section 4.4,
figures 7 and 8: weights move less, gradients shrink and begin to agree, slopes fall with the rate, curvature rises
about tenfold).

Command: `windtunnel run decay_dynamics`, then `python -m experiments.decay_dynamics`, which writes
analysis/results/decay_dynamics/; figure: `python -m analysis.figures.decay_dynamics`.
Cost: 4.1e11 FLOPs (6ND).
Result: weights move with the rate. Between training batches curvature rises 7 and 30 times and gradients agree less;
on one fixed batch it rises 1.4 times and they agree more: most of the rise is noise between batches over a shrinking
step. See `LOG.md`.
"""

from pathlib import Path

import pandas as pd
import tyro

from experiments import wsd
from experiments.quickstart import LADDER
from scaling import environment, storage
from scaling.branches.schedule import ScheduleSpec
from scaling.errors import UserError, exit_on_user_error
from scaling.records import RunStore
from scaling.study import Planned, Study

WIDTH, LENGTH = 24, 80
# what a table holds beside steps and losses, of all that is measured
QUANTITIES = ("norm", "dot", "cosine", "d1", "d2", "curvature")
KEPT = [f"{batch}_{quantity}" for batch in ("batch", "fixed") for quantity in QUANTITIES]


def study() -> Study:
    """One trunk with two decays, and as long a stretch of the stable phase before them."""
    config = LADDER.trunk(WIDTH)
    decays = [
        wsd.decay(config, LENGTH, shape="exponential", final=0.1, label="exponential"),
        wsd.decay(config, LENGTH, label="one_minus_sqrt"),
    ]
    length = decays[0].decay_steps
    stretch = ScheduleSpec("stable", decays[0].start - length, decays[0].start)  # leaves the checkpoint to replay from
    return wsd.study("decay_dynamics", __doc__.split("\n")[0], (wsd.run(config, (stretch, *decays)),))


def table(measured: pd.DataFrame) -> pd.DataFrame:
    """What is recorded of a replay: the changes of all hidden matrices as one column, four digits."""
    changes = measured.filter(like="change/blocks/")
    kept = measured[["step", "learning_rate", "loss", "fixed_loss", *KEPT]].assign(
        change_hidden=changes.max(axis=1), change_embedding=measured["change/embedding"]
    )
    return kept.map(lambda value: value if isinstance(value, int) else float(f"{value:.4g}"))


def main(
    runs_dir: Path = Path("runs"), data_dir: Path = Path("data"), out: Path = Path("analysis/results/decay_dynamics")
) -> list[Path]:
    """Replay the stretch and both decays, and write a table for each.

    Args:
        runs_dir: where `windtunnel run decay_dynamics` trained.
        data_dir: where its data lies.
        out: folder of the tables.
    """
    from experiments.commands.common import executor  # here: a study is read without training code
    from scaling.tuning.dynamics import replay

    made = executor("decay_dynamics", runs_dir, data_dir)
    if not made.is_finished():
        raise UserError(f"study decay_dynamics is not trained in {runs_dir}: `windtunnel run decay_dynamics` trains it")
    trunk, stretch, *decays = made.entries
    paths = []
    for branch in decays:
        measured = replay(made.runner, trunk.config, branch.config, stretch.start, branch.stop)
        print(f"{branch.label}: losses within {_distance(measured, made.store, branch):.1g} of the run's own")
        path = out / f"{branch.label.split('/')[1]}.csv"
        storage.write_text(path, table(measured).to_csv(index=False))
        paths.append(path)
    return paths


def _distance(measured: pd.DataFrame, store: RunStore, branch: Planned) -> float:
    """The largest relative difference between losses of a replay and those that trunk and branch logged."""
    logs = store.log(branch.trunk), store.log(branch.run)
    logged = pd.concat([logs[0][logs[0]["step"] <= branch.start], logs[1]]).set_index("step")["loss"]
    ours = measured.set_index("step")["loss"]
    return float((ours / logged[ours.index] - 1).abs().max())


if __name__ == "__main__":
    environment.prepare()
    with exit_on_user_error():
        tyro.cli(main)
