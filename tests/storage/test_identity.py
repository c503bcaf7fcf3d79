"""Tables of one stem are of one data, network and so on: others are refused, or forced and then shown apart."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fisher_cli import analyze
from fisher_cli.errors import OutputError
from fisher_cli.reports.page import render_page
from fisher_cli.reports.reported_run import read_run
from fisher_cli.storage.identity import TableIdentity
from tests.command import error_line, fisher
from tests.small_run import QUICK, write_checkpoints

MODEL = ("--model", "./net.py:make", "-q")
TRAIN = ("--limit", "12")
TEST = ("--split", "test", "--limit", "6")
COMPARE, SPECTRUM = ("compare", "true-vs-empirical"), ("spectrum",)


@pytest.fixture
def trend(workdir: Path) -> Path:
    """A report of four checkpoints on twelve training examples."""
    write_checkpoints(4)
    fisher("analyze", "ckpts", *MODEL, *TRAIN, "--eigenvalues", "1", "-o", "trend.csv")
    return workdir / "trend.csv"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("command", [COMPARE, SPECTRUM, ("examples",), ("verify",)], ids=lambda words: words[-1])
def test_tables_of_other_examples_are_refused_beside_a_report(trend: Path, command: tuple[str, ...]) -> None:
    before = files(trend.parent)
    said = error_line(fisher(*command, "ckpts", *MODEL, *TEST, "-o", trend.name, code=1))
    assert "beside trend.csv, which is not of the same" in said
    assert "examples: digits train, 12 of 1,400 examples there, digits test, 6 of 397 examples here" in said
    assert "-o trend-2.csv, take the same examples with --split train --limit 12, or" in said
    assert said.endswith("--force")
    assert files(trend.parent) == before
    assert not (trend.parent / f"trend.{command[-1]}.fisher").exists()


def test_what_the_refusal_tells_to_type_is_taken(trend: Path) -> None:
    fisher("verify", "ckpts/step_3.pt", *MODEL, "--split", "train", "--limit", "12", "-o", trend.name)
    fisher(*COMPARE, "ckpts", *MODEL, *TEST, "--draws", "0", "-o", "trend-2.csv")
    assert fisher("check", trend).output.count("are the same as those of trend") == 1


def test_a_forced_set_is_marked_on_the_page_and_by_check(trend: Path) -> None:
    """First on training examples, then on some of the test, then on fewer."""
    fisher(*COMPARE, "ckpts", *MODEL, *TEST, "--draws", "0", "-o", trend.name, "--force")
    words = (*MODEL, "--split", "test", "--limit", "5", "-o", trend.name)
    fisher(*SPECTRUM, "ckpts", *words, code=1)
    fisher(*SPECTRUM, "ckpts", *words, "--force")
    fisher(*SPECTRUM, "ckpts", *words)  # what was let in once is gone on with

    run = read_run(trend)
    assert not {"compare", "spectrum"} & run.sides.keys()
    page = render_page([run]).decode()
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert "True against empirical Fisher: digits test, 6 of 397 examples" in headings
    assert "Eigenvalues: digits test, 5 of 397 examples" in headings
    for name in ("trend.compare.csv", "trend.spectrum.csv"):
        assert f"<li>{name} is not of the same as trend.csv and is shown apart: examples: digits train" in page
    assert "labels drawn from the model" not in page  # the null of other examples

    said = fisher("check", trend, code=4).output
    assert "ok    trend.compare.csv: is as it was written" in said
    assert "ok    trend.spectrum.fisher/journal.jsonl: 4 records" in said
    assert "WRONG data and network of trend.compare.csv: examples: digits train, 12 of 1,400" in said
    assert "WRONG data and network of trend.spectrum.csv" in said


def test_every_card_of_a_page_names_its_examples(trend: Path) -> None:
    fisher(*COMPARE, "ckpts", *MODEL, *TRAIN, "--draws", "0", "-o", trend.name)
    page = render_page([read_run(trend)]).decode()
    cards = re.findall(r"(?s)<figure id.*?</figure>", page)
    assert len(cards) > 4
    for card in [*cards, *re.findall(r"(?s)<h2>(?:True against|All check).*?</section>", page)]:
        assert "digits train, 12 of 1,400 examples" in card


def test_rows_are_known_again_by_their_checkpoints(trend: Path) -> None:
    """The comparison is of the last two of four checkpoints, and of one that the report does not have."""
    words = [f"ckpts/step_{step}.pt" for step in (2, 3)]
    fisher(*COMPARE, *words, *MODEL, *TRAIN, "--draws", "0", "-o", trend.name)
    assert read_run(trend).sides["compare"]["order"].tolist() == [2, 3]
    assert not read_run(trend).apart

    Path("ckpts/step_3.pt").rename("ckpts/step_9.pt")
    Path("ckpts/step_7.pt").write_bytes(Path("ckpts/step_2.pt").read_bytes().replace(b"step_2", b"step_7"))
    Path("ckpts/step_2.pt").unlink()
    fisher(*COMPARE, *[f"ckpts/step_{step}.pt" for step in (0, 7, 9)], *MODEL, *TRAIN, "--draws", "0", "-o", trend.name)
    run = read_run(trend)
    assert run.sides["compare"]["order"].tolist() == [0, 3]
    assert [each.table["checkpoint"].tolist() for each in run.apart if each.word == "compare"] == [["step_7.pt"]]
    assert "trend.compare.csv has checkpoints that trend.csv has not: they are shown apart" in run.warnings()


@pytest.mark.usefixtures("trend")
def test_a_table_of_other_checkpoints_is_refused() -> None:
    Path("other").mkdir()
    Path("ckpts/step_3.pt").rename("other/step_3.pt")
    fisher("analyze", "ckpts", *QUICK, "-q", "-o", "r.csv")
    words = ("other", *QUICK, "-q", "-o", "r.csv")
    assert "checkpoints: others there, none of these here" in error_line(fisher(*SPECTRUM, *words, code=1))


@pytest.mark.usefixtures("trend")
def test_python_refuses_it_too() -> None:
    fisher(*COMPARE, "ckpts", *MODEL, *TRAIN, "--draws", "0", "-o", "python.csv")
    with pytest.raises(OutputError, match="examples: digits train, 12 of 1,400 examples there"):
        analyze("ckpts", model="./net.py:make", limit=8, eigenvalues=0, output="python.csv")


@pytest.mark.usefixtures("trend")
def test_parts_of_different_examples_are_not_merged_into_one_stem() -> None:
    for index in (1, 2):
        words = ("ckpts", *MODEL, "--shard", f"{index}/2", "-o", f"part-{index}.csv")
        fisher("analyze", *words, *TRAIN, "--eigenvalues", "0")
        fisher(*SPECTRUM, *words, *TEST, "--force")
    said = error_line(fisher("merge", "part-1.csv", "part-2.csv", "-o", "whole.csv", code=1))
    assert "examples: digits train, 12 of 1,400 examples there" in said
    fisher("merge", "part-1.spectrum.csv", "part-2.spectrum.csv", "-o", "trend.csv", code=1)
    fisher("merge", "part-1.spectrum.csv", "part-2.spectrum.csv", "-o", "other.csv")


RECORD: dict[str, Any] = {
    "data": {
        **{"name": "digits", "split": "train", "examples": 12, "of": 1400, "identity": "sha256:ab"},
        "normalization": {"name": "digits"},
    },
    "settings": {"model": "resnet20", "likelihood": "softmax", "include": ["*"], "seed": 0, "labels": None},
    "checkpoints": [{"checkpoint": "a.pt", "sha256": "sha256:01", "parameters": 300}],
}


def changed(*places: tuple[str, str, Any]) -> dict[str, Any]:
    record = {name: dict(value) if isinstance(value, dict) else value for name, value in RECORD.items()}
    for part, name, value in places:
        if part:
            record[part][name] = value
        else:
            record[name] = value
    return record


OTHER_HASH = ("data", "identity", "sha256:cd")


@pytest.mark.parametrize(
    ("record", "place"),
    [
        (changed(("data", "split", "test"), OTHER_HASH), "examples"),
        (changed(("data", "examples", 11), OTHER_HASH), "examples"),
        (changed(("data", "normalization", {"name": "none"}), OTHER_HASH), "normalisation"),
        (changed(("settings", "labels", "noisy.csv"), OTHER_HASH), "labels"),
        (changed(("settings", "seed", 1), OTHER_HASH), "seed"),
        (changed(OTHER_HASH), "examples"),
        (changed(("settings", "model", "resnet32")), "model"),
        (changed(("settings", "recalibrate_bn", True)), "recalibrate_bn"),
        (changed(("settings", "include", ["*.weight"])), "include"),
        (changed(("settings", "likelihood", "sigmoid")), "likelihood"),
        (changed(("", "checkpoints", [{"sha256": "sha256:01", "parameters": 299}])), "parameters"),
        (changed(("", "checkpoints", [{"sha256": "sha256:02", "parameters": 300}])), "checkpoints"),
    ],
    ids=str,
)
def test_each_part_of_the_identity_counts(record: dict[str, Any], place: str) -> None:
    one, other = TableIdentity.of(RECORD), TableIdentity.of(record)
    assert [each.place for each in other.differences(one)] == [place]
    assert [each.place for each in one.differences(other)] == [place]


@pytest.mark.parametrize(
    "record",
    [
        RECORD,
        changed(("settings", "model", None)),
        changed(("settings", "likelihood", "auto")),
        changed(("settings", "batch_size", 3)),
        changed(("", "checkpoints", [])),
        changed(("", "checkpoints", [{"sha256": "sha256:01"}, {"sha256": None}])),
    ],
    ids=str,
)
def test_what_is_left_open_or_changes_no_subject_is_no_difference(record: dict[str, Any]) -> None:
    assert not TableIdentity.of(record).differences(TableIdentity.of(RECORD))
    assert not TableIdentity.of(RECORD).differences(TableIdentity.of(record))


@pytest.mark.parametrize("empty", [dict, lambda: {"data": "a title", "settings": None}], ids=["none", "text"])
def test_a_record_that_says_nothing_makes_no_difference(empty: Callable[[], dict[str, Any]]) -> None:
    found = TableIdentity.of(empty())
    assert found.title == ""
    assert not [each for each in found.differences(TableIdentity.of({})) if each.place == "examples"]
