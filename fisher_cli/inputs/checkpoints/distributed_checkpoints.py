"""Folders of torch.distributed.checkpoint → the tensors that are wanted, and only these, each piece checked.

Numbers, texts and optimizers' settings lie there as pickles and are never read. `meta.pt`, which Lightning writes
beside the tensors, is a file like any other.
"""

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.pickled_records import SAVE_AGAIN, PickledRecord, of, read_records
from fisher_cli.inputs.checkpoints.stored_files import StoredCheckpoint, decoded, inside, joint_digest, open_stored
from fisher_cli.inputs.checkpoints.timeline import TIME_KEYS
from fisher_cli.inputs.formats.containers import CHECKSUMS_HOLD, Payload, clipped, read_bytes
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.text import digest

_TORCH: Final = "torch.distributed.checkpoint"
_SIZE: Final = "torch.Size"
_METADATA: Final = f"{_TORCH}.metadata.Metadata"
_CHUNK: Final = f"{_TORCH}.metadata.ChunkStorageMetadata"
_STORAGE: Final = f"{_TORCH}.filesystem._StorageInfo"
_INDEX: Final = f"{_TORCH}.metadata.MetadataIndex"
_TENSOR: Final = f"{_TORCH}.metadata.TensorStorageMetadata"
_BYTES: Final = f"{_TORCH}.metadata.BytesStorageMetadata"
_RECORDS: Final = frozenset({
    *(
        f"{_TORCH}.metadata.{name}"
        for name in (
            "Metadata",
            "StorageMeta",
            "MetadataIndex",
            "TensorProperties",
            "TensorStorageMetadata",
            "BytesStorageMetadata",
            "ChunkStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        )
    ),
    f"{_TORCH}.filesystem._StorageInfo",
    "torch.serialization._get_layout",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
    _SIZE,
})  # fmt: skip
_LARGEST: Final = 64 << 20  # bytes; a piece of a tensor takes about 200
_LARGEST_NUMBER: Final = 1 << 62
_MOST_DIMENSIONS: Final = 64
_DEEPEST: Final = 32  # of the dictionaries that a state is saved in


@dataclass(frozen=True)
class SavedPiece:
    """A block of a tensor, and where it is stored.

    Attributes:
        offsets: of its first element in the tensor, one per dimension.
        sizes: of the block, one per dimension.
        file: its file within the folder.
        start: where in the file it begins, in bytes.
        length: in bytes.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class SavedTensor:
    """A tensor and the pieces that cover it.

    Attributes:
        path: the keys of the nested dictionaries that it was saved in.
        dtype: of its elements.
        size: its shape.
        pieces: blocks that cover every element.
    """

    path: tuple[str, ...]
    dtype: torch.dtype
    size: tuple[int, ...]
    pieces: tuple[SavedPiece, ...]


@dataclass(frozen=True)
class SavedState:
    """What the metadata of a distributed checkpoint describe.

    Attributes:
        tensors: all tensors.
        others: the paths of all that is no tensor; it is kept as pickles, which are never read.
        files: all files that hold a part of it.
    """

    tensors: tuple[SavedTensor, ...]
    others: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]


def read_metadata(data: bytes, where: str) -> SavedState:
    """Return the tensors that the metadata describe; every number in it is checked.

    Raises:
        UnsafeCheckpointError: It names something other than the records of torch.distributed.checkpoint.
        CheckpointError: It is damaged, or its pieces do not cover their tensors.
    """
    if len(data) > _LARGEST:
        msg = f"{where}: {len(data)} bytes of metadata, more than any checkpoint needs; {SAVE_AGAIN}"
        raise CheckpointError(msg)
    try:
        return _state(read_records(data, _RECORDS, where))
    except CheckpointError:
        raise
    # A damaged file breaks every assumption of the machine and of what is read out of its records.
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError) as error:
        msg = f"{where}: damaged, or not written by torch.distributed.checkpoint ({clipped(error, 80)}); {SAVE_AGAIN}"
        raise CheckpointError(msg) from error


def _state(found: object) -> SavedState:
    metadata = _fields(found, _METADATA)
    entries = of(dict, metadata["state_dict_metadata"])
    paths = _paths(metadata.get("planner_data"), entries)
    places = _places(metadata["storage_data"])
    tensors, others = [], []
    for name, entry in entries.items():
        if of(PickledRecord, entry).kind == _TENSOR:
            tensors.append(_tensor(paths[name], of(PickledRecord, entry), places.get(name, {})))
        else:
            _fields(entry, _BYTES)
            others.append(paths[name])
    files = sorted({file for pieces in places.values() for file, _, _ in pieces.values()})
    return SavedState(tuple(tensors), tuple(others), tuple(files))


def _paths(planner_data: object, names: Mapping[object, object]) -> dict[object, tuple[str, ...]]:
    """Return name → keys of the dictionaries it was saved in; names themselves where the file does not tell."""
    if isinstance(planner_data, dict) and names.keys() <= planner_data.keys():
        return {name: _keys(planner_data[name]) for name in names}
    return {name: (of(str, name),) for name in names}


def _keys(path: object) -> tuple[str, ...]:
    keys = tuple(str(key) if isinstance(key, int) else of(str, key) for key in of(tuple, path))
    if not 0 < len(keys) <= _DEEPEST:
        msg = f"a path of {len(keys)} keys"
        raise ValueError(msg)
    return keys


def _places(storage: object) -> dict[object, dict[tuple[int, ...], tuple[str, int, int]]]:
    """Return name → offsets of a piece → its file, offset and length there.

    Raises:
        ValueError: A piece is compressed, or something else is in its place.
    """
    places: dict[object, dict[tuple[int, ...], tuple[str, int, int]]] = {}
    for index, info in of(dict, storage).items():
        at, place = _fields(index, _INDEX), _fields(info, _STORAGE)
        if place.get("transform_descriptors"):
            msg = "its pieces are compressed"
            raise ValueError(msg)
        offsets = () if at.get("offset") is None else _numbers(at["offset"])
        start, length = _number(place["offset"]), _number(place["length"])
        places.setdefault(of(str, at["fqn"]), {})[offsets] = (of(str, place["relative_path"]), start, length)
    return places


def _tensor(
    path: tuple[str, ...], record: PickledRecord, places: Mapping[tuple[int, ...], tuple[str, int, int]]
) -> SavedTensor:
    entry = _fields(record, _TENSOR)
    properties = of(tuple, of(PickledRecord, entry["properties"]).state)
    dtype, size = of(torch.dtype, properties[0]), _numbers(entry["size"])
    pieces = []
    for chunk in of(list, entry["chunks"]):
        block = _fields(chunk, _CHUNK)
        offsets, sizes = _numbers(block["offsets"]), _numbers(block["sizes"])
        pieces.append(SavedPiece(offsets, sizes, *places[offsets]))
    _check_cover(size, pieces)
    # A tensor appears as large as its pieces are on disk, or it is refused before memory is asked for.
    if math.prod(size) * dtype.itemsize > min(sum(piece.length for piece in pieces), _LARGEST_NUMBER):
        msg = f"{clipped('.'.join(path))} is larger than what is stored of it"
        raise ValueError(msg)
    return SavedTensor(path, dtype, size, tuple(pieces))


def _check_cover(size: tuple[int, ...], pieces: list[SavedPiece]) -> None:
    """Refuse pieces that are no grid of blocks: one that reaches out, two that overlap, or a part left undefined.

    Raises:
        ValueError: They are not.
    """
    filled = [piece for piece in pieces if math.prod(piece.sizes)]
    if not all(len(piece.offsets) == len(piece.sizes) == len(size) for piece in pieces):
        msg = "a piece has other dimensions than its tensor"
        raise ValueError(msg)
    if math.prod(size) == 0 and not filled:
        return
    edges = [sorted({piece.offsets[axis] for piece in filled}) for axis in range(len(size))]
    ends = [dict(zip(starts, [*starts[1:], whole], strict=False)) for starts, whole in zip(edges, size, strict=True)]
    fits = all(
        start + length == ends[axis][start]
        for piece in filled
        for axis, (start, length) in enumerate(zip(piece.offsets, piece.sizes, strict=True))
    )
    cells = math.prod(len(starts) for starts in edges)
    begins = all(starts[0] == 0 for starts in edges if starts)
    if not (filled and fits and begins and len(filled) == cells == len({piece.offsets for piece in filled})):
        msg = "the pieces of a tensor do not cover it once"
        raise ValueError(msg)


def _fields(found: object, kind: str) -> Mapping[object, object]:
    record = of(PickledRecord, found)
    if record.kind != kind:
        msg = f"a {record.kind.rpartition('.')[2]} in place of a {kind.rpartition('.')[2]}"
        raise ValueError(msg)
    return {} if record.state is None else of(dict, record.state)


def _numbers(found: object) -> tuple[int, ...]:
    """Return the numbers of a torch.Size.

    Raises:
        ValueError: It is none.
    """
    record = of(PickledRecord, found)
    (numbers,) = record.arguments
    if record.kind != _SIZE or len(of(tuple, numbers)) > _MOST_DIMENSIONS:
        msg = "no torch.Size"
        raise ValueError(msg)
    return tuple(_number(number) for number in of(tuple, numbers))


def _number(found: object) -> int:
    number = of(int, found)
    if not 0 <= number < _LARGEST_NUMBER:
        msg = f"the number {clipped(number, 40)}"
        raise ValueError(msg)
    return number


METADATA: Final = ".metadata"
SUFFIX: Final = ".distcp"
_LIGHTNING: Final = "meta.pt"
_FORMAT: Final = "torch distributed"
_BLOCK: Final = 4 << 20  # bytes read at a time; disks and SHA-256 are at full speed with this
_COPY_AGAIN: Final = "copy the whole folder again"


class StoredPieces(StoredCheckpoint):
    """The tensors of a folder, by name and shape only until they are fetched; then the hash is known, too.

    Fetching reads every file once from its start to its end: the hash covers what the numbers came from.
    """

    def __init__(self, folder: Path, state: SavedState, digests: Mapping[str, str], reading: ReadOptions) -> None:
        self._folder, self._state, self._digests, self._reading = folder, state, dict(digests), reading
        self._tensors: dict[int, tuple[Tensor, SavedTensor]] = {}
        self._content: dict[str, object] = {}
        for saved in state.tensors:
            outline = torch.empty(saved.size, dtype=saved.dtype, device="meta")
            self._tensors[id(outline)] = (outline, saved)
            self._place(saved.path, outline)
        for path in state.others:
            self._place(path, None)
        super().__init__(Payload(_FORMAT, self._content, integrity=CHECKSUMS_HOLD), None)

    def fetch(self, mapping: Mapping[object, object]) -> Mapping[object, object]:
        """Return the mapping with the numbers of its tensors; those of steps and epochs are fetched on the way."""
        times = {key: value for key, value in self._content.items() if key in TIME_KEYS and _is_number(value)}
        wanted = [self._tensors[id(value)][1] for value in (*mapping.values(), *times.values()) if _is_outline(value)]
        tensors = dict(zip((saved.path for saved in wanted), self._read(wanted), strict=True))

        def real(value: object) -> object:
            return tensors[self._tensors[id(value)][1].path] if _is_outline(value) else value

        self._content.update({key: real(value) for key, value in times.items()})
        self.sha256 = joint_digest(self._digests)
        self.identity = frozenset({self.sha256})
        return {key: real(value) for key, value in mapping.items()}

    def include(self, digests: Mapping[str, str]) -> None:
        """Let the hash cover further files that say something about the weights."""
        self._digests.update(digests)

    def read_beside(self, name: str) -> None:
        """Take what a file of the folder says about the weights; a note where it cannot be read."""
        path = self._folder / name
        try:
            content = Content.read(inside(self._folder, name, self._where))
            found = decoded(content, path, self._reading).content
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{clipped(path, 500)}: ").partition(";")[0]
            self.notes += (f"{name} not used: {reason}",)
            return
        self._digests[name] = content.sha256
        self.about = (
            {key: value for key, value in found.items() if isinstance(key, str)} if isinstance(found, dict) else {}
        )

    def _place(self, path: tuple[str, ...], value: object) -> None:
        mapping = self._content
        for key in path[:-1]:
            deeper = mapping.setdefault(key, {})
            if not isinstance(deeper, dict):
                msg = f"{self._where}: {clipped(key)} is a value and a dictionary of values; {_COPY_AGAIN}"
                raise CheckpointError(msg)
            mapping = deeper
        mapping[path[-1]] = value

    @property
    def _where(self) -> str:
        return clipped(self._folder, 500)

    def _read(self, wanted: list[SavedTensor]) -> list[Tensor]:
        self._check_room(wanted)
        pieces: dict[str, list[tuple[SavedPiece, Tensor]]] = {}
        tensors = [torch.empty(saved.size, dtype=saved.dtype) for saved in wanted]
        for saved, tensor in zip(wanted, tensors, strict=True):
            for piece in saved.pieces:
                pieces.setdefault(piece.file, []).append((piece, tensor))
        for name in self._state.files:
            self._read_file(name, sorted(pieces.get(name, []), key=lambda pair: pair[0].start))
        return tensors

    def _check_room(self, wanted: list[SavedTensor]) -> None:
        """Refuse tensors that are larger than the files that should hold them, before memory is asked for.

        Raises:
            CheckpointError: They are.
        """
        needed = Counter[str]()
        for saved in wanted:
            for piece in saved.pieces:
                needed[piece.file] += piece.length
        for name, length in needed.items():
            stored = os.stat(inside(self._folder, name, self._where)).st_size
            if length > stored:
                msg = f"{self._where}: {clipped(name)} is cut short: {stored} bytes of {length}; {_COPY_AGAIN}"
                raise CheckpointError(msg)

    def _read_file(self, name: str, pieces: list[tuple[SavedPiece, Tensor]]) -> None:
        path = inside(self._folder, name, self._where)
        hashed = hashlib.sha256()
        with open_stored(path) as file:
            size = os.fstat(file.fileno()).st_size
            for piece, tensor in pieces:
                if piece.start < file.tell() or piece.start + piece.length > size:
                    msg = f"{self._where}: {clipped(name)} is cut short, or its pieces overlap; {_COPY_AGAIN}"
                    raise CheckpointError(msg)
                for block in _blocks(file, piece.start - file.tell()):
                    hashed.update(block)
                self._copy(piece, tensor, Content(file, piece.length, hashed), self._folder / name)
            for block in _blocks(file, None):
                hashed.update(block)
        self._digests[name] = digest(hashed)

    def _copy(self, piece: SavedPiece, tensor: Tensor, stored: Content, path: Path) -> None:
        found = decoded(stored, path, self._reading).content
        if not isinstance(found, Tensor) or tuple(found.shape) != piece.sizes or found.dtype != tensor.dtype:
            msg = f"{clipped(path, 500)}: what it holds is not what {METADATA} describes; {_COPY_AGAIN}"
            raise CheckpointError(msg)
        block = tensor
        for axis, (start, length) in enumerate(zip(piece.offsets, piece.sizes, strict=True)):
            block = block.narrow(axis, start, length)
        block.copy_(found)


def read_distributed(folder: Path, reading: ReadOptions) -> StoredPieces:
    """Return what a folder of torch.distributed.checkpoint holds; nothing but `.metadata` is read before it is fetched.

    Its hash, known after that, is `joint_digest` of `.metadata`, of all the files that this names, and of `meta.pt`.

    Raises:
        CheckpointError: The metadata are missing, hostile or damaged, or name files outside of the folder.
    """
    where = clipped(folder, 500)
    if not os.path.lexists(folder / METADATA):
        msg = f"{where}: {SUFFIX} files without {METADATA}, which is written last: saving was cut short; {_COPY_AGAIN}"
        raise CheckpointError(msg)
    data = read_bytes(inside(folder, METADATA, where))
    state = read_metadata(data, clipped(folder / METADATA, 500))
    for name in state.files:
        inside(folder, name, where)
    stored = StoredPieces(folder, state, {METADATA: digest(data)}, reading)
    if os.path.lexists(folder / _LIGHTNING):
        stored.read_beside(_LIGHTNING)
    return stored


def _blocks(file: BinaryIO, count: int | None) -> Iterator[bytes]:
    """Yield the next `count` bytes of the file, all that is left for None."""
    while (count is None or count > 0) and (block := file.read(_BLOCK if count is None else min(count, _BLOCK))):
        count = None if count is None else count - len(block)
        yield block


def _is_outline(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _is_number(value: object) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0
