"""`fisher check` finds what was changed after a report was written, and says what."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fisher_cli.cli.app import app

RUN = ["sample_checkpoints/digits-clean/step_00000.pt", "sample_checkpoints/digits-clean/step_00066.pt"]


@pytest.fixture(scope="module", params=["csv", "parquet"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = tmp_path_factory.mktemp("report") / f"trend.{request.param}"
    done = CliRunner().invoke(app, ["analyze", *RUN, "--limit", "20", "--eigenvalues", "1", "-o", str(report), "-q"])
    assert done.exit_code == 0, done.stderr
    return report


@pytest.fixture
def report(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written.parent, tmp_path / "copy")
    return tmp_path / "copy" / written.name


def checked(report: Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["check", str(report)])
    assert "Traceback" not in done.output
    return done.exit_code, done.output


def test_a_report_as_it_was_written(report: Path) -> None:
    code, said = checked(report)
    assert code == 0, said
    assert said.count("\nok") + said.startswith("ok") == len(said.splitlines()) >= 4


def test_a_table_beside_a_report_is_found_in_its_record(report: Path) -> None:
    beside = report.with_name(f"trend.layers{report.suffix}")
    code, said = checked(beside)
    assert code == 0, said
    assert "trend.meta.json" in said
    assert "trend.journal" in said
    beside.write_bytes(beside.read_bytes()[:-1])
    assert checked(beside)[0] == 4


def test_rows_without_numbers_are_missed_in_no_journal(tmp_path: Path) -> None:
    content = torch.load(RUN[0], weights_only=True)
    next(iter(content["state_dict"].values())).flatten()[0] = float("nan")
    torch.save(content, tmp_path / "step_00001.pt")
    files = [*RUN, str(tmp_path / "step_00001.pt")]
    words = ["--limit", "8", "--eigenvalues", "0", "-q", "-o", str(tmp_path / "trend.csv")]
    assert CliRunner().invoke(app, ["analyze", *files, *words]).exit_code == 3
    code, said = checked(tmp_path / "trend.csv")
    assert code == 0, said


def test_a_report_that_is_not_there(tmp_path: Path) -> None:
    code, said = checked(tmp_path / "trend.csv")
    assert code == 1
    assert "no such report" in said


def test_flipped_bits_and_cuts_are_all_found(report: Path, record_property: Callable[[str, object], None]) -> None:
    draw, found, trials = random.Random(0), 0, 0
    for path in sorted(report.parent.glob("trend*")):
        if not path.is_file():
            continue
        whole = path.read_bytes()
        for trial in range(10):
            content = bytearray(whole)
            place = draw.randrange(len(content))
            if trial % 2:
                content[place] ^= 1 << draw.randrange(8)
            else:
                del content[place:]
            if path.suffix == ".json" and trial % 2:
                continue  # the record's own numbers carry no hash; what it says about tables does
            path.write_bytes(content)
            trials += 1
            found += checked(report)[0] in {1, 4}
        path.write_bytes(whole)
    record_property("found", f"{found}/{trials}")
    assert found == trials >= 25
    assert checked(report)[0] == 0


def test_what_is_wrong_is_said(report: Path) -> None:
    record = report.with_name("trend.meta.json")
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "schema_version": 99}))
    assert "schema version 99" in checked(report)[1]
    record.write_text(json.dumps({**content, "tables": {"other.csv": "sha256:00"}}))
    assert "is not in the record" in checked(report)[1]
    record.unlink()
    code, said = checked(report)
    assert code == 4
    assert "trend.meta.json: is missing" in said
