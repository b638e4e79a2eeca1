"""Chinchilla's three approaches: IsoFLOP slices, the envelope, and all of them side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from analysis.numbers import quantity
from analysis.plots.style import (
    CHINCHILLA,
    HELDOUT,
    HOFFMANN,
    OURS,
    STYLE,
    decimal_ticks,
    figure_and_axes,
    legend_beside,
    size_colours,
)
from scaling.laws import isoflop, published
from scaling.laws.approaches import ENVELOPE, ISOFLOP, PARAMETRIC, Approach
from scaling.laws.budget import SIX_ND
from scaling.laws.envelope import Envelope
from scaling.laws.frontier import SAME_SIZE, size_groups
from scaling.laws.isoflop import IsoFlop

COLOURS = {ENVELOPE: "#E69F00", ISOFLOP["parabola"]: HELDOUT, ISOFLOP["shape-free"]: "#56B4E9", PARAMETRIC: OURS}
LINES: dict[isoflop.Estimator, str] = {"parabola": "--", "shape-free": "-"}
MARKS: dict[isoflop.Estimator, str] = {"parabola": "D", "shape-free": "o"}


@matplotlib.rc_context(STYLE)
def isoflop_slices(found: IsoFlop, *, unit: str = "nats per token") -> Figure:
    """Loss against N, a colour per budget: losses, the parabola (dashed), the shape-free curve, and their minima.

    Slices without a minimum between their sizes are grey.
    """
    figure, axes = figure_and_axes(7.6, 4.8)
    colours = size_colours([one.budget for one in found.cuts.slices])
    log_loss = np.log(found.points.loss)
    handles = []
    for s, one in enumerate(found.cuts.slices):
        loss = np.exp(one.weights @ log_loss)
        used = any(not found.optima[estimator][s].problem for estimator in isoflop.ESTIMATORS)
        colour = colours[one.budget] if used else "#AAAAAA"
        axes.plot(one.n, loss, ".", ms=5, color=colour, alpha=0.7)
        log_n = np.log(np.geomspace(one.n[0], one.n[-1], 200))
        for estimator in isoflop.ESTIMATORS:
            optimum = found.optima[estimator][s]
            if optimum.n is None or optimum.loss is None:
                continue
            curve = isoflop.CURVES[estimator](np.log(one.n), loss[:, None], found.noise.of(one))
            axes.plot(np.exp(log_n), curve(log_n)[:, 0], LINES[estimator], color=colour, lw=1.1)
            axes.plot(optimum.n, optimum.loss, MARKS[estimator], ms=6, color=colour, mec="black", mew=0.8, zorder=3)
        note = "" if used else ", not used"
        handles.append(Line2D([], [], color=colour, marker=".", label=f"C = {one.budget:.2g}{note}"))
    axes.set_xscale("log")
    axes.set_yscale("log")
    decimal_ticks(axes.yaxis, *axes.get_ylim())
    decimal_ticks(axes.xaxis, *axes.get_xlim())
    axes.set_xlabel("parameters, N")
    axes.set_ylabel(f"loss ({unit})")
    axes.set_title(f"IsoFLOP slices, {found.cuts.how}")
    for estimator in isoflop.ESTIMATORS:
        a = f"\na = {found.lines[estimator].a:.3f}" if estimator in found.lines else ""
        handles.append(
            Line2D([], [], color="#444444", ls=LINES[estimator], marker=MARKS[estimator], label=f"{estimator}{a}")
        )
    legend_beside(axes, handles)
    return figure


@matplotlib.rc_context(STYLE)
def envelope(found: Envelope, *, unit: str = "nats per token") -> Figure:
    """Loss against compute: every point joined by size, and the lower envelope where it is used."""
    figure, axes = figure_and_axes(7.6, 4.8)
    points = found.points
    winners = np.unique(found.n)
    colours = size_colours([float(n) for n in winners])
    size_N = size_groups(points.columns["n"])
    for size in range(size_N.max() + 1):
        rows = np.flatnonzero(size_N == size)
        rows = rows[np.argsort(points.budgets[rows], kind="stable")]
        n = float(points.columns["n"][rows].mean())
        close = [winner for winner in winners if SAME_SIZE > n / winner > 1 / SAME_SIZE]
        colour: Any = colours[float(close[0])] if close else "#BBBBBB"
        joined = "-" if found.of == "size" else ""  # a size's runs are curves of their own
        axes.plot(points.budgets[rows], points.loss[rows], ".", ls=joined, ms=4, lw=0.8, color=colour, alpha=0.8)
    for n in winners:
        best = np.where(found.n == n, found.loss, np.nan)
        axes.plot(found.budgets, best, lw=4, color=colours[float(n)], alpha=0.55, solid_capstyle="butt")
    axes.set_xscale("log")
    axes.set_yscale("log")
    decimal_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel(f"training compute, C = {points.cost.name} (FLOPs)")
    axes.set_ylabel(f"loss ({unit})")
    axes.set_title(f"The envelope and the size on it: a = {found.line.a:.3f}")
    handles = [Line2D([], [], color=colours[float(n)], marker=".", label=f"N = {quantity(n)}") for n in winners]
    handles.append(Line2D([], [], color="#BBBBBB", marker=".", label="other sizes"))
    handles.append(
        Line2D([], [], color="#666666", lw=4, alpha=0.55, label="envelope, where sizes lie\non both sides of the best")
    )
    legend_beside(axes, handles)
    return figure


@matplotlib.rc_context(STYLE)
def approaches_side_by_side(
    rows: Sequence[Approach],
    *,
    laws: Sequence[published.Published] = (published.HOFFMANN,),
    counting: str = SIX_ND.name,
    note: str = "",
) -> Figure:
    """N_opt, and D/N below it, against compute by every approach that could run, with bands, beside published laws.

    Solid where the approach had optima, dotted beyond; approaches that could not run are named in the legend.

    Args:
        rows: answers at budgets that are dense enough to draw a line through.
        laws: published ones: their N and tokens are of their own conventions.
        counting: what the budgets C count.
        note: what the title has to say besides.
    """
    figure = Figure(figsize=(7.6, 7.0))
    upper, lower = figure.subplots(2, 1, sharex=True)
    handles = []
    for row in rows:
        colour = COLOURS[row.name]
        if row.a is None or row.a_interval is None or row.budgets is None:
            handles.append(Line2D([], [], color=colour, ls="", marker="x", label=f"{row.name}: cannot run"))
            continue
        flops = np.array([one.flops for one in row.at])
        inside = (flops >= row.budgets[0]) & (flops <= row.budgets[1])
        for axes, name in ((upper, "n"), (lower, "ratio")):
            values = np.array([getattr(one, name) for one in row.at])
            low, high = np.array([getattr(one, f"{name}_interval") for one in row.at]).T
            axes.fill_between(flops, low, high, color=colour, alpha=0.13, lw=0)
            axes.plot(flops, values, ":", color=colour)
            axes.plot(np.where(inside, flops, np.nan), np.where(inside, values, np.nan), "-", lw=2, color=colour)
        label = f"{row.name}\na = {row.a:.3f} [{row.a_interval.low:.3f}, {row.a_interval.high:.3f}]"
        handles.append(Line2D([], [], color=colour, lw=2, label=label))
    budgets = np.array(sorted({one.flops for row in rows for one in row.at}))
    for law, colour in zip(laws, (CHINCHILLA, HOFFMANN, "#888888"), strict=False):
        best = law.optimum(budgets)
        upper.plot(budgets, best["n"], "-.", lw=1.2, color=colour)
        lower.plot(budgets, best["d"] / best["n"], "-.", lw=1.2, color=colour)
        handles.append(Line2D([], [], color=colour, ls="-.", lw=1.2, label=law.name))
    handles.append(Line2D([], [], color="#666666", ls=":", label="beyond an approach's optima"))
    upper.set_xscale("log")
    for axes in (upper, lower):
        axes.set_yscale("log")
        decimal_ticks(axes.yaxis, *axes.get_ylim())
    lower.set_xlabel(f"training compute, C = {counting} (FLOPs)")
    upper.set_ylabel("optimal parameters, N")
    lower.set_ylabel("optimal D/N (tokens per parameter)")
    upper.set_title(f"Chinchilla's three approaches on one table{note}")
    legend_beside(upper, handles)
    return figure


BIAS_PANELS = (  # key of the record, title, x label, what is shown, y label, its scale
    ("width", "Wider grids", "sizes from 1/k to k times the optimum, k", "n", "error of N_opt (%)", 100),
    ("asymmetry", "Exponents that differ", "alpha / beta (alpha + beta = .62)", "n", "error of N_opt (%)", 100),
    ("offset", "Grids off centre, alpha = beta", "centre of the grid / optimum", "n", "error of N_opt (%)", 100),
    ("drift", "Grids that drift, alpha = beta", "centre / optimum at 1e21 FLOPs (1 at 1e17)", "a", "error of a", 1),
)


@matplotlib.rc_context(STYLE)
def isoflop_bias(record: Mapping[str, Any]) -> Figure:
    """Noise-free error of IsoFLOP minima against grid width, asymmetry, centre and drift, as simulated.

    Args:
        record: of `experiments.simulations.isoflop_bias`.
    """
    figure = Figure(figsize=(9.6, 6.8), layout="constrained")
    for axes, (key, title, x_label, what, y_label, scale) in zip(figure.subplots(2, 2).flat, BIAS_PANELS, strict=True):
        curves = record[key]
        shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(curves)))
        colours = (CHINCHILLA, OURS, HELDOUT) if key == "width" else tuple(shades)
        for curve, colour in zip(curves, colours, strict=True):
            for estimator in isoflop.ESTIMATORS:
                error = scale * np.array(curve[estimator][what], float)  # None becomes NaN: no minimum in the grid
                axes.plot(curve["values"], error, LINES[estimator], color=colour)
            if key == "width" and curve["name"] in record["published"]:
                found = record["published"][curve["name"]]
                axes.plot(found["width"], scale * np.array(found["n"]), "x", ms=7, mew=1.6, color=colour)
        axes.set_xscale("log")
        _powers_of_two(axes, curves[0]["values"])
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        names = zip(curves, colours, strict=True)
        handles = [Line2D([], [], color=colour, label=curve["name"]) for curve, colour in names]
        axes.legend(handles=handles, loc="upper left", handlelength=1.2)
    handles = [
        Line2D([], [], color="#444444", ls=LINES[estimator], label=estimator) for estimator in isoflop.ESTIMATORS
    ]
    handles.append(Line2D([], [], color="#444444", ls="", marker="x", ms=7, mew=1.6, label="parabola, Czech et al."))
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _powers_of_two(axes: Axes, values: Sequence[float]) -> None:
    """Powers of two as plain numbers and fractions."""
    low, high = np.log2(min(values)), np.log2(max(values))
    powers = np.arange(np.ceil(low - 1e-9), np.floor(high + 1e-9) + 1)
    axes.xaxis.set_major_locator(FixedLocator(list(2.0**powers)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if v >= 1 else f"1/{1 / v:g}"))
