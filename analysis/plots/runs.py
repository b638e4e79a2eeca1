"""How runs went: loss along training."""

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.numbers import quantity
from analysis.plots.style import STYLE, decimal_ticks, figure_and_axes, legend_beside, size_colours


@matplotlib.rc_context(STYLE)
def loss_curves(log: pd.DataFrame, *, unit: str = "nats per token") -> Figure:
    """Loss against tokens: trunks thin, their decay branches thick, whole runs dashed; points end in a dot.

    Args:
        log: a row per logged step: run, kind ("trunk", "whole" or a branch's), N, tokens, loss.
        unit: of the loss.
    """
    colours = size_colours(log["N"].tolist())
    figure, axes = figure_and_axes(7.6, 4.6)
    for _, steps in log.groupby("run", sort=False):
        steps = steps.sort_values("tokens")
        colour, kind = colours[steps["N"].iloc[0]], steps["kind"].iloc[0]
        axes.plot(steps["tokens"], steps["loss"], color=colour, **_curve_style(kind))
        if kind != "trunk":
            axes.plot(steps["tokens"].iloc[-1], steps["loss"].iloc[-1], "o", ms=4.5, color=colour)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # The first steps fall from log(vocabulary) and would squeeze the part that matters.
    settled = log[log["tokens"] > 0.05 * log.groupby("run")["tokens"].transform("max")]["loss"]
    top = float(settled.quantile(0.995)) * 1.03
    axes.set_ylim(float(settled.min()) / 1.03, top)
    axes.set_xlim(0.8 * log["tokens"][log["loss"] < top].min(), 1.2 * log["tokens"].max())
    decimal_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("tokens trained on, D")
    axes.set_ylabel(f"training loss, smoothed ({unit})")
    axes.set_title("Training loss of every run")
    handles = [Line2D([], [], color=colour, label=f"N = {quantity(size)}") for size, colour in colours.items()]
    names = {"trunk": "trunk (constant rate)", "whole": "whole run (own schedule)"}
    for kind in log["kind"].unique():
        dot: Any = {} if kind == "trunk" else {"marker": "o", "ms": 4.5}
        name = names.get(kind, f"{kind} branch")
        handles.append(Line2D([], [], color="#666666", label=name, **_curve_style(kind), **dot))
    legend_beside(axes, handles)
    return figure


def _curve_style(kind: str) -> dict[str, Any]:
    styles: dict[str, dict[str, Any]] = {"trunk": {"lw": 0.9, "alpha": 0.55}, "whole": {"lw": 1.4, "ls": "--"}}
    return styles.get(kind, {"lw": 1.8})
