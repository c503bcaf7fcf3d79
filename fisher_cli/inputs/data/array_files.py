"""Files of numpy.savez: the selected rows are read from the stream, and a header is checked before anything is made."""

import io
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from fisher_cli.errors import CheckpointError, DataError
from fisher_cli.inputs.data.arrays import NamedArray, table_of
from fisher_cli.inputs.data.sources import Array
from fisher_cli.inputs.formats.containers import decode, read_bytes
from fisher_cli.inputs.formats.files import open_regular, shown
from fisher_cli.text import clipped

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


def npz_tables(path: Path) -> dict[str, NamedArray]:
    """Return the arrays of the file by name; their headers are read, not their numbers.

    Raises:
        DataError: It is no such file, it is damaged, or an array's header does not fit its bytes.
    """
    with open_regular(path) as file:
        length = file.seek(0, 2)
        archive = _archive(file, path)
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(members) > _MOST_MEMBERS or len(set(names)) < len(names):
            msg = f"{shown(path)}: not as numpy.savez writes it: {len(members)} arrays, some perhaps twice; {_AGAIN}"
            raise DataError(msg)
        return {
            member.filename.removesuffix(".npy"): _table(archive, member, path, length)
            for member in members
            if member.filename.endswith(".npy")
        }


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


def _archive(file: IO[bytes], path: Path) -> zipfile.ZipFile:
    bounded: Any = _WithinBounds(file)
    try:
        archive = zipfile.ZipFile(bounded)
    except Exception as error:  # malformed archives raise half a dozen types
        msg = f"{shown(path)}: no file of numpy.savez, or a truncated one ({clipped(error)}); {_AGAIN}"
        raise DataError(msg) from error
    bounded.is_trusted = True
    return archive


def _table(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, length: int) -> NamedArray:
    """Return one array, its header checked against the size of its bytes.

    Raises:
        DataError: They do not fit together, or it holds Python objects.
    """
    where = f"{shown(path)}: {clipped(member.filename)}"
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
    return NamedArray(shape, dtype, lambda indices: _rows(path, member, where, start, shape, dtype, indices))


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


def _rows(
    path: Path,
    member: zipfile.ZipInfo,
    where: str,
    start: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    indices: Sequence[int],
) -> Iterator[Array]:
    """Yield rows at ascending indices; the stream is read to its end, where its checksum is compared.

    Raises:
        DataError: The stream is damaged.
    """
    row = dtype.itemsize * math.prod(shape[1:])
    wanted = iter([*indices, -1])
    index, position, total = next(wanted), 0, next(iter(shape), 0)
    try:
        with open_regular(path) as file, _archive(file, path) as archive, archive.open(member) as stream:
            stream.read(start)
            at_once = max(1, _CHUNK // max(1, row))
            while position < total:
                count = min(at_once, total - position)
                # A signed-over file shows here: fewer bytes than the header promised.
                chunk = np.frombuffer(stream.read(count * row), dtype=dtype).reshape(count, *shape[1:])
                while position <= index < position + count:
                    yield chunk[index - position]
                    index = next(wanted)
                position += count
            stream.read()
    except DataError:
        raise
    except Exception as error:  # zlib.error, BadZipFile, EOFError, ValueError
        msg = f"{where} is damaged ({clipped(error) or type(error).__name__}); {_AGAIN}"
        raise DataError(msg) from error


_SAVE: Final = "save it as torch.save({'inputs': inputs, 'labels': labels}, FILE)"


def tensor_tables(path: Path) -> dict[str, NamedArray]:
    """Return the tensors of the file by name; a pair is inputs and labels, nested names are joined by a dot.

    Raises:
        DataError: The file cannot be read without running code, or it holds no tensors in such an order.
    """
    try:
        content = decode(read_bytes(path), path).content
    except CheckpointError as error:
        raise DataError(str(error)) from error
    tables = {name: _tensor_table(tensor, f"{shown(path)}: {clipped(name)}") for name, tensor in _named(content)}
    if not tables:
        msg = f"{shown(path)}: holds {type(content).__name__} and no named tensors; {_SAVE}"
        raise DataError(msg)
    return tables


def _named(content: object, prefix: str = "") -> list[tuple[str, Tensor]]:
    """Return (name, tensor) of a mapping or pair, at most two levels deep: splits, then inputs and labels."""
    if isinstance(content, Sequence) and len(content) == 2 and all(isinstance(item, Tensor) for item in content):
        content = {"inputs": content[0], "labels": content[1]}
    if not isinstance(content, Mapping):
        return []
    found: list[tuple[str, Tensor]] = []
    for key, value in content.items():
        if isinstance(value, Tensor):
            found.append((f"{prefix}{key}", value))
        elif not prefix:
            found += _named(value, f"{key}.")
    return found


def _tensor_table(tensor: Tensor, where: str) -> NamedArray:
    """Return a tensor as a table.

    Raises:
        DataError: It is sparse, quantised, complex, or of a type without arithmetic.
    """
    is_plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta
    if not is_plain or tensor.is_complex() or str(tensor.dtype).startswith("torch.float8"):
        msg = f"{where} is {clipped(tensor.dtype)} {tensor.layout}; save uint8 images, floating numbers or int64"
        raise DataError(msg)
    tensor = tensor.detach()
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        msg = f"{where} has more elements, {tuple(tensor.shape)}, than the file has numbers; save a .clone() of it"
        raise DataError(msg)
    return table_of((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())
