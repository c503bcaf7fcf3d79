"""Measurements → tables → text or bytes; `table_reading` is the way back, `workbooks` makes those of spreadsheets.

A table is a pandas DataFrame with nullable dtypes (Int64, Float64, string); what was not computed, is not a
number or is infinite, is NA. Equal tables give equal bytes. Numbers keep their full precision everywhere.
"""

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fisher_cli.results import Measurement, OrderInRun, by_run
from fisher_cli.tables.columns import Column, Kind, Value
from fisher_cli.tables.dialects import PLAIN, Dialect, Separated, separated
from fisher_cli.tables.registry import CHUNK_ROWS, Table, check_keys, column_named
from fisher_cli.tables.trajectory import PathLength, trajectory_of
from fisher_cli.text import escape, guard, json_text

METADATA_KEY = b"fisher"

_PANDAS_TYPES: dict[Kind, Any] = {
    Kind.TEXT: pd.StringDtype("python"),
    Kind.INTEGER: "Int64",
    Kind.REAL: "Float64",
}
_ARROW_TYPES = {Kind.TEXT: pa.string(), Kind.INTEGER: pa.int64(), Kind.REAL: pa.float64()}


# --- Measurements → tables


def frame(
    table: Table,
    measurements: Sequence[Any],
    first_order: int = 0,
    *,
    path: PathLength | None = None,
    is_part: bool = False,
) -> pd.DataFrame:
    """A table of the registry with the rows of all measurements, one after the other.

    Args:
        table: its columns are those of the frame.
        measurements: run by run, in order of training; of tables that are not of a run, what the table is about.
        first_order: `order` of the first; above 0 for a part that begins within a run.
        path: the path up to the first, which is then not the first of the run; it grows by these. None for an empty
            path.
        is_part: whether what comes from the other rows is left empty, until the parts of a run are joined.

    Returns:
        The table as a data frame, with nullable dtypes.
    """
    follows = table.is_of_sequence and not is_part
    ends: Sequence[Mapping[str, Any]] = sequence_cells(measurements, path) if follows else [{}] * len(measurements)
    places = zip(map(OrderInRun(first_order), measurements), measurements, ends, strict=True)
    return make_table((row for i, each, end in places for row in table.rows(each, i, end)), table.columns)


def frames(
    table: Table, measurement: Measurement, order: int, path: PathLength | None = None
) -> Iterator[pd.DataFrame]:
    """The rows of one measurement as tables of at most CHUNK_ROWS rows, small enough to hold.

    Args:
        table: its columns are those of the frames.
        measurement: what the rows are about.
        order: its place in its run, from 0.
        path: the path up to it, which grows by it; None for an empty path.

    Yields:
        One part at least, be it without rows.
    """
    rows = table.rows(measurement, order, sequence_cells([measurement], path)[0] if table.is_of_sequence else None)
    part = list(itertools.islice(rows, CHUNK_ROWS))
    yield make_table(part, table.columns)
    while part := list(itertools.islice(rows, CHUNK_ROWS)):
        yield make_table(part, table.columns)


def sequence_cells(
    measurements: Sequence[Measurement], path: PathLength | None = None
) -> list[dict[str, float | str | None]]:
    """Each row's `path_length` (√nats) and `phase`, which come from the other rows of its run.

    Args:
        measurements: run by run, in order of training.
        path: the path up to the first, which grows by these; None for an empty path.

    Returns:
        A mapping of both names per measurement; None where a row has no such cell.
    """
    path, cells = path or PathLength(), list[dict[str, float | str | None]]()
    for rows in by_run(measurements).values():
        found = trajectory_of(rows)
        phases = found.phases if found else [None] * len(rows)
        cells += [{"path_length": path.add(each), "phase": phase} for each, phase in zip(rows, phases, strict=True)]
    return cells


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of tables with the same columns, one table after the other.

    Args:
        parts: at least one; those without rows are passed over, whatever their columns.

    Returns:
        A new table, its rows numbered from 0.

    Raises:
        ValueError: the tables have different columns.
    """
    filled = [part for part in parts if len(part)] or list(parts[:1])
    if any(list(part.columns) != list(filled[0].columns) for part in filled):
        msg = "they have different columns"
        raise ValueError(msg)
    return pd.concat(filled, ignore_index=True)


def with_sequence(joined_parts: pd.DataFrame, table: Table, measurements: Sequence[Measurement]) -> pd.DataFrame:
    """A table joined from parts, with the cells that come from the other rows.

    Args:
        joined_parts: with one row per measurement, in the same order.
        table: of the registry; it says which cells these are.
        measurements: of the whole run.

    Returns:
        A new table; other cells are as they were.
    """
    columns = [column for column in table.columns if column.path[0] == "sequence"]
    ends = make_table(sequence_cells(measurements), columns)
    return joined_parts.assign(**{column.name: ends[column.name] for column in columns})


def make_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]) -> pd.DataFrame:
    """A table with exactly these columns; values that are missing, NaN, infinite or too large become NA.

    Args:
        rows: column name → value, each; keys may be missing.
        columns: in the order of the table.

    Returns:
        A data frame with nullable dtypes: string, Int64, Float64. Empty text is NA too.

    Raises:
        ValueError: a row has a key that is not a column.
    """
    rows = list(rows)
    check_keys(set().union(*rows), {column.name for column in columns})
    series = {
        column.name: pd.Series(
            _cells([row.get(column.name) for row in rows], column.kind), dtype=_PANDAS_TYPES[column.kind]
        )
        for column in columns
    }
    return pd.DataFrame(series, columns=[column.name for column in columns])


def _cells(values: Sequence[Any], kind: Kind) -> list[Value]:
    """The values as their column's kind, or None; nothing that a file may state (a step of 10³⁰) can fail."""
    if kind is Kind.TEXT:
        return [None if value is None else str(value) or None for value in values]
    if kind is Kind.INTEGER:
        return [None if value is None or not -(2**63) <= value < 2**63 else int(value) for value in values]
    return [None if value is None or not math.isfinite(value) else float(value) for value in values]


# --- tables → text or bytes


def to_csv(table: pd.DataFrame, form: Separated = PLAIN, header: bool = True) -> str:
    """The table as separated values: RFC 4180 quoting, shortest numbers that read back exactly.

    Text cells are safe against formula injection and hold no control characters; `read_table` undoes both.

    Args:
        table: what is written.
        form: separator, decimal point, line end, and what stands before the header.
        header: whether it begins with the names of the columns.

    Returns:
        The header, unless it is not wanted, and a line per row.
    """
    safe = cache(lambda text: escape(guard(text)))  # texts come again in most rows
    text = _separated(zip(*plain_columns(table, safe), strict=True), form)
    return csv_header(table.columns, form) + text if header else text


def csv_header(names: Iterable[str], form: Separated = PLAIN) -> str:
    """The first line of `to_csv`, and what stands before it."""
    return form.mark + _separated([[escape(guard(name)) for name in names]], form)


def rows_text(table: pd.DataFrame, form: str, dialect: Dialect = Dialect.PLAIN, header: bool = True) -> str:
    """The rows as csv, tsv or jsonl, the formats in which rows can be added to rows.

    Args:
        table: whose rows are written.
        form: `csv`, `tsv` or `jsonl`.
        dialect: of CSV; other formats have none.
        header: whether the names of the columns come first; jsonl has no header.
    """
    return to_jsonl(table) if form == "jsonl" else to_csv(table, separated(form, dialect), header)


def _separated(rows: Iterable[Sequence[Value]], form: Separated) -> str:
    """Rows of cells as separated values; text is safe already."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=form.separator, lineterminator=form.line_end)
    if form.decimal == ".":
        writer.writerows(rows)
    else:
        writer.writerows([[form.number(cell) if isinstance(cell, float) else cell for cell in row] for row in rows])
    return buffer.getvalue()


def to_jsonl(table: pd.DataFrame) -> str:
    """One JSON object per row and line; NA is null, text is as it is, but that half surrogates are escaped."""
    return "".join(f"{line}\n" for line in _json_rows(table))


def to_json(table: pd.DataFrame) -> str:
    """The rows as one JSON array, a row to a line; otherwise as `to_jsonl`."""
    rows = ",\n".join(_json_rows(table))
    return f"[\n{rows}\n]\n" if rows else "[]\n"


def to_parquet(table: pd.DataFrame, metadata: Mapping[str, Any]) -> bytes:
    """The table as Parquet: one row group, zstd, page checksums, the metadata as JSON under the key `fisher`.

    Each field carries its description and its unit. Text holds no control characters; `read_table` gives them back.

    Args:
        table: what is written.
        metadata: JSON values.

    Returns:
        The file's content.
    """
    schema = arrow_schema([column_named(name, table[name].dropna()) for name in table.columns])
    schema = schema.with_metadata({METADATA_KEY: json_text(metadata).encode()})
    buffer = io.BytesIO()
    pq.write_table(
        arrow_table(table, schema),
        buffer,
        row_group_size=max(1, len(table)),
        compression="zstd",
        write_page_checksum=True,
    )
    return buffer.getvalue()


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    """The fields of a Parquet file, each with its description and its unit."""
    return pa.schema(
        pa.field(
            column.name,
            _ARROW_TYPES[column.kind],
            metadata={"description": column.description, "unit": column.unit},
        )
        for column in columns
    )


def arrow_table(table: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """The table as Arrow's, its text without characters that a terminal would act on.

    Args:
        table: what is converted.
        schema: of its columns, in their order, as `arrow_schema` makes it.
    """
    arrays = [
        pa.array(values, type=field.type) for values, field in zip(plain_columns(table, escape), schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def plain_columns(table: pd.DataFrame, safe: Callable[[str], str]) -> list[list[Value]]:
    """The table's columns as Python values, in their order; NA is None.

    Args:
        table: what is converted.
        safe: applied to every text.
    """
    return [_plain_cells(table[name], safe) for name in table.columns]


def _plain_cells(column: "pd.Series[Any]", safe: Callable[[str], str]) -> list[Value]:
    held: Any = column.array
    values: list[Value] = held.to_numpy(dtype=object, na_value=None).tolist()
    if isinstance(column.dtype, pd.StringDtype):
        return [safe(value) if isinstance(value, str) else value for value in values]
    return values


def _json_rows(table: pd.DataFrame) -> Iterable[str]:
    """The rows as JSON objects.

    Yields:
        One line per row.
    """
    for row in zip(*plain_columns(table, str), strict=True):
        yield json_text(dict(zip(table.columns, row, strict=True)), sort_keys=False)
