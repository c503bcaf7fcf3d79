"""Tables with a column of images and one of labels: which columns those are, and the examples in their rows."""

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.images import pixels_of, read_image
from fisher_cli.inputs.data.sources import DataSource, Example
from fisher_cli.inputs.formats.files import available_memory, open_regular, shown
from fisher_cli.storage.decoding import Answer, Decoder
from fisher_cli.storage.reader_process import ReaderOwner
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


def _decoders() -> Mapping[str, Decoder]:
    from fisher_cli.inputs.data.table_bytes import DECODERS

    return DECODERS


OWNER: Final = ReaderOwner("fisher_cli.inputs.data.table_bytes", _decoders, ["pyarrow", "numpy", "PIL"])


def parquet_source(name: str, paths: Sequence[Path], split: str | None) -> DataSource:
    """Return the rows of these Parquet files, one file after the other; only row groups with selected rows are read.

    Raises:
        DataError: A file is damaged, the files differ in their columns, or these are no images and labels.
    """
    return _source("parquet", name, paths, split, None)


def arrow_source(name: str, paths: Sequence[Path], split: str | None, beside: Path | None) -> DataSource:
    """Return the rows of these Arrow files, one file after the other; images beside them lie below `beside`.

    Raises:
        DataError: A file is damaged, the files differ in their columns, or these are no images and labels.
    """
    return _source("arrow", name, paths, split, beside)


def _source(form: str, name: str, paths: Sequence[Path], split: str | None, beside: Path | None) -> DataSource:
    groups: list[RowGroup] = []
    columns = None
    for path in paths:
        [(about, _)] = _asked(form, path, {})
        found = [SchemaColumn(title, kind, tuple(classes)) for title, kind, classes in about["columns"]]
        if columns is not None and found != columns:
            msg = f"{shown(path)}: has other columns than {shown(paths[0].name)}; are they of one dataset?"
            raise DataError(msg)
        columns = found
        firsts = itertools.accumulate(about["groups"], initial=0)
        groups += [RowGroup(path, *each) for each in zip(itertools.count(), firsts, about["groups"], strict=False)]
    return _table_source(form, name, split, columns or [], groups, beside)


def _asked(form: str, path: Path, about: Mapping[str, Any]) -> Iterator[Answer]:
    where = shown(path)
    with open_regular(path) as file:
        yield from OWNER.ask(
            form,
            {"where": where, "memory": available_memory(), **about},
            [file],
            [file.fileno()],
            lambda text, _: DataError(f"{where}: {text}"),
        )


def _table_source(
    form: str,
    name: str,
    split: str | None,
    columns: Sequence[SchemaColumn],
    groups: Sequence[RowGroup],
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
            if not wanted:
                continue
            about = {"group": group.number, "first": group.first, "columns": [images, labels.name]}
            found = _asked(f"{form} rows", group.path, {**about, "rows": [index - start for index in wanted]})
            for index, (row, pixels) in zip(wanted, found, strict=True):
                if "path" in row:
                    yield read_image(_inside(row["path"], place(index), beside)), row["label"]
                else:
                    yield pixels_of((row["size"], pixels)), row["label"]

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
