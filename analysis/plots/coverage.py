"""How often intervals hold the truth in simulated studies."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from analysis.plots.style import CHINCHILLA, HELDOUT, OURS, SHADE, STYLE

GOAL = (0.87, 0.93)  # what a nominal 90% interval is to cover
BOOTSTRAPS = {"by cluster": (OURS, "o"), "by point": (HELDOUT, "s")}
LABELS = {
    "a": "exponent a of\n$N_\\mathrm{opt} \\sim C^a$",
    "log10 D/N": "$\\log_{10}$ D/N at ten times\nthe largest budget",
    "log loss": "the law's loss\nat a new (N, D)",
    "new run": "a new run's loss\nat that (N, D)",
}


@matplotlib.rc_context(STYLE)
def coverage(record: Mapping[str, Any]) -> Figure:
    """Coverage with twice its Monte-Carlo error, one panel per quantity, a row per design and split of errors.

    Args:
        record: as `experiments.simulations.coverage` writes it.
    """
    rows = record["rows"]
    figure = Figure(figsize=(11.0, 1.4 + 0.42 * len(rows)))
    panels = figure.subplots(1, len(LABELS), sharex=True, sharey=True)
    height_R = np.arange(len(rows))[::-1]
    for axes, (name, label) in zip(panels, LABELS.items(), strict=True):
        axes.axvspan(*(100 * end for end in GOAL), color=SHADE, lw=0)
        axes.axvline(100 * record["level"], color=CHINCHILLA, lw=0.8)
        for shift, (how, (colour, marker)) in zip((0.14, -0.14), BOOTSTRAPS.items(), strict=True):
            cells = [row[how][name] for row in rows]
            axes.errorbar(
                [100 * cell["coverage"] for cell in cells],
                height_R + shift,
                xerr=[200 * cell["standard_error"] for cell in cells],
                fmt=marker,
                color=colour,
                ms=5,
                elinewidth=1.2,
            )
        axes.set_title(label)
        axes.grid(axis="y", visible=False)
        for lower in _last_of_designs(rows):
            axes.axhline(height_R[lower] - 0.5, color="#888888", lw=0.8)
    panels[0].set_yticks(height_R, [_row_label(row) for row in rows])
    panels[0].set_ylim(-0.6, len(rows) - 0.4)
    panels[0].xaxis.set_major_locator(MultipleLocator(10))
    figure.supxlabel(f"studies of which the {record['level']:.0%} interval holds the truth (%)", size=10)
    handles: list[Artist] = [
        Line2D([], [], color=colour, marker=marker, ms=5, label=f"bootstrap {how}")
        for how, (colour, marker) in BOOTSTRAPS.items()
    ]
    handles.append(Patch(color=SHADE, label=f"goal, {GOAL[0]:.0%} to {GOAL[1]:.0%}"))
    panels[-1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.04, 1.0), borderaxespad=0)
    figure.tight_layout()
    return figure


def _last_of_designs(rows: list[Mapping[str, Any]]) -> list[int]:
    """Rows after which another design begins."""
    return [i for i in range(len(rows) - 1) if rows[i]["design"] != rows[i + 1]["design"]]


def _row_label(row: Mapping[str, Any]) -> str:
    return f"{row['design']}, {row['clusters']} clusters\ntrunk : point error {row['trunk_to_point']:g} : 1"
