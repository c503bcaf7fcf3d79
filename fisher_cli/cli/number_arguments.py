"""Numbers in the words of the command line: what an option's text says, or a line that says what to type."""

import math

from fisher_cli.errors import UsageError
from fisher_cli.settings import Precision, read_precision


def positive(text: str, option: str, word: str) -> int | None:
    """The number that an option's text says, None for its word.

    Raises:
        UsageError: it is neither.
    """
    if text == word:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        msg = f"{option} {text}: type a positive whole number, or {word}"
        raise UsageError(msg)
    return int(text)


def count(number: int, option: str) -> int:
    """The number of an option that may be zero.

    Raises:
        UsageError: it is negative.
    """
    if number < 0:
        msg = f"{option} {number}: type a positive whole number, or 0 for none"
        raise UsageError(msg)
    return number


def positive_number(text: str | None, option: str, example: str) -> float | None:
    """The positive number that an option's text says, None without a text.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        msg = f"{option} {text}: type a positive number, such as {example}"
        raise UsageError(msg)
    return value


def precision(name: str) -> Precision:
    """The precision of this name.

    Raises:
        UsageError: there is none.
    """
    try:
        return read_precision(name)
    except ValueError as error:
        msg = f"--dtype {error}; type float32, float64, bfloat16 or tf32"
        raise UsageError(msg) from error
