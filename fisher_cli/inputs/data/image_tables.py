"""Tables with a column of images and one of labels: which columns those are, and the examples in their rows."""

import bisect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.images import Pixels, decode_image, read_image
from fisher_cli.inputs.data.sources import DataSource, Example
from fisher_cli.inputs.formats.files import shown
from fisher_cli.text import clipped

_LABEL_NAMES: Final = ("label", "labels", "fine_label", "target", "targets", "y", "class")


@dataclass(frozen=True)
class SchemaColumn:
    """One column of a table of images, as far as it matters.

    Attributes:
        name: of the column.
        kind: `image`, `class`, `integer`, or the name of another type.
        class_names: of a column of classes, where they are known.
    """

    name: str
    kind: str
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowGroup:
    """Rows of a file that are reached together.

    Attributes:
        path: of the file.
        number: of the group within the file, from 0.
        first: its first row, counted in the file.
        rows: how many there are.
    """

    path: Path
    number: int
    first: int
    rows: int


# (group, names of columns, ascending rows counted from the group's first) → those rows, each by column.
RowReader = Callable[[RowGroup, list[str], Sequence[int]], Iterator[dict[str, object]]]


def table_source(
    name: str,
    split: str | None,
    columns: Sequence[SchemaColumn],
    groups: Sequence[RowGroup],
    rows: RowReader,
    beside: Path | None = None,
) -> DataSource:
    """Return the rows of all groups as examples; only groups that hold selected rows are read.

    Raises:
        DataError: There are no columns of images and labels.
    """
    images, labels = find_columns(columns, shown(groups[0].path) if groups else name)
    starts = [0, *itertools.accumulate(group.rows for group in groups)]

    def place(index: int) -> str:
        at = bisect.bisect_right(starts, index) - 1
        return f"{shown(groups[at].path)}: row {groups[at].first + index - starts[at]}"

    def examples(indices: Sequence[int]) -> Iterator[Example]:
        for group, start, stop in zip(groups, starts, starts[1:], strict=False):
            wanted = indices[bisect.bisect_left(indices, start) : bisect.bisect_left(indices, stop)]
            found = rows(group, [images, labels.name], [index - start for index in wanted]) if wanted else ()
            for index, row in zip(wanted, found, strict=True):
                where = place(index)
                yield row_image(row[images], where, beside), row_label(row[labels.name], where)

    return DataSource(
        name=name,
        split=split,
        total=starts[-1],
        classes=len(labels.class_names) or None,
        class_names=labels.class_names,
        examples=examples,
        place=place,
        constants=None,
        remedy="mend the labels, or give others with --labels",
    )


def find_columns(columns: Sequence[SchemaColumn], where: str) -> tuple[str, SchemaColumn]:
    """Return the column of images and that of labels: by type first, by usual names where types leave a choice.

    Raises:
        DataError: One of them is not there, or there is a choice that is not ours to make.
    """
    images = [column for column in columns if column.kind == "image"]
    labels = [column for column in columns if column.kind == "class"]
    labels = labels or [column for column in columns if column.kind == "integer"]
    named = sorted(
        (column for column in labels if column.name.lower() in _LABEL_NAMES),
        key=lambda column: _LABEL_NAMES.index(column.name.lower()),
    )
    label = labels[0] if len(labels) == 1 else next(iter(named), None)
    if len(images) == 1 and label is not None:
        return images[0].name, label
    shown = clipped(", ".join(f"{column.name} ({column.kind})" for column in columns), 300)
    what = "no single column of images" if len(images) != 1 else "no single column of labels"
    msg = f"{where}: {what} among {shown}; name the columns image and label, or give --data FILE.py:FUNCTION"
    raise DataError(msg)


def row_image(value: object, where: str, beside: Path | None) -> Pixels:
    """Return the image of one cell: its bytes, or `{bytes, path}`, with a path only to a file below `beside`.

    Raises:
        DataError: There is no image in it, or the path leads elsewhere.
    """
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        if content is None and isinstance(path, str):
            return read_image(_inside(path, where, beside))
        value = content
    if not isinstance(value, bytes):
        msg = f"{where}: has no image in it ({type(value).__name__}); leave the row out"
        raise DataError(msg)
    return decode_image(value, where)


def row_label(value: object, where: str) -> int:
    """Return the label of one cell.

    Raises:
        DataError: It is missing, or no integer.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        msg = f"{where}: has the label {clipped(value, 40)}; class numbers are integers from 0 up"
        raise DataError(msg)
    return value


def _inside(path: str, where: str, beside: Path | None) -> Path:
    """Return the file that a cell names.

    Raises:
        DataError: It is an address, or it lies outside the dataset's folder.
    """
    if beside is not None and "://" not in path:
        root = beside.resolve()
        full = (root / path).resolve()
        if full.is_relative_to(root):
            return full
    msg = f"{where}: its image is not in the file but at {clipped(path)}, which is not opened; store the bytes"
    raise DataError(msg)


_FEATURES: Final = b"huggingface"


def schema_columns(schema: Any) -> list[SchemaColumn]:
    """Return the columns, by the Hugging Face description in the schema where it fits, else by their types."""
    described = _described((schema.metadata or {}).get(_FEATURES))
    found = []
    for field in schema:
        kind, own = _kind(field.type), described.get(field.name)
        # A description that does not fit the column's type is not believed.
        fits = own is not None and (own.kind == kind or (own.kind == "class" and kind == "integer"))
        found.append(own if own is not None and fits else SchemaColumn(field.name, kind))
    return found


def _kind(type: Any) -> str:
    from pyarrow import types

    if types.is_struct(type):
        return "image" if {field.name for field in type} >= {"bytes", "path"} else "other"
    if types.is_binary(type) or types.is_large_binary(type):
        return "image"
    return "integer" if types.is_integer(type) else "other"


def _described(text: bytes | None) -> dict[str, SchemaColumn]:
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
        return {name: _column(name, feature) for name, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # the types of the columns say the rest


def _column(name: str, feature: Mapping[str, Any]) -> SchemaColumn:
    if feature.get("_type") == "ClassLabel":
        return SchemaColumn(name, "class", tuple(map(str, feature.get("names") or ())))
    return SchemaColumn(name, "image" if feature.get("_type") == "Image" else "other")
