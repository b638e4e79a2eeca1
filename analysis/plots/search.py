"""What a hyper-parameter search found: loss along each parameter, the best so far, and settings side by side."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from analysis.plots.style import CHINCHILLA, HELDOUT, MINICPM, OURS, STYLE, decimal_ticks

SAMPLERS = {"tpe": (OURS, "o"), "random": ("#999999", "s")}
PEERS = (CHINCHILLA, MINICPM, "#E69F00", "#CC79A7")
LABELS = {
    "learning_rate": "learning rate (peak, at the base width)",
    "init_std": "init_std (at the base width)",
    "scale_emb": "scale_emb",
    "scale_depth": "scale_depth",
    "weight_decay": "weight decay",
    "clip_norm": "clip norm",
}
SHARE_SHOWN = 0.75  # of the trials: hopeless ones would squeeze the part that matters


def search_figures(
    trials: pd.DataFrame, result: Mapping[str, Any], *, unit: str = "nats per token"
) -> dict[str, Figure]:
    """All figures of a search by name: "parameters" and "best_so_far"."""
    return {
        "parameters": parameters(trials, result, unit=unit),
        "best_so_far": best_so_far(trials, result, unit=unit),
    }


@matplotlib.rc_context(STYLE)
def parameters(trials: pd.DataFrame, result: Mapping[str, Any], *, unit: str = "nats per token") -> Figure:
    """Loss of every trial against each parameter, with the winner and its peers.

    Args:
        trials: a row per trial: sampler, state, loss, and a column per parameter.
        result: as `scaling.tuning.result.record` makes it.
        unit: of the loss.
    """
    searched = result["searches"][0]["search"]["parameters"]
    columns = min(2, len(searched))
    rows = math.ceil(len(searched) / columns)
    figure = Figure(figsize=(3.6 * columns + 2.2, 2.9 * rows + 0.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for axes in panels[len(searched) :]:
        axes.set_visible(False)
    low, high = _loss_range(trials, result)
    for axes, parameter in zip(panels, searched, strict=False):
        name = parameter["name"]
        for sampler, mine in trials.groupby("sampler", sort=False):
            colour, marker = SAMPLERS[str(sampler)]
            shown = mine["loss"] <= high
            axes.plot(mine[name][shown], mine["loss"][shown], marker, color=colour, ms=3.8, alpha=0.75, mew=0)
            for aside, mark in ((~shown & (mine["state"] == "complete"), "^"), (mine["state"] == "failed", "x")):
                if aside.any():  # at the upper edge
                    axes.plot(mine[name][aside], np.full(aside.sum(), high), mark, color=colour, ms=4.5, clip_on=False)
        _peers(axes, result, name)
        if parameter["log"]:
            axes.set_xscale("log")
            decimal_ticks(axes.xaxis, parameter["low"], parameter["high"])
            if parameter["high"] > 100 * parameter["low"]:
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.set_xlim(*_padded(parameter))
        axes.set_xlabel(LABELS[name])
    panels[0].set_ylim(low, high)
    figure.supylabel(f"held-out loss ({unit})", size=10)
    figure.suptitle(f"Loss of every trial, {_budget(result)}", x=0.02, ha="left", size=11)
    handles = _sampler_handles(trials, "trial, ", ls="")
    handles.append(Line2D([], [], color="#666666", marker="^", ls="", ms=4, label="trial above the axis"))
    if (trials["state"] == "failed").any():
        handles.append(Line2D([], [], color="#666666", marker="x", ls="", ms=5, label="trial that failed"))
    handles += [
        Line2D([], [], color=colour, marker=marker, ls="", ms=ms, mec="white", label=f"{label}, {_seeds(result)} seeds")
        for label, colour, marker, ms in _marks(result)
    ]
    figure.legend(handles=handles, loc="outside right upper")
    return figure


@matplotlib.rc_context(STYLE)
def best_so_far(trials: pd.DataFrame, result: Mapping[str, Any], *, unit: str = "nats per token") -> Figure:
    """Left: every trial in order and the lowest loss so far. Right: winners and peers under seeds that chose nothing.

    Args:
        trials: as in `parameters`, with number.
        result: as in `parameters`.
        unit: of the loss.
    """
    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    for sampler, mine in trials.groupby("sampler", sort=False):
        mine = mine.sort_values("number")
        best, (colour, marker) = mine["loss"].cummin().ffill(), SAMPLERS[str(sampler)]
        left.step(mine["number"] + 1, best, where="post", color=colour)
        left.plot(mine["number"] + 1, mine["loss"], marker, color=colour, ms=3, alpha=0.45, mew=0)
    left.set_ylim(*_loss_range(trials, result))
    left.set_xlabel("trials")
    left.set_ylabel(f"held-out loss ({unit})")
    left.set_title("Trials (dots), and the best so far (lines)")
    figure.legend(handles=_sampler_handles(trials, "", ls="-"), loc="outside lower left", ncols=2)
    rows = sorted((row for row in result["comparison"] if row["loss"] is not None), key=lambda row: -row["loss"])
    colours = {label: colour for label, colour, *_ in _marks(result)} | {
        one["winner"]: SAMPLERS[one["search"]["sampler"]][0] for one in result["searches"]
    }
    for height, row in enumerate(rows):
        losses = [loss for loss in row["losses"].values() if loss is not None]
        right.plot(losses, [height] * len(losses), "|", color=colours[row["name"]], ms=9, alpha=0.6)
        ends = row["interval"] or (row["loss"], row["loss"])
        right.plot(ends, [height - 0.22] * 2, color=colours[row["name"]], lw=2.4)
        right.plot(row["loss"], height - 0.22, "o", color=colours[row["name"]], ms=5.5)
    right.set_yticks(range(len(rows)), [row["name"] for row in rows])
    right.set_ylim(-0.7, len(rows) - 0.4)
    right.grid(axis="y", visible=False)
    right.set_title(f"Winners and peers under {_seeds(result)} further seeds")
    note = f"ticks: single seeds; dot and line: mean and its {result['interval_level']:.0%} interval"
    right.set_xlabel(f"held-out loss ({unit})\n{note}")
    return figure


def _peers(axes: Axes, result: Mapping[str, Any], name: str) -> None:
    """The winner and the peers in a parameter's panel."""
    by_name = {row["name"]: row for row in result["comparison"]}
    for label, colour, marker, ms in _marks(result):
        row = by_name[label]
        if row["loss"] is not None:
            axes.plot(row["values"][name], row["loss"], marker, color=colour, ms=ms, mec="white", mew=0.8, zorder=4)


def _marks(result: Mapping[str, Any]) -> list[tuple[str, str, str, float]]:
    """Name, colour, marker and its size of the best setting and of the peers."""
    winners = {one["winner"] for one in result["searches"]}
    peers = [row["name"] for row in result["comparison"] if row["name"] not in winners]
    marks = [(name, PEERS[i % len(PEERS)], "D", 7.0) for i, name in enumerate(peers)]
    return [(result["best"]["name"], HELDOUT, "*", 15.0), *marks]


def _sampler_handles(trials: pd.DataFrame, before: str, ls: str, marker: str | None = None) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, ls=ls, marker=own if marker is None else marker, ms=4, label=f"{before}{sampler}")
        for sampler, (colour, own) in SAMPLERS.items()
        if sampler in set(trials["sampler"])
    ]


def _loss_range(trials: pd.DataFrame, result: Mapping[str, Any]) -> tuple[float, float]:
    """Losses worth showing: from below the best to above three quarters of the trials and every peer."""
    losses = trials["loss"].dropna()
    known = [row["loss"] for row in result["comparison"] if row["loss"] is not None]
    low, high = min(losses.min(), *known), max(losses.quantile(SHARE_SHOWN), *known)
    return low - 0.04 * (high - low), high + 0.04 * (high - low)


def _padded(parameter: Mapping[str, Any]) -> tuple[float, float]:
    low, high = parameter["low"], parameter["high"]
    if parameter["log"]:
        factor = (high / low) ** 0.03
        return low / factor, high * factor
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _budget(result: Mapping[str, Any]) -> str:
    budget = result["budget"]
    return f"N = {budget['N']:,}, D = {budget['D'] / budget['N']:.3g} N"


def _seeds(result: Mapping[str, Any]) -> int:
    return len(result["best"]["losses"])
