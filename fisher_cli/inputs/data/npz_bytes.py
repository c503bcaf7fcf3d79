"""Files of numpy.savez, read by a process of their own, which has NumPy (`array_files` asks it).

The selected rows are read from the stream, and a header is checked before anything is made.
"""

import io
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, BinaryIO, Final, TypeAlias

import numpy as np
from numpy.lib import format as npy

from fisher_cli.errors import DataError
from fisher_cli.storage.decoding import Answer, Decoder
from fisher_cli.text import clipped

Header: TypeAlias = tuple[tuple[int, ...], np.dtype[Any], int]
_AGAIN: Final = "copy or download it again"
_MOST_MEMBERS: Final = 1000
_CHUNK: Final = 4 * 2**20
# DEFLATE cannot pack more than so many bytes into one.
_BEST_RATIO: Final = 1032
# Unpacking takes time: beyond this size only what is packed as images are.
_LONGEST_PACKED: Final = 2**30
_USUAL_RATIO: Final = 100
_ENCRYPTED: Final = 0x1
_LONGEST_DIRECTORY: Final = 8 * 2**20
_LONGEST_HEADER: Final = 10_000  # as numpy's own reader has it, which reads a longer one before it refuses it
_MOST_AXES: Final = 32


def _arrays(sources: Sequence[BinaryIO], where: str) -> Iterator[Answer]:
    """Yield name, shape and type of each array; their headers are read, not their numbers.

    Raises:
        DataError: It is no such file, it is damaged, or an array's header does not fit its bytes.
    """
    [file] = sources
    length = file.seek(0, 2)
    archive = _archive(file, where)
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(members) > _MOST_MEMBERS or len(set(names)) < len(names):
        msg = f"{where}: not as numpy.savez writes it: {len(members)} arrays, some perhaps twice; {_AGAIN}"
        raise DataError(msg)
    found = []
    for member in members:
        if member.filename.endswith(".npy"):
            shape, dtype, _ = _header_of(archive, member, where, length)
            found.append([member.filename.removesuffix(".npy"), shape, dtype.str])
    yield found, b""


class _WithinBounds:
    """A file of which little is read at once, until it is trusted: an archive's directory is as long as it claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.is_trusted = file, False

    def read(self, size: int = -1) -> bytes:
        if self.is_trusted:
            return self._file.read(size)
        content = self._file.read(size if 0 <= size <= _LONGEST_DIRECTORY else _LONGEST_DIRECTORY + 1)
        if len(content) > _LONGEST_DIRECTORY:
            msg = f"a directory of more than {_LONGEST_DIRECTORY} bytes"
            raise ValueError(msg)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _archive(file: IO[bytes], where: str) -> zipfile.ZipFile:
    bounded: Any = _WithinBounds(file)
    try:
        archive = zipfile.ZipFile(bounded)
    except Exception as error:  # malformed archives raise half a dozen types
        msg = f"{where}: no file of numpy.savez, or a truncated one ({clipped(error)}); {_AGAIN}"
        raise DataError(msg) from error
    bounded.is_trusted = True
    return archive


def _header_of(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str, length: int) -> Header:
    """Return shape and type of one array and where its numbers begin, checked against the size of its bytes.

    Raises:
        DataError: They do not fit together, or it holds Python objects.
    """
    where = f"{where}: {clipped(member.filename)}"
    is_stored = member.compress_type == zipfile.ZIP_STORED
    packing = 1 if is_stored else _BEST_RATIO
    if (not is_stored and member.compress_type != zipfile.ZIP_DEFLATED) or member.flag_bits & _ENCRYPTED:
        msg = f"{where} is packed in a way that numpy.savez does not use; save it again"
        raise DataError(msg)
    if member.file_size > max(_LONGEST_PACKED, _USUAL_RATIO * member.compress_size) and not is_stored:
        msg = f"{where} unpacks {member.compress_size} bytes to {member.file_size}; save it with numpy.savez, unpacked"
        raise DataError(msg)
    if member.compress_size > length or member.file_size > packing * member.compress_size + _BEST_RATIO:
        msg = f"{where} claims {member.file_size} bytes, more than can be in the file; {_AGAIN}"
        raise DataError(msg)
    try:
        with archive.open(member) as stream:
            shape, fortran, dtype = _header(stream)
            start = stream.tell()
    except Exception as error:  # a damaged header raises nearly anything
        msg = f"{where} is damaged ({clipped(error) or type(error).__name__}); {_AGAIN}"
        raise DataError(msg) from error
    fault = None
    needed = start + dtype.itemsize * math.prod(shape)
    if dtype.hasobject:
        fault = "holds Python objects, which are not read; save plain arrays: numpy.savez(FILE, images=…, labels=…)"
    elif needed != member.file_size:
        fault = f"says {shape} {dtype}, {needed} bytes, and has {member.file_size}; {_AGAIN}"
    elif fortran and len(shape) > 1:
        fault = "is stored column by column; save numpy.ascontiguousarray of it"
    if fault is not None:
        msg = f"{where} {fault}"
        raise DataError(msg)
    return shape, dtype, start


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, column order and type.

    Raises:
        ValueError: It is no such header.
    """
    version = npy.read_magic(stream)
    readers = {(1, 0): (npy.read_array_header_1_0, "<H"), (2, 0): (npy.read_array_header_2_0, "<I")}
    if version not in readers:
        msg = f"version {version[0]}.{version[1]} of the format"
        raise ValueError(msg)
    read, layout = readers[version]
    size = stream.read(struct.calcsize(layout))
    (length,) = struct.unpack(layout, size)
    if length > _LONGEST_HEADER:
        msg = f"a header of {length} bytes"
        raise ValueError(msg)
    shape, fortran, dtype = read(io.BytesIO(size + stream.read(length)))
    if len(shape) > _MOST_AXES or not all(isinstance(side, int) and 0 <= side < 2**63 for side in shape):
        msg = "a shape that no array has"
        raise ValueError(msg)
    return shape, fortran, dtype


def _rows(sources: Sequence[BinaryIO], about: Mapping[str, Any]) -> Iterator[Answer]:
    """Yield rows at ascending indices, those of a piece together; at last, the stream's checksum is compared.

    Raises:
        DataError: The stream is damaged.
    """
    [file], path, name = sources, about["where"], f"{about['name']}.npy"
    where = f"{path}: {clipped(name)}"
    length = file.seek(0, 2)
    archive = _archive(file, path)
    wanted = iter([*about["rows"], -1])
    index, position = next(wanted), 0
    try:
        member = archive.getinfo(name)
        shape, dtype, start = _header_of(archive, member, path, length)
        row, total = dtype.itemsize * math.prod(shape[1:]), next(iter(shape), 0)
        at_once = max(1, _CHUNK // max(1, row))
        with archive.open(member) as stream:
            stream.read(start)
            while position < total:
                count = min(at_once, total - position)
                # A signed-over file shows here: fewer bytes than the header promised.
                piece = np.frombuffer(stream.read(count * row), dtype=np.uint8).reshape(count, row)
                chosen = []
                while position <= index < position + count:
                    chosen.append(index - position)
                    index = next(wanted)
                if chosen:
                    yield len(chosen), (piece if len(chosen) == count else piece[chosen]).tobytes()
                position += count
            stream.read()
    except DataError:
        raise
    except Exception as error:  # zlib.error, BadZipFile, EOFError, ValueError
        msg = f"{where} is damaged ({clipped(error) or type(error).__name__}); {_AGAIN}"
        raise DataError(msg) from error


DECODERS: Final[dict[str, Decoder]] = {"npz": _arrays, "npz rows": _rows}
