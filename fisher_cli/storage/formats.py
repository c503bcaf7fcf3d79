"""The forms of a report's tables: which a file's name says, and a table's bytes in it."""

import os
import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisher_cli.errors import UsageError
from fisher_cli.tables.dialects import Dialect, separated

if TYPE_CHECKING:
    import pandas as pd

# 2: the record carries its own SHA-256. 3: the tables of checkpoints begin with the name of the run.
SCHEMA_VERSION = 3
TOOL = "fisher"
MAIN_SHEET = "rows"  # of a workbook, where the main table has no word of its own in its name


class Format(StrEnum):
    """The form of a report, by the suffix of its files; `table` is for people and only for the terminal."""

    TABLE = "table"
    CSV = "csv"
    TSV = "tsv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"


def format_of(path: Path, explicit: Format | None = None) -> Format:
    """The format that a file's suffix says; an explicit one must agree with it.

    Args:
        path: the file that is to be written; nothing is written here.
        explicit: what `--format` said, if anything.

    Returns:
        A format of files, never `table`.

    Raises:
        UsageError: the suffix is unknown, or says another format than `--format`; the format is `table`; or a folder or
            something else that is no regular file is in the way.
    """
    formats = [each for each in Format if each is not Format.TABLE]
    found = next((each for each in formats if path.suffix.lower() == f".{each}"), None)
    if explicit is Format.TABLE:
        msg = "--format table is for the terminal: leave out -o, or choose a file format such as --format csv"
        raise UsageError(msg)
    if found is None and os.path.isdir(path):
        better = shlex.quote(str(path / f"table.{explicit or Format.CSV}"))
        msg = f"-o {path}: it is a folder: type -o {better}"
        raise UsageError(msg)
    if found is None and os.path.exists(path) and not os.path.isfile(path):
        msg = f"-o {path}: it is not a regular file: choose another name, or -o - for rows on stdout"
        raise UsageError(msg)
    if found is None:
        suffixes = " ".join(f".{each}" for each in formats)
        better = shlex.quote(f"{path}.{explicit or Format.CSV}")
        msg = f"-o {path}: the suffix must say the format ({suffixes}): for instance -o {better}"
        raise UsageError(msg)
    if explicit not in (None, found):
        better = shlex.quote(str(path.with_suffix(f".{explicit}")))
        msg = f"-o {path} contradicts --format {explicit}: type -o {better}, or --format {found}"
        raise UsageError(msg)
    return found


def is_newer(record: Mapping[str, Any]) -> bool:
    """Whether a record is of a version of reports that this program does not know.

    Args:
        record: the values of `name.fisher/record.json`; one without a version is of the first.
    """
    version = record.get("schema_version", 1)
    return not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION


def render(
    table: "pd.DataFrame",
    form: Format,
    stable: Mapping[str, Any] | None = None,
    dialect: Dialect = Dialect.PLAIN,
) -> bytes:
    """The bytes of a table in a file format.

    Args:
        table: with the columns of `fisher_cli.tables`.
        form: of the file.
        stable: settings, data, checkpoints and versions, which do not change when the run is repeated; they go into
            Parquet and workbooks only.
        dialect: of separated values.

    Returns:
        The file's content; text is UTF-8.

    Raises:
        UsageError: the format is `table`, which is no file format; or a workbook is asked for and xlsxwriter is
            missing.
        OutputError: a workbook cannot hold so many rows.
    """
    from fisher_cli.tables import build  # here, so that the options' Format can be had without waiting for pandas

    match form:
        case Format.CSV | Format.TSV:
            text = build.to_csv(table, separated(form, dialect))
        case Format.JSON:
            text = build.to_json(table)
        case Format.JSONL:
            text = build.to_jsonl(table)
        case Format.PARQUET:
            return build.to_parquet(table, inside_parquet(stable or {}))
        case Format.XLSX:
            return render_workbook({MAIN_SHEET: table}, stable or {})
        case Format.TABLE:
            msg = "--format table is for the terminal: choose csv, tsv, json, jsonl, parquet or xlsx"
            raise UsageError(msg)
    return text.encode()


def render_workbook(sheets: "Mapping[str, pd.DataFrame]", stable: Mapping[str, Any]) -> bytes:
    """The bytes of a workbook, .xlsx, with a sheet for each table and one of the settings.

    Args:
        sheets: tables by the name of their sheet, in order.
        stable: settings, data, checkpoints and versions.

    Raises:
        UsageError: xlsxwriter is not installed.
        OutputError: a sheet cannot hold so many rows.
    """
    from fisher_cli.storage.xlsx import workbook  # here, because xlsxwriter is an extra

    return workbook(sheets, inside_parquet(stable))


def inside_parquet(stable: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that a Parquet file or a workbook carries.

    Args:
        stable: settings, data, checkpoints and versions, which do not change when the run is repeated.

    Returns:
        These with the program's name and the version of reports.
    """
    return {**stable, "tool": TOOL, "schema_version": SCHEMA_VERSION}
