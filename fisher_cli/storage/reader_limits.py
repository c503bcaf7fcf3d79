"""What a process that reads foreign bytes and its owner agree on: what an answer may take, and their words."""

from typing import Final

_SECONDS: Final = 10  # what our own budgets let through takes less than half of it
_BYTES_PER_SECOND: Final = 50 << 20  # checksums are ten times as fast
MEMORY: Final = 1 << 30  # bytes, beside the files and what the process had before
LONGEST_ANSWER: Final = 128 << 20  # bytes of JSON
MOST_BYTES: Final = 256 << 20  # of numbers that come with an answer
MOST_FILES: Final = 32  # of one request


def seconds(size: int) -> int:
    """Return the processor time for files of so many bytes together."""
    return _SECONDS + size // _BYTES_PER_SECOND


WORD: Final = 32  # bytes of a request: the decoder's name; the files' descriptors come with it
LENGTH: Final = 8  # bytes of a number: how long what follows is
READY: Final = b"\n"
# Before each answer stands the first of these; behind the last one, whether the process can be asked again.
MORE: Final = b"*"
STAYS: Final = b"+"
ENDS: Final = b"-"
