"""FLOPs counted by term, as a function of N: what a table's own column of FLOPs makes of any budget."""

import dataclasses
from typing import Any

import numpy as np

from scaling.laws.budget import Cost
from scaling.laws.form import Columns

SAME = 5e-3  # relative difference below which a column of FLOPs is 6 N D
POWERS = (0.0, -1 / 3, -2 / 3)  # of N in log C / (6 N D): matrices, attention scores, embeddings and head


@dataclasses.dataclass(frozen=True)
class Counted:
    """A column of FLOPs as a function of N: log C / (6 N D) = c_0 + c_1 x^(-1/3) + c_2 x^(-2/3), x = N / smallest.

    At one aspect ratio matrices take FLOPs in proportion to N, attention scores to N^(2/3), embeddings and the head to
    N^(1/3): the ratio tends to a constant as models grow, where a power of N would fall below any. On our own ladder
    this is off by 0.1%, a power of N by 3%. Below a tenth of the smallest model the ratio is kept as it is there.

    Attributes:
        name: of the column.
        coefficients: c_0, c_1, c_2.
        smallest: N of the smallest model counted.
        residual: largest relative difference between this and a point's own count.
    """

    name: str
    coefficients: tuple[float, float, float]
    smallest: float
    residual: float = 0.0

    @property
    def cost(self) -> Cost:
        """FLOPs per token; serving one takes a third of training on it."""
        return Cost(training=self._training, serving=lambda columns: self._training(columns) / 3, name=self.name)

    def _training(self, columns: Columns) -> Any:
        return 6 * columns["n"] * np.exp(_basis(columns["n"], self.smallest) @ np.array(self.coefficients))


def count(name: str, n: Any, d: Any, flops: Any) -> Counted | None:
    """What a column of FLOPs counts, by least squares in logs; None where it is 6 N D to half a percent.

    Args:
        name: of the column.
        n, d, flops: (points,).
    """
    n, d, flops = (np.asarray(values, float) for values in (n, d, flops))
    if np.allclose(flops, 6 * n * d, rtol=SAME, atol=0):
        return None
    smallest = float(n.min())
    found, *_ = np.linalg.lstsq(_basis(n, smallest), np.log(flops / (6 * n * d)), rcond=None)
    c_0, c_1, c_2 = (float(value) for value in found)
    counted = Counted(name, (c_0, c_1, c_2), smallest)
    off = np.abs(counted.cost.training({"n": n}) * d / flops - 1)
    return dataclasses.replace(counted, residual=float(off.max()))


def _basis(n: Any, smallest: float) -> np.ndarray:
    return np.stack([(np.maximum(n, smallest / 10) / smallest) ** power for power in POWERS], -1)
