"""A law and what it says: points with the law through them, and the compute-optimal ratio."""

from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.numbers import quantity
from analysis.plots.style import (
    CHINCHILLA,
    HELDOUT,
    HOFFMANN,
    MINICPM,
    OURS,
    SHADE,
    STYLE,
    decimal_ticks,
    figure_and_axes,
    legend_beside,
    size_colours,
)
from scaling.laws import published
from scaling.laws.budget import Market
from scaling.laws.holdout import HELDOUT_NAMES
from scaling.laws.report import Report


@matplotlib.rc_context(STYLE)
def points_and_law(report: Report, *, unit: str = "nats per token") -> Figure:
    """Loss against tokens: points by size, the law through each size with its interval band.

    The size held out of the check is drawn as open diamonds with the prediction made without it: the law dashed,
    bars for the interval that a new run was expected in.
    """
    fit, held = report.fit, report.holdout
    n, d = fit.table.columns["n"], fit.table.columns["d"]
    heldout = np.zeros(len(n), bool) if held is None else held.rows
    groups = _size_groups(n)
    colours = size_colours([float(size) for size in groups])
    figure, axes = figure_and_axes(7.6, 4.8)
    for size, rows in groups.items():
        colour = colours[size]
        grid = {"n": np.full(80, size), "d": np.geomspace(0.8 * d[rows].min(), 1.25 * d[rows].max(), 80)}
        low, high = report.bootstrap.interval(report.bootstrap.predict(grid))
        axes.fill_between(grid["d"], low, high, color=colour, alpha=0.18, lw=0)
        axes.plot(grid["d"], fit.predict(grid), color=colour, lw=1.2)
        seen, unseen = rows & ~heldout, rows & heldout
        axes.plot(d[seen], fit.table.loss[seen], "o", ms=4, color=colour)
        axes.plot(d[unseen], fit.table.loss[unseen], "D", ms=5.5, mfc="white", mec=HELDOUT, mew=1.5)
        if held is not None and unseen.any():
            grid["n"] = np.full(80, np.exp(np.log(n[unseen]).mean()))
            axes.plot(grid["d"], held.fit.predict(grid), "--", color=HELDOUT, lw=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    decimal_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("training tokens, D")
    axes.set_ylabel(f"loss ({unit})")
    axes.set_title(fit.form.mathtext.format(**{name: _mathtext(value) for name, value in fit.params.items()}))
    handles = [
        Line2D([], [], color=colours[size], marker="o", ms=4, label=f"N = {_group_label(n[rows])}")
        for size, rows in groups.items()
    ]
    handles.append(Line2D([], [], color="#888888", lw=7, alpha=0.3, label=report.bootstrap.label.replace(", ", ",\n")))
    if held is not None:
        axes.vlines(held.heldout.columns["d"], *held.interval, color=HELDOUT, lw=3, alpha=0.3, zorder=1)
        what = f"held out ({HELDOUT_NAMES[held.by]})"
        bars = f"bars {held.bootstrap.level:.0%} for a new run{held.bootstrap.caveat}".replace(", ", ",\n")
        how = f"predicted without it,\n{bars}\n(mean error {held.mean_error:.2%})"
        handles.append(Line2D([], [], color=HELDOUT, marker="D", ms=5.5, mfc="white", mew=1.5, ls="", label=what))
        handles.append(Line2D([], [], color=HELDOUT, ls="--", label=how))
    legend_beside(axes, handles)
    return figure


@matplotlib.rc_context(STYLE)
def law_of_one_column(report: Report) -> Figure:
    """A law of a single column with its points, band, and the prediction of the held-out end."""
    fit, held = report.fit, report.holdout
    (name,) = fit.form.columns
    x = fit.table.columns[name]
    heldout = np.zeros(len(x), bool) if held is None else held.rows
    grid = {name: np.geomspace(x.min() / 1.2, x.max() * 1.2, 200)}
    figure, axes = figure_and_axes(7.6, 4.6)
    axes.fill_between(
        grid[name], *report.bootstrap.interval(report.bootstrap.predict(grid)), color=OURS, alpha=0.2, lw=0
    )
    axes.plot(grid[name], fit.predict(grid), color=OURS)
    axes.plot(x[~heldout], fit.table.loss[~heldout], "o", ms=4, color=OURS)
    axes.plot(x[heldout], fit.table.loss[heldout], "D", ms=5.5, mfc="white", mec=HELDOUT, mew=1.5)
    handles = [Line2D([], [], color=OURS, marker="o", ms=4, label="points and law")]
    handles.append(Line2D([], [], color=OURS, lw=7, alpha=0.3, label=report.bootstrap.label.replace(", ", ",\n")))
    if held is not None:
        axes.plot(grid[name], held.fit.predict(grid), "--", color=HELDOUT)
        how = f"predicted without the\n{HELDOUT_NAMES[held.by]} (mean error {held.mean_error:.2%})"
        handles.append(Line2D([], [], color=HELDOUT, marker="D", ms=5.5, mfc="white", mew=1.5, ls="--", label=how))
    axes.set_xscale("log")
    if name != "flops":
        decimal_ticks(axes.xaxis, *axes.get_xlim())
    axes.set_xlabel({"flops": "training compute, C (FLOPs)", "task_loss": "loss on the task's answers"}.get(name, name))
    axes.set_ylabel("accuracy" if name == "task_loss" else "loss (nats per token)")
    axes.set_title(fit.form.mathtext.format(**{key: _mathtext(value) for key, value in fit.params.items()}))
    legend_beside(axes, handles)
    return figure


@matplotlib.rc_context(STYLE)
def optimal_ratio(report: Report) -> Figure:
    """Compute-optimal bytes per parameter against compute, beside Chinchilla's and MiniCPM's.

    Bytes on the axis, because tokens of different vocabularies do not compare; the range of budgets that was
    fitted is shaded, and every law is dotted outside its own. Of training alone, whatever the budgets also serve.
    """
    fit, replicated = report.fit, report.bootstrap
    low, high = float(fit.table.budgets.min()), float(fit.table.budgets.max())
    budgets = [row.flops for row in report.allocations]
    span = np.geomspace(min(low, *budgets) / 3, max(high, *budgets) * 3, 60)
    market = Market(fit.form, fit.table.cost)
    best = market.optimum(fit.params, span)
    spread = market.optimum({name: values[:, None] for name, values in replicated.params.items()}, span)
    scale = report.bytes_per_token
    band = replicated.interval(scale * spread["d"] / spread["n"])
    figure, axes = figure_and_axes(7.6, 4.6)
    axes.axvspan(low, high, color=SHADE, lw=0, zorder=0)
    axes.fill_between(span, band.low, band.high, color=OURS, alpha=0.2, lw=0)
    _line_with_range(axes, span, scale * best["d"] / best["n"], (low, high), OURS)
    ours = "this law" if fit.certificate.identified else "this law,\nnot determined by its points"
    handles = [
        Line2D([], [], color=OURS, label=ours),
        Line2D([], [], color=OURS, lw=7, alpha=0.25, label=replicated.label.replace(", ", ",\n")),
    ]
    for law, colour in zip(published.HEADLINE, (HOFFMANN, CHINCHILLA, MINICPM), strict=True):
        ratio = law.bytes_per_token * law.tokens_per_parameter(span)
        _line_with_range(axes, span, ratio, law.flops_range, colour)
        origin = " (assumed)" if law.bytes_source.startswith("assumed") else ""
        handles.append(
            Line2D([], [], color=colour, label=f"{law.name},\n{law.bytes_per_token:.2f} bytes per token{origin}")
        )
    handles.append(Line2D([], [], color="#666666", ls=":", label="outside a law's own runs"))
    handles.append(Line2D([], [], color=SHADE, lw=9, label="budgets fitted here"))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(span[0], span[-1])
    axes.set_xlabel(f"training compute, C = {fit.table.cost.name} (FLOPs)")
    axes.set_ylabel("optimal D/N (bytes of text per parameter)")
    axes.set_title("How much text a parameter deserves" + (", training alone" if report.inference_tokens else ""))
    low, high = axes.get_ylim()
    decimal_ticks(axes.yaxis, low, high)
    if abs(scale - 1) < 0.005:  # tokens are bytes
        legend_beside(axes, handles)
        return figure
    tokens = axes.secondary_yaxis("right", functions=(_times(1 / scale), _times(scale)))
    tokens.set_ylabel(f"the same in our tokens ({scale:.3g} bytes each)")
    decimal_ticks(tokens.yaxis, low / scale, high / scale)
    legend_beside(axes, handles, offset=1.15)
    return figure


def _times(factor: float) -> Callable[[Any], Any]:
    return lambda values: np.asarray(values) * factor


def _line_with_range(axes: Axes, x: np.ndarray, y: np.ndarray, fitted: tuple[float, float], colour: str) -> None:
    """A line, solid inside the range that was fitted and dotted outside."""
    inside = (x >= fitted[0]) & (x <= fitted[1])
    axes.plot(x, y, ":", color=colour)
    axes.plot(np.where(inside, x, np.nan), np.where(inside, y, np.nan), "-", color=colour, lw=2)


def _size_groups(n: np.ndarray, most: int = 10) -> dict[float, np.ndarray]:
    """Rows by model size; more sizes than can be told apart are binned evenly in log N."""
    sizes = np.unique(n)
    if len(sizes) <= most:
        return {float(size): n == size for size in sizes}
    edges = np.geomspace(sizes[0], sizes[-1], most + 1)
    bins = np.clip(np.searchsorted(edges, n, side="right") - 1, 0, most - 1)
    return {float(np.exp(np.log(n[bins == b]).mean())): bins == b for b in np.unique(bins)}


def _group_label(n: np.ndarray) -> str:
    return quantity(n[0]) if n.max() < 1.01 * n.min() else f"{quantity(n.min())} to {quantity(n.max())}"


def _mathtext(value: float) -> str:
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return mantissa if not exponent else rf"{mantissa} \times 10^{{{int(exponent)}}}"
