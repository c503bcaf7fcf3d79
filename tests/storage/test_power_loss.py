"""D3: a power cut at any instant, modelled: what was not synced may be on the disk, or not, or in part.

A file's content is safe once it was synced, a name once its folder was; until then a cut may keep any of the
changes that wait and lose any other. After every state that can be left so, the same work ends the same.
"""

import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fisher_cli.errors import RecordError
from fisher_cli.storage import atomic_write
from fisher_cli.storage.formats import format_of
from fisher_cli.storage.journal import open_journal, read_records
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.storage.report_folder import journal_folder
from fisher_cli.tables.build import make_table
from fisher_cli.tables.columns import Column, Kind
from tests.journals import ASKED, record, records_up_to

STATES = 2000
COLUMNS = (Column("loss", Kind.REAL, "nats", ""),)


@dataclass
class Disk:
    """What durable steps have done: contents by inode, names in order of change, and what of both is synced."""

    root: Path
    written: dict[int, bytes] = field(default_factory=dict)
    synced: dict[int, bytes] = field(default_factory=dict)
    names: list[tuple[str, str, int | None]] = field(default_factory=list)  # folder, name, inode or None for none
    safe_names: dict[str, int] = field(default_factory=dict)
    now: dict[str, int] = field(default_factory=dict)
    inodes: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def relative(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def name(self, path: Path, inode: int | None) -> None:
        place = self.relative(path)
        self.names.append((str(Path(place).parent), place, inode))
        if inode is None:
            self.now.pop(place, None)
        else:
            self.now[place] = inode

    def sync_names(self, folder: Path) -> None:
        place = self.relative(folder) if folder != self.root else "."
        for where, name, inode in [each for each in self.names if each[0] == place]:
            self.names.remove((where, name, inode))
            self.safe_names.pop(name, None)
            if inode is not None:
                self.safe_names[name] = inode

    def states(self, draw: random.Random, most: int) -> Iterator[dict[str, bytes]]:
        """What may be found after a cut now: files by name with their contents; all of them if there are few."""
        choices = list(itertools.product((False, True), repeat=len(self.names)))
        for kept in choices if len(choices) <= most else draw.sample(choices, most):
            names = dict(self.safe_names)
            for keep, (_, name, inode) in zip(kept, self.names, strict=True):
                if keep:
                    names.pop(name, None)
                    if inode is not None:
                        names[name] = inode
            torn = draw.choice((0.0, 0.5, 0.9, 1.0))
            yield {name: self._content(inode, torn) for name, inode in names.items()}

    def _content(self, inode: int, share: float) -> bytes:
        safe, whole = self.synced.get(inode, b""), self.written.get(inode, b"")
        return whole[: len(safe) + int(share * (len(whole) - len(safe)))]


def watched(disk: Disk, patch: pytest.MonkeyPatch, cut: Callable[[], None]) -> None:
    """Let the model follow every durable step, and look at what a cut before and after it would leave."""
    open_files: dict[int, int] = {}
    real = {
        name: getattr(atomic_write, name) for name in ("create", "write", "sync", "rename", "remove", "sync_folder")
    }
    real_open = os.open

    def opened(path: Any, flags: int, *more: Any, **other: Any) -> int:
        descriptor = real_open(path, flags, *more, **other)
        if flags & os.O_APPEND:
            open_files[descriptor] = disk.now[disk.relative(Path(path))]
        return descriptor

    def create(path: Path) -> int:
        descriptor: int = real["create"](path)
        inode = open_files[descriptor] = next(disk.inodes)
        disk.name(path, inode)
        cut()
        return descriptor

    def write(descriptor: int, data: bytes) -> None:
        real["write"](descriptor, data)
        inode = open_files[descriptor]
        disk.written[inode] = disk.written.get(inode, b"") + bytes(data)
        cut()

    def sync(descriptor: int) -> None:
        real["sync"](descriptor)
        if descriptor in open_files and open_files[descriptor] in disk.written:
            disk.synced[open_files[descriptor]] = disk.written[open_files[descriptor]]
            cut()

    def rename(old: Path, new: Path) -> None:
        real["rename"](old, new)
        inode = disk.now[disk.relative(old)]
        # One step for the disk: the new name comes with the old one's end, or neither does.
        disk.names = [each for each in disk.names if each[1] != disk.relative(old)]
        disk.now.pop(disk.relative(old))
        disk.name(new, inode)
        cut()

    def remove(path: Path) -> None:
        real["remove"](path)
        disk.name(path, None)
        cut()

    def sync_folder(folder: Path) -> None:
        open_files.pop(-1, None)
        descriptor = real_open(folder, os.O_RDONLY)
        real["sync"](descriptor)
        os.close(descriptor)
        disk.sync_names(folder)
        cut()

    patch.setattr(os, "open", opened)
    for name, step in (
        ("create", create),
        ("write", write),
        ("sync", sync),
        ("rename", rename),
        ("remove", remove),
        ("sync_folder", sync_folder),
    ):
        patch.setattr(atomic_write, name, step)


def table(loss: float) -> pd.DataFrame:
    return make_table([{"loss": loss}], COLUMNS)


def work(folder: Path, rows: int = 3) -> None:
    """What a run does: go on with the journal, write the report; and again with a smaller set of files."""
    report = ReportFiles(folder / "t.csv", format_of(folder / "t.csv"))
    with open_journal(journal_folder(report.main), ASKED) as journal:
        for index in range(rows):
            if record(index).key not in journal.records:
                journal.append(record(index))
        losses = [each.measurement.predictions.loss.value for each in journal.records.values()]  # type: ignore[union-attr]
    report.check_writable()
    report.write(table(sum(losses)), table(2 * sum(losses)), RunRecord({"rows": rows}))
    report.write(table(sum(losses)), None, RunRecord({"rows": rows}))


def found(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_after_a_power_cut_the_same_work_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    reference = tmp_path / "reference"
    reference.mkdir()
    work(reference)
    expected = found(reference)

    disk, draw, states = Disk(tmp_path / "run"), random.Random(0), list[dict[str, bytes]]()
    disk.root.mkdir()
    with monkeypatch.context() as patch:
        watched(disk, patch, lambda: states.extend(disk.states(draw, 32)))
        work(disk.root)
    assert found(disk.root) == expected
    distinct = list({tuple(sorted(state.items())): state for state in states}.values())
    chosen = distinct if len(distinct) <= STATES else draw.sample(distinct, STATES)
    assert len(chosen) >= 40
    for number, state in enumerate(chosen):
        folder = tmp_path / f"cut{number}"
        folder.mkdir()
        for name, content in state.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        _is_consistent(folder)
        work(folder)
        assert found(folder) == expected, state.keys()
        shutil.rmtree(folder)
    record_property("D3", f"{len(chosen)} states")


def _is_consistent(folder: Path) -> None:
    """Nothing that can be read is wrong: the journal has a beginning of the records, a table all of its rows."""
    if (folder / "t.fisher").exists():
        try:
            records = read_records(folder / "t.fisher")[1]
        except RecordError:
            records = {}
        assert records == records_up_to(len(records))
    for name, factor in (("t.csv", 1), ("t.layers.csv", 2)):
        if (folder / name).exists():
            assert list(read_table(folder / name)["loss"]) == [factor * 1.5]


def test_the_model_bites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the syncs the same check fails."""
    monkeypatch.setattr(atomic_write, "sync", lambda _: None)
    disk, draw, broken = Disk(tmp_path / "run"), random.Random(0), 0
    disk.root.mkdir()
    states: list[dict[str, bytes]] = []
    with monkeypatch.context() as patch:
        watched(disk, patch, lambda: states.extend(disk.states(draw, 8)))
        patch.setattr(atomic_write, "sync", lambda _: None)
        work(disk.root)
    for number, state in enumerate(states):
        if "t.csv" in state:
            broken += state["t.csv"] != (disk.root / "t.csv").read_bytes()
        assert number < 10_000
    assert broken > 0
    assert replace(record(0), previous="x").key == (record(0).weights, "x")
