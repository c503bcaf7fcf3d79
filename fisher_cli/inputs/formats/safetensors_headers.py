"""The header of a safetensors file: its rules, checked before anything is made of the tensors."""

import json
import math
from collections.abc import Mapping
from typing import Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.files import COPY_AGAIN, clipped

_LONGEST_HEADER: Final = 10_000_000  # bytes; some 100,000 tensors
_MOST_TENSORS: Final = 100_000
_MOST_DIMENSIONS: Final = 32
_SIZES: Final = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
_METADATA: Final = "__metadata__"


def check_header(data: bytes) -> tuple[list[str], dict[str, str]]:
    """Return the tensors' names and the metadata of a safetensors file whose header keeps all rules.

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
    _check_places(sorted((*_place(name, entry), name) for name, entry in header.items()), len(data) - 8 - length)
    return list(header), metadata


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


def _place(name: str, entry: object) -> tuple[int, int]:
    """Return the first and last byte of a tensor whose shape and type need exactly those between.

    Raises:
        CheckpointError: The entry is malformed.
    """
    shown = clipped(name, 80)
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(_damaged(f"{shown} is not described by dtype, shape and data_offsets"))
    shape, offsets = _counts(entry["shape"]), _counts(entry["data_offsets"])
    if shape is None or len(shape) > _MOST_DIMENSIONS or offsets is None or len(offsets) != 2:
        raise CheckpointError(_damaged(f"{shown} has a malformed shape or place"))
    kind = entry["dtype"]
    if not isinstance(kind, str) or kind not in _SIZES:
        msg = f"{shown} is of type {clipped(kind, 40)}, which is not supported; save it as float32"
        raise CheckpointError(msg)
    begin, end = offsets
    needed = math.prod(shape) * _SIZES[kind]
    if end - begin != needed:
        raise CheckpointError(_damaged(f"{shown} needs {needed} bytes and has {end - begin}"))
    return begin, end


def _counts(value: object) -> list[int] | None:
    if isinstance(value, list) and all(type(entry) is int and 0 <= entry < 1 << 62 for entry in value):
        return value
    return None


def _check_places(places: list[tuple[int, int, str]], stored: int) -> None:
    position = 0
    for begin, end, name in places:
        if begin != position:
            what = "overlaps another tensor" if begin < position else "leaves a gap before it"
            raise CheckpointError(_damaged(f"{clipped(name, 80)} {what}"))
        position = end
    if position != stored:
        raise CheckpointError(_damaged(f"its tensors take {position} bytes of {stored}"))


def _damaged(reason: str) -> str:
    return f"a safetensors file that is truncated or damaged ({reason}); {COPY_AGAIN}"
