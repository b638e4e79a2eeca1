"""Studies of long rows and sparse attention: loss by position, retrieval by depth and length, loss by what is visible.

Tables: `scaling.records.measurements` and `points`, whose labels say what a run was.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.plots.style import HELDOUT, OURS, STYLE, decimal_ticks, figure_and_axes, legend_beside

LOSS = "nats_per_token/code"
_GREY, _GREEN, _PINK, _AMBER = "#666666", "#009E73", "#CC79A7", "#E69F00"
# what a branch's label ends in: how it is drawn, and its words
BRANCHES: dict[str, tuple[dict[str, Any], str]] = {
    "dense": ({"color": "black"}, "dense"),
    "sparse": ({"color": OURS}, "sparse"),
    "sparse-untrained": ({"color": OURS, "ls": "--"}, "the dense one, read sparsely"),
    "untrained": ({"color": _GREY, "ls": ":"}, "trunk, untrained at this length"),
    "ntk-untrained": ({"color": _AMBER, "ls": ":"}, "the same, NTK-aware"),
}
TESTS = {"key_value": "key-value retrieval", "needle": "needles in code"}


def _branch(table: pd.DataFrame) -> pd.Series:
    return table["label"].str.rsplit("/", n=1).str[-1]


@matplotlib.rc_context(STYLE)
def long_context(positions: pd.DataFrame, retrieval: pd.DataFrame) -> Figure:
    """Loss by position for every domain (first row), and accuracy by depth for every test and length below.

    Args:
        positions: of the measure "loss_by_position".
        retrieval: of the measure "retrieval".
    """
    domains, lengths = list(dict.fromkeys(positions["domain"])), sorted(retrieval["length"].unique())
    columns = max(len(lengths), len(domains))
    figure = Figure(figsize=(3.6 * columns + 2.4, 3.1 * (1 + len(TESTS))), layout="constrained")
    grid = figure.subplots(1 + len(TESTS), columns, squeeze=False)
    for axes, domain in zip(grid[0], domains, strict=False):
        _by_position(axes, positions[positions["domain"] == domain])
        axes.set_title(f"loss on {domain.replace('_', ' ')}")
    grid[0, 0].set_ylabel("held-out loss (nats per token)")
    for axes in grid[0, len(domains) :]:
        axes.set_axis_off()
    for row, (test, words) in zip(grid[1:], TESTS.items(), strict=True):
        for axes, length in zip(row, lengths, strict=False):
            _by_depth(axes, retrieval[(retrieval["test"] == test) & (retrieval["length"] == length)])
            axes.set_title(f"{words}, {length} tokens")
        for axes in row[len(lengths) :]:
            axes.set_axis_off()
        row[0].set_ylabel("answers found")
    handles = [Line2D([], [], label=words, **style) for style, words in _shown(positions)]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _shown(table: pd.DataFrame) -> Sequence[tuple[dict[str, Any], str]]:
    there = set(_branch(table))
    return [how for name, how in BRANCHES.items() if name in there]


def _by_position(axes: Axes, table: pd.DataFrame) -> None:
    for name, rows in table.groupby(_branch(table)):
        middle = (rows["first"] + rows["last"]) / 2
        axes.errorbar(middle, rows["nats_per_token"], rows["standard_error"], elinewidth=0.8, **BRANCHES[str(name)][0])
    axes.set_xscale("log", base=2)
    decimal_ticks(axes.xaxis, table["first"].min(), table["last"].max())
    axes.set_xlabel("earlier tokens of the document in the row")


def _by_depth(axes: Axes, table: pd.DataFrame) -> None:
    for name, rows in table.groupby(_branch(table)):
        axes.plot(rows["depth"], rows["accuracy"], marker=".", ms=5, **BRANCHES[str(name)][0])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("depth (0: the row's beginning)")


def visibility(points: pd.DataFrame) -> pd.DataFrame:
    """Points with `kind` ("dense", "selected", "window") and `visible` tokens, which their labels tell."""
    parts = points["label"].str.extract(r"^(?P<kind>dense|selected|window)-(?P<visible>\d+)$")
    return points.assign(kind=parts["kind"], visible=parts["visible"].astype(int))


@matplotlib.rc_context(STYLE)
def attention_law(points: pd.DataFrame) -> Figure:
    """Loss above that of dense attention against visible tokens, for selected blocks and for a window."""
    table = visibility(points)
    dense = table[table["kind"] == "dense"]
    figure, axes = figure_and_axes(6.2, 4.2)
    styles = {"selected": (OURS, "o", "selected blocks"), "window": (HELDOUT, "s", "window and sink")}
    for kind, (colour, marker, _) in styles.items():
        rows = table[table["kind"] == kind].sort_values("visible")
        axes.plot(rows["visible"], rows[LOSS] - dense[LOSS].mean(), color=colour, marker=marker, ms=5)
    axes.axhline(0.0, color="black", lw=1.0, ls="--")
    axes.set_xscale("log", base=2)
    decimal_ticks(axes.xaxis, table["visible"].min(), table["visible"].max())
    axes.set_xlabel("visible tokens, at most")
    axes.set_ylabel("held-out loss less that of dense attention\n(nats per token)")
    handles = [Line2D([], [], color=c, marker=m, ms=5, label=words) for c, m, words in styles.values()]
    handles.append(Line2D([], [], color="black", lw=1.0, ls="--", label=f"dense, {dense['visible'].max()} tokens"))
    legend_beside(axes, handles)
    return figure
