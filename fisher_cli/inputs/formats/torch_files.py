"""The layouts of torch.save: the zip archive of today, and the stream of pickles and storages before version 1.6."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.archives import Archive
from fisher_cli.inputs.formats.constructions import QUANTIZED, StorageType
from fisher_cli.inputs.formats.files import clipped
from fisher_cli.inputs.formats.pickles import MOST_ENTRIES, Reader
from fisher_cli.inputs.formats.plain_values import extent, plain
from fisher_cli.inputs.formats.stand_ins import Named
from fisher_cli.inputs.formats.storages import Storage, fill

_MAGIC: Final = 0x1950A86A20F9469CFC6C
LEGACY_START: Final = 24  # bytes, within which the magic number stands in every protocol
_PROTOCOL_VERSION: Final = 1001
_OF_QUANTIZED: Final = {f"torch.{name}Storage" for name in ("QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4")}
_ENDIANNESS: Final = {b"little": True, b"big": False}


def is_legacy(data: bytes) -> bool:
    """Return whether these bytes begin as torch.save began files before version 1.6: with a pickled magic number."""
    return data[:1] == b"\x80" and _MAGIC.to_bytes(10, "little") in data[:LEGACY_START]


@dataclass(frozen=True)
class Saved:
    """What torch.save saved.

    Attributes:
        content: the saved object.
        ignored_types: the names in it for which inert objects stand.
    """

    content: object
    ignored_types: tuple[str, ...]


def load_zip(data: bytes, archive: Archive) -> Saved:
    """Return what a zip archive of torch.save holds.

    Raises:
        CheckpointError: It is damaged, or its storages are not those that its pickle declares.
        UnsafeCheckpointError: It cannot be read without running what it names.
    """
    start, end = archive.members["data.pkl"]
    first, last = archive.members.get("byteorder", (0, 0))
    order = data[first:last] or b"little"
    if order not in _ENDIANNESS:
        msg = f"damaged: its bytes are in the order {clipped(order, 40)}"
        raise CheckpointError(msg)
    view = memoryview(data)
    loaded: dict[str, Storage] = {}

    def stored(reference: object) -> object:
        key, kind, count, views = _declared(reference)
        if views is not None or not isinstance(key, str) or f"data/{key}" not in archive.members:
            msg = f"damaged: the storage {clipped(key, 40)} is missing"
            raise CheckpointError(msg)
        begin, finish = archive.members[f"data/{key}"]
        if count * kind.dtype.itemsize != finish - begin:
            msg = f"damaged: the storage {clipped(key, 40)} has another size than its pickle says"
            raise CheckpointError(msg)
        if key not in loaded:
            block = torch.empty(finish - begin, dtype=torch.uint8)
            fill(block, view[begin:finish], kind.dtype, _ENDIANNESS[order])
            loaded[key] = Storage(block, kind.dtype, 0, count)
        return _same_type(loaded[key], kind, key)

    reader = Reader(data, start, end)
    content = reader.load(stored)
    if reader.position != end:
        msg = "damaged: something stands behind its pickle"
        raise CheckpointError(msg)
    return _finished(reader, content)


def load_legacy(data: bytes) -> Saved:
    """Return what a file of torch.save before version 1.6 holds.

    Four pickles (magic number, version, the machine's sizes, the object), the storages' keys as a fifth, and each
    storage as its number of elements and its bytes.

    Raises:
        CheckpointError: It is damaged, or its storages are not those that its pickle declares.
        UnsafeCheckpointError: It cannot be read without running what it names.
    """
    reader = Reader(data)
    if reader.load() != _MAGIC:
        msg = "damaged: its magic number is not torch's"
        raise CheckpointError(msg)
    version, machine = reader.load(), reader.load()
    is_little = machine.get("little_endian", True) if isinstance(machine, dict) else None
    if version != _PROTOCOL_VERSION or not isinstance(is_little, bool):
        msg = f"damaged: its version is {clipped(version, 40)}"
        raise CheckpointError(msg)
    blocks = _Blocks(len(data))
    start = reader.position
    reader.storages_are_empty = True
    content = reader.load(blocks.stored)
    keys = reader.load()
    blocks.fill(memoryview(data)[reader.position :], keys, is_little)
    if reader.has_put_off:
        content = Reader(data, start).load(blocks.stored)
    return _finished(reader, content)


class _Blocks:
    """The storages of a legacy file: declared by the pickle, filled from what stands behind it."""

    def __init__(self, most: int) -> None:
        self.blocks: dict[str, tuple[Tensor, StorageType]] = {}
        self.left = most

    def stored(self, reference: object) -> object:
        if isinstance(reference, tuple) and len(reference) == 4 and reference[0] in {"module", b"module"}:
            return reference[1]  # the class, beside a copy of its source code, which is left aside
        key, kind, count, view = _declared(reference)
        if not isinstance(key, str | int):
            msg = "damaged: a storage without key"
            raise CheckpointError(msg)
        size = count * kind.dtype.itemsize
        if str(key) not in self.blocks:
            self.left -= size
            if self.left < 0:
                msg = "damaged or truncated: its storages are larger than the file"
                raise CheckpointError(msg)
            self.blocks[str(key)] = torch.zeros(size, dtype=torch.uint8), kind
        block, known = self.blocks[str(key)]
        storage = _same_type(Storage(block, known.dtype, 0, block.numel() // known.dtype.itemsize), kind, key)
        if storage.length != count:
            msg = f"damaged: the storage {clipped(key, 40)} has two sizes"
            raise CheckpointError(msg)
        if view is None:
            return storage
        if not isinstance(view, tuple) or len(view) != 3:
            msg = "damaged: a view without place"
            raise CheckpointError(msg)
        return storage.part(view[1], view[2])

    def fill(self, data: memoryview, keys: object, is_little_endian: bool) -> None:
        """Copy the stored bytes to their places.

        Raises:
            CheckpointError: They are others than the pickle declares.
        """
        if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(self.blocks):
            msg = "damaged: its storages are others than its pickle says"
            raise CheckpointError(msg)
        position = 0
        for key in keys:
            block, kind = self.blocks[str(key)]
            count = int.from_bytes(data[position : position + 8], "little" if is_little_endian else "big")
            begin, end = position + 8, position + 8 + block.numel()
            if count * kind.dtype.itemsize != block.numel() or end > len(data):
                msg = f"truncated or damaged: the storage {clipped(key, 40)} has another size than its pickle says"
                raise CheckpointError(msg)
            fill(block, data[begin:end], kind.dtype, is_little_endian)
            position = end
        if position != len(data):
            msg = "damaged: something was added to its end"
            raise CheckpointError(msg)


def _declared(reference: object) -> tuple[object, StorageType, int, object]:
    """Return key, type, number of elements and view that a reference to a storage declares.

    Raises:
        CheckpointError: It is none, or one of quantized numbers.
    """
    if not isinstance(reference, tuple) or len(reference) not in {5, 6} or reference[0] not in {"storage", b"storage"}:
        msg = "damaged: it refers to something that is no storage"
        raise CheckpointError(msg)
    kind, key, _, count = reference[1:5]
    if isinstance(kind, Named) and kind.path in _OF_QUANTIZED:
        raise CheckpointError(QUANTIZED)
    if not isinstance(kind, StorageType) or type(count) is not int or not 0 <= count < 1 << 60:
        msg = f"damaged: the storage {clipped(key, 40)} has no type or size"
        raise CheckpointError(msg)
    return key, kind, count, reference[5] if len(reference) == 6 else None


def _same_type(storage: Storage, kind: StorageType, key: object) -> Storage:
    if kind.dtype != storage.dtype:
        msg = f"damaged: the storage {clipped(key, 40)} has two types"
        raise CheckpointError(msg)
    return storage


def _finished(reader: Reader, content: object) -> Saved:
    content = plain(content)
    extent(content, MOST_ENTRIES)
    return Saved(content, tuple(reader.globals))
