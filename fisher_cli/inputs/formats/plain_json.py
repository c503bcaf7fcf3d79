"""JSON written by somebody else → plain values, or one line that says what is wrong with it."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Final

from fisher_cli.errors import CheckpointError
from fisher_cli.text import clipped

_LARGEST: Final = 64 << 20  # bytes; the index of a network with half a million tensors has about this
_LONGEST_INTEGER: Final = 20  # digits, more than any number of bytes that a disk holds


_MOST_ENTRIES: Final = 2_000_000  # an empty list takes three bytes in a file and fifty in memory


class _DamagedError(ValueError):
    """JSON that no program wrote for use."""


def parse_json(data: bytes, where: str, *, allow_nan: bool = False) -> dict[str, object]:
    """Read the JSON object that the bytes are, with every name in it once.

    Args:
        data: at most 64 MiB of UTF-8.
        where: what is read, for messages.
        allow_nan: let NaN and infinities be: trainers log them, as words that are no JSON.

    Raises:
        CheckpointError: It is no JSON object; or a name occurs twice, a number is out of any range, or it is nested too
            deeply.
    """
    try:
        found = _parsed(data, allow_nan)
    except RecursionError as error:
        msg = f"{where}: nested too deeply; copy or download it again"
        raise CheckpointError(msg) from error
    except ValueError as error:
        reason = str(error) if isinstance(error, _DamagedError) else "no valid JSON"
        msg = f"{where}: {reason}; copy or download it again"
        raise CheckpointError(msg) from error
    return found


def _parsed(data: bytes, allow_nan: bool) -> dict[str, object]:
    if len(data) > _LARGEST:
        msg = f"{len(data)} bytes of JSON, more than any checkpoint needs"
        raise _DamagedError(msg)

    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > _MOST_ENTRIES:
        msg = f"more than {_MOST_ENTRIES} entries of JSON, more than any checkpoint needs"
        raise _DamagedError(msg)

    def constant(text: str) -> float:
        if not allow_nan:
            msg = f"has {text} where a number belongs"
            raise _DamagedError(msg)
        return float(text)

    text = data.decode("utf-8")
    found = json.loads(text, object_pairs_hook=_unique, parse_int=_integer, parse_constant=constant)
    if not isinstance(found, dict):
        msg = f"a JSON {type(found).__name__} and no object"
        raise _DamagedError(msg)
    return found


def _unique(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        msg = f"names {clipped(twice)} twice"
        raise _DamagedError(msg)
    return found


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        msg = f"has a whole number of {len(text)} digits"
        raise _DamagedError(msg)
    return int(text)
