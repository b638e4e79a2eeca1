"""House style of every figure: colours, sizes, ticks, legends, and how a figure is saved.

Colour-blind safe colours (sizes run along viridis, laws have fixed colours of Okabe and Ito 2008), units in every
label, and legends beside the axes, never on the data.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from analysis.numbers import quantity
from scaling import storage

OURS, HELDOUT, SHADE = "#0072B2", "#D55E00", "#E9E9E9"
HOFFMANN, CHINCHILLA, MINICPM = "#CC79A7", "#000000", "#009E73"

STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.5,
    "pdf.fonttype": 42,  # text stays text in the PDF
}


@matplotlib.rc_context(STYLE)
def save(figure: Figure, path_stem: Path | str) -> list[Path]:
    """Writes a figure as PNG and PDF, each whole or not at all; returns the two paths."""
    stem = Path(path_stem)
    paths = []
    for kind in ("png", "pdf"):
        path, drawn = stem.with_name(f"{stem.name}.{kind}"), io.BytesIO()
        # A PDF without its date is the same file for the same figure.
        metadata = {"CreationDate": None} if kind == "pdf" else None
        figure.savefig(drawn, format=kind, bbox_inches="tight", metadata=metadata)
        storage.write_bytes(path, drawn.getvalue())
        paths.append(path)
    return paths


def size_colours(sizes: Sequence[float]) -> dict[float, Any]:
    """A colour per model size, dark to light along viridis."""
    distinct = sorted(set(sizes))
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(distinct)))
    return dict(zip(distinct, shades, strict=True))


def figure_and_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, in inches."""
    figure = Figure(figsize=(width, height))  # no pyplot: nothing global, nothing to close
    return figure, figure.add_subplot()


def legend_beside(axes: Axes, handles: list[Line2D], offset: float = 1.02) -> None:
    """A legend to the right of the axes."""
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(offset, 1.0), borderaxespad=0)


def decimal_ticks(axis: Any, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis from low to high, evenly spaced where it spans less than a decade."""
    if high < 10 * low:
        ticks = MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}" if value < 1000 else quantity(value)))
    axis.set_minor_formatter(NullFormatter())
