"""A fitted law read back from fit.json: predictions with the intervals of the fit, and how far they reach."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy import spatial

from scaling.errors import UserError
from scaling.laws import intervals
from scaling.laws.allocation import INDICATIVE_BEYOND
from scaling.laws.budget import SIX_ND, Cost
from scaling.laws.counting import Counted
from scaling.laws.form import Columns, Form
from scaling.laws.forms import FORMS
from scaling.laws.intervals import Interval
from scaling.laws.uncertainty import INDICATIVE_BELOW, Bootstrap

NAMES = {"n": "N", "d": "D", "flops": "C"}
NEEDED = (
    "form",
    "params",
    "replicates",
    "errors",
    "range",
    "level",
    "bootstrap",
    "certificate",
    "bytes_per_token",
    "conventions",
)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Losses at some columns, arrays of one length.

    Attributes:
        loss: the law's.
        law: where the law passes there, by the bootstrap.
        new_run: where one new run would end: the law's uncertainty and a point's noise.
    """

    loss: np.ndarray
    law: Interval
    new_run: Interval


@dataclasses.dataclass(frozen=True)
class SavedLaw:
    """A fitted law without the points behind it; an `intervals.ReplicatedLaw` where it has columns n and d.

    Attributes:
        form: its form.
        estimate: parameters of the fit by name.
        replicates: bootstrap replicates of every parameter, (R,) each.
        errors: log errors that a new run's is drawn from.
        range: column -> (smallest, largest) fitted; "budget" is in FLOPs as `cost` counts them.
        hull: corners (n, d) of the convex hull of the points in (log N, log D); empty where there is none.
        level: nominal coverage.
        clusters: that the bootstrap drew.
        freedom: degrees of freedom that they leave for their own variance.
        identified: whether the fit's certificate found every parameter determined.
        bytes_per_token: of the tokens that D counts.
        conventions: what N, D, budgets, losses and bytes per token mean, in words by name.
        counted: the FLOPs that budgets count; None for 6 N D.
    """

    form: Form
    estimate: Mapping[str, float]
    replicates: Mapping[str, np.ndarray]
    errors: np.ndarray
    range: Mapping[str, tuple[float, float]]
    hull: np.ndarray
    level: float
    clusters: int
    freedom: int
    identified: bool
    bytes_per_token: float
    conventions: Mapping[str, str]
    counted: Counted | None = None

    @property
    def indicative(self) -> bool:
        """Whether there are too few clusters for the level to be taken at its word."""
        return self.clusters < INDICATIVE_BELOW

    @property
    def caveat(self) -> str:
        """What has to be said behind the level of any of its intervals, or ""."""
        return f", indicative ({self.clusters} clusters)" if self.indicative else ""

    @property
    def cost(self) -> Cost:
        """FLOPs per token, as budgets are counted."""
        return SIX_ND if self.counted is None else self.counted.cost

    @property
    def largest_budget(self) -> float:
        """Largest budget among the points fitted.

        Raises:
            UserError: they have no N and D.
        """
        if "budget" not in self.range:
            raise UserError(f"{self.form.name!r} reads {', '.join(self.form.columns)}: spending needs n and d")
        return self.range["budget"][1]

    def interval(self, values_R: Any) -> Interval:
        """Interval of a quantity computed from the replicates (replicates on the first axis)."""
        return intervals.expanded_percentiles(values_R, self.level, self.freedom)

    def predict(self, columns: Columns, *, seed: int = 0) -> Prediction:
        """Losses with intervals at columns (points,).

        Raises:
            UserError: a column that the form reads is missing or not positive.
        """
        columns = self._checked(columns)
        replicates = {name: values[:, None] for name, values in self.replicates.items()}
        loss_RM = np.asarray(self.form.predict(replicates, columns))
        return Prediction(
            loss=np.asarray(self.form.predict(self.estimate, columns)),
            law=self.interval(loss_RM),
            new_run=self.interval(intervals.with_noise(loss_RM, self.errors, seed)),
        )

    def check_given(self, given: Mapping[str, float]) -> None:
        """Refuses what is given of a run where it makes no sense.

        Args:
            given: columns by name; n or d may be missing where they are still to be chosen.

        Raises:
            UserError: a column that the form does not read, or a value that is not positive.
        """
        if unread := [name for name in given if name not in self.form.columns]:
            raise UserError(f"{self.form.name!r} reads {', '.join(self.form.columns)}: not {', '.join(unread)}")
        _positive(given)

    def outside(self, columns: Columns) -> list[str]:
        """How far a point lies outside those fitted, in sentences; none where it lies among them.

        Args:
            columns: of one point.
        """
        columns = self._checked(columns)
        if {"n", "d"} <= columns.keys() and "budget" not in columns:
            columns["budget"] = self.cost.training(columns) * columns["d"]
        names = NAMES | {"budget": f"C = {self.cost.name}"}
        found, furthest = [], 0.0
        for name in (name for name in columns if name in self.range):
            value, (low, high) = float(columns[name].item()), self.range[name]
            beyond = max(math.log10(value / high), math.log10(low / value))
            if beyond > 0.005:  # 1%: sizes and token counts are rounded
                side = "above" if value > high else "below"
                found.append(
                    f"{names.get(name, name)} = {value:.3g} is {beyond:.2g} orders of magnitude {side} the points "
                    f"fitted ({low:.3g} to {high:.3g})"
                )
                furthest = max(furthest, beyond)
        if not found and len(self.hull) and {"n", "d"} <= columns.keys() and not _inside(self.hull, columns):
            found.append(
                f"N = {columns['n'].item():.3g} and D = {columns['d'].item():.3g} are each within the range of the "
                "points fitted, but together outside their convex hull"
            )
        if furthest > INDICATIVE_BEYOND:
            found.append(f"beyond {INDICATIVE_BEYOND:.0f} orders of magnitude a prediction is indicative")
        return found

    def _checked(self, columns: Columns) -> dict[str, np.ndarray]:
        missing = [name for name in self.form.columns if name not in columns]
        if missing:
            raise UserError(f"{self.form.formula} reads {', '.join(self.form.columns)}: {', '.join(missing)} not given")
        _positive(columns)
        return {name: np.atleast_1d(np.asarray(columns[name], float)) for name in columns}


def _positive(columns: Mapping[str, Any]) -> None:
    for name, value in columns.items():
        if not np.all(np.isfinite(value) & (np.asarray(value) > 0)):
            raise UserError(f"{name} = {value}: a positive, finite number, such as 1e9")


def law_of(replicated: Bootstrap) -> dict[str, Any]:
    """The entries of fit.json that `load` needs beyond form, params, level and bootstrap."""
    fitted = replicated.fit
    ranges = {name: [float(v.min()), float(v.max())] for name, v in fitted.table.columns.items()}
    if {"n", "d"} <= fitted.table.columns.keys():
        ranges["budget"] = [float(fitted.table.budgets.min()), float(fitted.table.budgets.max())]
    counted = fitted.table.counted
    return {
        "counted": None if counted is None else dataclasses.asdict(counted),
        "replicates": {name: values.tolist() for name, values in replicated.params.items()},
        "errors": replicated.errors.tolist(),
        "range": ranges,
        "hull": _hull(fitted.table.columns).tolist(),
    }


def load(path: Path | str) -> SavedLaw:
    """Reads the law in a fit.json.

    Raises:
        UserError: no such file, not JSON, not a fit of ours, or of a form that is not known here.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; `windtunnel fit` writes one") from error
    except (ValueError, OSError) as error:  # not JSON, not UTF-8, or a folder
        raise UserError(f"{path} cannot be read as JSON ({error}): write it again with `windtunnel fit`") from error
    missing = [key for key in NEEDED if not isinstance(data, dict) or key not in data]
    if missing:
        raise UserError(f"{path} is no fit.json (without {', '.join(missing)}): write one with `windtunnel fit`")
    if data["form"] not in FORMS:
        raise UserError(f"{path} holds a law of form {data['form']!r}, known here: {', '.join(FORMS)}")
    try:
        return _from_json(data)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({_in_words(error)}): write it again with `windtunnel fit`") from error


def _from_json(data: dict[str, Any]) -> SavedLaw:
    form = FORMS[data["form"]]
    replicates = {name: np.array(data["replicates"][name], float) for name in form.params}
    errors = np.array(data["errors"], float)
    lengths = {values.shape for values in replicates.values()}
    if len(lengths) != 1 or errors.ndim != 1 or not errors.size or not next(iter(lengths))[0]:
        raise ValueError("replicates or errors of unequal length, or none")
    identified = data["certificate"]["identified"]
    if not isinstance(identified, bool):
        raise ValueError(f"certificate.identified is {identified}")
    return SavedLaw(
        form=form,
        estimate={name: float(data["params"][name]) for name in form.params},
        replicates=replicates,
        errors=errors,
        range={name: (float(low), float(high)) for name, (low, high) in data["range"].items()},
        hull=np.array(data.get("hull", []), float).reshape(-1, 2),
        level=float(data["level"]),
        clusters=int(data["bootstrap"]["clusters"]),
        freedom=int(data["bootstrap"]["freedom"]),
        identified=identified,
        bytes_per_token=float(data["bytes_per_token"]),
        conventions={str(role): str(words) for role, words in data["conventions"].items()},
        counted=_counted(data.get("counted")),
    )


def _counted(data: dict[str, Any] | None) -> Counted | None:
    if data is None:
        return None
    c_0, c_1, c_2 = (float(value) for value in data["coefficients"])
    return Counted(str(data["name"]), (c_0, c_1, c_2), float(data["smallest"]), float(data["residual"]))


def _in_words(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _hull(columns: Columns) -> np.ndarray:
    """Corners (n, d) of the points' convex hull in logs, (corners, 2); none for a table on a line or without n, d."""
    if not {"n", "d"} <= columns.keys():
        return np.empty((0, 2))
    logs_N2 = np.log(np.stack([columns["n"], columns["d"]], -1))
    try:
        return np.asarray(np.exp(logs_N2[spatial.ConvexHull(logs_N2).vertices]))
    except spatial.QhullError:  # fewer than three points, or all on one line
        return np.empty((0, 2))


def _inside(hull: np.ndarray, columns: Columns) -> bool:
    """Whether a point lies in the hull, up to 1%."""
    point_2 = np.log([float(columns["n"].item()), float(columns["d"].item())])
    equations = spatial.ConvexHull(np.log(hull)).equations  # unit normals outwards: n . x + offset <= 0 inside
    return bool(np.all(equations[:, :2] @ point_2 + equations[:, 2] <= 0.01))
