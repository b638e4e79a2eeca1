"""What changes in weights, gradients and curvature as the learning rate decays (after MiniCPM, figures 7 and 8)."""

from collections.abc import Iterable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.plots.style import HELDOUT, OURS, STYLE

_GREY = "#999999"
# quantity, label, whether on a logarithmic axis (of its absolute value)
ROWS = (
    ("norm", "gradient norm", True),
    ("cosine", "cosine of\nsuccessive gradients", False),
    ("d1", "|slope| along the step,\n|D1|", True),
    ("d2", "second derivative along\nthe step, |D2|", True),
    ("curvature", "curvature K", True),
)


@matplotlib.rc_context(STYLE)
def decay_dynamics(exponential: pd.DataFrame, one_minus_sqrt: pd.DataFrame) -> Figure:
    """A column for each decay, a row for each quantity; the first half is the stable phase.

    Args:
        exponential: steps of a stable phase and a decay, as `experiments.decay_dynamics` records them.
        one_minus_sqrt: the same with another decay.
    """
    tables = {"exponential to 10%": exponential, "1-sqrt to 0": one_minus_sqrt}
    figure = Figure(figsize=(10.6, 12.0), layout="constrained")
    grid = figure.subplots(len(ROWS) + 1, len(tables), sharex=True, sharey="row")
    for column, (name, table) in zip(grid.T, tables.items(), strict=True):
        start = table[table["learning_rate"] < table["learning_rate"].iloc[0]]["step"].min() - 1
        for axes in column:
            axes.axvline(start, color="black", lw=0.8, ls=":")
        _changes(column[0], table)
        for axes, (quantity, _, logarithmic) in zip(column[1:], ROWS, strict=True):
            _steps(axes, table["step"], table[f"batch_{quantity}"], _GREY, logarithmic)
            _steps(axes, table["step"], table[f"fixed_{quantity}"], OURS, logarithmic)
        column[0].set_title(f"decay: {name}")
        column[-1].set_xlabel("optimiser step")
    for row, logarithmic in zip(grid, (True, *(r[2] for r in ROWS)), strict=True):
        if logarithmic:
            _fit_height(row)
    for axes, label in zip(
        grid[:, 0], ("largest change of a weight,\nand the rate", *(r[1] for r in ROWS)), strict=True
    ):
        axes.set_ylabel(label)
    handles = [
        Line2D([], [], color=HELDOUT, label="hidden matrices"),
        Line2D([], [], color="#CC79A7", label="embedding"),
        Line2D([], [], color="black", lw=1.0, ls="--", label="learning rate"),
        Line2D([], [], color=_GREY, label="on training batches"),
        Line2D([], [], color=OURS, label="on one fixed batch"),
        Line2D([], [], color="black", lw=0.8, ls=":", label="decay begins"),
        Line2D([], [], ls="", label="dots: steps\nlines: medians of 31"),
    ]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _changes(axes: Axes, table: pd.DataFrame) -> None:
    for column, colour in (("change_hidden", HELDOUT), ("change_embedding", "#CC79A7")):
        _steps(axes, table["step"], table[column], colour, True)
    axes.plot(table["step"], table["learning_rate"], color="black", lw=1.0, ls="--")


def _steps(axes: Axes, steps: pd.Series, values: pd.Series, colour: str, logarithmic: bool) -> None:
    """A dot for every step and a running median; of absolute values on a logarithmic axis."""
    shown = values.abs() if logarithmic else values
    axes.plot(steps, shown, ".", ms=1.6, color=colour, alpha=0.35, mew=0)
    axes.plot(steps, shown.rolling(31, center=True, min_periods=8).median(), color=colour)
    if logarithmic:
        axes.set_yscale("log")
    else:
        axes.axhline(0.0, color="black", lw=0.6)


def _fit_height(row: Iterable[Axes]) -> None:
    """One range for the panels of a row, with everything in it but the lowest dots: slopes pass through zero."""
    drawn = [np.asarray(line.get_ydata(), float) for axes in row for line in axes.lines]
    heights = np.concatenate([ys for ys in drawn if len(ys) > 2])  # a rule that marks a step has two ends
    heights = heights[heights > 0]
    for axes in row:
        axes.set_ylim(np.percentile(heights, 0.5), 1.2 * heights.max())
