"""A finished run resumes without measuring anything, and its places in training come from the files each time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import fisher_cli.inputs.checkpoints.discovery
from fisher_cli.inputs.checkpoints.duplicates import perhaps_copies
from fisher_cli.inputs.checkpoints.stored_files import StoredCheckpoint
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.results import Coverage, Ledger
from fisher_cli.storage.checksums import checked_line
from fisher_cli.storage.journal import open_journal
from tests.journals import ASKED, record
from tests.small_run import analyze, measured_from_now_on, tables

pytestmark = pytest.mark.usefixtures("ckpts")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded from now on, in the order in which they are."""
    names: list[str] = []
    real = fisher_cli.inputs.checkpoints.discovery.read_file

    def read_file(path: Path, reading: ReadOptions, data: bytes | None = None) -> StoredCheckpoint:
        names.append(path.name)
        return real(path, reading, data)

    monkeypatch.setattr(fisher_cli.inputs.checkpoints.discovery, "read_file", read_file)
    return names


def test_a_finished_run_decodes_each_file_once(decoded: list[str]) -> None:
    analyze()
    before = tables()
    assert len(decoded) == 24  # once to find its place, once to measure it
    decoded.clear()
    analyze()
    assert len(decoded) == 12
    assert tables() == before


def test_only_what_changed_is_measured(decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    analyze()
    state = torch.load("ckpts/step_11.pt", weights_only=True)
    torch.save({name: value * 2 for name, value in state.items()}, "ckpts/step_11.pt")
    shutil.move("ckpts/step_0.pt", "ckpts/global_step_0.pt")  # the same bytes under another name
    decoded.clear()
    measured = measured_from_now_on(monkeypatch)
    analyze()
    assert measured == ["step_11.pt"]
    assert decoded[12:] == ["step_10.pt", "step_11.pt"]


def test_a_place_that_the_file_states_and_one_that_its_name_tells() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
    torch.save({"model": network.state_dict(), "global_step": 70, "epoch": 3}, "ckpts/stated.pt")
    shutil.copy("ckpts/stated.pt", "ckpts/last.pt")
    analyze()
    before = tables()
    analyze()
    assert tables() == before
    shutil.move("ckpts/step_5.pt", "ckpts/step_50.pt")
    analyze()
    resumed = tables()
    analyze("--no-resume")
    assert tables() == resumed
    steps = [line.split(",")[3] for line in Path("r.csv").read_text().splitlines()[1:]]
    assert steps == ["0", "1", "2", "3", "4", "6", "7", "8", "9", "10", "11", "50", "70"]


def test_no_file_of_a_journal_says_when_a_checkpoint_was_made() -> None:
    """Neither a record, whose sums anybody can make, nor what earlier versions kept there of each file."""
    analyze()
    before, path = tables(), Path("r.fisher/journal.jsonl")
    head, *lines = path.read_bytes().splitlines()
    forged = []
    for line in lines:
        value = json.loads(line[65:])
        value["record"]["measurement"] |= {"step": 999, "epoch": 99.0}
        forged.append(checked_line(value))
    path.write_bytes(b"".join(line + b"\n" for line in (head, *forged)))
    kept = [{"inspected": {}}, {"sha256": "sha256:00", "stated": {"step": 999.0}, "identity": []}]
    Path("r.fisher/inspected.jsonl").write_bytes(b"".join(checked_line(each) + b"\n" for each in kept))
    Path("r.csv").unlink()
    analyze()
    assert tables() == before


def test_names_of_copies_are_told_without_comparing_all_with_all() -> None:
    class Named:
        compared = 0
        identity: frozenset[str] = frozenset()

        def __init__(self, name: str) -> None:
            self._name = name

        @property
        def name(self) -> str:
            Named.compared += 1
            return self._name

    files = [Named(f"run/checkpoint-{i}") for i in range(2000)] + [Named("run"), Named("last.pt"), Named("ru")]
    assert perhaps_copies(files) == {"run", "last.pt"}
    assert Named.compared <= 4 * len(files)


def test_records_read_again_share_one_ledger() -> None:
    ledgers = [Ledger((Coverage("weight", size, "linear", 0.5),), 9, 0.5) for size in (3, 3, 4)]
    with open_journal(Path("t.fisher"), ASKED) as journal:
        for i, ledger in enumerate(ledgers):
            found = record(i)
            journal.append(replace(found, measurement=replace(found.measurement, ledger=ledger)))
        right = dict(journal.records)
    with open_journal(Path("t.fisher"), ASKED) as journal:
        assert journal.records == right
        again = [each.measurement.ledger for each in journal.records.values()]
    assert again[0] is again[1]
    assert again[1] != again[2]
