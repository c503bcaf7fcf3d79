"""The `.metadata` of a torch.distributed.checkpoint → which tensors there are and where their pieces lie.

The file is a pickle; it is read as records (see `pickled_records`), and nothing in it is run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.pickled_records import SAVE_AGAIN, Record, of, read_records
from fisher_cli.inputs.formats.containers import one_line

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
class Piece:
    """A block of a tensor: its offsets and sizes in the tensor, and its file, offset and length there in bytes."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class SavedTensor:
    """A tensor and the pieces that cover it; `path` are the keys of the nested dictionaries that it was saved in."""

    path: tuple[str, ...]
    dtype: torch.dtype
    size: tuple[int, ...]
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class SavedState:
    """All tensors, and the paths of all that is no tensor: kept as pickles, which are never read."""

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
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        msg = f"{where}: damaged, or not written by torch.distributed.checkpoint ({one_line(error, 80)}); {SAVE_AGAIN}"
        raise CheckpointError(msg) from error


def _state(found: object) -> SavedState:
    metadata = _fields(found, _METADATA)
    entries = of(dict, metadata["state_dict_metadata"])
    paths = _paths(metadata.get("planner_data"), entries)
    places = _places(metadata["storage_data"])
    tensors, others = [], []
    for name, entry in entries.items():
        if of(Record, entry).kind == _TENSOR:
            tensors.append(_tensor(paths[name], of(Record, entry), places.get(name, {})))
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
    path: tuple[str, ...], record: Record, places: Mapping[tuple[int, ...], tuple[str, int, int]]
) -> SavedTensor:
    entry = _fields(record, _TENSOR)
    properties = of(tuple, of(Record, entry["properties"]).state)
    dtype, size = of(torch.dtype, properties[0]), _numbers(entry["size"])
    pieces = []
    for chunk in of(list, entry["chunks"]):
        block = _fields(chunk, _CHUNK)
        offsets, sizes = _numbers(block["offsets"]), _numbers(block["sizes"])
        pieces.append(Piece(offsets, sizes, *places[offsets]))
    _check_cover(size, pieces)
    return SavedTensor(path, dtype, size, tuple(pieces))


def _check_cover(size: tuple[int, ...], pieces: list[Piece]) -> None:
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
    record = of(Record, found)
    if record.kind != kind:
        msg = f"a {record.kind.rpartition('.')[2]} in place of a {kind.rpartition('.')[2]}"
        raise ValueError(msg)
    return {} if record.state is None else of(dict, record.state)


def _numbers(found: object) -> tuple[int, ...]:
    """Return the numbers of a torch.Size.

    Raises:
        ValueError: It is none.
    """
    record = of(Record, found)
    (numbers,) = record.arguments
    if record.kind != _SIZE or len(of(tuple, numbers)) > _MOST_DIMENSIONS:
        msg = "no torch.Size"
        raise ValueError(msg)
    return tuple(_number(number) for number in of(tuple, numbers))


def _number(found: object) -> int:
    number = of(int, found)
    if not 0 <= number < _LARGEST_NUMBER:
        msg = f"the number {one_line(number, 40)}"
        raise ValueError(msg)
    return number
