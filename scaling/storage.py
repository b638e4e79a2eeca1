"""Files that survive a kill: atomic writes, JSON lines, and the lock that keeps a run to one process."""

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from scaling.errors import UserError

# A list that holds no text, list or object, over several lines; no text has a line break inside it.
_LIST = re.compile(r"\[\n\s*([^\[\]{}\"]*?)\n\s*\]")


@contextlib.contextmanager
def disk_full_is_a_user_error(path: Path) -> Iterator[None]:
    """Turns "no space left" into a sentence; whatever was being written keeps its temporary name."""
    try:
        yield
    except Exception as error:
        # orbax says in words alone what the system said in a number
        if not any(_says(error, number) for number in (errno.ENOSPC, errno.EDQUOT)):
            raise
        raise UserError(
            f"disk full while writing {path}: nothing half-written will be used; free some space and run the "
            f"same command again"
        ) from error


def _says(error: Exception, number: int) -> bool:
    return getattr(error, "errno", None) == number or os.strerror(number) in str(error)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_full_is_a_user_error(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, data: Any) -> None:
    """Writes JSON atomically, a list of numbers on one line. A NaN or infinity is an error: what is missing is null."""
    text = json.dumps(data, indent=1, allow_nan=False)
    write_text(path, _LIST.sub(lambda found: "[" + " ".join(found[1].split()) + "]", text) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON, or None where there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:  # not JSON, or not UTF-8
        raise damaged(path, error) from error


def damaged(path: Path, problem: object) -> UserError:
    """The error of a file that does not hold what was written there."""
    return UserError(
        f"{path} is damaged ({problem}): put it back from a copy, or remove the folder {path.parent} and run the "
        f"same command again, which makes it anew"
    )


def append_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Appends rows to a JSON-lines file and waits until they are on disk."""
    with disk_full_is_a_user_error(path), path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a JSON-lines file; a last line cut short by a kill is left out.

    Raises:
        UserError: another line is damaged.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if line.endswith(b"\n"):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise damaged(path, f"line {number}: {error}") from error
    return rows


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a JSON-lines file atomically."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrites a JSON-lines file atomically with the rows that `keep` accepts."""
    if path.exists():
        write_lines(path, filter(keep, read_lines(path)))


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Holds an exclusive lock on a file, or yields False at once when another process holds it.

    The lock is the kernel's (flock): it falls when its holder dies, so a kill leaves no stale lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
