"""The layouts of torch.save: the zip archive of today, and the stream of pickles and storages before version 1.6."""

import sys
from typing import Final, NamedTuple

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.archives import Archive
from fisher_cli.inputs.formats.budgets import MOST_ENTRIES
from fisher_cli.inputs.formats.constructions import QUANTIZED, StorageType
from fisher_cli.inputs.formats.files import FileBytes
from fisher_cli.inputs.formats.number_types import NumberType
from fisher_cli.inputs.formats.pickles import Reader
from fisher_cli.inputs.formats.plain_values import extent, plain
from fisher_cli.inputs.formats.stand_ins import Named
from fisher_cli.inputs.formats.storages import Storage, StoredBlock
from fisher_cli.text import clipped

_MAGIC: Final = 0x1950A86A20F9469CFC6C
LEGACY_START: Final = 24  # bytes, within which the magic number stands in every protocol
_PROTOCOL_VERSION: Final = 1001
_OF_QUANTIZED: Final = {f"torch.{name}Storage" for name in ("QInt8", "QInt32", "QUInt8", "QUInt4x2", "QUInt2x4")}
_ENDIANNESS: Final = {b"little": True, b"big": False}


def is_legacy(data: FileBytes) -> bool:
    """Return whether these bytes begin as torch.save began files before version 1.6: with a pickled magic number."""
    return data[:1] == b"\x80" and _MAGIC.to_bytes(10, "little") in data[:LEGACY_START]


class Saved(NamedTuple):
    """What torch.save saved.

    Attributes:
        content: the saved object; tensors are descriptions.
        ignored_types: the names in it for which inert objects stand.
        refusal: why it could not be read; None where it was.
    """

    content: object
    ignored_types: tuple[str, ...]
    refusal: CheckpointError | None = None


def load_zip(data: FileBytes, archive: Archive) -> Saved:
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
    known: dict[str, Storage] = {}

    def stored(reference: object) -> object:
        key, kind, count, views = _declared(reference)
        if views is not None or not isinstance(key, str) or f"data/{key}" not in archive.members:
            msg = f"damaged: the storage {clipped(key, 40)} is missing"
            raise CheckpointError(msg)
        begin, finish = archive.members[f"data/{key}"]
        if count * kind.itemsize != finish - begin:
            msg = f"damaged: the storage {clipped(key, 40)} has another size than its pickle says"
            raise CheckpointError(msg)
        if key not in known:
            block = StoredBlock(begin, finish - begin, _swapped(kind, _ENDIANNESS[order]))
            known[key] = Storage(block, kind, 0, count)
        return _same_type(known[key], kind, key)

    reader = Reader(data, start, end)
    content = reader.load(stored)
    if reader.position != end:
        msg = "damaged: something stands behind its pickle"
        raise CheckpointError(msg)
    return _finished(reader, content)


def load_legacy(data: FileBytes) -> Saved:
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
    content = reader.load(blocks.stored)
    keys = reader.load()
    blocks.place(data, reader.position, keys, is_little)
    return _finished(reader, content)


class _Blocks:
    """The storages of a legacy file: declared by the pickle, placed by what stands behind it."""

    def __init__(self, most: int) -> None:
        self.storages: dict[str, Storage] = {}
        self.left = most

    def stored(self, reference: object) -> object:
        if isinstance(reference, tuple) and len(reference) == 4 and _is_word(reference[0], "module"):
            return reference[1]  # the class, beside a copy of its source code, which is left aside
        key, kind, count, view = _declared(reference)
        if not isinstance(key, str | int):
            msg = "damaged: a storage without key"
            raise CheckpointError(msg)
        if str(key) not in self.storages:
            self.left -= count * kind.itemsize
            if self.left < 0:
                msg = "damaged or truncated: its storages are larger than the file"
                raise CheckpointError(msg)
            self.storages[str(key)] = Storage(StoredBlock(0, count * kind.itemsize, 1), kind, 0, count)
        storage = _same_type(self.storages[str(key)], kind, key)
        if storage.length != count:
            msg = f"damaged: the storage {clipped(key, 40)} has two sizes"
            raise CheckpointError(msg)
        if view is None:
            return storage
        if not isinstance(view, tuple) or len(view) != 3:
            msg = "damaged: a view without place"
            raise CheckpointError(msg)
        return storage.part(view[1], view[2])

    def place(self, data: FileBytes, position: int, keys: object, is_little_endian: bool) -> None:
        """Tell the blocks where they are.

        Raises:
            CheckpointError: The stored bytes are others than the pickle declares.
        """
        is_list = isinstance(keys, list) and all(isinstance(key, str | int) for key in keys)
        if not isinstance(keys, list) or not is_list or sorted(map(str, keys)) != sorted(self.storages):
            msg = "damaged: its storages are others than its pickle says"
            raise CheckpointError(msg)
        for key in keys:
            storage = self.storages[str(key)]
            block, kind = storage.block, storage.kind
            count = int.from_bytes(data[position : position + 8], "little" if is_little_endian else "big")
            block.start, block.swapped = position + 8, _swapped(kind, is_little_endian)
            position = block.start + block.length
            if count * kind.itemsize != block.length or position > len(data):
                msg = f"truncated or damaged: the storage {clipped(key, 40)} has another size than its pickle says"
                raise CheckpointError(msg)
        if position != len(data):
            msg = "damaged: something was added to its end"
            raise CheckpointError(msg)


def _swapped(kind: NumberType, is_little_endian: bool) -> int:
    """Return in groups of how many bytes the order changes from the file to this machine; 1 where it does not."""
    return kind.width if is_little_endian != (sys.byteorder == "little") else 1


def _declared(reference: object) -> tuple[object, NumberType, int, object]:
    """Return key, type, number of elements and view that a reference to a storage declares.

    Raises:
        CheckpointError: It is none, or one of quantized numbers.
    """
    if not isinstance(reference, tuple) or len(reference) not in {5, 6} or not _is_word(reference[0], "storage"):
        msg = "damaged: it refers to something that is no storage"
        raise CheckpointError(msg)
    kind, key, _, count = reference[1:5]
    if isinstance(kind, Named) and kind.path in _OF_QUANTIZED:
        raise CheckpointError(QUANTIZED)
    if not isinstance(kind, StorageType) or type(count) is not int or not 0 <= count < 1 << 60:
        msg = f"damaged: the storage {clipped(key, 40)} has no type or size"
        raise CheckpointError(msg)
    return key, kind.kind, count, reference[5] if len(reference) == 6 else None


def _is_word(value: object, word: str) -> bool:
    """Return whether this is the word, as text or as Python 2's bytes; anything else is not even hashed."""
    return (isinstance(value, str) and value == word) or (isinstance(value, bytes) and value == word.encode())


def _same_type(storage: Storage, kind: NumberType, key: object) -> Storage:
    if kind is not storage.kind:
        msg = f"damaged: the storage {clipped(key, 40)} has two types"
        raise CheckpointError(msg)
    return storage


def _finished(reader: Reader, content: object) -> Saved:
    content = plain(content, reader.budget)
    extent(content, MOST_ENTRIES)
    return Saved(content, tuple(reader.globals))
