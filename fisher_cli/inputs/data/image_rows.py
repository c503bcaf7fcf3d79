"""Tables of images, read by a process of their own: their columns, and the images and labels in their rows.

Decoders of that process, which has pyarrow and Pillow (`image_tables` asks it).
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pyarrow import types

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.image_bytes import decode_image
from fisher_cli.storage.decoding import Answer
from fisher_cli.text import clipped

AGAIN: Final = "copy or download it again"
_FEATURES: Final = b"huggingface"
Column = list[Any]  # name, kind (`image`, `class`, `integer` or another word), and names of classes


def row_answer(image: object, label: object, where: str) -> Answer:
    """Return one row: its label, with the size of its image and the pixels; or with the path of its image.

    Raises:
        DataError: There is no image in it, or no label.
    """
    if isinstance(image, Mapping):
        content, path = image.get("bytes"), image.get("path")
        if content is None and isinstance(path, str):
            return {"path": path, "label": _label(label, where)}, b""
        image = content
    if not isinstance(image, bytes):
        msg = f"{where}: has no image in it ({type(image).__name__}); leave the row out"
        raise DataError(msg)
    size, pixels = decode_image(image, where)
    return {"size": size, "label": _label(label, where)}, pixels


def _label(value: object, where: str) -> int:
    """Return the label of one cell.

    Raises:
        DataError: It is missing, or no integer.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        msg = f"{where}: has the label {clipped(value, 40)}; class numbers are integers from 0 up"
        raise DataError(msg)
    return value


def rows_of(batch: Any, about: Mapping[str, Any], start: int, wanted: list[int]) -> Iterator[Answer]:
    """Yield rows of a batch, which are counted in its group; the batch has been validated."""
    image, label = (batch.column(name) for name in about["columns"])
    for row in wanted:
        where = f"{about['where']}: row {about['first'] + row}"
        yield row_answer(image[row - start].as_py(), label[row - start].as_py(), where)


def schema_columns(schema: Any) -> list[Column]:
    """Return the columns, by the Hugging Face description in the schema where it fits, else by their types."""
    described = _described((schema.metadata or {}).get(_FEATURES))
    found = []
    for field in schema:
        kind, own = _kind(field.type), described.get(field.name)
        # A description that does not fit the column's type is not believed.
        fits = own is not None and (own[1] == kind or (own[1] == "class" and kind == "integer"))
        found.append(own if own is not None and fits else [field.name, kind, []])
    return found


def _kind(type: Any) -> str:
    if types.is_struct(type):
        return "image" if {field.name for field in type} >= {"bytes", "path"} else "other"
    if types.is_binary(type) or types.is_large_binary(type):
        return "image"
    return "integer" if types.is_integer(type) else "other"


def _described(text: bytes | None) -> dict[str, Column]:
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
        return {name: _column(name, feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # the types of the columns say the rest


def _column(name: str, feature: Mapping[str, Any]) -> Column:
    if feature.get("_type") == "ClassLabel":
        return [name, "class", list(map(str, feature.get("names") or ()))]
    return [name, "image" if feature.get("_type") == "Image" else "other", []]
