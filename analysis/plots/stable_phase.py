"""Studies of the stable phase: what lies below it, how long it may last, and what a long one is worth."""

import itertools
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.crossing import matches
from analysis.numbers import quantity
from analysis.plots.style import HELDOUT, OURS, STYLE, decimal_ticks, size_colours
from analysis.plots.wsd import LOSS, horizons

_GREY = "#666666"


@matplotlib.rc_context(STYLE)
def when_to_decay(points: pd.DataFrame, curves: pd.DataFrame, cosines: pd.DataFrame) -> Figure:
    """Above, training loss of trunk and branches of one seed; below, held-out loss of decayed and stable ends.

    Args:
        points: decays and stable ends (study `when_to_decay`).
        curves: training losses of its runs.
        cosines: of `cosine_horizon`; those that end where they stop are drawn where sizes and seeds agree.
    """
    sizes = sorted(points["N"].unique())
    matched = horizons(cosines)
    matched = matched[(matched["period"] == matched["stop"]) & (matched["shape"] == "cosine")]
    figure = Figure(figsize=(3.3 * len(sizes) + 2.4, 6.2), layout="constrained")
    grid = figure.subplots(2, len(sizes), sharex="col", squeeze=False)
    seed = points["seed"].min()
    for (above, below), size in zip(grid.T, sizes, strict=True):
        mine = curves[(curves["N"] == size) & curves["run"].str.contains(f"seed{seed}")]
        for _, steps in mine[mine["kind"] != "schedule"].groupby("run", sort=False):
            trunk = steps["kind"].iloc[0] == "trunk"
            above.plot(steps["tokens"] / size, steps["loss"], color=_GREY if trunk else OURS, lw=1.0 if trunk else 1.8)
        settled = mine[mine["tokens"] > 12 * size]["loss"]
        above.set_ylim(settled.min() - 0.03, settled.max() + 0.03)
        _ends(below, points[points["N"] == size], matched[matched["N"] == size], size)
        above.set_title(f"N = {quantity(size)}")
        below.set_xlabel("tokens / N")
    grid[0][0].set_ylabel(f"training loss, smoothed, seed {seed}\n(nats per token)")
    grid[1][0].set_ylabel("held-out loss\n(nats per token)")
    handles = [
        Line2D([], [], color=_GREY, label="constant rate"),
        Line2D([], [], color=OURS, lw=1.8, label="decay over the last 10%"),
        Line2D([], [], color=_GREY, marker="o", mfc="white", ls="--", ms=5, label="constant rate, read off"),
        Line2D([], [], color=OURS, marker="o", ms=5, label="end of a decay"),
        Line2D([], [], color=HELDOUT, marker="x", ls="", ms=6, label="cosine to that length"),
        Line2D([], [], color=_GREY, marker=".", ls="", ms=5, label="a seed (lines: means)"),
    ]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _ends(axes: Axes, points: pd.DataFrame, cosines: pd.DataFrame, size: float) -> None:
    """Held-out losses at the ends of branches of one size: means over seeds, and a dot for every seed."""
    points = points.assign(x=(points["D_total"] / size).round(0))
    styles = {"schedule": (_GREY, "white", "--"), "decay": (OURS, OURS, "-")}
    for kind, (colour, face, line) in styles.items():
        rows = points[points["kind"] == kind]
        mean = rows.groupby("x")[LOSS].mean()
        axes.plot(mean.index, mean, marker="o", ms=5, color=colour, mfc=face, ls=line)
        axes.plot(rows["x"], rows[LOSS], ".", ms=5, color=colour, alpha=0.5, mew=0)
    there = cosines[cosines["stop"].isin(points["x"])].groupby("stop")[LOSS].mean()
    axes.plot(there.index, there, "x", color=HELDOUT, ms=6)


@matplotlib.rc_context(STYLE)
def small_model_more_data(points: pd.DataFrame) -> Figure:
    """Loss against training compute; where smaller models come down to a larger one's loss at 40 N."""
    colours = size_colours(points["N"].tolist())
    figure = Figure(figsize=(9.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for size, colour in colours.items():
        rows = points[points["N"] == size]
        mean = rows.groupby("D_total")[["C_6ND", LOSS]].mean()
        axes.plot(mean["C_6ND"], mean[LOSS], marker="o", ms=4.5, color=colour)
        axes.plot(rows["C_6ND"], rows[LOSS], ".", ms=5, color=colour, alpha=0.45, mew=0)
    handles = [
        Line2D([], [], color=colour, marker="o", ms=4.5, label=f"N = {quantity(n)}") for n, colour in colours.items()
    ]
    found = matches(points, LOSS)
    for small, large in itertools.combinations(colours, 2):
        rows = found[(found["small"] == small) & (found["large"] == large)]
        if rows.empty:
            continue
        target = rows["target"].mean()
        axes.axhline(target, color=colours[large], lw=0.9, ls="--")
        if rows["tokens"].notna().all():
            x = float(6 * small * rows["tokens"].mean())
            axes.plot(x, target, "*", ms=13, color=colours[small], mec="black", mew=0.6, zorder=5)
        handles.append(Line2D([], [], ls="", label=_match_in_words(small, large, rows)))
    axes.set_xscale("log")
    axes.set_yscale("log")
    decimal_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("training compute, 6 N D (FLOPs)")
    axes.set_ylabel("held-out loss (nats per token)")
    axes.set_title("Branches of 20 N, 40 N, 80 N, ... tokens; dashed: a larger model at 40 N")
    figure.legend(handles=handles, loc="outside right upper")
    return figure


def _match_in_words(small: float, large: float, rows: pd.DataFrame) -> str:
    head = f"{quantity(small)} for {quantity(large)} at 40 N:"
    if rows["tokens"].isna().any():
        gap = (rows["best"] - rows["target"]).mean()
        return f"{head}\nnot reached by {rows['longest'].min():.0f} N, {gap:.3f} nats short"
    ratios = " and ".join(f"{value:.2f}" for value in rows["compute"])
    ns = " and ".join(f"{value:.0f} N" for value in rows["D/N"])
    inference = f"{rows['inference'].iloc[0]:.2f} times that of inference"
    return f"{head}\nat {ns}, {ratios} times\nthe training compute,\n{inference}"


@matplotlib.rc_context(STYLE)
def constant_rate_stability(points: pd.DataFrame, curves: pd.DataFrame, steadiness: pd.DataFrame) -> Figure:
    """A column for each size: training loss, gradient norm, spikes, and the ends of decays, a colour for each rate.

    Args:
        points: decayed ends.
        curves: training losses, of which the trunks' are drawn.
        steadiness: of every trunk, in tenths of its length (`analysis.steadiness.of_trunks`).
    """
    sizes, rates = sorted(points["N"].unique()), sorted(steadiness["peak"].unique())
    shades = matplotlib.colormaps["plasma"](np.linspace(0.0, 0.85, len(rates)))
    figure = Figure(figsize=(4.0 * len(sizes) + 2.2, 10.0), layout="constrained")
    grid = figure.subplots(4, len(sizes), sharex="col", squeeze=False)
    for column, size in zip(grid.T, sizes, strict=True):
        for rate, colour in zip(rates, shades, strict=True):
            tenths = steadiness[(steadiness["N"] == size) & (steadiness["peak"] == rate)]
            if tenths.empty:  # not every size is trained at every rate
                continue
            label = tenths["label"].iloc[0]
            trunk = curves[curves["run"] == label]
            column[0].plot(trunk["tokens"] / size, trunk["loss"], color=colour, lw=1.1)
            x = tenths["tokens"] / size
            column[1].plot(x, tenths["grad_norm"], color=colour, marker="o", ms=3)
            column[2].plot(x, 1000 * tenths["spikes"] / tenths["steps"], color=colour, marker="o", ms=3)
            ends = points[points["label"].str.startswith(f"{label}/")].sort_values("D_total")
            column[3].plot(ends["D_total"] / size, ends[LOSS], color=colour, marker="o", ms=4)
        _log_axis(column[0], np.percentile(curves[curves["N"] == size]["loss"], [0.5, 97]))
        column[1].set_yscale("log")
        column[2].yaxis.set_major_locator(MaxNLocator(6))
        column[0].set_title(f"N = {quantity(size)}")
        column[3].set_xlabel("tokens / N")
    titles = (
        "training loss at constant rate,\nsmoothed (nats per token)",
        "median gradient norm\nof a tenth of the run",
        "loss spikes per 1000 steps\nof a tenth of the run",
        "held-out loss after a 10% decay\n(nats per token)",
    )
    for row, title in zip(grid, titles, strict=True):
        row[0].set_ylabel(title)
    handles = [Line2D([], [], color=c, marker="o", ms=3, label=f"{r:g}") for r, c in zip(rates, shades, strict=True)]
    figure.legend(handles=handles, loc="outside right upper", title="peak rate")
    return figure


def _log_axis(axes: Axes, limits: Sequence[float]) -> None:
    low, high = limits[0] / 1.02, limits[1] * 1.02
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    decimal_ticks(axes.yaxis, low, high)
