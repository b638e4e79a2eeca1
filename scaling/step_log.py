"""A run's step log: one row per optimiser step, without holes or repeats whatever interrupts the training."""

from collections.abc import Callable
from pathlib import Path

from scaling import storage
from scaling.train import LogRow

_LOSS_MEAN_OVER = 50


class StepLog:
    """Appends rows to a run's `log.jsonl`.

    Rows beyond what is to be kept are cut off first: the steps they tell of will be done again. Steps that are
    already there (a replay to a new branch point) are not written twice.

    Args:
        path: the log.
        keep: the last step whose row stays: that of the newest checkpoint, or of the end of a finished run.
        progress: also told of every row.
    """

    def __init__(self, path: Path, keep: int, progress: Callable[[list[LogRow]], None]) -> None:
        self.path = path
        self.progress = progress
        storage.keep_lines(path, lambda row: row["step"] <= keep)
        rows = storage.read_lines(path)
        self.last_step = rows[-1]["step"] if rows else -1
        self._losses = [row["loss"] for row in rows[-_LOSS_MEAN_OVER:]]

    def record(self, rows: list[LogRow]) -> None:
        """Writes the rows that are new and waits until they are on disk."""
        new = [row for row in rows if row.step > self.last_step]
        storage.append_lines(
            self.path,
            [
                {
                    "step": row.step,
                    "tokens": row.tokens,
                    "learning_rate": row.learning_rate,
                    "loss": row.loss,
                    "grad_norm": row.grad_norm,
                    "measured": {"seconds": row.seconds},
                }
                for row in new
            ],
        )
        if new:
            self.last_step = new[-1].step
            self._losses = [*self._losses, *(row.loss for row in new)][-_LOSS_MEAN_OVER:]
        self.progress(rows)

    @property
    def mean_loss(self) -> float | None:
        """Mean loss of the last steps logged; None where there are none."""
        return sum(self._losses) / len(self._losses) if self._losses else None
