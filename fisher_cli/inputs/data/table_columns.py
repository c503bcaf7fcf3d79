"""The columns of an Arrow schema as far as they matter: images, classes with their names, integers, others."""

import json
from collections.abc import Mapping
from typing import Any, Final

from fisher_cli.inputs.data.image_tables import Column

_FEATURES: Final = b"huggingface"


def schema_columns(schema: Any) -> list[Column]:
    """Return the columns, by the Hugging Face description in the schema where it fits, else by their types."""
    described = _described((schema.metadata or {}).get(_FEATURES))
    found = []
    for field in schema:
        kind, own = _kind(field.type), described.get(field.name)
        # A description that does not fit the column's type is not believed.
        fits = own is not None and (own.kind == kind or (own.kind == "class" and kind == "integer"))
        found.append(own if own is not None and fits else Column(field.name, kind))
    return found


def _kind(type: Any) -> str:
    from pyarrow import types

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
        return Column(name, "class", tuple(map(str, feature.get("names") or ())))
    return Column(name, "image" if feature.get("_type") == "Image" else "other")
