"""Reading a table of runs as it was written: kinds of file, numbers with suffixes, rows that keep their line."""

import json
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scaling.errors import UserError
from scaling.laws.guesses import listed

SUFFIXES: Mapping[str, float] = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_GROUPED = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d{1,3}(?:_\d{3})+"
_PLAIN = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_NUMBER = re.compile(rf"({_GROUPED}|{_PLAIN})\s*([kmbgt]?)", re.IGNORECASE)


def read_frame(path: Path) -> pd.DataFrame:
    """The rows of a file; the index names them as a person finds them: `line` of a text file, else `row` from 1.

    Args:
        path: .csv or .tsv (the separator is read off the first line), .jsonl, .json (a list of records, or columns
            by name) or .parquet. Nested records become columns a.b.

    Raises:
        UserError: no such file, another kind, or not a table.
    """
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": _separated,
        ".tsv": _separated,
        ".jsonl": _json_lines,
        ".json": _json,
        ".parquet": lambda p: _from_one(pd.read_parquet(p)),
    }
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: a table is one of {', '.join(readers)}")
    if path.is_dir():
        raise UserError(f"{path}: a folder, not a table: name a file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not path.stat().st_size:
        raise UserError(f"{path}: not a readable {path.suffix} table (the file is empty)")
    try:
        frame = readers[path.suffix.lower()](path)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except Exception as error:  # each reader has its own exceptions for a malformed file
        raise UserError(f"{path}: not a readable {path.suffix} table ({_one_line(error)})") from error
    frame.columns = pd.Index([str(name).strip() for name in frame.columns])
    return frame


def keep_where(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows for which a pandas expression holds, such as "loss < 4" or "tokens.notna()".

    Raises:
        UserError: the expression cannot be evaluated, or keeps nothing.
    """
    try:
        keep = frame.eval(where, engine="python")
    except Exception as error:  # pandas raises whatever the expression's evaluation raises
        raise UserError(
            f"where {where!r}: {_one_line(error)}; columns are {listed(frame.columns)} "
            "(a name with other characters than letters, digits and _ goes between backticks)"
        ) from error
    if not isinstance(keep, pd.Series) or keep.dtype != bool:
        raise UserError(f"where {where!r}: is no condition on rows, such as 'loss < 4' or 'tokens.notna()'")
    if not keep.any():
        raise UserError(f"where {where!r} keeps none of {len(frame)} rows")
    return frame[keep]


def name_rows(frame: pd.DataFrame, positions: Any, most: int = 8) -> str:
    """Rows as a person finds them, in words: "lines 3, 7" of a file, "rows 2, 6", "index 'a', 'b'"."""
    kind = str(frame.index.name) if frame.index.name in ("line", "row") else "index"
    labels = [str(frame.index[i]) for i in np.atleast_1d(positions)]
    plural = "s" if len(labels) > 1 and kind != "index" else ""
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return f"{kind}{plural} {', '.join(labels[:most])}{more}"


def extract(frame: pd.DataFrame, asked: str, option: str) -> pd.Series:
    """A column, or part of one: COLUMN~REGEX takes what the expression's first group finds in each value.

    Args:
        frame: the rows.
        asked: a column's name, or such as "run~^([0-9.]+[MB])", which reads N out of the run 190M-0.5xC.
        option: how the person asked, for errors.

    Raises:
        UserError: no such column, or no expression.
    """
    name, tilde, pattern = (asked, "", "") if asked in frame.columns else asked.partition("~")
    if name not in frame.columns:
        raise UserError(f"{option} {asked!r}: no such column; columns are {listed(frame.columns)}")
    if not tilde:
        return frame[name]
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UserError(f"{option} {asked!r}: {pattern!r} is not a regular expression ({error})") from error
    matches = [found.search(str(value)) for value in frame[name]]
    parts = [
        match.group(min(1, found.groups)) if match else f"no match in {value}"
        for value, match in zip(frame[name], matches, strict=True)
    ]
    return pd.Series(parts, index=frame.index, dtype=object)


def number(value: Any, *, count: bool) -> float:
    """A number as people write it, or nan.

    Args:
        value: a number, or text.
        count: of things: then 1,000,000 and the suffixes k, M, B (or G) and T are understood in either case. A
            comma in a loss could as well be a decimal comma: no number.
    """
    if isinstance(value, bool | np.bool_):
        return np.nan
    if not isinstance(value, str):
        try:
            return float(value)
        except (TypeError, ValueError):
            return np.nan
    match = _NUMBER.fullmatch(value.strip())
    if match is None or (not count and (match[2] or "," in match[1])):
        return np.nan
    return float(match[1].replace(",", "").replace("_", "")) * SUFFIXES[match[2].lower()]


def positive(column: pd.Series, what: str, *, count: bool, zero: bool = False) -> tuple[np.ndarray, str]:
    """A column's values, (rows,), and a word on how they were written, or "".

    Args:
        column: of numbers or text.
        what: how an error calls it.
        count: see `number`.
        zero: whether a value may be 0.

    Raises:
        UserError: values that are not positive, finite numbers; their rows and the first of them named.
    """
    values = np.array([number(value, count=count) for value in column], float)
    bad = np.flatnonzero(~(np.isfinite(values) & ((values >= 0) if zero else (values > 0))))
    if len(bad):
        first = column.iloc[bad[0]]
        shown = "empty" if first is None or first != first else repr(first) if isinstance(first, str) else f"{first:g}"
        if isinstance(first, str) and re.fullmatch(r"\d+,\d+", first.strip()):
            shown += ", with a decimal comma"
        if isinstance(first, str) and first.strip().endswith("%"):
            shown += ", a percentage: write 0.94 or 94 for 94%"
        way_out = "mend them"
        if len(bad) < len(column):
            way_out += f', or leave those rows out with --where, such as --where "{_keeps_out(column, bad)}"'
        raise UserError(
            f"{what} has {len(bad)} value(s) that are not positive numbers "
            f"({name_rows(column.to_frame(), bad)}; the first is {shown}): {way_out}"
        )
    texts = [value for value in column if isinstance(value, str)]
    odd = next((text for text in texts if not re.fullmatch(r"\s*[\d.]+(e[+-]?\d+)?\s*", text, re.IGNORECASE)), "")
    return values, f"written such as {odd.strip()!r}, which is {number(odd, count=count):.6g}" if odd else ""


def _keeps_out(column: pd.Series, bad: np.ndarray) -> str:
    """A `where` expression that leaves these rows out: by the column where it is empty or not positive, else by row."""
    name = column.name if re.fullmatch(r"[A-Za-z_]\w*", str(column.name)) else f"`{column.name}`"
    if column.name is not None and column.iloc[bad].isna().all():
        return f"{name}.notna()"
    if column.name is not None and pd.api.types.is_numeric_dtype(column) and np.isfinite(column.iloc[bad]).all():
        return f"{name} > 0"
    return f"{column.index.name or 'index'} not in [{', '.join(str(column.index[i]) for i in bad)}]"


def _separated(path: Path) -> pd.DataFrame:
    text = path.read_text(encoding="utf-8-sig")
    header = text.partition("\n")[0]
    separator = max("\t,;", key=header.count) if path.suffix.lower() == ".csv" else "\t"
    # Blank lines are read, so that the index counts lines, and then left out.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, sep=separator, encoding="utf-8-sig", skip_blank_lines=False, index_col=False)
    except pd.errors.ParserWarning as warning:
        raise UserError(
            f'{path}: rows have more fields than the first line has names: quote values such as "1,000"'
        ) from warning
    lines = text.count("\n") + (not text.endswith("\n"))
    if len(frame) == lines - 1:
        frame.index = pd.RangeIndex(2, len(frame) + 2, name="line")
        return frame.dropna(how="all")
    return _from_one(frame.dropna(how="all"))  # a quoted line break: rows and lines part ways


def _json_lines(path: Path) -> pd.DataFrame:
    records, lines = [], []
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if text.strip():
            try:
                records.append(json.loads(text))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: not a readable .jsonl table (line {line}: {error})") from error
            lines.append(line)
    frame = pd.json_normalize(records)
    frame.index = pd.Index(lines, name="line")
    return frame


def _json(path: Path) -> pd.DataFrame:
    data = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(data, dict) and all(isinstance(column, list | dict) for column in data.values()):
        return _from_one(pd.DataFrame(data))
    if isinstance(data, list) and all(isinstance(record, dict) for record in data):
        return _from_one(pd.json_normalize(data))
    raise UserError(f"{path}: a .json table is a list of records, or an object of columns")


def _from_one(frame: pd.DataFrame) -> pd.DataFrame:
    frame.index = pd.RangeIndex(1, len(frame) + 1, name="row")
    return frame


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
