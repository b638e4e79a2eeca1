"""Studies of schedules: where a cosine ends, how long a decay is and what shape it has, when it is taken.

All read tables of points (`scaling.records.points`) whose labels say what a run was.
"""

import itertools
from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from analysis.numbers import quantity
from analysis.plots.style import STYLE, decimal_ticks, size_colours

LOSS = "nats_per_token/code"
_GREY = "#666666"
SEED_MARKERS = ("o", "s", "^", "D")


def horizons(points: pd.DataFrame) -> pd.DataFrame:
    """Cosines of a table of points with `shape`, `period` and `stop` (in N), and how far each ends from T = S.

    `difference` is loss less that of the cosine of the same size and seed that ends where it stops.
    """
    parts = points["label"].str.extract(r"/(?P<shape>cosine|cosine_loop)-T(?P<period>\d+)N-S(?P<stop>\d+)N$")
    table = points[["N", "seed", LOSS]].join(parts).dropna(subset=["shape"])
    table = table.astype({"period": int, "stop": int})
    matched = table[(table["period"] == table["stop"]) & (table["shape"] == "cosine")]
    table = table.merge(matched[["N", "seed", "stop", LOSS]], on=["N", "seed", "stop"], suffixes=("", "_matched"))
    return table.assign(difference=table[LOSS] - table[f"{LOSS}_matched"])


@matplotlib.rc_context(STYLE)
def cosine_horizon(points: pd.DataFrame) -> Figure:
    """Loss at S against the cosine's period T / S, less the loss of T = S: one panel for each S."""
    table = horizons(points)
    colours, stops = size_colours(table["N"].tolist()), sorted(table["stop"].unique())
    figure = Figure(figsize=(2.6 * len(stops) + 2.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(stops), sharey=True, squeeze=False)[0]
    for axes, stop in zip(panels, stops, strict=True):
        axes.axhline(0.0, color=_GREY, lw=0.8)
        axes.axvline(1.0, color=_GREY, lw=0.8)
        for (size, shape), rows in table[table["stop"] == stop].groupby(["N", "shape"]):
            style = {"color": colours[size], "marker": "o" if shape == "cosine" else "D", "ms": 4}
            if shape != "cosine":
                style |= {"mfc": "white", "ls": ""}
            _mean_and_seeds(axes, rows.assign(x=rows["period"] / stop), "difference", style)
        axes.set_xscale("log", base=2)
        decimal_ticks(axes.xaxis, 0.125, 8)
        axes.xaxis.set_major_locator(FixedLocator([0.125, 0.25, 0.5, 1, 2, 4, 8]))
        axes.set_title(f"S = {stop} N")
        axes.set_xlabel("period of the cosine, T / S")
    panels[0].set_ylabel("held-out loss less that of T = S\n(nats per token)")
    handles = _size_handles(colours)
    handles.append(Line2D([], [], color=_GREY, marker="o", ms=4, label="cosine, kept at its floor"))
    handles.append(Line2D([], [], color=_GREY, marker="D", ms=4, mfc="white", ls="", label="cosine loop"))
    handles.append(_seed_handle())
    _legend_right(figure, handles)
    return figure


def shares(points: pd.DataFrame) -> pd.DataFrame:
    """Decay branches of a table of points with `length` (in N), `share`, and the difference from a share of 10%."""
    parts = points["label"].str.extract(r"/(?P<length>\d+)N-(?P<share>[\d.]+)%$").astype(float)
    table = points[["N", "seed", LOSS]].join(parts).dropna(subset=["share"])
    tenth = table[table["share"] == 10.0][["N", "seed", "length", LOSS]]
    table = table.merge(tenth, on=["N", "seed", "length"], suffixes=("", "_tenth"))
    return table.assign(difference=table[LOSS] - table[f"{LOSS}_tenth"])


@matplotlib.rc_context(STYLE)
def decay_share(points: pd.DataFrame, cosines: pd.DataFrame) -> Figure:
    """Loss against the decay's share of all tokens, less that of 10%: one panel for each length.

    Args:
        points: WSD branches (study `decay_share`).
        cosines: of `cosine_horizon`; those that end where they stop are drawn as lines, where sizes and seeds agree.
    """
    table, matched = shares(points), horizons(cosines)
    matched = matched[(matched["period"] == matched["stop"]) & (matched["shape"] == "cosine")]
    tenth = table[table["share"] == 10.0]
    matched = matched.merge(
        tenth, left_on=["N", "seed", "stop"], right_on=["N", "seed", "length"], suffixes=("", "_wsd")
    )
    colours, lengths = size_colours(table["N"].tolist()), sorted(table["length"].unique())
    figure = Figure(figsize=(2.8 * len(lengths) + 2.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
    for axes, length in zip(panels, lengths, strict=True):
        axes.axhline(0.0, color=_GREY, lw=0.8)
        for size, rows in table[table["length"] == length].groupby("N"):
            _mean_and_seeds(
                axes, rows.assign(x=rows["share"]), "difference", {"color": colours[size], "marker": "o", "ms": 4}
            )
        for size, rows in matched[matched["stop"] == length].groupby("N"):
            axes.axhline((rows[LOSS] - rows[f"{LOSS}_wsd"]).mean(), color=colours[size], lw=1.0, ls="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator([2.5, 5, 10, 20]))
        axes.xaxis.set_major_formatter(FixedFormatter(["2.5", "5", "10", "20"]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(f"{length:g} N tokens in all")
        axes.set_xlabel("share of the decay (%)")
    panels[0].set_ylabel("held-out loss less that of 10%\n(nats per token)")
    handles = [*_size_handles(colours), _seed_handle()]
    handles.append(Line2D([], [], color=_GREY, lw=1.0, ls="--", label="cosine to the same length"))
    _legend_right(figure, handles)
    return figure


def shapes(points: pd.DataFrame) -> pd.DataFrame:
    """Decay branches of a table of points with `shape`, and their difference from 1-sqrt to zero."""
    table = points[["N", "seed", LOSS]].assign(shape=points["label"].str.split("/").str[1])
    root = table[table["shape"] == "one_minus_sqrt-to-0"][["N", "seed", LOSS]]
    table = table.merge(root, on=["N", "seed"], suffixes=("", "_root"))
    return table.assign(difference=table[LOSS] - table[f"{LOSS}_root"])


@matplotlib.rc_context(STYLE)
def decay_shapes(points: pd.DataFrame) -> Figure:
    """Loss at the end of every shape of decay less that of 1-sqrt, a row for each shape, best mean first."""
    table = shapes(points)
    order = table.groupby("shape")["difference"].mean().sort_values().index
    colours, height = size_colours(table["N"].tolist()), {shape: -i for i, shape in enumerate(order)}
    sizes = list(colours)
    figure = Figure(figsize=(8.6, 1.2 + 0.42 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0.0, color=_GREY, lw=0.8)
    for shape, rows in table.groupby("shape"):
        axes.plot([rows["difference"].mean()] * 2, [height[shape] - 0.33, height[shape] + 0.33], color="black", lw=1.6)
    for size, seed in itertools.product(sizes, sorted(table["seed"].unique())):
        rows = table[(table["N"] == size) & (table["seed"] == seed)]
        heights = rows["shape"].map(height) + 0.2 * (len(sizes) - 1) / 2 - 0.2 * sizes.index(size)
        axes.plot(rows["difference"], heights, SEED_MARKERS[seed], color=colours[size], ms=4.5)
    axes.set_yticks(list(height.values()), [_shape_name(shape) for shape in height])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("held-out loss less that of 1-sqrt to 0 (nats per token)")
    handles = _size_handles(colours, line=False)
    handles += [
        Line2D([], [], color=_GREY, marker=SEED_MARKERS[seed], ls="", ms=4.5, label=f"seed {seed}")
        for seed in sorted(table["seed"].unique())
    ]
    handles.append(Line2D([], [], color="black", lw=1.6, label="mean"))
    _legend_right(figure, handles)
    return figure


def _shape_name(label: str) -> str:
    shape, _, end = label.partition("-to-")
    names = {"one_minus_sqrt": "1-sqrt", "mirror_cosine": "mirrored cosine", "square": "1 - r²"}
    return f"{names.get(shape, shape)} to {'0' if end == '0' else f'{float(end):.0%}'}"


def _mean_and_seeds(axes: Axes, rows: pd.DataFrame, column: str, style: dict) -> None:
    """A line through the means over seeds, and a faint dot for every seed; `x` is the abscissa."""
    mean = rows.groupby("x")[column].mean()
    axes.plot(mean.index, mean, **style)
    axes.plot(rows["x"], rows[column], ls="", marker=".", ms=5, color=style["color"], alpha=0.45, mew=0)


def _size_handles(colours: dict, line: bool = True) -> list[Line2D]:
    style: dict = {} if line else {"marker": "o", "ls": "", "ms": 4.5}
    return [Line2D([], [], color=colour, label=f"N = {quantity(size)}", **style) for size, colour in colours.items()]


def _seed_handle() -> Line2D:
    return Line2D([], [], color=_GREY, marker=".", ls="", ms=5, alpha=0.6, label="a seed (lines: means)")


def _legend_right(figure: Figure, handles: Sequence[Line2D]) -> None:
    """A legend to the right of all panels."""
    figure.legend(handles=list(handles), loc="outside right upper")
