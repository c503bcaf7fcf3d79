"""JSON values, one a line, each line with the SHA-256 of its text before it: what is damaged is told from the rest."""

import hashlib
import io
import json
import re
from collections.abc import Iterator
from typing import Any, Final

START: Final = 65  # where the text of a line begins: after the 64 digits of its checksum and a blank


def checked_line(value: Any) -> bytes:
    """SHA-256 of a JSON text in 64 hexadecimal digits, a blank, and the text in ASCII.

    Returns:
        The line without its end.
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()
    return hashlib.sha256(text).hexdigest().encode() + b" " + text


def is_whole(line: bytes) -> bool:
    """Whether a line's checksum holds; the line comes without its end."""
    is_apart = line[START - 1 : START] == b" "
    return is_apart and hashlib.sha256(memoryview(line)[START:]).hexdigest().encode() == line[: START - 1]


def checked_value(line: bytes) -> Any:
    """The value of a line without its end; None where the checksum does not hold, or is that of no JSON value."""
    try:
        return json.loads(line[START:]) if is_whole(line) else None
    except (ValueError, RecursionError):
        return None


def checked_values(content: bytes) -> Iterator[Any]:
    """Read the values of lines that `checked_line` made.

    Args:
        content: the lines, each with its end; the last one may lack it.

    Yields:
        One value per line; None where the checksum does not hold, or is that of no JSON value.
    """
    for line in io.BytesIO(content.removesuffix(b"\n") + b"\n"):  # one line at a time: a journal can be long
        yield checked_value(line[:-1])


SELF_HASH: Final = "record_sha256"
NO_HASH: Final = f"sha256:{'0' * 64}"
_PLACE: Final = re.compile(rf'^  "{SELF_HASH}": "sha256:([0-9a-f]{{64}})"'.encode(), re.MULTILINE)


def with_self_hash(content: bytes) -> bytes:
    """Put the SHA-256 of the content in place of the zeros of its entry `record_sha256`.

    The hash is that of the content with the zeros. The entry stands at the beginning of a line, once.
    """
    [place] = _PLACE.finditer(content)
    return _with(content, place, hashlib.sha256(content).hexdigest().encode())


def self_hash_holds(content: bytes) -> bool:
    """Whether every byte is as it was when `with_self_hash` put the hash in."""
    places = list(_PLACE.finditer(content))
    if len(places) != 1:
        return False
    bare = _with(content, places[0], b"0" * 64)
    return hashlib.sha256(bare).hexdigest().encode() == places[0][1]


def _with(content: bytes, place: "re.Match[bytes]", digits: bytes) -> bytes:
    return content[: place.start(1)] + digits + content[place.end(1) :]
