"""Bytes read one after the other."""

import struct
from typing import Final

from fisher_cli.errors import CheckpointError

LONGEST_NAME: Final = 500
_UNSIGNED: Final = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}


class ByteStream:
    """The bytes from `position` to `end`; `position` moves with what is taken."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def take(self, count: int) -> bytes:
        """Return the next bytes.

        Raises:
            CheckpointError: There are fewer.
        """
        begin, finish = self.position, self.position + count
        if finish > self.end:
            msg = "truncated: a pickle without end"
            raise CheckpointError(msg)
        self.position = finish
        return self.data[begin:finish]

    def number(self, width: int) -> int:
        """Return the next unsigned number of so many bytes."""
        value: int = _UNSIGNED[width].unpack(self.take(width))[0]
        return value

    def line(self) -> str:
        """Return the text up to the next end of line.

        Raises:
            CheckpointError: There is none near.
        """
        finish = self.data.find(b"\n", self.position, min(self.end, self.position + LONGEST_NAME))
        if finish < 0:
            msg = "damaged: a name without end"
            raise CheckpointError(msg)
        text = self.take(finish - self.position).decode("utf-8")
        self.position += 1
        return text
