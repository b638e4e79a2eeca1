"""What the commands about laws share: how a file of points is read, and pairs such as n=1e9. Light to import."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from scaling.errors import UserError

if TYPE_CHECKING:
    from analysis.fit_table import Source

Pairs = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclasses.dataclass(frozen=True)
class PointsOptions:
    """How a file of points is read.

    Attributes:
        points: a .csv, .tsv, .jsonl, .json or .parquet file, one row per point.
        n: column of parameters; like the next four, guessed when not given. COLUMN~REGEX takes a part of the values:
            --n 'run~^([0-9.]+[MB])' reads N out of 190M-1xC.
        d: column of tokens; derived as C / (6 N) when there is none.
        loss: column of losses, in nats per token.
        flops: column of training FLOPs; 6 N D when there is none. Named here, it is what budgets, allocations and the
            three approaches count; one that is guessed changes nothing.
        cluster: column that names the trunk (or seed) a point belongs to.
        column: ROLE=COLUMN for what else the form reads, such as width=hidden_size, and for d_stable, the tokens up to
            where a branch leaves a shared trunk; once for each.
        unit: ROLE=FACTOR, such as n=1e9 for parameters in billions; n=1 says that they are meant as written.
        where: keep only rows for which this expression holds, such as "loss < 4" or "tokens.notna()".
        duplicates: what becomes of rows that repeat another in every column used.
        form: the law's form: chinchilla, kaplan, compute (loss against FLOPs), data_constrained, overtraining,
            precision, precision_ptq, coupled, width_depth or accuracy.
    """

    points: Annotated[Path, tyro.conf.Positional]
    n: str = ""
    d: str = ""
    loss: str = ""
    flops: str = ""
    cluster: str = ""
    column: Pairs = ()
    unit: Pairs = ()
    where: str = ""
    duplicates: Literal["refuse", "drop", "keep"] = "refuse"
    form: str = "chinchilla"

    def source(self) -> "Source":
        """The file as the analysis reads it."""
        from analysis.fit_table import Source

        named = {role: getattr(self, role) for role in ("n", "d", "loss", "flops", "cluster")}
        return Source(
            path=self.points,
            columns={role: column for role, column in named.items() if column} | dict(_pairs("column", self.column)),
            where=self.where,
            units=numbers("unit", self.unit),
            duplicates=self.duplicates,
        )


def natural(option: str, value: int) -> int:
    """An option's whole number from 0 on.

    Raises:
        UserError: a negative one.
    """
    if value < 0:
        raise UserError(f"--{option} {value}: a whole number from 0 on")
    return value


def numbers(option: str, pairs: Sequence[str]) -> dict[str, float]:
    """NAME=NUMBER pairs by name.

    Raises:
        UserError: another text.
    """
    found = {}
    for name, text in _pairs(option, pairs):
        try:
            found[name] = float(text)
        except ValueError as error:
            raise UserError(f"--{option} {name}={text}: a number after the =, such as {name}=1e9") from error
    return found


def ranges(option: str, pairs: Sequence[str]) -> dict[str, tuple[float, float]]:
    """NAME=LOW,HIGH pairs by name.

    Raises:
        UserError: another text.
    """
    found = {}
    for name, text in _pairs(option, pairs):
        try:
            low, high = (float(end) for end in text.split(","))
        except ValueError as error:
            raise UserError(f"--{option} {name}={text}: two numbers after the =, such as {name}=0.1,1") from error
        found[name] = (low, high)
    return found


def _pairs(option: str, pairs: Sequence[str]) -> list[tuple[str, str]]:
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--{option} {pair}: write NAME=VALUE")
    return [(name.strip(), value.strip()) for name, _, value in (pair.partition("=") for pair in pairs)]
