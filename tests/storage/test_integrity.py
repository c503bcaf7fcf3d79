"""`fisher check` finds what was changed after a report was written, and says what."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from fisher_cli.errors import FisherError
from fisher_cli.storage.integrity import check_report
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_folder import journal_folder, journal_path, record_path
from tests.command import fisher

RUN = ["sample_checkpoints/digits-clean/step_00000.pt", "sample_checkpoints/digits-clean/step_00066.pt"]

COMMAND = ["analyze", *RUN, "--limit", "20", "--eigenvalues", "1", "-q", "-o"]


@pytest.fixture(scope="module", params=["csv", "parquet"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = tmp_path_factory.mktemp("report") / f"trend.{request.param}"
    fisher(*COMMAND, report)
    return report


@pytest.fixture
def report(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written.parent, tmp_path / "copy")
    return tmp_path / "copy" / written.name


def checked(report: Path) -> tuple[int, str]:
    done = fisher("check", report, code=None)
    return done.exit_code, done.output


def test_a_report_as_it_was_written(report: Path) -> None:
    code, said = checked(report)
    assert code == 0, said
    assert said.count("\nok") + said.startswith("ok") == len(said.splitlines()) >= 4


def test_a_table_beside_a_report_is_found_in_its_record(report: Path) -> None:
    beside = report.with_name(f"trend.layers{report.suffix}")
    code, said = checked(beside)
    assert code == 0, said
    assert "trend.fisher/record.json" in said
    assert "trend.fisher" in said
    beside.write_bytes(beside.read_bytes()[:-1])
    assert checked(beside)[0] == 4


def test_rows_without_numbers_are_missed_in_no_journal(tmp_path: Path) -> None:
    content = torch.load(RUN[0], weights_only=True)
    next(iter(content["state_dict"].values())).flatten()[0] = float("nan")
    torch.save(content, tmp_path / "step_00001.pt")
    files = [*RUN, str(tmp_path / "step_00001.pt")]
    words = ["--limit", "8", "--eigenvalues", "0", "-q", "-o", str(tmp_path / "trend.csv")]
    fisher("analyze", *files, *words, code=3)
    code, said = checked(tmp_path / "trend.csv")
    assert code == 0, said


def test_a_report_that_is_not_there(tmp_path: Path) -> None:
    code, said = checked(tmp_path / "trend.csv")
    assert code == 1
    assert "no such table" in said
    assert "a folder; name a table" in checked(tmp_path)[1]


def test_the_record_of_a_report_is_not_the_report(report: Path) -> None:
    code, said = checked(record_path(report))
    assert code == 1
    assert f"the record of a table; name the table, such as {report.with_suffix('.csv')}" in said


def damaged(whole: bytes, flips: int, cuts: Iterable[int], draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """What was done, and the content after it."""
    for _ in range(flips):
        content, place, bit = bytearray(whole), draw.randrange(len(whole)), draw.randrange(8)
        content[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(content)
    for cut in cuts:
        yield f"cut at {cut} of {len(whole)}", whole[:cut]


def all_found(report: Path, flips: int, stride: int, record_property: Callable[[str, object], None]) -> None:
    """`flips` flipped bits and cuts at every `stride`-th byte in every table, the record and the journal."""
    draw, counts, silent = random.Random(0), {"flips": 0, "cuts": 0}, list[str]()
    files = [path for path in sorted(report.parent.glob("trend*")) if path.is_file()]
    files += [record_path(report), journal_path(journal_folder(report))]
    assert len(files) == 4
    for path in files:
        whole = path.read_bytes()
        each, cuts = -(-flips // len(files)), {*range(0, len(whole), stride), len(whole) - 1}
        for done, content in damaged(whole, each, cuts, draw):
            path.write_bytes(content)
            with contextlib.suppress(FisherError):
                if all(finding.ok for finding in check_report(report)):
                    silent.append(f"{path.name}: {done}")
        path.write_bytes(whole)
        counts["flips"] += each
        counts["cuts"] += len(cuts)
    record_property("O3", {**counts, "not found": len(silent)})
    assert not silent
    assert counts["flips"] >= flips
    assert checked(report)[0] == 0


def test_flipped_bits_and_cuts_are_all_found(report: Path, record_property: Callable[[str, object], None]) -> None:
    """O3, a part."""
    all_found(report, 80, 997, record_property)


def test_a_journal_that_lacks_its_last_byte_is_mended_by_the_same_command(report: Path) -> None:
    path = report.parent / "trend.fisher" / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    code, said = checked(report)
    assert code == 4
    assert "lacks the end of its last line; the same command mends it" in said
    fisher(*COMMAND, report)
    assert path.read_bytes() == whole
    assert checked(report)[0] == 0


@pytest.mark.long
def test_eight_hundred_flipped_bits_and_every_cut_are_found(
    report: Path, record_property: Callable[[str, object], None]
) -> None:
    """O3: every cut of the CSV report, and every eleventh of the Parquet one, whose files are larger."""
    all_found(report, 800, 1 if report.suffix == ".csv" else 11, record_property)


def test_without_the_hashes_most_flips_would_go_unnoticed(report: Path) -> None:
    """The control: the tables as any program reads them."""
    whole, draw, silent = report.read_bytes(), random.Random(1), 0
    right = read_table(report)
    for _, content in damaged(whole, 200, (), draw):
        report.write_bytes(content)
        with contextlib.suppress(Exception):
            silent += len(pd.read_csv(report) if report.suffix == ".csv" else pd.read_parquet(report)) == len(right)
    assert silent > 100


def test_a_report_with_a_checkpoint_that_cannot_be_used_is_whole(tmp_path: Path) -> None:
    """The journal has no row of it, and none is missed; a row that is gone is."""
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    report = tmp_path / "t.csv"
    words = [*RUN, str(tmp_path / "bad.pt"), "--limit", "8", "--eigenvalues", "0", "-q", "-o", str(report)]
    fisher("analyze", *words, code=3)
    assert checked(report)[0] == 0
    path = tmp_path / "t.fisher" / "journal.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    code, said = checked(report)
    assert code == 4
    assert "lacks 1 of the rows" in said


def test_what_is_wrong_is_said(report: Path) -> None:
    record = record_path(report)
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "schema_version": 99}))
    assert "schema version 99" in checked(report)[1]
    record.write_text(json.dumps({**content, "tables": {"other.csv": "sha256:00"}}))
    assert "is not in the record" in checked(report)[1]
    record.unlink()
    code, said = checked(report)
    assert code == 4
    assert "trend.fisher/record.json: is missing" in said
