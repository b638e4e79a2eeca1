"""A table of points for a law: read from a file of any trainer, columns guessed, validated with row numbers."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scaling.errors import UserError
from scaling.laws.forms import Form

# Names under which other trainers keep these columns, after lower-casing and "_" for every other character.
GUESSES: dict[str, tuple[str, ...]] = {
    "n": (
        "n", "n_non_embedding", "non_embedding_params", "params_active_precise", "params", "parameters", "n_params",
        "num_params", "num_parameters", "model_size", "model_params", "size",
    ),
    "d": ("d", "d_total", "tokens", "n_tokens", "num_tokens", "train_tokens", "training_tokens", "total_tokens"),
    "flops": (
        "flops", "flop", "c", "c_6nd", "compute", "training_flop", "training_flops", "train_flops", "total_flops",
    ),
    "loss": (
        "loss", "final_loss", "eval_loss", "val_loss", "validation_loss", "valid_loss", "test_loss",
        "cross_entropy", "cross_entropy_loss", "nats_per_token",
    ),
    "cluster": ("cluster", "trunk", "run", "run_name", "run_id"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table:
    """Points for a fit.

    Attributes:
        columns: name -> (points,) positive values: n (parameters), d (tokens), flops (of any convention; 6 N D
            where the file has none).
        loss: (points,) positive losses.
        cluster: (points,) labels: points of one cluster share a seed, so their errors move together.
        conventions: how each column came about, in words, by name.
        digest: of the values, so that a fit names its data.
    """

    columns: Mapping[str, np.ndarray]
    loss: np.ndarray
    cluster: np.ndarray
    conventions: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def budgets(self) -> np.ndarray:
        """What every point cost as budgets are counted: C = 6 N D, whatever the file's FLOPs count, (points,)."""
        return np.asarray(6 * self.columns["n"] * self.columns["d"])

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
        """Geometric mean of every column and of the loss: the origin of the fitting coordinates."""
        means = {name: float(np.exp(np.log(values).mean())) for name, values in self.columns.items()}
        return means | {"loss": float(np.exp(np.log(self.loss).mean()))}

    def select(self, keep: np.ndarray) -> "Table":
        """The points where `keep` is true."""
        columns = {name: values[keep] for name, values in self.columns.items()}
        return Table(columns, self.loss[keep], self.cluster[keep], self.conventions)


def read_table(
    path: Path | str,
    *,
    n: str = "",
    d: str = "",
    loss: str = "",
    flops: str = "",
    cluster: str = "",
    where: str = "",
) -> Table:
    """Reads points from a .csv, .jsonl or .parquet file of any trainer.

    Args:
        path: the file, one row per point.
        n, d, loss, flops, cluster: column names; an empty one is guessed (`GUESSES`).
        where: keep rows for which this pandas expression holds, such as "loss < 4".

    Raises:
        UserError: no such file, unknown kind, a column that is missing or ambiguous, bad values (rows named).
    """
    frame = _read_frame(Path(path))
    if where:
        try:
            frame = frame.query(where, engine="python")
        except Exception as error:  # pandas raises whatever the expression's evaluation raises
            raise UserError(f"where {where!r}: {error}; columns are {', '.join(frame.columns)}") from error
    return from_frame(frame, n=n, d=d, loss=loss, flops=flops, cluster=cluster)


def from_frame(
    frame: pd.DataFrame, *, n: str = "", d: str = "", loss: str = "", flops: str = "", cluster: str = ""
) -> Table:
    """A table from a DataFrame with one row per point; arguments and errors as in `read_table`.

    Tokens absent from the frame are derived from FLOPs as D = C / (6 N); FLOPs absent, as C = 6 N D.
    """
    asked = {"n": n, "d": d, "loss": loss, "flops": flops, "cluster": cluster}
    found = {role: _column(frame, role, name) for role, name in asked.items()}
    for role, meaning in (("n", "the parameter count"), ("loss", "the loss")):
        if found[role] is None:
            raise UserError(
                f"no column for {meaning} among {', '.join(map(str, frame.columns))}: name one with --{role}"
            )
    if found["d"] is None and found["flops"] is None:
        raise UserError(
            f"neither tokens nor FLOPs among the columns {', '.join(map(str, frame.columns))}: name one with --d "
            "or --flops"
        )
    values = {
        role: _positive(frame, str(found[role])) for role in ("n", "d", "flops", "loss") if found[role] is not None
    }
    notes = {
        role: f"column {name!r}" + ("" if asked[role] else " (guessed)")
        for role, name in found.items()
        if name is not None
    }
    if "d" not in values:
        values["d"] = values["flops"] / (6 * values["n"])
        notes["d"] = "tokens derived as D = C / (6 N)"
    if "flops" not in values:
        values["flops"] = 6 * values["n"] * values["d"]
        notes["flops"] = "derived as C = 6 N D"
    if found["cluster"] is None:
        labels = np.arange(len(frame)).astype(str)
        notes["cluster"] = "no column: every point counts as independent"
    else:
        labels = frame[found["cluster"]].astype(str).to_numpy(dtype=object)
    losses = values.pop("loss")
    return Table(values, losses, labels, notes)


def check_identifiable(table: Table, form: Form) -> None:
    """Refuses designs from which no fit of this form can separate its parameters.

    Raises:
        UserError: fewer points than parameters, a single N, a single D, or a constant D/N.
    """
    if len(table) < len(form.params):
        raise UserError(
            f"{len(table)} points for the {len(form.params)} parameters of {form.name!r}: add at least "
            f"{len(form.params) - len(table)} more"
        )
    meaning = {"n": "model sizes N", "d": "token counts D"}
    for name in form.columns:
        if _constant(table.columns[name]):
            raise UserError(
                f"all points have {name.upper()} = {table.columns[name][0]:.6g}: {form.name!r} needs several "
                f"{meaning.get(name, 'values of ' + name)}; add points at others"
            )
    if {"n", "d"} <= set(form.columns) and _constant(table.columns["d"] / table.columns["n"]):
        ratio = table.columns["d"][0] / table.columns["n"][0]
        raise UserError(
            f"all points have D/N = {ratio:.6g}: A/N^alpha and B/D^beta cannot be told apart; add points at "
            "another ratio"
        )


def _constant(values: np.ndarray) -> bool:
    """Whether values agree to 1%: less than that is rounding of steps to batches, not a design."""
    return bool(values.max() <= 1.01 * values.min())


def _read_frame(path: Path) -> pd.DataFrame:
    readers = {
        ".csv": pd.read_csv,
        ".jsonl": lambda p: pd.read_json(p, lines=True),
        ".parquet": pd.read_parquet,
    }
    if path.suffix not in readers:
        raise UserError(f"{path}: a table is one of {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return readers[path.suffix](path)  # type: ignore[operator, no-any-return]
    except Exception as error:  # each reader has its own exceptions for a malformed file
        raise UserError(f"{path}: not a readable {path.suffix} table ({error})") from error


def _normal(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(name).lower()).strip("_")


def _column(frame: pd.DataFrame, role: str, asked: str) -> str | None:
    if asked:
        if asked not in frame.columns:
            raise UserError(f"--{role} {asked!r}: columns are {', '.join(map(str, frame.columns))}")
        return asked
    for guess in GUESSES[role]:
        matches = [name for name in frame.columns if _normal(name) == guess]
        if len(matches) > 1:
            raise UserError(f"columns {', '.join(matches)} could all be {role}: choose with --{role}")
        if matches:
            return str(matches[0])
    return None


def _positive(frame: pd.DataFrame, name: str) -> np.ndarray:
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
    bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(bad):
        rows = ", ".join(str(frame.index[i]) for i in bad[:5]) + (", ..." if len(bad) > 5 else "")
        first = frame[name].iloc[bad[0]]
        raise UserError(
            f"column {name!r} has {len(bad)} value(s) that are not positive numbers (rows {rows}, counted from 0; "
            f"the first is {first}): mend or drop them"
        )
    return values
