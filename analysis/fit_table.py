"""The law of anybody's runs: one file of points in; tables, fit.json and figures out."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from analysis import show_law
from scaling.errors import UserError
from scaling.laws import conventions, holdout, reading, report, report_json, table
from scaling.laws.form import Form
from scaling.laws.forms import FORMS


@dataclasses.dataclass(frozen=True)
class Source:
    """A file of points and how to read it.

    Attributes:
        path: .csv, .tsv, .jsonl, .json or .parquet, one row per point.
        columns, where, units, duplicates: as in `table.read_table`.
    """

    path: Path
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    where: str = ""
    units: Mapping[str, float] = dataclasses.field(default_factory=dict)
    duplicates: table.Duplicates = "refuse"

    def points(self, form: Form) -> table.Table:
        """The points as a form reads them."""
        return table.read_table(
            self.path,
            form=form,
            columns=self.columns,
            where=self.where,
            units=self.units,
            duplicates=self.duplicates,
        )

    def alternatives(self, form: Form) -> list[conventions.Alternative]:
        """The same points under every convention of N and C that the file holds."""
        frame: pd.DataFrame = reading.read_frame(self.path)
        if self.where:
            frame = reading.keep_where(frame, self.where)
        return conventions.alternatives(frame, form, self.columns, self.units, self.duplicates)


def check_writable(folder: Path) -> None:
    """Refuses a folder that nothing can be written to, before the work is done.

    Raises:
        UserError: it, or the folder that it would be made in, is a file or read-only.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    problem = "a file" if not existing.is_dir() else "" if os.access(existing, os.W_OK) else "read-only"
    if problem:
        raise UserError(f"{folder}: cannot be written to, {existing} is {problem}: name another with --out-dir")


def form_named(name: str) -> Form:
    """A form by name.

    Raises:
        UserError: there is none.
    """
    if name not in FORMS:
        raise UserError(f"form {name!r}: one of {', '.join(FORMS)}")
    return FORMS[name]


def fit_table(
    source: Source,
    form: Form,
    *,
    by: holdout.By = "largest_n",
    budgets: Sequence[float] = (),
    figures: bool = True,
    out_dir: Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> report.Report:
    """Fits a law to a file of points, prints what it says, and writes fit.json and figures.

    Args:
        source: the file.
        form: the law's form.
        by: which held-out check is shown in detail.
        budgets: FLOPs to allocate, 6 N D or as an asked column of FLOPs counts; by default 1, 10 and 100 times the
            largest run.
        figures: whether to draw.
        out_dir: where fit.json and the figures go; by default, for runs.csv, runs-law beside it.
        console: where to print; the terminal by default.
        options: further arguments of `report.analyse`.

    Raises:
        UserError: bad file, columns, values, design or arguments.
    """
    console = console or Console()
    points = source.points(form)
    # Not the bare stem: runs.csv beside a store of runs would write into the store.
    folder = source.path.with_name(f"{source.path.stem}-law") if out_dir is None else out_dir
    check_writable(folder)
    console.print(f"Fitting {form.formula} to {len(points)} points of {source.path}")
    alternatives = source.alternatives(form) if set(form.columns) == {"n", "d"} else []
    with console.status("") as status:  # a terminal sees it, a file does not
        found = report.analyse(
            points, form, by=by, budgets=budgets, alternatives=alternatives, announce=status.update, **options
        )
    show_law.show(found, console)
    drawn = write(found, folder, figures=figures)
    console.print(f"Written to {folder}: fit.json" + (f" and as .png and .pdf {', '.join(drawn)}" if drawn else ""))
    return found


def write(found: report.Report, folder: Path, *, figures: bool = True) -> list[str]:
    """Writes fit.json and the figures of a report, each file whole or not at all; returns the figures' names."""
    report_json.write(found, folder / "fit.json")
    if not figures:
        return []
    from analysis import plots  # matplotlib takes half a second, and whoever only reads numbers need not wait

    drawn = plots.of_report(found)
    for name, figure in drawn.items():
        plots.save(figure, folder / name)
    return list(drawn)
