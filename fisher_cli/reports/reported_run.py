"""A report as it was written to files, read back: its tables, its record, and what it says in words."""

import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisher_cli.errors import FisherError, OutputError
from fisher_cli.results import UNSETTLED_NOTE, Estimate, Measurement, Predictions, Status, Trace, by_run
from fisher_cli.storage.identity import TableIdentity
from fisher_cli.storage.journal import read_records
from fisher_cli.storage.readers import read_table, sheet_names
from fisher_cli.storage.regular_files import digest_of
from fisher_cli.storage.report_files import table_path
from fisher_cli.storage.report_folder import journal_folder, name_of, record_path
from fisher_cli.storage.run_record import LaterVersionError, StoredRecord, read_record
from fisher_cli.tables.registry import (
    COMPARISON,
    DENSITY,
    EXAMPLES,
    GROUPS,
    IDENTITIES,
    LAYERS,
    SPECTRUM,
    Table,
    main_table_of,
)
from fisher_cli.text import one_line, unescape

if TYPE_CHECKING:
    import pandas as pd

# The tables that other commands write beside a report of the same stem.
_SIDES = (LAYERS, COMPARISON, SPECTRUM, DENSITY, EXAMPLES, GROUPS, IDENTITIES)
_MAIN_WORDS = tuple(dict.fromkeys(main_table_of(each).word for each in _SIDES))
_TRACES = (
    *("trace_true", "trace_true_se", "trace_true_estimator_se", "trace_empirical", "trace_empirical_se"),
    *("trace_ratio", "trace_ratio_se"),
)
TOP = 10  # examples that a page shows
_PREDICTIONS = ("loss", "loss_se", "accuracy", "accuracy_se", "entropy")
_NEEDED = ("checkpoint", "order", "step", "loss", "trace_true", "trace_empirical", "phase", "status", "error")


@dataclass(frozen=True)
class ApartTable:
    """A table beside a report whose rows must not be read together with it.

    Attributes:
        word: in its file's name.
        table: its rows.
        about: of what they are, in words.
        why: what is otherwise than in the report, in words.
    """

    word: str
    table: "pd.DataFrame"
    about: str
    why: str


@dataclass(frozen=True)
class ReportedRun:
    """One report as it lies on the disk, or one run of it: its tables, its records, and its rows as measurements.

    Attributes:
        name: the report's name without its suffix, or the run's.
        main: a row per checkpoint, in order of training.
        sides: the tables found beside it, by their word (`layers`, `spectrum`, …); empty ones are left out.
        records: what `name.fisher/record.json` and those of the side tables say, by the word; "" is the main table's.
        measurements: the rows as far as words need them: names, status, step, notes, predictions and traces.
        damage: sentences about files that are not as they were written.
        pictures: of examples by their index, as `data:` addresses, where a page shall show them.
        apart: tables found beside it that are of other examples, another network or other checkpoints.
        report: the report's name, also where `name` is that of one of its runs.
    """

    name: str
    main: "pd.DataFrame"
    sides: Mapping[str, "pd.DataFrame"]
    records: Mapping[str, Mapping[str, Any]]
    measurements: tuple[Measurement, ...]
    damage: tuple[str, ...] = ()
    pictures: Mapping[int, str] = field(default_factory=dict)
    apart: tuple[ApartTable, ...] = ()
    report: str = ""

    @property
    def about(self) -> str:
        """The data and the examples that all but its tables apart are of, in words."""
        rows = [f"{int(each):,} examples" for each in {*self.column("examples")} if math.isfinite(each)]
        title = TableIdentity.of(self.record).title
        return title or (rows[0] if len(rows) == 1 else "")

    @property
    def record(self) -> Mapping[str, Any]:
        """The record of the main table; {} if there is none."""
        return self.records.get("", {})

    def column(self, name: str) -> list[float]:
        """A numeric column of the main table, one number per row; NaN where it is empty or not there."""
        return numbers(self.main, name)

    @cached_property
    def doubted(self) -> list[bool]:
        """Whether each row is one whose numbers are doubted: drawn hollow, and in no sentence and no axis' range."""
        return [bool(each.doubt) for each in self.measurements]

    def counted(self, name: str) -> list[float]:
        """A numeric column of the main table; NaN where it is empty or not there, and in rows that are doubted."""
        both = zip(self.column(name), self.doubted, strict=True)
        return [math.nan if is_doubted else value for value, is_doubted in both]

    def rows(self, word: str, order: int) -> "pd.DataFrame | None":
        """The rows of one checkpoint in a side table.

        Args:
            word: of the table.
            order: the checkpoint's place in the sequence, from 0.

        Returns:
            None if the table has none, or is not there.
        """
        table = self.sides.get(word)
        if table is None or "order" not in table:
            return None
        found = table[(table["order"] == order).fillna(False)]
        return found if len(found) else None

    @cached_property
    def places(self) -> list[str]:
        """Each row's step if known, else the checkpoint's name."""
        return [one_line(each.checkpoint) if each.step is None else f"step {each.step}" for each in self.measurements]

    @property
    def command(self) -> list[str]:
        """The words that made the main table, `fisher` first; none where it was made from Python."""
        words = self.record.get("run", {}).get("command", [])
        return ["fisher", *words[1:]] if len(words) > 1 else []

    def commands(self) -> Iterator[str]:
        """The commands that made the report and its side tables, as they can be typed.

        Yields:
            One line each.
        """
        for word in _MAIN_WORDS:
            command = self.records.get(word, {}).get("run", {}).get("command", [])
            if len(command) > 1:
                yield one_line(shlex.join(["fisher", *command[1:]]))

    def warnings(self) -> list[str]:
        """What a reader must know: tables of other things, rows without numbers, remarks, first those that doubt."""
        said: dict[str, list[str]] = {}
        for status, place, error in zip(self.main["status"], self.places, self.main["error"], strict=True):
            if isinstance(status, str) and status != Status.OK.value:
                text = f"{status}: {one_line(error)}" if isinstance(error, str) else str(status)
                said.setdefault(text, []).append(place)
        for place, each in zip(self.places, self.measurements, strict=True):
            for note in each.notes:
                said.setdefault(note, []).append(place)
        ordered = sorted(said.items(), key=lambda each: not each[0].startswith(UNSETTLED_NOTE))  # stable
        others = dict.fromkeys(each.why for each in self.apart)
        return [*others, *(f"{_some(places)}: {text}" for text, places in ordered)]


def read_runs(paths: Sequence[Path]) -> list[ReportedRun]:
    """Read reports with the tables and records of their stems: their runs, each under a name of its own.

    Args:
        paths: of main tables, `name.csv` or another format.

    Returns:
        The runs of each report: one is named by the report, several by their own names, after the report's where there
        are several reports. Files that are not as they were written are named in `damage`.

    Raises:
        OutputError: there is no such report, it is another table, it has no rows, or a later version wrote it.
        UsageError: the report is a workbook, and openpyxl, which reads workbooks, is not installed.
    """
    found = []
    for run in map(read_run, paths):
        runs = _runs_of(run)
        names = [f"{run.name}: {name}" if len(paths) > 1 else name for name, _ in runs]
        found += [replace(each, name=name) for name, (_, each) in zip(names, runs, strict=True)] if runs else [run]
    return found


def _runs_of(report: ReportedRun) -> list[tuple[str, ReportedRun]]:
    """The runs of a report with their names, each with its own rows; none where it has but one."""
    rows = by_run(report.measurements)
    if len(rows) < 2:
        return []
    found = list[tuple[str, ReportedRun]]()
    for name, measurements in rows.items():
        mine = [each.run == name for each in report.measurements]
        sides = {word: _of_run(table, name) for word, table in report.sides.items()}
        apart = tuple(replace(each, table=_of_run(each.table, name)) for each in report.apart)
        run = replace(
            report,
            main=report.main[mine].reset_index(drop=True),
            measurements=tuple(measurements),
            sides={word: table for word, table in sides.items() if len(table)},
            apart=tuple(each for each in apart if len(each.table)),
            damage=() if found else report.damage,
        )
        found.append((one_line(name), run))
    return found


def _of_run(table: "pd.DataFrame", run: str) -> "pd.DataFrame":
    """The rows of a run."""
    return table[(table["run"].fillna("") == run).tolist()].reset_index(drop=True)


def read_run(path: Path) -> ReportedRun:
    """Read a report with the tables and records of the same stem, whatever runs it has.

    Args:
        path: of the main table, `name.csv` or another format.

    Returns:
        The report; files that are not as they were written are named in `damage`.

    Raises:
        OutputError: there is no such report, it is another table, it has no rows, or a later version wrote it.
        UsageError: the report is a workbook, and openpyxl, which reads workbooks, is not installed.
    """
    main = read_table(path)  # as it is: whether it is a main table, its columns tell
    if missing := [name for name in _NEEDED if name not in main]:
        stem = next(
            (path.stem.removesuffix(f".{each.word}") for each in _SIDES if path.stem.endswith(f".{each.word}")), ""
        )
        better = f": type {path.with_name(stem + path.suffix)}" if stem else ""
        msg = f"{path}: not the main table that `fisher analyze` writes: no column {missing[0]}{better}"
        raise OutputError(msg)
    if not len(main):
        msg = f"{path}: the table has no rows"
        raise OutputError(msg)
    found = {each.word: side for each in _SIDES if (side := _side(path, each)) is not None}
    columns = {each.word: each.columns for each in _SIDES}
    sides = {word: read_table(side, sheet, columns[word]) for word, (side, sheet) in found.items()}
    records = {word: record for word in _MAIN_WORDS if (record := _record(path, word)) is not None}
    joined, apart = dict[str, "pd.DataFrame"](), list[ApartTable]()
    for each in _SIDES:
        table, record = sides.get(each.word), records.get(main_table_of(each).word)
        if table is not None and len(table):
            kept, others = _divided(each, table, main, path, record, records.get(""))
            joined |= {each.word: kept} if len(kept) else {}
            apart += others
    return ReportedRun(
        one_line(path.stem),
        main,
        joined,
        {word: record.content for word, record in records.items()},
        _measurements(main, path, records[""].content if "" in records else {}),
        tuple(_damage(path, records.get(""), [path, *dict.fromkeys(side for side, _ in found.values())])),
        apart=tuple(apart),
        report=one_line(path.stem),
    )


def _divided(
    side: Table,
    table: "pd.DataFrame",
    main: "pd.DataFrame",
    path: Path,
    record: StoredRecord | None,
    of_main: StoredRecord | None,
) -> "tuple[pd.DataFrame, list[ApartTable]]":
    """The rows of a side table that belong to the main one's, with the `order` that they have there, and the others.

    Checkpoints are known again by their content. Without both records all rows are taken for those of the main table.
    """
    import pandas as pd

    if record is None or of_main is None or record is of_main:
        return table, []
    now = TableIdentity.of(record.content)
    name = one_line(table_path(path, side.word).name)
    if differing := now.differences(TableIdentity.of(of_main.content)):
        said = "; ".join(f"{each.place}: {each.before} there, {each.now} here" for each in differing[:3])
        why = f"{name} is not of the same as {one_line(path.name)} and is shown apart: {said}"
        return table.iloc[:0], [ApartTable(side.word, table, now.title, why)]
    rows = zip(*(main[each].tolist() for each in ("checkpoint", "order")), _cells(main, "run"), strict=True)
    orders = {str(each): (order, run) for each, order, run in rows}
    hashes = [(_name_in(each), each.get("sha256")) for each in of_main.content.get("checkpoints", [])]
    by_content = {sha256: orders[each] for each, sha256 in reversed(hashes) if sha256 and each in orders}
    own = {_name_in(each): each.get("sha256") for each in record.content.get("checkpoints", [])}
    named = dict(hashes)
    places = [
        orders[each] if each in orders and named.get(each) == own.get(each) else by_content.get(own.get(each))
        for each in map(str, table["checkpoint"].tolist())
    ]
    moved = table.assign(
        order=pd.array([place and place[0] for place in places], dtype="Int64"),
        run=pd.array([place and place[1] for place in places], dtype=pd.StringDtype("python")),
    )
    is_known = [place is not None for place in places]
    if all(is_known):
        return moved, []
    other = table[[not each for each in is_known]]
    why = f"{name} has checkpoints that {one_line(path.name)} has not: they are shown apart"
    return moved[is_known].reset_index(drop=True), [ApartTable(side.word, other, now.title, why)]


def _cells(table: "pd.DataFrame", name: str) -> list[str]:
    """A column of text; "" where it is empty or not there."""
    return [str(each) for each in table[name].fillna("")] if name in table else [""] * len(table)


def _side(path: Path, table: Table) -> tuple[Path, str | None] | None:
    """The file of a side table, and its sheet in a workbook; None if it was not written."""
    if path.suffix.lower() != ".xlsx":
        side = table_path(path, table.word)
        return (side, None) if os.path.lexists(side) else None
    # A workbook holds all tables of one command.
    books = dict.fromkeys((table_path(path, main_table_of(table).word), path))
    return next(((book, table.word) for book in books if table.word in sheet_names(book)), None)


def last_examples(run: ReportedRun, count: int = TOP) -> "tuple[int, pd.DataFrame, int] | None":
    """The examples that carry most of the trace of the last checkpoint with examples.

    Args:
        run: with or without a table of examples.
        count: how many of them, at most.

    Returns:
        The checkpoint's place in the sequence, the rows of these examples, the largest first, and how many examples it
        has; None without such a table.
    """
    table = run.sides.get("examples")
    if table is None or not table["trace_true"].notna().any():
        return None
    order = int(table["order"][table["trace_true"].notna()].max())
    part = table[(table["order"] == order).fillna(False)]
    return order, part.sort_values("rank").head(count), len(part)


def numbers(table: "pd.DataFrame", name: str) -> list[float]:
    """A numeric column as floats, NaN where it is empty or not there."""
    if name not in table:
        return [math.nan] * len(table)
    return [float(value) for value in table[name].astype("Float64").to_numpy(dtype=float, na_value=math.nan)]


def _record(path: Path, word: str) -> StoredRecord | None:
    """The record of a table; None if there is none of ours, or a damaged one.

    Raises:
        OutputError: it is of a later version.
    """
    try:
        return read_record(record_path(table_path(path, word)))
    except LaterVersionError as error:
        msg = f"{path}: its record {error}; it was written by a later one; install that"
        raise OutputError(msg) from error
    except (OSError, ValueError):
        return None


def _damage(path: Path, record: StoredRecord | None, files: Sequence[Path]) -> Iterator[str]:
    """Which of the tables are not what the record says.

    Yields:
        A sentence each.
    """
    if record is None:
        name = one_line(name_of(record_path(path)))
        yield f"{name} is missing or damaged: the settings and data of this table are not known"
        return
    for file in files:
        listed = record.tables.get(file.name)
        if listed is not None and listed != digest_of(file):
            yield f"{one_line(file.name)} is not as it was written: run `fisher check {shlex.quote(path.name)}`"


def _measurements(main: "pd.DataFrame", path: Path, record: Mapping[str, Any]) -> tuple[Measurement, ...]:
    """The rows as measurements, as far as words need them.

    The terms of the trace's mean, which pair the checkpoints with each other, come from the journal where it has the
    same row; without it, differences count as if each checkpoint had seen other examples.
    """
    traces = _traces(path)
    numeric = ("step", "examples", "classes", "parameters", *_PREDICTIONS, *_TRACES)
    columns = {name: numbers(main, name) for name in numeric}
    runs, networks = _cells(main, "run"), _cells(main, "architecture")
    said = _said(record)
    hashes = {_name_in(each): each.get("sha256") for each in record.get("checkpoints", [])}
    found = []
    for i, name in enumerate(main["checkpoint"].tolist()):
        value = {key: each[i] for key, each in columns.items()}
        measurement = Measurement(
            checkpoint=str(name),
            status=_status(main["status"][i]),
            step=_whole(value["step"]),
            examples=_whole(value["examples"]),
            classes=_whole(value["classes"]),
            run=runs[i],
            architecture=networks[i] or None,
            parameters=_whole(value["parameters"]),
            **said.get(str(name), {}),
        )
        if not math.isnan(value["loss"]):
            accuracy = None if math.isnan(value["accuracy"]) else _estimate(value, "accuracy")
            predictions = Predictions(_estimate(value, "loss"), accuracy, Estimate(value["entropy"]))
            measurement = replace(measurement, predictions=predictions)
        if not math.isnan(value["trace_true"]):
            ratio = None if math.isnan(value["trace_ratio"]) else _estimate(value, "trace_ratio")
            true, empirical = _estimate(value, "trace_true"), _estimate(value, "trace_empirical")
            terms = (traces.get((each, value["trace_true"])) for each in (hashes.get(str(name)), str(name)) if each)
            trace = next(filter(None, terms), Trace("", true, empirical, ratio, (), (), ()))
            trace = replace(trace, estimator="", true=true, empirical=empirical, ratio=ratio, layers=())
            measurement = replace(measurement, trace=trace)
        found.append(measurement)
    return tuple(found)


def _said(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the record says of each checkpoint, by its name: the remarks, and the distribution of its outputs."""
    return {
        _name_in(each): {
            "notes": tuple(one_line(note) for note in each.get("notes", [])),
            "likelihood": re.split("[: ]", each.get("likelihood") or "")[0] or None,
        }
        for each in record.get("checkpoints", [])
    }


def _name_in(entry: Mapping[str, Any]) -> str:
    """The name of a checkpoint of a record, which holds it in UTF-8, as tables have it."""
    return unescape(str(entry.get("checkpoint")))


def _whole(value: float) -> int | None:
    return int(value) if math.isfinite(value) else None


def _status(cell: object) -> Status:
    """The status that a cell names; a row with another word counts as failed, and the word itself is shown."""
    return next((each for each in Status if each.value == cell), Status.FAILED)


def _estimate(values: Mapping[str, float], name: str) -> Estimate:
    error, sampling = values.get(f"{name}_se", math.nan), values.get(f"{name}_estimator_se", 0.0)
    return Estimate(values[name], None if math.isnan(error) else error, None if math.isnan(sampling) else sampling)


def _traces(path: Path) -> dict[tuple[str, float], Trace]:
    """Each checkpoint's traces with their terms, by its content or name and its value; none without a journal."""
    try:
        _, records, _ = read_records(journal_folder(path))
    except (FisherError, OSError):
        return {}
    known = [(each.weights, each.measurement) for each in records.values()]
    return {
        (name, row.trace.true.value): row.trace
        for weights, row in known
        if row.trace
        for name in (row.checkpoint, weights)  # two runs may begin with one checkpoint
    }


def _some(places: Sequence[str]) -> str:
    """The first of some places, and how many more there are."""
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
