"""A JSON file that carries its own SHA-256: that of its bytes with zeros in the hash's place."""

import hashlib
import re
from typing import Final

SEAL: Final = "record_sha256"
UNSEALED: Final = f"sha256:{'0' * 64}"
_PLACE: Final = re.compile(rf'^  "{SEAL}": "sha256:([0-9a-f]{{64}})"'.encode(), re.MULTILINE)


def sealed(content: bytes) -> bytes:
    """The content with its hash in place of the zeros; the entry stands at the beginning of a line, once."""
    [place] = _PLACE.finditer(content)
    return _with(content, place, hashlib.sha256(content).hexdigest().encode())


def is_sealed(content: bytes) -> bool:
    """Whether every byte is as it was when it was sealed."""
    places = list(_PLACE.finditer(content))
    if len(places) != 1:
        return False
    bare = _with(content, places[0], b"0" * 64)
    return hashlib.sha256(bare).hexdigest().encode() == places[0][1]


def _with(content: bytes, place: "re.Match[bytes]", digits: bytes) -> bytes:
    return content[: place.start(1)] + digits + content[place.end(1) :]
