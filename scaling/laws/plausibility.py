"""Whether a table can mean what it says: units, repeated rows, losses that are none. Asks or remarks, never mends."""

import itertools
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from scaling.errors import UserError
from scaling.laws import reading
from scaling.laws.guesses import is_training_loss

GAP = 5.5  # orders of magnitude between neighbouring values of one column: wider than any design
GAP_BELOW = 2.5  # the same where all values below it are too small for any model
APART = 2.0  # orders of magnitude by which one row's C / (6 N D) may differ from the others'
LEAST: Mapping[str, float] = {"n": 1e3, "d": 1e4, "flops": 1e9}  # of anything that is called a language model
RATIOS = (1e-3, 1e6)  # tokens per parameter of anything that was ever trained
COUNTS = 1.0  # orders of magnitude within which C counted by term, with attention and embeddings, is 6 N D
LARGEST_NATS = 20.0  # the logarithm of any vocabulary is smaller

UNITS: Mapping[str, Mapping[float, str]] = {
    "n": {1e3: "thousands", 1e6: "millions", 1e9: "billions"},
    "d": {1e3: "thousands", 1e6: "millions", 1e9: "billions", 1e12: "trillions"},
    "flops": {8.64e19: "PF-days", 1e9: "GFLOPs", 1e12: "TFLOPs", 1e15: "PFLOPs", 1e18: "EFLOPs", 1e21: "ZFLOPs"},
}


def check_units(values: Mapping[str, np.ndarray], frame: pd.DataFrame, stated: Collection[str]) -> None:
    """Asks about columns whose values cannot be plain counts.

    Args:
        values: n, d and flops by name, (rows,), as far as the file has them (not derived ones).
        frame: whose index names the rows.
        stated: names whose unit the person gave: they are not asked about.

    Raises:
        UserError: rows of one column in different units, or a column in thousands, ..., PF-days; with the factor
            that would explain it and the way to say so.
    """
    for name in values:
        if name in UNITS and name not in stated:
            _check_gap(name, values[name], frame)
    known = {name: values[name] for name in ("n", "d", "flops") if name in values}
    asked = [name for name in known if name not in stated]
    if not asked:
        return
    if len(known) == 3:
        _check_rows_agree(known, frame)
    typical = {name: float(np.median(column)) for name, column in known.items()}
    if _plausible(typical) and _agrees(typical):
        return
    factors = _explanation(typical, stated)
    if factors is None and _plausible(typical):
        return  # C counts something else than 6 N D does: remarked on, not refused
    ranges = ", ".join(f"{name} = {_range(known[name])}" for name in known)
    as_written = " ".join(f"--unit {name}=1" for name in asked)
    if factors is None:
        raise UserError(
            f"{ranges}: cannot all be in ones; state the units, such as --unit {asked[0]}=1e9, or {as_written} if they "
            "are"
        )
    words = " and ".join(f"{name} is in {UNITS[name][factor]}" for name, factor in factors.items())
    options = " ".join(f"--unit {name}={factor:g}" for name, factor in factors.items())
    raise UserError(f"{ranges}: if {words}, pass {options}; if all is in ones as written, {as_written}")


def repeated(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which rows repeat an earlier one in every column, the loss to its last digit included, (rows,) bool."""
    return np.asarray(pd.DataFrame(dict(values)).duplicated())


def remark_on_flops(n: np.ndarray, d: np.ndarray, flops: np.ndarray) -> str:
    """How a file's FLOPs compare with 6 N D, in words."""
    ratio = flops / (6 * n * d)
    low, high = ratio.min(), ratio.max()
    return f"{low:.3g} times 6 N D" if high < 1.005 * low else f"{low:.3g} to {high:.3g} times 6 N D"


def remark_on_loss(name: str, loss: np.ndarray, columns: Mapping[str, np.ndarray]) -> str:
    """What is odd about losses that are meant to be in nats per token, in words, or ""."""
    with_d, with_n = _rises(loss, columns, "d", "n"), _rises(loss, columns, "n", "d")
    lower, span = name.lower(), _range(loss)
    if loss.max() > LARGEST_NATS or "perplexity" in lower or "ppl" in lower:
        return f"caution: {span} looks like a perplexity: give the law its logarithm"
    if "acc" in lower or (loss.max() <= 1 and (with_d or with_n)):
        return f"caution: {span} looks like an accuracy, not a loss"
    if with_d:  # with N it may, where data repeat
        return "caution: it rises with D, which no law does"
    if is_training_loss(name):
        return "a training loss: noisier than a held-out one, and too low where data repeat"
    if "bits" in lower or "bpb" in lower or "bpc" in lower:
        return "by its name in bits, not nats: so are the law's losses"
    return ""


def _check_gap(name: str, column: np.ndarray, frame: pd.DataFrame) -> None:
    """Asks where a column falls into two clumps further apart than any design, or well apart and one of no model's."""
    order = np.sort(np.log10(column))
    gaps = np.diff(order)
    if not len(gaps):
        return
    far = 10 ** order[gaps.argmax()] >= LEAST[name] or np.median(column) < LEAST[name]
    if gaps.max() < (GAP if far else GAP_BELOW):
        return
    low = np.log10(column) <= order[gaps.argmax()]
    few, many = (low, ~low) if low.sum() <= (~low).sum() else (~low, low)
    raise UserError(
        f"{reading.name_rows(frame, np.flatnonzero(few))}: {name} = {_range(column[few])}, in the others "
        f"{_range(column[many])}: mixed units? Write them alike (190M, 0.19B and 190000000 are the same), or say with "
        f"--unit {name}=1 that every value is meant as written"
    )


def _check_rows_agree(known: Mapping[str, np.ndarray], frame: pd.DataFrame) -> None:
    """Asks where single rows' FLOPs are off 6 N D by another factor than the other rows'."""
    ratio = np.log10(known["flops"] / (6 * known["n"] * known["d"]))
    odd = np.abs(ratio - np.median(ratio)) > APART
    if odd.any():
        first = np.flatnonzero(odd)[0]
        values = ", ".join(f"{name} = {column[first]:.4g}" for name, column in known.items())
        raise UserError(
            f"{reading.name_rows(frame, np.flatnonzero(odd))}: C is {10 ** ratio[first]:.3g} times 6 N D ({values}), "
            f"in the others {10 ** np.median(ratio):.3g} times: mixed units? Write them alike, or say with --unit n=1 "
            "--unit d=1 --unit flops=1 that every value is meant as written"
        )


def _plausible(typical: Mapping[str, float]) -> bool:
    """Whether typical values can be plain counts of parameters, tokens and FLOPs."""
    if any(value < LEAST[name] for name, value in typical.items()):
        return False
    ratio = _ratio(typical)
    return ratio is None or RATIOS[0] <= ratio <= RATIOS[1]


def _agrees(typical: Mapping[str, float]) -> bool:
    """Whether C can be a count of FLOPs for N and D."""
    return len(typical) < 3 or abs(np.log10(typical["flops"] / (6 * typical["n"] * typical["d"]))) < COUNTS


def _ratio(typical: Mapping[str, float]) -> float | None:
    """Tokens per parameter, from any two of N, D and C."""
    if len(typical) < 2:
        return None
    d = typical["d"] if "d" in typical else typical["flops"] / (6 * typical["n"])
    n = typical["n"] if "n" in typical else typical["flops"] / (6 * typical["d"])
    return d / n


def _explanation(typical: Mapping[str, float], stated: Collection[str]) -> dict[str, float] | None:
    """The units that make a table plausible: of few columns, then C nearest 6 N D, D/N nearest 20, N nearest 1e9.

    Where only C is at odds with values that could well be plain counts, a single column has to explain it.
    """
    most = 1 if _plausible(typical) else 2
    best: tuple[tuple[float, ...], dict[str, float]] | None = None
    choices = [(1.0,) if name in stated else (1.0, *UNITS[name]) for name in typical]
    for chosen in itertools.product(*choices):
        factors = dict(zip(typical, chosen, strict=True))
        scaled = {name: value * factors[name] for name, value in typical.items()}
        changed = {name: factor for name, factor in factors.items() if factor != 1}
        if not 0 < len(changed) <= most or not _plausible(scaled) or not _agrees(scaled):
            continue
        ratio = _ratio(scaled)
        off = 0.0 if len(scaled) < 3 else abs(np.log10(scaled["flops"] / (6 * scaled["n"] * scaled["d"])))
        from_20 = 0.0 if ratio is None else abs(np.log10(ratio / 20))
        from_1b = abs(np.log10(scaled.get("n", 1e9) / 1e9))
        score = (len(changed), round(off, 1), round(from_20, 1), from_1b)
        if best is None or score < best[0]:
            best = score, changed
    return best and best[1]


def _rises(loss: np.ndarray, columns: Mapping[str, np.ndarray], along: str, fixed: str) -> bool:
    """Whether the loss rises along a column, in most neighbouring pairs of points that agree in the other."""
    if not {along, fixed} <= set(columns):
        return False
    group = np.round(np.log(columns[fixed]), 2)
    order = np.lexsort((columns[along], group))
    pairs = (np.diff(group[order]) == 0) & (np.diff(np.log(columns[along][order])) > 0.05)
    steps = np.diff(loss[order])[pairs]
    return len(steps) >= 3 and bool((steps > 0).mean() > 0.6)


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
