"""JSON that anybody may have written → plain values: numbers are numbers, and nothing is too deep to be walked."""

import json
import math
from collections.abc import Callable
from typing import Any, Final, NoReturn

# Objects and lists within each other; a record has eight.
_DEEPEST: Final = 32


def json_value(text: bytes | str) -> Any:
    """Read a JSON value.

    Args:
        text: UTF-8 where it is bytes.

    Raises:
        ValueError: it is no such value, nested more than 32 deep, or has a number that is infinite or none.
    """
    found = shallow_value(text, parse_float=_finite)
    refuse_depth(found)
    return found


def shallow_value(text: bytes | str, parse_float: Callable[[str], float] | None = None) -> Any:
    """Read a JSON value of which nothing is walked through but what is known to be there.

    Args:
        text: UTF-8 where it is bytes.
        parse_float: makes a number of its text; None for `float`.

    Raises:
        ValueError: it is no such value, nested far too deeply, or has a word that is no number.
    """
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=parse_float)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


_TOO_DEEP: Final = "it is nested too deeply"


def refuse_depth(value: Any, deepest: int = _DEEPEST) -> None:
    """Refuse JSON values that are nested too deeply to be walked through.

    Raises:
        ValueError: they are.
    """
    if not isinstance(value, (dict, list)):
        return
    if deepest == 0:
        raise ValueError(_TOO_DEEP)
    for each in value.values() if isinstance(value, dict) else value:
        refuse_depth(each, deepest - 1)


def _finite(text: str) -> float:
    found = float(text)
    if math.isinf(found):
        _no_number(text[:20])
    return found


def _no_number(word: str) -> NoReturn:
    msg = f"{word} is no number"
    raise ValueError(msg)
