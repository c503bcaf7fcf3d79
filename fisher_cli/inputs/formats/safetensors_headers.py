"""The header of a safetensors file: its rules, checked before anything is made of the tensors."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.budgets import Budget
from fisher_cli.inputs.formats.files import COPY_AGAIN, FileBytes
from fisher_cli.inputs.formats.number_types import SAFETENSORS_TYPES
from fisher_cli.inputs.formats.storages import DenseTensor, StoredBlock
from fisher_cli.text import clipped

_LONGEST_HEADER: Final = 10_000_000  # bytes; some 100,000 tensors
_MOST_TENSORS: Final = 100_000
_MOST_DIMENSIONS: Final = 32
_METADATA: Final = "__metadata__"


def read_header(data: FileBytes) -> tuple[dict[str, DenseTensor], dict[str, str]]:
    """Return the tensors, in the file's order, and the metadata of a safetensors file whose header keeps all rules.

    The rules: a length that fits the file; one JSON object in UTF-8 without repeated keys; known types; shapes
    whose bytes are exactly those reserved; tensors side by side from the first byte to the last, without
    overlap, gap or tail; metadata of text alone.

    Raises:
        CheckpointError: It breaks one of them; the message names it.
    """
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise CheckpointError(_damaged(f"its header should take {length} bytes of {len(data) - 8}"))
    if length > _LONGEST_HEADER:
        raise CheckpointError(_damaged(f"its header takes {length} bytes"))
    header = _parsed(data[8 : 8 + length])
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(_damaged("its metadata are not text"))
    if len(header) > _MOST_TENSORS:
        raise CheckpointError(_damaged(f"it claims {len(header)} tensors"))
    budget = Budget()
    for name in header:
        budget.check_name(name)
    tensors = {name: _tensor(name, entry, 8 + length) for name, entry in header.items()}
    _check_places(tensors, 8 + length, len(data))
    return tensors, metadata


def _parsed(text: bytes) -> dict[str, object]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "its header is nested too deeply" if isinstance(error, RecursionError) else _json_reason(error)
        raise CheckpointError(_damaged(reason)) from error
    if not isinstance(header, dict):
        raise CheckpointError(_damaged("its header is no JSON object"))
    return header


def _json_reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "its header is not UTF-8"
    return f"its header is no valid JSON: {clipped(error, 80)}"


def _no_constant(name: str) -> object:
    msg = f"{name} is no number"
    raise ValueError(msg)


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        msg = "a key occurs twice"
        raise ValueError(msg)
    return found


def _tensor(name: str, entry: object, start: int) -> DenseTensor:
    """Return a tensor whose shape and type need exactly the bytes from the first to the last that it says.

    Raises:
        CheckpointError: The entry is malformed.
    """
    shown = clipped(name, 80)
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(_damaged(f"{shown} is not described by dtype, shape and data_offsets"))
    shape, offsets = _counts(entry["shape"]), _counts(entry["data_offsets"])
    if shape is None or len(shape) > _MOST_DIMENSIONS or offsets is None or len(offsets) != 2:
        raise CheckpointError(_damaged(f"{shown} has a malformed shape or place"))
    word = entry["dtype"]
    if not isinstance(word, str) or word not in SAFETENSORS_TYPES:
        msg = f"{shown} is of type {clipped(word, 40)}, which is not supported; save it as float32"
        raise CheckpointError(msg)
    begin, end = offsets
    kind = SAFETENSORS_TYPES[word]
    needed = math.prod(shape) * kind.itemsize
    if end - begin != needed:
        raise CheckpointError(_damaged(f"{shown} needs {needed} bytes and has {end - begin}"))
    block = StoredBlock(start + begin, needed, 1 if sys.byteorder == "little" else kind.width)
    stride = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return DenseTensor(block, kind, 0, tuple(shape), tuple(stride))


def _counts(value: object) -> list[int] | None:
    if isinstance(value, list) and all(type(entry) is int and 0 <= entry < 1 << 62 for entry in value):
        return value
    return None


def _check_places(tensors: Mapping[str, DenseTensor], start: int, end: int) -> None:
    """Refuse tensors that do not stand side by side from the first byte to the last.

    Raises:
        CheckpointError: They do not.
    """
    position = start
    blocks = ((tensor.block, name) for name, tensor in tensors.items() if tensor.block is not None)
    for block, name in sorted(blocks, key=lambda each: (each[0].start, each[0].length)):
        if block.start != position:
            what = "overlaps another tensor" if block.start < position else "leaves a gap before it"
            raise CheckpointError(_damaged(f"{clipped(name, 80)} {what}"))
        position += block.length
    if position != end:
        raise CheckpointError(_damaged(f"its tensors take {position - start} bytes of {end - start}"))


def _damaged(reason: str) -> str:
    return f"a safetensors file that is truncated or damaged ({reason}); {COPY_AGAIN}"
