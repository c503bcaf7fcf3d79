"""Reports of earlier versions stay readable; those of later ones are refused, and never replaced."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fisher_cli.storage.formats import SCHEMA_VERSION
from fisher_cli.storage.integrity import check_report
from fisher_cli.storage.journal import read_records
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_folder import journal_folder, record_path
from fisher_cli.tables.registry import LAYERS, MAIN
from tests.command import fisher

EARLIER = Path(__file__).parents[1] / "earlier_reports"
REPORTS = sorted(path for form in ("csv", "parquet") for path in EARLIER.glob(f"schema_*/{form}-trend.{form}"))


@pytest.fixture(params=REPORTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a report that an earlier version wrote: two checkpoints, layers, examples, record and journal."""
    shutil.copytree(request.param.parent, tmp_path / "copy")
    return tmp_path / "copy" / request.param.name


def test_there_is_one_of_every_version_before_this(record_property: Callable[[str, object], None]) -> None:
    found = {path.parent.name for path in REPORTS}
    assert found == {f"schema_{version}" for version in range(1, SCHEMA_VERSION)}
    record_property("O4", f"{len(REPORTS)} reports of versions before {SCHEMA_VERSION}")


def test_its_tables_are_read_with_their_numbers(report: Path) -> None:
    main, layers = (
        read_table(report.with_name(f"{report.stem}{end}")) for end in (report.suffix, ".layers" + report.suffix)
    )
    assert main["checkpoint"].tolist() == ["step_00000.pt", "step_00066.pt"]
    assert main["step"].tolist() == [0, 66]
    records = {
        record.measurement.step: record.measurement for record in read_records(journal_folder(report))[1].values()
    }
    for row in main.to_dict("records"):
        trace = records[row["step"]].trace
        assert trace is not None
        assert (row["trace_true"], row["trace_empirical"]) == (trace.true.value, trace.empirical.value)
        assert row["eig_true_1"] == records[row["step"]].eigenvalues_true.values[0]  # type: ignore[union-attr]
    assert len(layers) == 2 * len(trace.layers)
    assert len(read_table(report.with_name(f"{report.stem}.examples{report.suffix}"))) == 24


def test_it_is_whole_by_its_own_hashes(report: Path) -> None:
    assert all(finding.ok for finding in check_report(report))
    report.write_bytes(report.read_bytes()[:-1])
    assert not all(finding.ok for finding in check_report(report))


def test_a_page_is_made_of_it(report: Path) -> None:
    pytest.importorskip("matplotlib")
    fisher("report", report, "-o", report.with_name("page.html"))


def test_columns_are_only_added_at_the_end() -> None:
    """Names and order of the columns, beside the eigenvalues that are asked for; `run` stands first since version 3."""
    for path, columns in (("csv-trend.csv", MAIN.columns), ("csv-trend.layers.csv", LAYERS.columns)):
        for version in sorted(EARLIER.iterdir()):
            with open(version / path, newline="") as file:
                names = [
                    name for name in next(csv.reader(file)) if not name.startswith(("eig_true_1", "eig_empirical_1"))
                ]
            is_with_runs = version.name not in {"schema_1", "schema_2"}
            assert [column.name for column in columns][0 if is_with_runs else 1 :][: len(names)] == names


def test_a_later_version_is_refused_and_left_alone(report: Path) -> None:
    record = record_path(report)
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "schema_version": SCHEMA_VERSION + 1}))
    before = {path: path.read_bytes() for path in report.parent.iterdir() if path.is_file()}
    said = f"version {SCHEMA_VERSION + 1}"
    for words in (["check"], ["report", "-o", str(report.with_name("page.html"))]):
        done = fisher(words[0], report, *words[1:], code=4 if words == ["check"] else 1)
        assert said in done.output
    done = fisher("analyze", "sample_checkpoints/digits-clean", "-o", report, code=1)
    assert "--force" in done.stderr
    assert {path: path.read_bytes() for path in before} == before
