"""What moves with width and what stays: coordinate checks, and sweeps of the learning rate at several sizes."""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.numbers import quantity
from analysis.plots.style import STYLE, decimal_ticks, size_colours

PARAMETRIZATIONS = {"mup": "muP", "standard": "standard"}
HIDDEN = ("query", "key", "value", "output", "gate", "up", "down")
# what a panel shows: (quantity, parts taken together, title)
PANELS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("change", ("embedding",), "embedding's output:\nchange from step 0"),
    ("activation", ("attention",), "what attention adds\nto the stream"),
    ("activation", ("mlp",), "what the MLP adds\nto the stream"),
    ("activation", ("logits",), "logits\n"),
    ("effect", HIDDEN, "hidden matrices:\n$(W_t - W_0)\\,x$"),
    ("effect", ("head",), "head:\n$(W_t - W_0)\\,x$"),
)


@matplotlib.rc_context(STYLE)
def coordinate_check(sizes: pd.DataFrame) -> Figure:
    """Sizes against width, a line per step: muP above, standard parametrisation below, a column per quantity.

    Args:
        sizes: as `experiments.coordinate_check` writes them.
    """
    steps = sorted(sizes["step"].unique())
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(steps)))
    figure = Figure(figsize=(14.0, 5.4))
    grid = figure.subplots(2, len(PANELS), sharex=True, sharey="col")
    for row, (name, title) in zip(grid, PARAMETRIZATIONS.items(), strict=True):
        mine = sizes[sizes["parametrization"] == name]
        for axes, (quantity_, parts, heading) in zip(row, PANELS, strict=True):
            chosen = mine[(mine["quantity"] == quantity_) & mine["part"].isin(parts)].dropna(subset=["rms"])
            lines = (chosen.assign(rms=chosen["rms"] ** 2).groupby(["step", "width"])["rms"].mean() ** 0.5).unstack()
            for step, line in lines.iterrows():
                axes.plot(line.index, line, "o-", ms=3, lw=1.1, color=shades[steps.index(step)])
            slope = np.polyfit(np.log(lines.columns), np.log(lines.iloc[-1]), 1)[0]
            axes.set_title(f"{heading}\n" * (name == "mup") + f"slope at the end: {slope:z.2f}", fontsize=9)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(FixedLocator([float(width) for width in lines.columns]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda width, _: f"{width:.0f}"))
            axes.tick_params(labelsize=8)
        row[0].set_ylabel(f"{title}\n(root mean square)")
    for axes in grid.flat:
        decimal_ticks(axes.yaxis, *axes.get_ylim())
    figure.supxlabel("width", size=10)
    figure.subplots_adjust(left=0.06, right=0.92, bottom=0.11, wspace=0.38, hspace=0.2)
    handles = [
        Line2D([], [], color=shade, marker="o", ms=3, label=f"step {step}")
        for step, shade in zip(steps, shades, strict=True)
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.925, 0.9), fontsize=8)
    return figure


@matplotlib.rc_context(STYLE)
def rate_sweep(sweep: pd.DataFrame, best: pd.DataFrame, *, loss: str, unit: str = "nats per token") -> Figure:
    """Loss against learning rate, a line per size through the seeds' mean, muP left and standard parametrisation right.

    Dots are runs. The best rate of each size is marked below its line, with its interval.

    Args:
        sweep: a row per run and parametrisation: parametrization, N, seed, learning_rate and the loss.
        best: as `analysis.best_rate.best_rates` gives them, by parametrization and N.
        loss: column of `sweep`.
        unit: of the loss.
    """
    colours = size_colours(sweep["N"].tolist())
    figure = Figure(figsize=(10.4, 4.6))
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    rates = sorted(sweep["learning_rate"].unique())
    for axes, (name, title) in zip(panels, PARAMETRIZATIONS.items(), strict=True):
        mine, optima = sweep[sweep["parametrization"] == name], best[best["parametrization"] == name].set_index("N")
        for size, colour in colours.items():
            runs = mine[mine["N"] == size]
            means = runs.groupby("learning_rate")[loss].mean()
            axes.plot(means.index, means, "-", color=colour)
            axes.plot(runs["learning_rate"], runs[loss], "o", ms=3, color=colour, alpha=0.6)
            _mark(axes, optima.loc[[size]].iloc[0], float(means.min()), colour)
        axes.set_title(title)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("peak learning rate at the base width")
        axes.xaxis.set_major_locator(FixedLocator(rates))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:.2g}".removeprefix("0")))
    decimal_ticks(panels[0].yaxis, *panels[0].get_ylim())
    panels[0].set_ylabel(f"loss at the end ({unit})")
    figure.subplots_adjust(left=0.08, right=0.82, bottom=0.14, wspace=0.06)
    handles = [Line2D([], [], color=colour, label=f"N = {quantity(size)}") for size, colour in colours.items()]
    mark: dict[str, Any] = {"color": "#666666", "marker": "v", "ms": 7, "mec": "black", "lw": 2}
    handles.append(Line2D([], [], label="best rate,\n90% interval", **mark))
    panels[1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0)
    return figure


def _mark(axes: Axes, optimum: pd.Series, lowest: float, colour: Any) -> None:
    """The best rate and its interval, a little below the line's lowest mean."""
    height = 0.975 * lowest
    if np.isfinite(optimum["low"]) and np.isfinite(optimum["high"]):
        axes.plot([optimum["low"], optimum["high"]], [height, height], "-", lw=2, color=colour)
    if np.isfinite(optimum["best_rate"]):
        axes.plot(optimum["best_rate"], height, "v", ms=7, color=colour, mec="black", mew=0.8, zorder=3)
