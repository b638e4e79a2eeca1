"""How compute is spent: a budget between parameters and tokens, and a budget of new runs over the plane of both."""

import collections
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy import optimize

from analysis.numbers import quantity
from analysis.plots.style import (
    CHINCHILLA,
    HELDOUT,
    OURS,
    STYLE,
    decimal_ticks,
    figure_and_axes,
    legend_beside,
    size_colours,
)
from scaling.laws import costs, published, suggest
from scaling.laws.allocation import Allocation
from scaling.laws.budget import Market
from scaling.laws.intervals import ReplicatedLaw

POINTS = "#888888"
ASIDE = 0.025  # of the axis: different runs of one size stand beside each other


@matplotlib.rc_context(STYLE)
def allocation(
    law: ReplicatedLaw, rows: Sequence[Allocation], *, bytes_per_token: float, unit: str = "nats per token"
) -> Figure:
    """Loss against N along each budget: the optimum with its interval, the flat region, and Chinchilla's choice.

    Args:
        law: the bootstrapped law.
        rows: allocations at some budgets, under the law's own cost (serving is read from them).
        bytes_per_token: of the law's tokens; Chinchilla's D/N is carried over in bytes.
        unit: of the loss.
    """
    figure, axes = figure_and_axes(7.6, 4.8)
    colours = size_colours([row.flops for row in rows])
    chinchilla = published.CHINCHILLA_CONVERGED
    marks = []
    for row in sorted(rows, key=lambda row: row.flops):
        served = (row.flops - row.training_flops) / law.cost.serving({"n": row.n})
        market = Market(law.form, law.cost, served=served)
        ratio = chinchilla.tokens_per_parameter(row.flops) * chinchilla.bytes_per_token / bytes_per_token
        theirs = _size_of_ratio(market, row.flops, ratio)
        low, high = (np.log(f(row.flat_n.low / 4, row.n)) for f in (min, max))
        low = min(low, np.log(theirs) - 0.5)
        high = max(np.log(row.flat_n.high * 4), np.log(theirs) + 0.5)
        columns = market.along(law.estimate, row.flops, np.linspace(low, high, 300))
        payable = columns["d"] > 0
        n, loss = columns["n"][payable], market.loss(law.estimate, columns)[payable]
        flat = (n >= row.flat_n.low) & (n <= row.flat_n.high)
        colour = colours[row.flops]
        axes.plot(n, loss, color=colour, lw=1.3)
        axes.plot(n[flat], loss[flat], color=colour, lw=8, alpha=0.3, solid_capstyle="butt")
        axes.plot(row.n_interval, [row.loss] * 2, color=colour, lw=2.2)
        axes.plot(row.n, row.loss, "o", color=colour, ms=6)
        there = market.columns(np.log(theirs), row.flops, {})
        marks.append((theirs, float(market.loss(law.estimate, there))))
    axes.plot(*zip(*marks, strict=True), "D:", color=CHINCHILLA, ms=4.5, mfc="white", lw=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    top = max([row.loss for row in rows] + [loss for _, loss in marks])
    axes.set_ylim(min(row.loss for row in rows) / 1.02, top * 1.06)
    decimal_ticks(axes.yaxis, *axes.get_ylim())
    _quantities(axes.xaxis)
    axes.set_xlabel("parameters, N (the rest of the budget buys tokens)")
    axes.set_ylabel(f"loss ({unit})")
    axes.set_title("What a budget buys, by how it is split")
    handles = [
        Line2D([], [], color=colours[row.flops], marker="o", ms=5, label=f"C = {row.flops:.2g} FLOPs") for row in rows
    ]
    tolerance = rows[0].tolerance
    handles += [
        Line2D([], [], color=POINTS, lw=8, alpha=0.4, label=f"within {tolerance:.1%} of the least loss"),
        Line2D([], [], color=POINTS, lw=2.2, marker="o", ms=5, label="least loss, interval of its N"),
        Line2D([], [], color=CHINCHILLA, ls=":", marker="D", ms=4.5, mfc="white", label=f"D/N of {chinchilla.name}"),
    ]
    legend_beside(axes, handles)
    return figure


@matplotlib.rc_context(STYLE)
def suggestion(found: suggest.Suggestion) -> Figure:
    """The plane of N and D with the points so far and the suggested runs by number, and what each is expected to give.

    On the right the expected half-width of the interval as the budget is spent, beside repeating the points so far.
    """
    figure = Figure(figsize=(11.5, 4.6))
    plane, gain = figure.subplots(1, 2, width_ratios=[1.45, 1])
    figure.subplots_adjust(wspace=0.26)
    _plane(plane, found)
    _gain(gain, found)
    handles = [
        Line2D([], [], color=POINTS, marker="o", ms=4, ls="", label="points so far"),
        Line2D([], [], color=OURS, marker="o", ms=5, label="suggested trunk and its\nbranches (x seeds)"),
    ]
    if any(run.continues for run in found.runs):
        handles.append(
            Line2D([], [], color=OURS, marker="o", ms=5, mfc="white", label="branches of a trunk\nthat is there")
        )
    handles.append(Line2D([], [], color=POINTS, ls="--", label="repeating the points\nso far, new seeds"))
    legend_beside(gain, handles)
    return figure


@matplotlib.rc_context(STYLE)
def suggest_vs_grid(record: dict[str, Any]) -> Figure:
    """Error and expected interval of each answer against FLOPs of new runs: suggested, gridded and repeated."""
    figure = Figure(figsize=(12.5, 4.2))
    panels = figure.subplots(1, len(record["answers"]))
    figure.subplots_adjust(wspace=0.3)
    looks = {"suggest": (OURS, "o", "suggested runs"), "grid": (HELDOUT, "s", "the ladder's next sizes")}
    looks["repeat"] = (POINTS, "", "the first ladder again")
    for axes, (name, answer) in zip(panels, record["answers"].items(), strict=True):
        for curve in record["curves"]:
            if curve["answer"] == name and curve["way"] in looks:
                colour, mark, _ = looks[curve["way"]]
                rows = np.array(curve["spent"]) > 0
                for measure, line in (("rms_error", "-"), ("half_width", ":")):
                    level = np.array(curve[measure])[rows]
                    axes.plot(np.array(curve["spent"])[rows], level, line, color=colour, marker=mark, ms=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        decimal_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_xlabel("FLOPs of new runs (6 N D)")
        axes.set_title(textwrap.fill(answer["text"], 34) + (f" ({answer['unit']})" if answer["unit"] else ""))
    panels[0].set_ylabel(f"over {record['studies']} simulated studies")
    handles = [Line2D([], [], color=c, marker=m, ms=4, label=label) for c, m, label in looks.values()]
    handles += [
        Line2D([], [], color="#444444", label="root mean square error"),
        Line2D([], [], color="#444444", ls=":", label="half-width of the interval,\nmedian"),
    ]
    legend_beside(panels[-1], handles)
    return figure


def _size_of_ratio(market: Market, flops: float, ratio: float) -> float:
    """N at which the budget buys so many tokens per parameter."""

    def excess(log_n: float) -> float:
        return float(market.columns(log_n, flops, {})["d"] / np.exp(log_n) - ratio)

    return float(np.exp(optimize.brentq(excess, 0.0, np.log(flops))))


def _plane(axes: Axes, found: suggest.Suggestion) -> None:
    n, d = found.table.columns["n"], found.table.columns["d"]
    axes.plot(n, d, "o", color=POINTS, ms=4, zorder=2)
    sizes = [*n, *(run.n for run in found.runs)]
    aside = np.exp(ASIDE * (np.log(max(sizes) / min(sizes)) + 1))
    beside: collections.Counter[float] = collections.Counter()
    labels: dict[tuple[float, float], list[str]] = {}  # by the place of a run's last point
    for number, run in enumerate(found.runs, 1):
        face = "white" if run.continues else OURS
        x = run.n * aside ** beside[run.n]
        beside[run.n] += 1
        axes.plot([x] * len(run.tokens), run.tokens, "o-", color=OURS, mfc=face, ms=5, lw=1.2, zorder=3)
        label = f"{number}" if run.seeds == 1 else f"{number} (x{run.seeds})"
        labels.setdefault((run.n, run.tokens[-1]), []).append(label)
    for (size, top), lines in labels.items():
        _number(axes, "\n".join(lines), size, top, (0, 6), ha="center")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _quantities(axes.xaxis)
    _quantities(axes.yaxis)
    axes.margins(x=0.08, y=0.15)
    axes.set_xlabel("parameters, N")
    axes.set_ylabel("training tokens, D")
    axes.set_title(f"Runs for the {found.answer.text}")


def _gain(axes: Axes, found: suggest.Suggestion) -> None:
    first = found.runs[0].spent / 2
    spent = np.array([first, *(run.spent for run in found.runs)])
    width = np.array([found.half_width, *(run.half_width for run in found.runs)])
    axes.plot(spent, width, "o-", color=OURS, ms=5)
    axes.annotate("today", (first, found.half_width), xytext=(4, 4), textcoords="offset points", color=OURS, fontsize=9)
    span = np.geomspace(first, found.budget, 100)
    so_far = costs.spent(found.table, found.decay_share)
    axes.plot(span, found.half_width / np.sqrt(1 + span / so_far), "--", color=POINTS)
    for number, run in enumerate(found.runs, 1):
        _number(axes, str(number), run.spent, run.half_width, (4, 4))
    axes.set_xscale("log")
    axes.set_yscale("log")
    decimal_ticks(axes.yaxis, *axes.get_ylim())
    unit = f" ({found.answer.unit})" if found.answer.unit else ""
    axes.set_xlabel(f"FLOPs spent on new runs ({found.table.cost.name})")
    axes.set_ylabel(f"half-width of the {found.level:.0%} interval{unit}")
    axes.set_title("Expected interval")


def _number(axes: Axes, text: str, x: float, y: float, offset: tuple[float, float], **how: Any) -> None:
    """A run's number beside its mark, on white so that it can be read over points."""
    outline = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    axes.annotate(
        text,
        (x, y),
        xytext=offset,
        textcoords="offset points",
        color=OURS,
        fontsize=9,
        path_effects=outline,
        zorder=4,
        **how,
    )


def _quantities(axis: matplotlib.axis.Axis) -> None:
    """Metric letters at decades and, where there are few of them, between."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: quantity(value)))
    axis.set_minor_formatter(NullFormatter())
