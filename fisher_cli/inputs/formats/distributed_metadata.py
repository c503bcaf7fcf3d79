"""The metadata of torch.distributed.checkpoint: a pickle of records → its tensors, and where their pieces lie.

It is read by the reader of all pickles, which imports and calls nothing; what it names are records here, or nothing.
"""

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.budgets import Budget
from fisher_cli.inputs.formats.constructions import Size
from fisher_cli.inputs.formats.files import FileBytes
from fisher_cli.inputs.formats.number_types import NUMBER_TYPES, NumberType
from fisher_cli.inputs.formats.pickles import Reader
from fisher_cli.inputs.formats.stand_ins import StandIn
from fisher_cli.text import clipped

_TORCH: Final = "torch.distributed.checkpoint"
_METADATA: Final = f"{_TORCH}.metadata.Metadata"
_CHUNK: Final = f"{_TORCH}.metadata.ChunkStorageMetadata"
_STORAGE: Final = f"{_TORCH}.filesystem._StorageInfo"
_INDEX: Final = f"{_TORCH}.metadata.MetadataIndex"
_TENSOR: Final = f"{_TORCH}.metadata.TensorStorageMetadata"
_BYTES: Final = f"{_TORCH}.metadata.BytesStorageMetadata"
_SAVE_AGAIN: Final = "save it again with torch.distributed.checkpoint.save"
_LARGEST: Final = 64 << 20  # bytes; a piece of a tensor takes about 200
_MOST_ENTRIES: Final = 3_000_000  # a piece of a tensor takes about a hundred
_LARGEST_NUMBER: Final = 1 << 62
_Kind = TypeVar("_Kind")
_MOST_DIMENSIONS: Final = 64
_DEEPEST: Final = 32  # of the dictionaries that a state is saved in


class SavedPiece(NamedTuple):
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


class SavedTensor(NamedTuple):
    """A tensor and the pieces that cover it.

    Attributes:
        path: the keys of the nested dictionaries that it was saved in.
        dtype: of its elements.
        size: its shape.
        pieces: blocks that cover every element.
    """

    path: tuple[str, ...]
    dtype: NumberType
    size: tuple[int, ...]
    pieces: tuple[SavedPiece, ...]


class SavedState(NamedTuple):
    """What the metadata of a distributed checkpoint describe.

    Attributes:
        tensors: all tensors.
        others: the paths of all that is no tensor; it is kept as pickles, which are never read.
        files: all files that hold a part of it.
    """

    tensors: tuple[SavedTensor, ...]
    others: tuple[tuple[str, ...], ...]
    files: tuple[str, ...]


def read_metadata(data: FileBytes) -> SavedState:
    """Return the tensors that the metadata describe; every number in it is checked.

    Raises:
        UnsafeCheckpointError: It asks to run something.
        CheckpointError: It is damaged, or its pieces do not cover their tensors.
    """
    if len(data) > _LARGEST:
        msg = f"{len(data)} bytes of metadata, more than any checkpoint needs; {_SAVE_AGAIN}"
        raise CheckpointError(msg)
    try:
        return _state(Reader(data, budget=Budget(len(data), _MOST_ENTRIES)).load())
    except CheckpointError as error:
        text = str(error)
        raise type(error)(text if ";" in text else f"{text}; {_SAVE_AGAIN}") from error
    # A damaged file breaks every assumption about what is read out of its records.
    except Exception as error:
        msg = f"damaged, or not written by torch.distributed.checkpoint ({clipped(error, 80)}); {_SAVE_AGAIN}"
        raise CheckpointError(msg) from error


def _state(found: object) -> SavedState:
    metadata = _fields(found, _METADATA)
    entries = of(dict, metadata["state_dict_metadata"])
    paths = _paths(metadata.get("planner_data"), entries)
    places = _places(metadata["storage_data"])
    tensors, others = [], []
    for name, entry in entries.items():
        if of(StandIn, entry).path == _TENSOR:
            tensors.append(_tensor(paths[name], of(StandIn, entry), places.get(name, {})))
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
    path: tuple[str, ...], record: StandIn, places: Mapping[tuple[int, ...], tuple[str, int, int]]
) -> SavedTensor:
    entry = _fields(record, _TENSOR)
    properties = of(tuple, of(StandIn, entry["properties"]).state)
    dtype, size = of(NumberType, properties[0]), _numbers(entry["size"])
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
    record = of(StandIn, found)
    if record.path != kind:
        msg = f"a {record.path.rpartition('.')[2]} in place of a {kind.rpartition('.')[2]}"
        raise ValueError(msg)
    return {} if record.state is None else of(dict, record.state)


def _numbers(found: object) -> tuple[int, ...]:
    """Return the numbers of a torch.Size.

    Raises:
        ValueError: It is none.
    """
    numbers = of(Size, found)
    if len(numbers) > _MOST_DIMENSIONS:
        msg = "no torch.Size"
        raise ValueError(msg)
    return tuple(_number(number) for number in numbers)


def _number(found: object) -> int:
    number = of(int, found)
    if not 0 <= number < _LARGEST_NUMBER:
        msg = f"the number {clipped(number, 40)}"
        raise ValueError(msg)
    return number


def of(kind: type[_Kind], value: object) -> _Kind:
    """Return the value where it is of this kind.

    Raises:
        ValueError: It is not.
    """
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        msg = f"a {type(value).__name__} in place of a {kind.__name__}"
        raise ValueError(msg)
    return value


def as_tree(state: SavedState) -> dict[str, Any]:
    """Return the state as JSON values."""
    tensors = [[tensor.path, tensor.dtype.name, tensor.size, tensor.pieces] for tensor in state.tensors]
    return {"tensors": tensors, "others": state.others, "files": state.files}


def of_tree(tree: Mapping[str, Any]) -> SavedState:
    """Return the state that `as_tree` was given."""
    tensors = [
        SavedTensor(
            tuple(path),
            NUMBER_TYPES[name],
            tuple(size),
            tuple(SavedPiece(tuple(offsets), tuple(sizes), *place) for offsets, sizes, *place in pieces),
        )
        for path, name, size, pieces in tree["tensors"]
    ]
    return SavedState(tuple(tensors), tuple(tuple(path) for path in tree["others"]), tuple(tree["files"]))
