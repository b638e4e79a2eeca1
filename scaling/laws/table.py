"""A table of points for a law: from a file or DataFrame of any trainer, columns guessed, values checked."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from scaling.errors import UserError
from scaling.laws import counting, plausibility, reading, roles
from scaling.laws.budget import SIX_ND, Cost
from scaling.laws.forms import CHINCHILLA, Form

Duplicates = Literal["refuse", "drop", "keep"]

# Columns that tell nothing where they do not vary, and what there have to be several of.
MUST_VARY = {
    "n": "model sizes N",
    "d": "token counts D",
    "flops": "budgets C",
    "width": "widths",
    "depth": "depths",
    "p_w": "bits of weights",
    "p_a": "bits of activations",
    "p_kv": "bits of the cache",
    "p_post": "bits after training",
    "task_loss": "task losses",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Points for a fit.

    Attributes:
        columns: name -> (points,) positive values: what the form reads, and of n (parameters), d (tokens) and flops
            (of any convention) whatever the file has or they give each other by C = 6 N D; d_stable where the file
            has it, the tokens (from 0 on) up to where a branch leaves its trunk.
        loss: (points,) positive losses.
        cluster: (points,) labels: points of one cluster share a seed, so their errors move together.
        conventions: how each column came about, in words, by name.
        counted: what the FLOPs count that budgets are counted in; None for 6 N D.
        digest: of the values, so that a fit names its data.
    """

    columns: Mapping[str, np.ndarray]
    loss: np.ndarray
    cluster: np.ndarray
    conventions: Mapping[str, str]
    counted: counting.Counted | None = None

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def cost(self) -> Cost:
        """FLOPs per token by N, as budgets are counted."""
        return SIX_ND if self.counted is None else self.counted.cost

    @property
    def budgets(self) -> np.ndarray:
        """What every point cost, (points,): 6 N D, or the FLOPs that were `counted`; those of the file without an N.

        Raises:
            UserError: neither is known.
        """
        if self.counted is None and {"n", "d"} <= set(self.columns):
            return np.asarray(6 * self.columns["n"] * self.columns["d"])
        if "flops" not in self.columns:
            raise UserError(f"what the runs cost cannot be told from {', '.join(self.columns)}: n and d, or flops")
        return self.columns["flops"]

    @property
    def digest(self) -> str:
        """SHA-256 over losses, columns and clusters, in row order."""
        sha = hashlib.sha256(self.loss.tobytes())
        for name in sorted(self.columns):
            sha.update(name.encode() + self.columns[name].tobytes())
        sha.update("\n".join(map(str, self.cluster)).encode())
        return sha.hexdigest()

    @property
    def centre(self) -> dict[str, float]:
        """Geometric mean of every positive column and of the loss: the origin of the fitting coordinates."""
        positive = {name: values for name, values in self.columns.items() if (values > 0).all()}
        means = {name: float(np.exp(np.log(values).mean())) for name, values in positive.items()}
        return means | {"loss": float(np.exp(np.log(self.loss).mean()))}

    def select(self, keep: np.ndarray) -> "Table":
        """The points where `keep` is true."""
        columns = {name: values[keep] for name, values in self.columns.items()}
        return dataclasses.replace(self, columns=columns, loss=self.loss[keep], cluster=self.cluster[keep])


def read_table(
    path: Path | str,
    *,
    form: Form = CHINCHILLA,
    columns: Mapping[str, str] = {},
    where: str = "",
    units: Mapping[str, float] = {},
    duplicates: Duplicates = "refuse",
) -> Table:
    """Reads points from a .csv, .tsv, .jsonl, .json or .parquet file of any trainer.

    Args:
        path: the file, one row per point.
        form: the law that the points are for: its columns are read.
        columns: column names by role: n, d, flops, loss, cluster, d_stable and whatever else the form reads.
            A role without one is guessed. COLUMN~REGEX takes a part of the values: "run~^([0-9.]+[MB])" reads N out of
            190M-1xC. FLOPs that are asked for are what budgets count; those of a guessed column change nothing.
        where: keep rows for which this pandas expression holds, such as "loss < 4" or "tokens.notna()".
        units: what a role's values are multiplied by, such as {"n": 1e9} for billions; 1 says that they are meant
            as written, however odd they look.
        duplicates: what becomes of rows that repeat another in every column used.

    Raises:
        UserError: no such file, unknown kind, columns that are missing or ambiguous, bad values, units that cannot
            be meant, repeated rows; rows are named by their line in the file.
    """
    frame = reading.read_frame(Path(path))
    if not where:
        return from_frame(frame, form=form, columns=columns, units=units, duplicates=duplicates)
    kept = reading.keep_where(frame, where)
    table = from_frame(kept, form=form, columns=columns, units=units, duplicates=duplicates)
    note = {"rows": f"{len(kept)} of {len(frame)} kept, where {where}"}
    return dataclasses.replace(table, conventions=note | dict(table.conventions))


def from_frame(
    frame: pd.DataFrame,
    *,
    form: Form = CHINCHILLA,
    columns: Mapping[str, str] = {},
    units: Mapping[str, float] = {},
    duplicates: Duplicates = "refuse",
) -> Table:
    """A table from a DataFrame with one row per point; arguments and errors as in `read_table`.

    Any two of N, D and C that the frame has give the third by C = 6 N D.
    """
    asked = {role: name for role, name in columns.items() if name}
    roles.check(form, asked, units)
    frame = frame.rename(columns=str)
    if frame.empty or not frame.columns.is_unique:
        raise UserError("the table has no rows" if frame.empty else "the table has two columns of one name")
    found, unread = roles.find(frame, form, asked)
    values, notes = roles.read(frame, form, found, units)
    notes = unread | notes
    plausibility.check_units(values, frame, units)
    notes.setdefault("cluster", "no column: every point counts as independent")
    labels = _labels(frame, found["cluster"].column if "cluster" in found else "")
    used = values | ({"cluster": labels} if "cluster" in found else {})
    repeated = plausibility.repeated(used)
    if repeated.any() and duplicates == "refuse":
        raise UserError(
            f"{reading.name_rows(frame, np.flatnonzero(repeated))}: the same as an earlier row in {', '.join(used)}: "
            "pass --duplicates drop, or keep if these are runs of their own"
        )
    if repeated.any() and duplicates == "drop":
        values, labels = {name: column[~repeated] for name, column in values.items()}, labels[~repeated]
        notes["duplicates"] = f"{repeated.sum()} repeated rows dropped"
    counted = None
    if "flops" in asked and {"n", "d"} <= set(values):
        counted = counting.count(asked["flops"], values["n"], values["d"], values["flops"])
    _derive(values, notes)
    loss = values.pop("loss")
    if "task_loss" not in form.columns:  # where a form turns that loss into another measure, anything goes
        remark = plausibility.remark_on_loss(found["loss"].column, loss, values)
        notes["loss"] = "; ".join(filter(None, (notes["loss"], remark)))
    return Table(values, loss, labels, notes, counted)


def check_identifiable(table: Table, form: Form) -> None:
    """Refuses designs from which no fit of this form can separate its free parameters.

    Raises:
        UserError: a column that the form reads is not there; fewer points than parameters; a single N, D, C, ...; a
            constant D/N.
    """
    absent = [name for name in form.columns if name not in table.columns]
    if absent:
        raise UserError(f"{form.name!r} reads {', '.join(form.columns)}; the table lacks {', '.join(absent)}")
    if len(table) < len(form.free):
        raise UserError(
            f"{len(table)} points for the {len(form.free)} parameters of {form.name!r}: add at least "
            f"{len(form.free) - len(table)} more"
        )
    for name in form.columns:
        if name in MUST_VARY and _constant(table.columns[name]) and not _known(form, name):
            raise UserError(
                f"all points have {name.upper()} = {table.columns[name][0]:.6g}: {form.name!r} needs several "
                f"{MUST_VARY[name]}; add points at others, or fix what hangs on them at known values"
            )
    if {"n", "d"} <= set(form.columns) and _constant(table.columns["d"] / table.columns["n"]) and not form.held:
        ratio = table.columns["d"][0] / table.columns["n"][0]
        raise UserError(
            f"all points have D/N = {ratio:.6g}: A/N^alpha and B/D^beta cannot be told apart; add points at "
            "another ratio"
        )


def _known(form: Form, column: str) -> bool:
    """Whether parameters are held that may stand in for what a constant column does not tell."""
    return f"gamma_{column[2:]}" in form.held if column.startswith("p_") else bool(form.held)


def _constant(values: np.ndarray) -> bool:
    """Whether values agree to 1%: less than that is rounding of steps to batches, not a design."""
    return bool(values.max() <= 1.01 * values.min())


def _labels(frame: pd.DataFrame, column: str) -> np.ndarray:
    """The cluster of every row, or each its own where there is no column."""
    if not column:
        return np.arange(len(frame)).astype(str).astype(object)
    labels = reading.extract(frame, column, "--cluster")
    if labels.isna().any():
        rows = reading.name_rows(frame, np.flatnonzero(labels.isna()))
        raise UserError(
            f"{rows}: no value in the cluster column {column!r}: fill it in, or name another with --cluster"
        )
    return labels.astype(str).to_numpy(dtype=object)


def _derive(values: dict[str, np.ndarray], notes: dict[str, str]) -> None:
    """Completes N, D and C = 6 N D where two of them are known; stable tokens have to be a part of D."""

    def note(role: str, words: str) -> None:
        notes[role] = "; ".join(filter(None, (notes.get(role), words)))

    if {"n", "d", "flops"} <= set(values):
        note("flops", plausibility.remark_on_flops(values["n"], values["d"], values["flops"]))
    elif {"n", "flops"} <= set(values):
        values["d"] = values["flops"] / (6 * values["n"])
        note("d", "tokens derived as D = C / (6 N)")
    elif {"d", "flops"} <= set(values):
        values["n"] = values["flops"] / (6 * values["d"])
        note("n", "parameters derived as N = C / (6 D)")
    elif {"n", "d"} <= set(values):
        values["flops"] = 6 * values["n"] * values["d"]
        note("flops", "derived as C = 6 N D")
    if "d_stable" in values and (not {"n", "d"} <= set(values) or (values["d_stable"] > 1.001 * values["d"]).any()):
        del values["d_stable"]
        note("d_stable", "not used: it is no part of the tokens of a model of known N")
