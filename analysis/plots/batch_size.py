"""The batch-size law: token-to-loss curves, their parabolas in log batch, and the minima against loss and tokens."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.numbers import quantity
from analysis.plots.style import MINICPM, OURS, STYLE, decimal_ticks, size_colours

LEVELS = matplotlib.colormaps["plasma"].resampled(256)
UNUSED = "#BBBBBB"
ROOM = 1.6  # factor in batch that a parabola is drawn beyond its minimum on either side


@matplotlib.rc_context(STYLE)
def batch_size_law(tables: Mapping[str, pd.DataFrame], law: Mapping[str, Any]) -> Figure:
    """How the law comes about: a column per size for curves and parabolas, and two panels of minima below.

    Args:
        tables: of the record (see `experiments.batch_size_record`): curves, levels, minima, best_at_end.
        law: its law.json.
    """
    sizes = sorted(tables["minima"]["N"].unique())
    figure = Figure(figsize=(13.0, 12.0), layout="constrained")
    rows: Any = figure.subfigures(3, 1, height_ratios=(1, 1, 1.15))
    above, middle, below = rows
    _curves(above, tables["curves"], sizes)
    _parabolas(middle, tables["levels"], tables["minima"], sizes)
    against_loss, against_tokens = below.subplots(1, 2)
    colours = size_colours(sizes)
    for axes, column, fitted in (
        (against_loss, "loss", law["law"]),
        (against_tokens, "tokens", law["against_tokens"]),
    ):
        _minima(axes, column, tables, colours)
        band = fitted["band"]
        axes.fill_between(band[column], band["low"], band["high"], color=OURS, alpha=0.15, lw=0)
        axes.plot(band[column], band["batch"], color=OURS)
    for size in law["by_size"]:
        if "band" in size:
            against_loss.plot(size["band"]["loss"], size["band"]["batch"], "--", lw=1, color=colours[size["N"]])
    _minicpm(against_loss, law)
    _dress(against_loss, "loss at constant rate (nats per token)", "The law: best batch against loss")
    _dress(against_tokens, "tokens trained on", "The same minima against tokens")
    below.legend(handles=_handles(law, colours), loc="outside right upper")
    return figure


def _curves(figure: Any, curves: pd.DataFrame, sizes: list[float]) -> None:
    """Loss against tokens, the mean of the seeds, a colour per batch size."""
    colours = size_colours(curves["batch"].tolist())
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, n in zip(panels, sizes, strict=True):
        size = curves[curves["N"] == n]
        for batch in size["batch"].unique():
            mean = size[size["batch"] == batch].groupby("tokens")["loss"].mean()
            axes.plot(mean.index, mean, color=colours[batch], lw=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        decimal_ticks(axes.xaxis, *axes.get_xlim())
        axes.set_xlabel("tokens trained on")
        axes.set_title(f"N = {quantity(n)}")
    decimal_ticks(panels[0].yaxis, *panels[0].get_ylim())
    panels[0].set_ylabel("training loss (nats per token)")
    handles = [Line2D([], [], color=colour, label=f"{batch:.0f}") for batch, colour in colours.items()]
    figure.legend(handles=handles, loc="outside right upper", title="batch (tokens)")


def _parabolas(figure: Any, levels: pd.DataFrame, minima: pd.DataFrame, sizes: list[float]) -> None:
    """Tokens to reach a loss against batch, a colour per loss; grey where the law does not use the parabola."""
    panels = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    norm = LogNorm(levels["level"].min(), levels["level"].max())
    for axes, n in zip(panels, sizes, strict=True):
        for _, minimum in minima[minima["N"] == n].iterrows():
            reached = levels[(levels["N"] == n) & np.isclose(levels["level"], minimum["level"], rtol=1e-6)]
            log_tokens = np.log(reached["tokens"]).groupby(reached["batch"]).mean()
            used = minimum["problem"] == ""
            colour: Any = LEVELS(norm(minimum["level"])) if used else UNUSED
            axes.plot(log_tokens.index, np.exp(log_tokens), "o", ms=3.5, color=colour, alpha=0.9, mew=0)
            if used:
                _parabola(axes, minimum, colour)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("batch (tokens per step)")
    decimal_ticks(panels[0].yaxis, *panels[0].get_ylim())
    for axes in panels:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    panels[0].set_ylabel("tokens to reach a loss")
    bar = figure.colorbar(ScalarMappable(norm, LEVELS), ax=panels, pad=0.02, aspect=25)
    bar.set_label("loss (nats per token)")
    decimal_ticks(bar.ax.yaxis, *bar.ax.get_ylim())


def _parabola(axes: Axes, minimum: pd.Series, colour: Any) -> None:
    batch = minimum["batch"] * np.geomspace(1 / ROOM**2, ROOM**2, 60)
    tokens = minimum["tokens"] * np.exp(minimum["curvature"] * np.log(batch / minimum["batch"]) ** 2)
    axes.plot(batch, tokens, color=colour, lw=1.1)
    axes.plot(minimum["batch"], minimum["tokens"], "D", ms=5, color=colour, mec="black", mew=0.8, zorder=3)


def _minima(axes: Axes, column: str, tables: Mapping[str, pd.DataFrame], colours: Mapping[float, Any]) -> None:
    """Minima with their intervals, and the best batch of each size after the decay."""
    minima = tables["minima"].rename(columns={"level": "loss"})
    ends = tables["best_at_end"].drop(columns=["tokens"], errors="ignore").rename(columns={"D_total": "tokens"})
    for table, marker, ms in ((minima, "o", 5), (ends, "*", 13)):
        good = table["problem"] == ""
        for n, colour in colours.items():
            rows = table[good & (table["N"] == n)]
            around = np.clip([rows["batch"] - rows["low"], rows["high"] - rows["batch"]], 0, None)
            how = {"elinewidth": 0.8, "mec": "black", "mew": 0.6} if marker == "*" else {"elinewidth": 0.8}
            axes.errorbar(rows[column], rows["batch"], yerr=around, fmt=marker, ms=ms, color=colour, zorder=3, **how)


def _minicpm(axes: Axes, law: Mapping[str, Any]) -> None:
    theirs = law["minicpm"]["in_bytes"]
    loss = np.array(axes.get_xlim())
    axes.plot(loss, theirs["a"] / loss ** theirs["b"], "-.", color=MINICPM)
    axes.set_xlim(*loss)


def _dress(axes: Axes, label: str, title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        decimal_ticks(axis, *limits)
    axes.set_xlabel(label)
    axes.set_ylabel("best batch (tokens per step)")
    axes.set_title(title)


def _handles(law: Mapping[str, Any], colours: Mapping[float, Any]) -> list[Any]:
    ours, tokens, theirs = law["law"], law["against_tokens"], law["minicpm"]
    handles: list[Any] = [
        Line2D([], [], color=colour, marker="o", ls="", label=f"N = {quantity(n)}") for n, colour in colours.items()
    ]
    handles += [
        Line2D([], [], color="#888888", marker="*", ms=12, mec="black", ls="", label="after the decay,\nheld-out loss"),
        Line2D([], [], color="#888888", ls="--", lw=1, label="law of one size alone"),
        Line2D(
            [], [], color=OURS, label=f"bs = {ours['a']:.3g} / L^{ours['b']:.2f}\n(right: D^{tokens['exponent']:.2f})"
        ),
        Patch(color=OURS, alpha=0.15, label=f"{law['level']:.0%} interval\n({law['clusters']} seeds)"),
        Line2D(
            [],
            [],
            color=MINICPM,
            ls="-.",
            label=f"MiniCPM, C4, extrapolated,\n{theirs['a']:.3g} / L^{theirs['b']:.2f} in BPE tokens\n"
            f"of {theirs['bytes_per_token']:g} bytes, drawn per byte",
        ),
    ]
    return handles
