"""Seeded damage to reports, in their bytes and in what they say: `python -m tests.report_mutation FIRST COUNT`.

A case is a copy of a good report with one file changed, and a command that reads it. Where a table, a record or a
journal says something else, hashes are made to fit in most cases, as whoever forges them would. Prints what should not
have been, and at its end as JSON how often each command ended with each code.
"""

import csv
import io
import json
import os
import random
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from typer.testing import Result

from fisher_cli.storage.checksums import checked_line, self_hash_holds
from fisher_cli.storage.formats import format_of
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.storage.report_folder import journal_folder, journal_path, record_path
from fisher_cli.storage.run_record import read_record
from tests.attacks.child import limit
from tests.attacks.mutation import mutated
from tests.command import fisher
from tests.report_attacks import resealed
from tests.small_run import QUICK, write_checkpoints

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet", "xlsx")
BATCH = 20
_RAW = {"@nan": "NaN", "@inf": "-Infinity", "@large": "1e999", "@deep": "[" * 5000 + "]" * 5000, "@digits": "1" * 400}
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 2**31, 2**62, 2**63, 2**64 - 1, -(2**63), 10**30),
    *(0.5, -0.5, 1e-320, 1e-300, 1e15, 1e100, 1e200, 1e308, -1e308, 1.7976931348623157e308),
    *("", "x", "a\nb", "\0", "\ud800", "\x1b[2J", "=1+1", "../../etc/passwd", "/dev/zero", "nan", "0.5", "x" * 5000),
    *("sha256:00", "true Fisher", "failed", "high", "1/3", "9/9", "1/99999999999", "auto"),
    *([], {}, [1], [[]], [{}], {"a": 1}, {"": None}, [1.5, "x"], *_RAW),
)
COMMANDS = ("check", "merge", "report", "plot", "analyze")
# How often each is drawn: drawing and measuring take the longest.
_TIMES = (44, 26, 4, 14, 12)
CHARTS = ("traces", "ratio", "loss", "eigenvalues", "spectrum", "layers", "movement", "snr")


# --- good reports


@cache
def good() -> Path:
    """A folder with a report of some commands in every format, two shards, and files of somebody else."""
    torch.set_num_threads(1)  # processes are forked, and may not share threads
    folder = Path(tempfile.mkdtemp(prefix="good-"))
    os.chdir(folder)
    write_checkpoints(3)
    quick = QUICK[:2] + QUICK[4:]
    fisher("analyze", "ckpts", *QUICK, "-q", "-o", "t.csv")
    for command in ("spectrum", "examples"):
        fisher(command, "ckpts", *quick, "-q", "-o", "t.csv")
    fisher("compare", "true-vs-empirical", "ckpts", "--draws", "2", *quick, "-q", "-o", "t.csv")
    fisher("verify", "ckpts/step_0.pt", *quick, "-q", "-o", "t.csv")
    for index in (1, 2):
        fisher("analyze", "ckpts", *QUICK, "-q", "--shard", f"{index}/2", "-o", f"part-{index}.csv")
    for form in FORMATS[1:]:
        _written_as(form)
    for name in ("t.notes.csv", "precious", "ckpts.txt"):
        Path(name).write_text("mine")
    return folder


def _written_as(form: str) -> None:
    """The same reports in a folder of another format; a journal is no matter of the format."""
    Path(form).mkdir()
    for main in sorted(Path().glob("t*.csv")):
        if not record_path(main).exists():
            continue
        record = read_record(record_path(main))
        names = [name for name in record.tables if name != main.name]
        target = Path(form) / f"{main.stem}.{form}"
        stable = {k: v for k, v in record.content.items() if k not in {"tables", "written", "run", "record_sha256"}}
        files = ReportFiles(target, format_of(target))
        more = {target.with_name(f"{Path(name).stem}.{form}"): read_table(Path(name)) for name in names}
        files.write(read_table(main), None, RunRecord(stable, record.content["run"]), more)
        shutil.copy(journal_path(journal_folder(main)), journal_path(journal_folder(target)))


# --- what is changed


def mutated_value(value: Any, draw: random.Random) -> Any:
    """A JSON value with one to three of its parts changed, left out, repeated or made something else."""
    for _ in range(draw.randint(1, 3)):
        value = _changed(value, draw)
    return value


def _changed(value: Any, draw: random.Random) -> Any:
    if not isinstance(value, (dict, list)) or not value or draw.random() < 0.05:
        return _other(value, draw)
    if isinstance(value, list):
        place = draw.randrange(len(value))
        parts = list(value)
        if draw.random() < 0.8:
            parts[place] = _changed(parts[place], draw)
        elif draw.random() < 0.5:
            del parts[place]
        else:
            parts.insert(place, draw.choice(parts))
        return parts
    name = draw.choice(sorted(value))
    if draw.random() < 0.85:
        return {**value, name: _changed(value[name], draw)}
    found = {key: each for key, each in value.items() if key != name}
    return found if draw.random() < 0.7 else {**found, draw.choice(("x", "", "\0", "t.notes.csv")): value[name]}


def _other(value: Any, draw: random.Random) -> Any:
    """Something odd, often of the same type."""
    alike = [each for each in ODD if type(each) is type(value)]
    return draw.choice(alike) if alike and draw.random() < 0.6 else draw.choice(ODD)


def _text(value: Any, **options: Any) -> str:
    """JSON with words that are none."""
    text = json.dumps(value, **options)
    for word, raw in _RAW.items():
        text = text.replace(f'"{word}"', raw)
    return text


def mutated_record(content: bytes, draw: random.Random) -> bytes:
    """Another record, resealed more often than not."""
    value = mutated_value(json.loads(content), draw)
    if isinstance(value, dict) and draw.random() < 0.8:
        return _with_raw(resealed(value))
    return _text(value, indent=2).encode()


def _with_raw(content: bytes) -> bytes:
    found = content
    for word, raw in _RAW.items():
        found = found.replace(f'"{word}"'.encode(), raw.encode())
    return found


def mutated_journal(content: bytes, draw: random.Random) -> bytes:
    """Another line among the lines, its checksum that of what it says."""
    lines = content.splitlines()
    place = draw.randrange(len(lines))
    value = json.loads(lines[place][65:])
    text = _text(mutated_value(value, draw), separators=(",", ":")).encode()
    lines[place] = sha256(text).hexdigest().encode() + b" " + text
    if draw.random() < 0.1:
        lines.insert(draw.randrange(len(lines)), checked_line(draw.choice(ODD)))
    return b"".join(line + b"\n" for line in lines)


def mutated_table(path: Path, draw: random.Random) -> bytes:
    """The table with other cells, rows, columns or names."""
    content, form = path.read_bytes(), path.suffix[1:]
    if form in {"csv", "tsv"}:
        return _mutated_csv(content, "," if form == "csv" else "\t", draw)
    if form == "json":
        return _text(mutated_value(json.loads(content), draw)).encode()
    if form == "jsonl":
        rows = mutated_value([json.loads(line) for line in content.splitlines()], draw)
        return "".join(f"{_text(row)}\n" for row in (rows if isinstance(rows, list) else [rows])).encode()
    return _mutated_parquet(content, draw) if form == "parquet" else _mutated_book(content, draw)


def _mutated_csv(content: bytes, separator: str, draw: random.Random) -> bytes:
    rows = list(csv.reader(io.StringIO(content.decode()), delimiter=separator))
    for _ in range(draw.randint(1, 3)):
        row = draw.randrange(0 if draw.random() < 0.2 else min(1, len(rows) - 1), len(rows))
        column = draw.randrange(len(rows[0]))
        what = draw.random()
        if what < 0.7:
            rows[row][column] = str(_other(rows[row][column], draw))
        elif what < 0.8:
            rows = [[*each[:column], *each[column + 1 :]] for each in rows]
        elif what < 0.9 and row:
            rows.insert(draw.randrange(1, len(rows)), list(rows[row]))
        elif row and len(rows) > 2:
            del rows[row]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode("utf-8", "surrogatepass")


def _mutated_parquet(content: bytes, draw: random.Random) -> bytes:
    table = pq.read_table(io.BytesIO(content))
    columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    name = draw.choice(table.column_names)
    cells = columns[name]
    if draw.random() < 0.8 and cells:
        place = draw.randrange(len(cells))
        cells[place] = _other(cells[place], draw)
    elif draw.random() < 0.5:
        columns.pop(name)
    else:
        columns[f"{name}x"] = columns.pop(name)
    arrays = []
    for key, values in columns.items():
        kind = table.schema.field(key).type if key in table.column_names else None
        try:
            arrays.append(pa.array(values, type=kind))
        except (pa.ArrowException, OverflowError, UnicodeError):
            arrays.append(pa.array([str(value).encode("utf-8", "replace").decode() for value in values]))
    found = pa.table(dict(zip(columns, arrays, strict=True))).replace_schema_metadata(table.schema.metadata)
    buffer = io.BytesIO()
    pq.write_table(found, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _mutated_book(content: bytes, draw: random.Random) -> bytes:
    """Another text somewhere in a part of the workbook: an attribute, a number, a tag."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        parts = old.namelist()
        chosen = draw.choice([name for name in parts if "sheet" in name or "workbook" in name or draw.random() < 0.2])
        for name in parts:
            part = old.read(name)
            if name == chosen and (text := part.decode()):
                place, odd = draw.randrange(len(text)), str(draw.choice(ODD))[:300]
                odd = draw.choice((odd, "", "<", ">", '"', "9" * 20))
                part = f"{text[:place]}{odd}{text[place + draw.randint(0, 9) :]}".encode("utf-8", "replace")
            if name != chosen or draw.random() < 0.95:
                new.writestr(name, part)
    return buffer.getvalue()


def _is_forged(table: Path, draw: random.Random) -> bool:
    """Whether a table's new hash was put into the record that lists it, and the record sealed."""
    for path in table.parent.glob("*.fisher/record.json"):
        record = json.loads(path.read_bytes())
        if table.name in record["tables"] and draw.random() < 0.85:
            record["tables"][table.name] = f"sha256:{sha256(table.read_bytes()).hexdigest()}"
            path.write_bytes(resealed(record))
            return True
    return False


def damage(folder: Path, report: Path, draw: random.Random, of_part: bool) -> tuple[Path, bool]:
    """Change one file of a report; which one, and whether its record, or its own seal, proves it to be ours."""
    tables = sorted(folder.glob("part-1*.csv" if of_part else f"t*{report.suffix}"))
    tables = [path for path in tables if path.name != "t.notes.csv"]
    records, journal = [record_path(report)], journal_path(journal_folder(report))
    if not of_part:
        records = list(folder.glob("t*.fisher/record.json"))
    what = draw.random()
    path = draw.choice(tables) if what < 0.45 else draw.choice(sorted(records)) if what < 0.75 else journal
    content = path.read_bytes()
    if draw.random() < 0.25:
        path.write_bytes(mutated(content, draw))
    elif path == journal:
        path.write_bytes(mutated_journal(content, draw))
    elif path in records:
        path.write_bytes(mutated_record(content, draw))
    else:
        path.write_bytes(mutated_table(path, draw))
    if path in records:
        return path, self_hash_holds(path.read_bytes())
    return path, path in tables and _is_forged(path, draw)


# --- cases


def words_of(command: str, report: Path, draw: random.Random) -> tuple[object, ...]:
    if command == "merge":
        return "merge", "part-1.csv", "part-2.csv", "-o", "joined.csv"
    if command == "report":
        return "report", report, "-o", "page.html", "-q"
    if command == "plot":
        return "plot", report, "--what", draw.choice(CHARTS), "-o", "figure.svg", "-q"
    if command == "analyze":
        return "analyze", "ckpts", *QUICK, "-o", report
    return "check", report


def case(seed: int) -> tuple[str, str]:
    """What became of the case with this seed: the command and its exit code, and what should not have been."""
    draw, source = random.Random(seed), good()
    command = draw.choices(COMMANDS, _TIMES)[0]
    form = "csv" if command in {"merge", "analyze"} else draw.choice(FORMATS)
    folder = Path(tempfile.mkdtemp(prefix="case-"))
    try:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*FORMATS))
        if form != "csv":
            shutil.copytree(source / form, folder, dirs_exist_ok=True)
        os.chdir(folder)
        report = Path("part-1.csv" if command == "merge" else f"t.{form}")
        changed, is_proved = damage(Path(), report, draw, of_part=command == "merge")
        before = dict(_contents())
        words = words_of(command, report, draw)
        done = fisher(*words, code=None)
        return f"{command} {done.exit_code}", _odd(command, "" if is_proved else str(changed), before, done)
    except BaseException as error:
        return f"{command} raised", f"{type(error).__name__}: {error}"
    finally:
        os.chdir("/")
        shutil.rmtree(folder)


def _contents() -> Iterator[tuple[str, bytes]]:
    for path in Path().rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()


def _odd(command: str, kept: str, before: dict[str, bytes], done: Result) -> str:
    """What should not have been: an unknown code, an error that explains nothing, a file that is gone or another."""
    code, err = done.exit_code, done.stderr
    if "please report it" in err or code not in {0, 1, 3, 4}:
        return err.strip()[-300:]
    if code == 1 and sum(line.startswith("error:") for line in err.splitlines()) != 1:
        return f"not one error: {err[-300:]}"
    if not err.replace("\n", "").isprintable():
        return f"not printable: {err[-300:]!r}"
    may_change = set[str]()
    if command == "analyze":
        may_change = {"t.csv", "t.layers.csv", *(f"t.fisher/{name}" for name in ("record.json", "lock"))} - {kept}
        may_change.add("t.fisher/journal.jsonl")
    after = dict(_contents())
    changed = [name for name, content in before.items() if after.get(name) != content and name not in may_change]
    return f"changed: {changed}" if changed else ""


def batch(first: int, count: int) -> dict[str, Any]:
    """The outcomes of `count` cases, in a fork of this process."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        try:
            limit()
            found = {seed: case(seed) for seed in range(first, first + count)}
            outcomes = Counter(outcome for outcome, _ in found.values())
            odd = [f"seed {seed}, {outcome}: {why}" for seed, (outcome, why) in found.items() if why]
            os.write(writing, json.dumps([outcomes, odd]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        text = file.read()
    _, status = os.waitpid(process, 0)
    outcomes, odd = json.loads(text) if text else ({"lost": count}, [f"batch from seed {first}: {status}"])
    return {"outcomes": outcomes, "odd": odd}


def run(first: int, count: int, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The outcomes of `count` cases from this seed on."""
    here, outcomes, odd = Path.cwd(), Counter[str](), list[str]()
    try:
        good()
        for start in range(first, first + count, BATCH):
            found = batch(start, min(BATCH, first + count - start))
            outcomes.update(found["outcomes"])
            odd += found["odd"]
            for each in found["odd"]:
                say(each)
    finally:
        os.chdir(here)
    return {"outcomes": dict(sorted(outcomes.items())), "odd": odd}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]), print)["outcomes"]))
