"""The columns of a table by role: asked for or guessed, read as numbers in ones, all that is missing said at once."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from scaling.errors import UserError
from scaling.laws import guesses, reading
from scaling.laws.forms import Form

COUNTED = ("n", "d", "flops")  # any two give the third
SPARE = ("d_stable",)  # of use where they are there
NAMES_A_SIZE = r"\d[MBmb](?![a-zA-Z])"


class Found(NamedTuple):
    """The column of a role.

    Attributes:
        column: its name, or COLUMN~REGEX.
        guessed: whether nobody asked for it.
        note: both in words.
    """

    column: str
    guessed: bool
    note: str


def check(form: Form, asked: Mapping[str, str], units: Mapping[str, float]) -> None:
    """Refuses roles that the form does not know and factors that are none.

    Raises:
        UserError: with the known ones.
    """
    known = dict.fromkeys((*COUNTED, "loss", "cluster", *form.columns, *SPARE))
    for role in (*asked, *units):
        if role not in known:
            raise UserError(f"{role!r} is no column of a table for {form.name!r}: one of {', '.join(known)}")
    for role, factor in units.items():
        if role == "cluster" or not 0 < factor < np.inf:
            raise UserError(f"--unit {role}={factor}: a positive factor for a column of numbers, such as n=1e9")


def find(frame: pd.DataFrame, form: Form, asked: Mapping[str, str]) -> tuple[dict[str, Found], dict[str, str]]:
    """The column of every role that has one, and why one that the form can do without was not read, in words.

    Raises:
        UserError: a column that the form cannot do without is missing or ambiguous, or several could be the cluster,
            without which intervals would be another's; all such columns in one sentence.
    """
    found = {role: Found(column, False, f"column {column!r}") for role, column in asked.items()}
    unclear = {}
    for role in dict.fromkeys((*COUNTED, *form.columns, "loss", "cluster", *SPARE)):
        try:
            guess = None if role in asked else _guess(frame, _sought(form, role))
        except UserError as error:
            unclear[role] = str(error)
            continue
        if guess is not None:
            others = f", not {guesses.listed(guess.others, 4)}" if guess.others else ""
            found[role] = Found(guess.column, True, f"column {guess.column!r} (guessed{others})")
    derived = set(COUNTED) if len(set(COUNTED) & set(found)) > 1 else set()
    needed = [role for role in ("loss", *form.columns) if role not in set(found) | derived]
    needed += [role for role in ("cluster",) if role in unclear]
    problems = [unclear.get(role) or _missing(frame, _sought(form, role)) for role in needed]
    if set(needed) - set(unclear):  # show what else there is
        said = "; ".join(problems)
        problems.append(f"other columns are {guesses.listed([c for c in frame.columns if repr(c) not in said], 24)}")
    if problems:
        raise UserError("; ".join(problems))
    return found, {role: f"not read: {why}" for role, why in unclear.items()}


def read(
    frame: pd.DataFrame, form: Form, found: Mapping[str, Found], units: Mapping[str, float]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The values of every role in ones, (rows,) each, and what they are, in words.

    A guessed column that the form can do without, as it follows from two others, is left out where it is bad.

    Raises:
        UserError: values that are not positive numbers.
    """
    values, notes = {}, {role: column.note for role, column in found.items()}
    spare = set(SPARE) | (set(COUNTED) - set(form.columns) if len(set(COUNTED) & set(found)) == 3 else set())
    for role, (name, guessed, note) in found.items():
        if role == "cluster":
            continue
        column = reading.extract(frame, name, guesses.option(role))
        like = "d" if role == "d_stable" else role  # tokens, in the unit of the others
        named = guesses.named_unit(like, name) if name in frame.columns else 1.0
        factor = units.get(role, units.get(like, named))
        try:
            numbers, written = reading.positive(
                column, f"column {name!r}", count=role not in ("loss", "task_loss"), zero=role == "d_stable"
            )
        except UserError as error:
            if not guessed or role not in spare:
                raise
            notes[role] = f"not read: {str(error).partition(':')[0]}"
            continue
        values[role] = numbers * factor
        scale = f"in units of {factor:g}" + ("" if role in units else ", by its name") if factor != 1 else ""
        notes[role] = "; ".join(filter(None, (note, written, scale)))
    return values, notes


def _guess(frame: pd.DataFrame, role: str) -> guesses.Guess | None:
    """What the names of columns suggest for a role; of several that could be the cluster, the one that groups the rows.

    Raises:
        UserError: several columns, none of which is preferred.
    """
    rivals = guesses.preferred(frame.columns, role)
    if role != "cluster" or len(rivals) < 2:
        return guesses.guess(frame.columns, role)
    counts = {name: frame[name].nunique(dropna=False) for name in rivals}
    grouping = [name for name in rivals if 1 < counts[name] < len(frame)]
    if len({tuple(pd.factorize(frame[name])[0]) for name in grouping}) > 1:
        return guesses.guess(frame.columns, role)  # they group them differently
    chosen = grouping[0] if grouping else max(rivals, key=lambda name: counts[name])
    others = [name for name in frame.columns if name not in rivals]
    lower = guesses.guess([chosen, *others], role)
    return lower and lower._replace(others=(*(name for name in rivals if name != chosen), *lower.others))


def _sought(form: Form, role: str) -> str:
    """What to look for: a form that turns the loss on a task into an accuracy is fitted to accuracies."""
    return "accuracy" if role == "loss" and "task_loss" in form.columns else role


def _missing(frame: pd.DataFrame, role: str) -> str:
    """That a role has no column, and what can be done."""
    words = f"no column for {guesses.MEANINGS.get(role, role)}: name one with {guesses.option(role)}"
    if role == "d":
        return f"{words}, or the FLOPs with --flops"
    for name in frame.columns if role == "n" else ():
        names_a_size = frame[name].astype(str).str.contains(NAMES_A_SIZE)
        if not pd.api.types.is_numeric_dtype(frame[name]) and names_a_size.mean() > 0.5:
            example = frame[name][names_a_size].iloc[0]
            return f"{words}, or read it out of names such as {example!r} with --n '{name}~([0-9.]+[MBmb])'"
    return words
