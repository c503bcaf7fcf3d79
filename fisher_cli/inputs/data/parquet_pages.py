"""The pages of a Parquet file's columns, by their headers alone: how many bytes each of them unpacks to.

The footer has sums, and neither it nor the library tells of pages before it has unpacked them. A page's header is a
structure of Thrift's compact protocol, of which only the first three numbers are of interest.
Source: https://parquet.apache.org/docs/file-format/data-pages/ and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from collections.abc import Iterator
from typing import BinaryIO, Final

_UNPACKED, _PACKED = 2, 3  # the numbers of these fields
_SHORTEST_READ: Final = 2**8
_LONGEST_HEADER: Final = 2**24  # as the library has it
_DEEPEST: Final = 8
_LONGEST_NUMBER: Final = 10  # bytes of 64 bits, seven in each


def unpacked_sizes(file: BinaryIO, start: int, stop: int) -> Iterator[int]:
    """Yield how many bytes each page unpacks to; nothing is unpacked.

    Args:
        file: the Parquet file.
        start: where the first page of a column's part begins.
        stop: where the last one ends.

    Raises:
        ValueError: These are no pages.
    """
    while start < stop:
        fields, length = _header(file, start)
        unpacked, packed = fields.get(_UNPACKED, -1), fields.get(_PACKED, -1)
        if unpacked < 0 or packed < 0:
            msg = "a page without sizes"
            raise ValueError(msg)
        yield unpacked
        start += length + packed


def _header(file: BinaryIO, start: int) -> tuple[dict[int, int], int]:
    """Return the numbers in a page's header, and its length.

    Raises:
        ValueError: It is none, or too long.
    """
    size = _SHORTEST_READ
    while size <= _LONGEST_HEADER:
        file.seek(start)
        data = file.read(size)
        try:
            return _structure(data, 0, _DEEPEST)
        except IndexError:
            if len(data) < size:
                break
            size *= 4
    msg = "a page without a header"
    raise ValueError(msg)


def _structure(data: bytes, at: int, depth: int) -> tuple[dict[int, int], int]:
    """Return the integers of a structure by the numbers of their fields, and where it ends.

    Raises:
        ValueError: It is nested too deeply, or of no known type.
    """
    if not depth:
        msg = "a page whose header is nested too deeply"
        raise ValueError(msg)
    numbers: dict[int, int] = {}
    field = 0
    while head := data[at]:
        at, kind = at + 1, head & 15
        if head >> 4:
            field += head >> 4
        else:
            field, at = _number(data, at)
        if kind in {4, 5, 6}:
            numbers[field], at = _number(data, at)
        elif kind not in {1, 2}:  # truth values have no bytes
            at = _behind(data, at, kind, depth)
    return numbers, at + 1


def _behind(data: bytes, at: int, kind: int, depth: int) -> int:
    """Return where a value of this type ends.

    Raises:
        ValueError: There is no such type in a page's header.
        IndexError: The data end before.
    """
    if kind in {1, 2, 3}:
        return at + 1
    if kind in {4, 5, 6}:
        return _number(data, at)[1]
    if kind == 7:
        return at + 8
    if kind == 8:
        length, at = _unsigned(data, at)
        return at + length
    if kind in {9, 10}:
        count, inner, at = data[at] >> 4, data[at] & 15, at + 1
        if count == 15:
            count, at = _unsigned(data, at)
        if count > len(data) - at:  # each takes a byte at least
            raise IndexError
        for _ in range(count):
            at = _behind(data, at, inner, depth)
        return at
    if kind == 12:
        return _structure(data, at, depth - 1)[1]
    msg = "a page whose header is of an unknown type"
    raise ValueError(msg)


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(_LONGEST_NUMBER):
        value |= (data[at + i] & 127) << 7 * i
        if data[at + i] < 128:
            return value, at + i + 1
    msg = "a page whose header holds a number without end"
    raise ValueError(msg)
