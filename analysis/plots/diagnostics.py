"""Whether to believe a law: its residuals, its bootstrap, the profile of a parameter, and error against compute."""

import itertools
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

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
)
from scaling.laws.fit import Fit
from scaling.laws.form import Params
from scaling.laws.holdout import HELDOUT_NAMES, ErrorAgainstCompute
from scaling.laws.intervals import Interval
from scaling.laws.profile import Profile
from scaling.laws.uncertainty import Bootstrap

MEANINGS = {
    "n": "parameters, N",
    "d": "training tokens, D",
    "flops": "training compute, C (FLOPs)",
    "d_unique": "unique tokens",
    "depth": "depth (layers)",
    "p_w": "weights (bits)",
    "p_a": "activations (bits)",
    "p_kv": "key-value cache (bits)",
    "p_post": "after training (bits)",
    "task_loss": "loss on the task's answers",
}
OTHERS = (HOFFMANN, CHINCHILLA, MINICPM)  # colours of what a figure compares with


@matplotlib.rc_context(STYLE)
def residuals(fit: Fit) -> Figure:
    """By how much every point lies above or below the law, against the law's columns and the predicted loss.

    Points of one cluster are joined: they move together. Colours go with the first column (model size). The shaded
    band is the Huber threshold; beyond it a point pulls at the law with constant force.
    """
    columns = fit.table.columns
    panels = {MEANINGS.get(name, name): columns[name] for name in fit.form.columns}
    panels["predicted loss"] = fit.predict(columns)
    miss = 100 * np.expm1(fit.residuals)
    first = columns[fit.form.columns[0]]
    norm = LogNorm(first.min(), first.max() * (1 + 1e-9))
    figure = Figure(figsize=(3.1 * len(panels) + 1.2, 3.6), layout="constrained")
    every = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, (meaning, values) in zip(every, panels.items(), strict=True):
        axes.axhspan(-100 * fit.delta, 100 * fit.delta, color=SHADE, lw=0, zorder=0)
        axes.axhline(0, color="#666666", lw=0.8)
        for label in np.unique(fit.table.cluster):
            rows = np.flatnonzero(fit.table.cluster == label)
            rows = rows[np.argsort(values[rows], kind="stable")]
            axes.plot(values[rows], miss[rows], "-", color="#AAAAAA", lw=0.7, zorder=1)
        drawn = axes.scatter(values, miss, s=16, c=first, norm=norm, cmap="viridis", zorder=2)
        _logarithmic(axes, "x", float(values.min()), float(values.max()))
        axes.set_xlabel(meaning)
    every[0].set_ylabel("loss over the law's, less 1 (%)")
    every[0].set_title(f"Residuals; shaded: within delta = {fit.delta:g}")
    bar = figure.colorbar(drawn, ax=every, label=MEANINGS.get(fit.form.columns[0], fit.form.columns[0]), pad=0.01)
    _few_ticks(bar.ax.yaxis, first.min(), first.max())
    return figure


@matplotlib.rc_context(STYLE)
def bootstrap_clouds(replicated: Bootstrap, known: Mapping[str, Params] | None = None) -> Figure:
    """Replicates of every pair of parameters; a thin diagonal cloud is a ridge that the data leave open.

    Args:
        replicated: the bootstrap.
        known: other values by label, such as published ones, drawn as crosses; at most three.
    """
    fit = replicated.fit
    names = [name for name in fit.form.params if np.ptp(replicated.params[name]) > 0]
    crosses: list[Any] = [(label, p, colour) for (label, p), colour in zip((known or {}).items(), OTHERS, strict=False)]
    crosses.append(("this fit", fit.params, HELDOUT))
    size = len(names)
    figure = Figure(figsize=(1.9 * size, 1.75 * size))
    grid: Any = figure.subplots(size, size, squeeze=False, gridspec_kw={"hspace": 0.1, "wspace": 0.12})
    for row, column in itertools.product(range(size), repeat=2):
        axes, x = grid[row, column], names[column]
        if column > row:
            axes.set_visible(False)
            continue
        values = replicated.params[x]
        if column == row:
            _histogram(axes, values, x in fit.form.coefficients)
        else:
            other = replicated.params[names[row]]
            axes.plot(values, other, ".", ms=2.5, mew=0, alpha=0.35, color=OURS)
            _limits(axes, "y", fit, names[row], other, crosses)
            together = np.corrcoef(_straight(fit, x, values), _straight(fit, names[row], other))[0, 1]
            corner = {"ha": "left", "x": 0.04} if together > 0 else {"ha": "right", "x": 0.96}
            axes.text(s=f"{together:+.2f}", y=0.95, va="top", fontsize=8, transform=axes.transAxes, **corner)
        for _, params, colour in crosses:
            if column == row:
                axes.axvline(params[x], color=colour, lw=1)
            else:
                axes.plot(params[x], params[names[row]], "x", ms=8, mew=2, color=colour)
        _limits(axes, "x", fit, x, values, crosses)
        axes.tick_params(labelsize=8, labelbottom=row == size - 1, labelleft=0 == column < row)
        if row == size - 1:
            axes.set_xlabel(x)
            axes.tick_params(axis="x", rotation=45)
        if column == 0 and row > 0:
            axes.set_ylabel(names[row])
    figure.align_labels()
    handles = [
        Line2D([], [], color=colour, marker="x", ms=8, mew=2, ls="", label=label) for label, _, colour in crosses
    ]
    replicates = f"{len(replicated.theta)} replicates ({replicated.method}, {replicated.clusters} clusters)"
    handles.append(Line2D([], [], color=OURS, marker=".", ls="", alpha=0.6, label=replicates))
    handles.append(Line2D([], [], ls="", label="number in a panel: correlation (coefficients in logs)"))
    if size < 4:  # too few panels to leave room among them
        figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.92, 0.88))
    else:
        figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.9, 0.88))
    return figure


@matplotlib.rc_context(STYLE)
def profile(found: Profile, others: Mapping[str, Interval] | None = None) -> Figure:
    """The profile of a parameter with the interval that the threshold cuts off.

    Args:
        found: the profile.
        others: other intervals by label, drawn as bars below; at most three.
    """
    figure, axes = figure_and_axes(6.2, 4.0)
    height = found.rise / found.threshold
    low, high = np.clip(found.interval, found.values[0], found.values[-1])
    axes.axvspan(low, high, color=SHADE, lw=0, zorder=0)
    axes.plot(found.values, height, "-o", ms=3, color=OURS)
    axes.axhline(1, color="#666666", ls=":")
    axes.axvline(found.estimate, color=OURS, lw=1)
    handles = [
        Line2D([], [], color=OURS, marker="o", ms=3, label="least objective with the\nparameter held, less the least"),
        Line2D([], [], color="#666666", ls=":", label="threshold"),
        Line2D([], [], color=SHADE, lw=9, label=f"{found.level:.0%} interval, {_ends(found.interval)}"),
    ]
    for place, ((label, interval), colour) in enumerate(zip((others or {}).items(), OTHERS, strict=False), start=1):
        axes.hlines(-0.16 * place, *interval, color=colour, lw=4)
        handles.append(Line2D([], [], color=colour, lw=4, label=f"{label}, {_ends(interval)}"))
    axes.set_ylim(-0.16 * len(others or {}) - 0.1, min(2.2, 1.05 * height.max()))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if found.name in found.fit.form.coefficients:
        axes.set_xscale("log")
        decimal_ticks(axes.xaxis, found.values[0], found.values[-1])
    axes.set_xlabel(f"{found.name} ({found.fit.form.units[found.name]})".replace(" (1)", ""))
    axes.set_ylabel("rise of the objective (thresholds)")
    axes.set_title(f"Profile of {found.name}")
    legend_beside(axes, handles)
    return figure


@matplotlib.rc_context(STYLE)
def error_against_compute(found: ErrorAgainstCompute) -> Figure:
    """Errors of the largest runs' predictions against the compute spent on the runs behind them."""
    figure, axes = figure_and_axes(6.4, 4.0)
    spent = np.array([row.spent for row in found.rows])
    checks = [row.check for row in found.rows]
    mean = np.array([np.mean(check.relative_error) for check in checks])
    low = np.array([np.mean(check.interval.low / check.heldout.loss) for check in checks]) - 1
    high = np.array([np.mean(check.interval.high / check.heldout.loss) for check in checks]) - 1
    axes.axhline(0, color="#666666", lw=0.8)
    axes.vlines(spent, 100 * low, 100 * high, color=OURS, lw=6, alpha=0.25)
    for cost, check in zip(spent, checks, strict=True):
        axes.plot(
            np.full(len(check.relative_error), cost), 100 * check.relative_error, "o", ms=4, color=HELDOUT, zorder=3
        )
    axes.plot(spent, 100 * mean, "-", color=OURS)
    reach = 130 * max(max(np.abs(check.relative_error).max() for check in checks), float(np.median(high - low)) / 2)
    axes.set_ylim(-reach, reach)
    axes.set_xscale("log")
    if spent.max() < 30 * spent.min():  # labels of every minor tick would run into each other
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(f"compute of the runs fitted (FLOPs; {found.counting})")
    axes.set_ylabel("predicted loss over the measured, less 1 (%)")
    axes.set_title(f"Predicting the runs of {HELDOUT_NAMES[found.by]} from cheaper ones")
    last = checks[-1]
    handles = [
        Line2D([], [], color=HELDOUT, marker="o", ms=4, ls="", label=f"runs predicted: {len(last.heldout)}"),
        Line2D([], [], color=OURS, label="their mean"),
        Line2D(
            [], [], color=OURS, lw=6, alpha=0.25, label=f"{last.bootstrap.level:.0%} for a new run,\nmean of the ends"
        ),
    ]
    legend_beside(axes, handles)
    return figure


def _straight(fit: Fit, name: str, values: np.ndarray) -> np.ndarray:
    return np.log(values) if name in fit.form.coefficients else values


def _histogram(axes: Axes, values: np.ndarray, logarithmic: bool) -> None:
    edges = np.geomspace if logarithmic else np.linspace
    low, high = np.quantile(values, [0.005, 0.995]) * [1 - 1e-6, 1 + 1e-6]  # a table without noise has no width
    axes.hist(values, bins=list(edges(low, high, 30)), color=OURS, alpha=0.35)
    axes.set_yticks([])
    axes.grid(False)


def _limits(axes: Axes, which: str, fit: Fit, name: str, values: np.ndarray, crosses: list[Any]) -> None:
    """An axis over 99% of the replicates and all crosses; in logs for a coefficient."""
    marks = [params[name] for _, params, _ in crosses]
    low, high = np.quantile(values, [0.005, 0.995])
    low, high = min(low, *marks) * (1 - 1e-6), max(high, *marks) * (1 + 1e-6)  # a table without noise has no width
    if name in fit.form.coefficients:
        _logarithmic(axes, which, low * (low / high) ** 0.06, high * (high / low) ** 0.06)
    else:
        axes.set(**{f"{which}lim": (low - 0.06 * (high - low), high + 0.06 * (high - low))})
        getattr(axes, f"{which}axis").set_major_locator(MaxNLocator(4))


def _logarithmic(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis from low to high."""
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low * (low / high) ** 0.04, high * (high / low) ** 0.04)})
    _few_ticks(getattr(axes, f"{which}axis"), low, high)


def _few_ticks(axis: Any, low: float, high: float) -> None:
    """Few enough labels for a small panel on a logarithmic axis."""
    decimal_ticks(axis, low, high)
    axis.set_minor_locator(NullLocator())
    if high < 5 * low:
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 30 * low else (1, 3) if high < 300 * low else (1,)))


def _ends(interval: Interval) -> str:
    return f"{interval.low:.4g} to {interval.high:.4g}"
