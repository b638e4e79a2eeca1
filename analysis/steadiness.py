"""How steadily a run trains: spikes of its loss, and its gradient norm, from part to part of its length."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.errors import UserError
from scaling.records import RunStore, plan

WINDOW = 64  # steps before a step that its loss is compared with
SPIKE = 6.0  # robust standard deviations above their median
COLUMNS = ["tokens", "steps", "loss", "spikes", "largest_excess", "grad_norm", "largest_grad_norm"]
_SIGMA = 1.4826  # of a normal distribution, in median absolute deviations


def excess(loss: npt.ArrayLike) -> np.ndarray:
    """How far each step's loss lies above the median of the `WINDOW` steps before it, in robust standard deviations.

    The first `WINDOW` steps have nothing to be compared with and get NaN.
    """
    values = np.asarray(loss, float)
    if len(values) <= WINDOW:
        return np.full(len(values), np.nan)
    before = np.lib.stride_tricks.sliding_window_view(values, WINDOW)[:-1]
    middle = np.median(before, axis=1)
    spread = _SIGMA * np.median(np.abs(before - middle[:, None]), axis=1)
    return np.concatenate([np.full(WINDOW, np.nan), (values[WINDOW:] - middle) / spread])


def spikes(loss: npt.ArrayLike) -> np.ndarray:
    """Steps at which a spike begins: an excess above `SPIKE` where the step before had none."""
    above = np.concatenate([[False], excess(loss) > SPIKE])
    return np.asarray(np.diff(above.astype(int)) > 0)


def by_parts(log: pd.DataFrame, parts: int = 10) -> pd.DataFrame:
    """A row for each of `parts` equal parts of a step log, or for each step of a shorter one; of an empty one, nulls.

    Columns: tokens at the part's end, steps, median loss, spikes, largest excess, median and largest gradient norm.
    """
    if log.empty:
        return pd.DataFrame(np.nan, [0], COLUMNS)
    table = log.assign(spike=spikes(log["loss"]), excess=excess(log["loss"]))
    rows = []
    for part in np.array_split(np.arange(len(table)), min(parts, len(table))):
        steps = table.iloc[part]
        rows.append(
            {
                "tokens": int(steps["tokens"].iloc[-1]),
                "steps": len(steps),
                "loss": steps["loss"].median(),
                "spikes": int(steps["spike"].sum()),
                "largest_excess": steps["excess"].max(),
                "grad_norm": steps["grad_norm"].median(),
                "largest_grad_norm": steps["grad_norm"].max(),
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def of_trunks(store: RunStore, study: str) -> pd.DataFrame:
    """`by_parts` of every trunk of a study as far as it is trained: with label, N, state and the peak rate.

    Raises:
        UserError: the study has no trunk that was begun.
    """
    tables = []
    for entry in plan(store, study)["entries"]:
        result, config = store.result(entry["run"]), store.config(entry["run"])
        if entry["kind"] != "trunk" or result is None or config is None:
            continue
        log = store.log(entry["run"])
        table = by_parts(log if log.empty else log[log["step"] <= entry["stop"]])
        peak = config["config"]["schedule"]["peak"]
        first = {"label": entry["label"], "N": entry["N"], "peak": peak, "state": result.state}
        tables.append(table.assign(**first)[[*first, *table.columns]])
    if not tables:
        raise UserError(f"study {study!r} has no trunk whose steadiness there is to tell: leave --steadiness out")
    found = pd.concat(tables, ignore_index=True)
    return found.astype(dict.fromkeys(("tokens", "steps", "spikes"), "Int64"))  # integers, some of them null
