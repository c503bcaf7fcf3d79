"""The forms of a report's tables: which a file's name says, and a table's bytes in it."""

import shlex
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisher_cli.errors import UsageError
from fisher_cli.tables.dialects import Dialect, separated

if TYPE_CHECKING:
    import pandas as pd

# 2: the record carries its own SHA-256.
SCHEMA_VERSION = 2
TOOL = "fisher"
MAIN_SHEET = "rows"  # of a workbook, where the main table has no word of its own in its name


class Format(StrEnum):
    """The form of a report; `table` is for people and only for the terminal."""

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
        path: the file that is to be written.
        explicit: what `--format` said, if anything.

    Returns:
        The format.

    Raises:
        UsageError: the suffix is unknown, or says another format than `--format`, or the format is `table`.
    """
    formats = [each for each in Format if each is not Format.TABLE]
    found = next((each for each in formats if path.suffix.lower() == f".{each}"), None)
    if explicit is Format.TABLE:
        msg = "--format table is for the terminal: leave out -o, or choose a file format such as --format csv"
        raise UsageError(msg)
    if found is None and path.is_dir():
        better = shlex.quote(str(path / f"report.{explicit or Format.CSV}"))
        msg = f"-o {path}: it is a folder: type -o {better}"
        raise UsageError(msg)
    if found is None and path.exists() and not path.is_file():
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
    """Whether a record is of a version of reports that this program does not know."""
    version = record.get("schema_version", 1)
    return not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION


def render(
    table: "pd.DataFrame",
    form: Format,
    stable: Mapping[str, Any] | None = None,
    dialect: Dialect = Dialect.PLAIN,
) -> bytes:
    """The table's bytes in a file format; `stable` metadata go into Parquet and workbooks only.

    Returns:
        The file's content.

    Raises:
        UsageError: the format is `table`, which is no file format.
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
    """The tables as the sheets of one workbook, the settings among them."""
    from fisher_cli.storage.xlsx import workbook  # here, because xlsxwriter is an extra

    return workbook(sheets, inside_parquet(stable))


def inside_parquet(stable: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that a Parquet file or a workbook carries."""
    return {**stable, "tool": TOOL, "schema_version": SCHEMA_VERSION}
