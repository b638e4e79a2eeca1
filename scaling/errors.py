"""The error of a person's input: one line that names the thing, the value and the way out."""


class UserError(Exception):
    """Wrong input that the person at the keyboard can put right; the command line prints it and exits with 2."""
