"""What the process that reads foreign bytes and its owner agree on: what it may take for one file, and their words."""

from typing import Final

_SECONDS: Final = 10  # what our own budgets let through takes less than half of it
_BYTES_PER_SECOND: Final = 50 << 20  # checksums are ten times as fast
MEMORY: Final = 1 << 30  # bytes
LONGEST_ANSWER: Final = 128 << 20  # bytes


def seconds(size: int) -> int:
    """Return the processor time for a file of so many bytes."""
    return _SECONDS + size // _BYTES_PER_SECOND


WORD: Final = 32  # bytes of a request: the decoder's name; the file's descriptor comes with it
READY: Final = b"\n"
# An answer begins with one of these: whether the process can be asked again.
STAYS: Final = b"+"
ENDS: Final = b"-"
