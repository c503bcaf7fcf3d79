"""The messages of an Arrow stream, by their heads alone: how many rows each holds, and how many bytes it unpacks to.

The library reads a message whole and unpacks it before it tells how large it is. A head is a table of FlatBuffers, of
which only a few numbers are of interest.
Source: https://arrow.apache.org/docs/format/Columnar.html, and Message.fbs beside it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

START: Final = b"ARROW1\0\0"  # of a file, before its stream of messages
_CONTINUES: Final = -1
_LONGEST_HEAD: Final = 64 * 2**20
_MOST_BUFFERS: Final = 100_000
_DICTIONARY, _BATCH = 2, 3  # kinds of messages


@dataclass(frozen=True)
class ArrowMessage:
    """A message of rows, or of the values of a dictionary.

    Attributes:
        rows: how many it claims; 0 for a dictionary.
        stored: bytes behind its head.
        unpacked: bytes of its buffers once unpacked.
    """

    rows: int
    stored: int
    unpacked: int


def arrow_messages(file: BinaryIO) -> Iterator[ArrowMessage]:
    """Yield the messages of rows and dictionaries; a file's own index behind them is not needed.

    Args:
        file: from its beginning on.

    Raises:
        ValueError: They are damaged.
    """
    length = file.seek(0, 2)
    file.seek(0)
    position = len(START) if file.read(len(START)) == START else 0
    while True:
        file.seek(position)
        prefix = file.read(8)
        first = int.from_bytes(prefix[:4], "little", signed=True)
        size = int.from_bytes(prefix[4:], "little", signed=True) if first == _CONTINUES else first
        position += 8 if first == _CONTINUES else 4  # older writers have no mark of continuation
        if size == 0:  # so a stream ends, if it does not end with the file
            return
        if not 0 < size <= min(_LONGEST_HEAD, length - position):
            msg = "a message whose head is not in the file"
            raise ValueError(msg)
        file.seek(position)
        head, position = file.read(size), position + size
        try:
            found, stored = _message(file, head, position)
        except (struct.error, IndexError) as error:
            msg = "a message whose head is damaged"
            raise ValueError(msg) from error
        if not 0 <= stored <= length - position:
            msg = f"a message of {stored} bytes, which are not in the file"
            raise ValueError(msg)
        position += stored
        if found is not None:
            yield found


def _message(file: BinaryIO, head: bytes, position: int) -> tuple[ArrowMessage | None, int]:
    """Return a message, None for one of another kind, and how many bytes follow its head."""
    table = _unsigned(head, 0)
    kind_at, inner_at, stored_at = (_field(head, table, i) for i in (1, 2, 3))
    stored = struct.unpack_from("<q", head, stored_at)[0] if stored_at else 0
    kind = head[kind_at] if kind_at else 0
    if kind not in {_DICTIONARY, _BATCH} or not inner_at:
        return None, stored
    batch = inner_at + _unsigned(head, inner_at)
    if kind == _DICTIONARY:
        data_at = _field(head, batch, 1)
        batch = data_at + _unsigned(head, data_at)
    rows_at, buffers_at = _field(head, batch, 0), _field(head, batch, 2)
    rows = struct.unpack_from("<q", head, rows_at)[0] if rows_at and kind == _BATCH else 0
    is_packed = bool(_field(head, batch, 3))
    unpacked = sum(_buffers(file, head, buffers_at, position, stored)) if buffers_at and is_packed else stored
    return ArrowMessage(rows, stored, unpacked), stored


def _buffers(file: BinaryIO, head: bytes, at: int, position: int, stored: int) -> Iterator[int]:
    """Yield how many bytes each buffer unpacks to: what stands before it, where it is packed.

    Raises:
        ValueError: They are not in the message, or too many.
    """
    vector = at + _unsigned(head, at)
    count = _unsigned(head, vector)
    if count > _MOST_BUFFERS:
        msg = f"a message of {count} buffers"
        raise ValueError(msg)
    for i in range(count):
        offset, length = struct.unpack_from("<2q", head, vector + 4 + 16 * i)
        if not (offset >= 0 and length >= 0 and offset + length <= stored):
            msg = "a buffer that is not in its message"
            raise ValueError(msg)
        file.seek(position + offset)
        claimed = int.from_bytes(file.read(8), "little", signed=True) if length >= 8 else -1
        yield length if claimed < 0 else claimed


def _field(head: bytes, table: int, number: int) -> int:
    """Return where a field of a table stands, 0 where the table has it not."""
    names = table - struct.unpack_from("<i", head, table)[0]
    if names < 0 or 4 + 2 * number >= struct.unpack_from("<H", head, names)[0]:
        return 0
    offset: int = struct.unpack_from("<H", head, names + 4 + 2 * number)[0]
    return table + offset if offset else 0


def _unsigned(head: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", head, at)[0]
    return value
