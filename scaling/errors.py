"""The error of a person's input: one line that names the thing, the value and the way out."""

import contextlib
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Wrong input that the person at the keyboard can put right; the command line prints it and exits with 2."""


@contextlib.contextmanager
def exit_on_user_error(prefix: str = "") -> Iterator[None]:
    """Around a command line: a `UserError` inside ends the process with its sentence and status 2.

    Args:
        prefix: before the sentence.
    """
    try:
        yield
    except UserError as error:
        print(f"{prefix}{error}", file=sys.stderr)
        sys.exit(2)
