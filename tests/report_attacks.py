"""Reports that mean harm, are damaged, or that somebody keeps: each maker changes a good one, or writes one of its own.

`TABLES` write a table below a folder and return its path. `RECORDS` and `HEADS` are bytes of a record and of the first
line of a journal. `IN_THE_WAY` put something in the place of a file, and `IN_A_JOURNAL` in that of one of a journal,
beside whose folder is the file `precious`.
"""

import csv
import io
import json
import os
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fisher_cli.storage.checksums import NO_HASH, SELF_HASH, checked_line, with_self_hash
from fisher_cli.storage.formats import SCHEMA_VERSION, TOOL
from fisher_cli.tables.build import METADATA_KEY

Maker = Callable[[Path], Path]
ROW = {
    **{"checkpoint": "a.pt", "order": 0, "step": 0, "loss": 0.5, "trace_true": 1.0, "trace_true_se": 0.1},
    **{"trace_empirical": 2.0, "phase": "high", "status": "ok", "error": ""},
}
COLUMNS = tuple(ROW)


def resealed(record: dict[str, Any]) -> bytes:
    """The record with the hash of what it now says: whoever forges it can compute that, too."""
    text = json.dumps({**record, SELF_HASH: NO_HASH}, indent=2, sort_keys=True)
    return with_self_hash(text.encode() + b"\n")


# --- tables


def written(name: str, content: str | bytes) -> Maker:
    def make(folder: Path) -> Path:
        data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        (folder / name).write_bytes(data)
        return folder / name

    return make


def csv_text(rows: list[list[object]], names: tuple[object, ...] = COLUMNS) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([list(names), *rows])
    return buffer.getvalue()


def cell(name: str, value: object) -> str:
    """A CSV table with this cell."""
    return csv_text([list((ROW | {name: value}).values())])


def json_cell(name: str, text: str, lines: bool = False) -> str:
    """A JSON table whose cell is this text."""
    row = json.dumps(ROW | {name: "@"}).replace('"@"', text)
    return f"{row}\n" if lines else f"[\n{row}\n]\n"


def parquet(table: pa.Table, with_key: bool = True, **options: Any) -> Maker:
    def make(folder: Path) -> Path:
        metadata = {METADATA_KEY: b"{}"} if with_key else {}
        pq.write_table(table.replace_schema_metadata(metadata), folder / "t.parquet", **options)
        return folder / "t.parquet"

    return make


def _huge_value(folder: Path) -> Path:
    """150 KB with one text of 400 MB."""
    table = pa.table({"checkpoint": pa.array(["x" * 400_000_000], pa.large_string())})
    return parquet(table, compression="zstd", use_dictionary=False, write_statistics=False)(folder)


def rows_alike(folder: Path, count: int = 30_000_000) -> Path:
    """Some KB of Parquet with so many rows, all alike."""
    return parquet(pa.table({"order": pa.repeat(0, count)}), compression="zstd")(folder)


_BOOK = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>'
    '<Override PartName="/xl/workbook.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sheet.main+xml"/>'
    '<Override PartName="/xl/sharedStrings.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"/>'
    '<Override PartName="/xl/worksheets/sheet1.xml" '
    'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.worksheet+xml"/></Types>',
    "_rels/.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": '<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships">'
    '<sheets><sheet name="rows" sheetId="1" r:id="r1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet" '
    'Target="worksheets/sheet1.xml"/>'
    '<Relationship Id="r2" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings" '
    'Target="sharedStrings.xml"/></Relationships>',
    "xl/sharedStrings.xml": '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>a</t></si></sst>',
    "xl/worksheets/sheet1.xml": "",
}
_MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_HEADER = "".join(f'<c t="inlineStr"><is><t>{name}</t></is></c>' for name in COLUMNS)


def sheet(rows: str, before: str = "", head: str = "") -> str:
    return f'{head}<worksheet {_MAIN}>{before}<sheetData><row r="1">{_HEADER}</row>{rows}</sheetData></worksheet>'


def book(rows: str = "", **parts: str | bytes | None) -> Maker:
    """A workbook with these rows below the header; parts by the last part of their names, None to leave one out."""

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "t.xlsx", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in (_BOOK | {"xl/worksheets/sheet1.xml": sheet(rows)}).items():
                changed = parts.get(name.rpartition("/")[2].partition(".")[0], content)
                if changed is not None:
                    archive.writestr(name, changed)
        return folder / "t.xlsx"

    return make


def _entity(text: str) -> str:
    return f"<?xml version='1.0'?><!DOCTYPE x [{text}]>"


_LAUGHS = "<!ENTITY a 'ha'>" + "".join(
    f"<!ENTITY {other} '{f'&{one};' * 10}'>" for one, other in zip("abcdefghi", "bcdefghij", strict=True)
)
_PASSWORDS = "SYSTEM 'file:///etc/passwd'"
_BLOWUP = f"<!ENTITY a '{'x' * 60_000}'>"


def _encrypted(folder: Path) -> Path:
    path = book()(folder)
    data = bytearray(path.read_bytes())
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        struct.pack_into("<H", data, place + 8, 1)
        place = data.find(b"PK\x01\x02", place + 4)
    path.write_bytes(data)
    return path


def _inline(text: str) -> str:
    return f'<row r="2"><c t="inlineStr"><is><t>{text}</t></is></c></row>'


LONG = "x" * 200_000
TABLES: dict[str, Maker] = {
    # text that is no table
    "nothing": written("t.csv", ""),
    "zeros": written("t.csv", bytes(5000)),
    "no UTF-8": written("t.csv", cell("error", "\udc80").encode("utf-8", "surrogateescape")),
    "a ragged row": written("t.csv", csv_text([["a.pt", 0]])),
    "a longer row": written("t.csv", csv_text([[*ROW.values(), 1]])),
    "a quote without its end": written("t.csv", csv_text([]) + '"' + "a,b\n" * 100),
    "a line without an end": written("t.csv", csv_text([]) + "a" * (1 << 25)),
    "commas without end": written("t.csv", "a," * (1 << 24)),
    "a cell too long": written("t.csv", cell("error", LONG)),
    "sixty thousand columns": written("t.csv", csv_text([], tuple(f"c{i}" for i in range(60_000)))),
    "two columns of one name": written("t.csv", csv_text([["a", "b"]], ("checkpoint", "checkpoint"))),
    "an unknown suffix": written("t.doc", csv_text([list(ROW.values())])),
    # cells that are none of their column
    **{
        f"{name} {text!r} in a CSV": written("t.csv", cell(name, text))
        for name, text in (
            *(("loss", each) for each in ("nan", "inf", "-Infinity", "1e999", "0x10", "NaN", "\0", "1;2")),
            *(("order", each) for each in ("", "-1", "0.5", "9" * 19, "9" * 5000, "1e300", "nan", "true")),
            *(("step", each) for each in ("9" * 30, "1e99", "0.1", "x")),
            *(("trace_true_se", "-1"), ("checkpoint", "")),
        )
    },
    **{
        f"{name} {text[:12]} in {'lines of ' if lines else ''}JSON": written(
            "t.jsonl" if lines else "t.json", json_cell(name, text, lines)
        )
        for lines in (False, True)
        for name, text in (
            *(("loss", each) for each in ("NaN", "-Infinity", "1e999", "[]", "{}", "true", '"x"', "1" * 400, "[[1]]")),
            *(("order", each) for each in ("null", "-1", "1.5", "1" * 30, "false", "1e40")),
            *(("checkpoint", each) for each in ("[]", '{"a": 1}', "true", "[" * 5000 + "]" * 5000, f'"{LONG}"')),
        )
    },
    "deep JSON": written("t.json", "[" * 1_000_000),
    "deep lines of JSON": written("t.jsonl", '{"a":' * 200_000),
    "a JSON object": written("t.json", json.dumps(ROW)),
    "a JSON text": written("t.json", '"rows"'),
    "rows that are lists": written("t.json", "[[1, 2], [3, 4]]"),
    "a row with another column": written("t.json", json.dumps([ROW, ROW | {"more": 1}])),
    "a row without a column": written("t.jsonl", "".join(f"{json.dumps(r)}\n" for r in (ROW, {"order": 1}))),
    "JSON with zeros behind it": written("t.json", json.dumps([ROW]).encode() + bytes(100)),
    "half of JSON": written("t.json", json.dumps([ROW] * 10)[:300]),
    "a line without an end of JSON": written("t.jsonl", "[" + "1," * (1 << 24)),
    # Parquet
    "Parquet of zeros": written("t.parquet", b"PAR1" + bytes(200) + b"PAR1"),
    "Parquet of others": parquet(pa.table({"order": [0]}), with_key=False),
    "lists in Parquet": parquet(pa.table({"order": [[0]]})),
    "objects in Parquet": parquet(pa.table({"order": [{"a": 1}]})),
    "bytes in Parquet": parquet(pa.table({"checkpoint": [b"\xff"]})),
    "dates in Parquet": parquet(pa.table({"order": pa.array([0], pa.timestamp("s"))})),
    "truths in Parquet": parquet(pa.table({"order": [True]})),
    "an infinite loss in Parquet": parquet(pa.table({"order": [0], "loss": [float("inf")]})),
    "no place in Parquet": parquet(pa.table({"order": pa.array([None], pa.int64())})),
    "a large number in Parquet": parquet(pa.table({"order": pa.array([2**64 - 1], pa.uint64())})),
    "a long cell in Parquet": parquet(pa.table({"order": [0], "error": [LONG]})),
    "a huge value in Parquet": _huge_value,
    "many rows in Parquet": rows_alike,
    # workbooks
    "no archive": written("t.xlsx", b"PK\x03\x04" + bytes(50)),
    "an empty archive": written("t.xlsx", b"PK\x05\x06" + bytes(18)),
    "an encrypted workbook": _encrypted,
    **{f"no {part} in a workbook": book(**{part: None}) for part in ("workbook", "sheet1", "[Content_Types]")},
    **{f"zeros for {part} in a workbook": book(**{part: bytes(100)}) for part in ("workbook", "sheet1")},
    "zeros for texts in a workbook": book(sharedStrings=bytes(100)),
    "an external entity": book(sheet1=sheet(_inline("&e;"), head=_entity(f"<!ENTITY e {_PASSWORDS}>"))),
    "a parameter entity": book(sheet1=sheet(_inline("x"), head=_entity(f"<!ENTITY % e {_PASSWORDS}> %e;"))),
    "a billion laughs": book(sheet1=sheet(_inline("&j;"), head=_entity(_LAUGHS))),
    "laughs among the texts": book(sharedStrings=f"{_entity(_LAUGHS)}<sst {_MAIN}><si><t>&j;</t></si></sst>"),
    "a quadratic entity": book(sheet1=sheet(_inline("&a;" * 60_000), head=_entity(_BLOWUP))),
    "a sheet of a gigabyte": book(sheet1=sheet("") + " " * (1 << 28)),
    "texts of a gigabyte": book(sharedStrings=" " * (1 << 28)),
    "a cell too long in a workbook": book(_inline(LONG)),
    "a formula": book('<row r="2"><c><f>1+1</f><v>2</v></c></row>'),
    "an error": book('<row r="2"><c t="e"><v>#DIV/0!</v></c></row>'),
    "a date": book('<row r="2"><c t="d"><v>2020-01-01T00:00:00Z</v></c></row>'),
    "a truth": book('<row r="2"><c t="inlineStr"><is><t>a</t></is></c><c t="b"><v>1</v></c></row>'),
    "a text that is not there": book('<row r="2"><c t="s"><v>99</v></c></row>'),
    "a number that is none": book('<row r="2"><c t="inlineStr"><is><t>a</t></is></c><c><v>x</v></c></row>'),
    "a row far down": book('<row r="900000000000"><c><v>1</v></c></row>'),
    "a row below empty ones": book('<row r="1000000"><c><v>1</v></c></row>'),
    "a cell far to the right": book('<row r="2"><c r="ZZZ2"><v>1</v></c></row>'),
    "cells far to the right": book("".join(f'<row r="{i}"><c r="ZZZ{i}"><v>1</v></c></row>' for i in range(2, 30_000))),
    "a place that is none": book('<row r="x"><c r="?"><v>1</v></c></row>'),
    "claimed dimensions": book('<row r="2"><c r="A2"><v>1</v></c></row>', sheet1=sheet(
        '<row r="2"><c><v>1</v></c></row>', before='<dimension ref="A1:XFD1048576"/>')),
}  # fmt: skip


# --- records


def record(**changes: Any) -> bytes:
    """A sealed record of t.csv with other entries; those that are ... are left out."""
    good: dict[str, Any] = {"tool": TOOL, "schema_version": SCHEMA_VERSION, "tables": {"t.csv": "sha256:00"}}
    return resealed({name: value for name, value in (good | changes).items() if value is not ...})


def raw(text: str, name: str = "settings") -> bytes:
    """A record with this text in place of a value."""
    return record(**{name: "@"}).replace(b'"@"', text.encode())


_NESTED: Any = 0
for _ in range(100):
    _NESTED = [_NESTED]
_WRONG: dict[str, list[Any]] = {
    "tables": [[], {}, "t.csv", {"t.csv": 1}, {"t.csv": None}, {"../t.csv": "x"}, {"/etc/passwd": "x"}, {"a\0b": "x"}],
    "replaced": [[], {"t.csv": 5}, {"..": "x"}, {"": "x"}],
    "schema_version": [0, -1, 99, "2", 1.5, None, [], True and 10**30],
    "tool": ["other", 5, None, []],
    "checkpoints": [{}, 5, [5], [[]], [{"checkpoint": 5}], [{"notes": "x"}], [{"notes": [5]}], [{"sha256": 5}]],
    "ledgers": [{}, [5], [{"parameters": 5}], [{"parameters": [5]}], [{"parameters": [{"values": "x"}]}]],
    "run": [5, [], {"command": "fisher"}, {"command": [5]}, {"seconds": "x"}, {"made_of": 5}, {"checks": 5}],
    "settings": [5, [], {"limit": "x"}, {"seed": 0.5}, {"labels": []}, {"data_arguments": [5]}, {"split": {}}],
    "data": [5, [], {"examples": "x"}, {"identity": 5}, {"normalization": 5}, {"normalization": {"mean": 5}}],
    "conventions": [5, [], {}],
    "other": [_NESTED, ["\ud800"]],
}
RECORDS: dict[str, bytes] = {
    **{f"{name} {str(value)[:30]}": record(**{name: value}) for name, values in _WRONG.items() for value in values},
    **{f"no {name}": record(**{name: ...}) for name in ("tool", "tables")},
    **{f"{text[:12]} as a value": raw(text) for text in ("NaN", "Infinity", "-Infinity", "1e999", "nan", "'x'")},
    "nested far too deeply": raw("[" * 200_000 + "]" * 200_000),
    "objects nested far too deeply": raw('{"a":' * 100_000),
    "a number of 5,000 digits": raw("1" * 5000, "schema_version"),
    "nothing": b"",
    "zeros": bytes(300),
    "a list": b"[]",
    "a text": b'"fisher"',
    "no UTF-8": record().replace(b"fisher", b"\xff\xfe\xff"),
    "half": record()[:60],
    "two": record() * 2,
}
# The form of these is right, or may be later: they are refused where they are no part of a run, or are read on.
UNUSUAL = {name for name in RECORDS if name.startswith(("other ['", 'other ["', "schema_version None"))}


# --- in the place of a file


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the address of a socket may not be longer than 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def _sparse_tail(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(csv_text([list(ROW.values())]).encode())
        file.truncate(1 << 33)


IN_THE_WAY: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a loop of links": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a folder": lambda path: path.symlink_to("."),
    "a sparse file": _sparse,
    "a sparse end": _sparse_tail,
}


# --- journals

_HEAD = checked_line({"journal": 1, "asked": {"settings": {}}}) + b"\n"


def _of_a_person(text: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(text) and None


IN_A_JOURNAL: dict[str, Callable[[Path], None]] = {
    **{name: make for name, make in IN_THE_WAY.items() if name != "a terminal"},
    "a link to a file": lambda path: path.symlink_to("../precious"),
    "another name of a file": lambda path: path.hardlink_to(path.parent.parent / "precious"),
    "what a person wrote": _of_a_person(b"my notes"),
    "lines that a person wrote": _of_a_person(b"my notes\non this run\n"),
    "a long text": _of_a_person(b"process 1 on a\n" + b"x" * 1000),
}
HEADS: dict[str, bytes] = {
    "a list": checked_line([]),
    "no question": checked_line({"journal": 1}),
    "a question that is none": checked_line({"journal": 1, "asked": 5}),
    "another version": checked_line({"journal": 9, "asked": {}}),
    "deep": checked_line({"journal": 1, "asked": {"settings": _NESTED}}),
    "no checksum": b"x" * 64 + _HEAD[64:].strip(),
    "no JSON": b"",
    "a value of no type": checked_line({"journal": [1], "asked": {"settings": [1, {"a": 1}]}}),
}
