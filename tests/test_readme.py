"""Every command in the README runs, its table is what the demonstration prints, and its picture shows these numbers."""

import csv
import io
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.command import fisher
from tests.documents import ROOT, blocks, check_shown, furnish, run, run_python

README = ROOT / "README.md"
PHONE = 60  # characters
COMMANDS = [command for block in blocks(README, "console") for command, _ in block.commands()]
FISHER = [command for command in COMMANDS if command.startswith("fisher ")]
MAKE = [command for command in COMMANDS if command.startswith("make ")]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    assert set(COMMANDS) == {*FISHER, *MAKE, "pip install '.[report]'"}
    assert len(FISHER) >= 7


def test_the_readmes_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path, monkeypatch)
    for command in FISHER:
        printed = run(command, [], tmp_path)
        written = re.search(r"-o (\S+)", command) or re.search(r"report (\S+)\.csv$", command)
        if written is not None:
            name = written[1] if "-o" in command else f"{written[1]}.html"
            assert (tmp_path / name).stat().st_size
        assert written or len(printed.splitlines()) >= 2


@pytest.mark.parametrize("command", MAKE)
def test_the_readmes_make_targets_exist(command: str) -> None:
    assert shutil.which("make"), "make is needed"
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("code", [block.text for block in blocks(README, "python")])
def test_the_readmes_python_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path, monkeypatch)
    run_python(code, tmp_path, monkeypatch)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])\d[\d,]*\.?\d*(?![\w])", text.replace(",", ""))]


def title(picture: Path) -> str:
    """What a figure says of itself."""
    found = re.search("<title>(.*?)</title>", picture.read_text())
    assert found
    return found[1]


@pytest.mark.ci
def test_the_readmes_table_and_picture_are_the_demonstrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path, monkeypatch)
    monkeypatch.setenv("COLUMNS", str(PHONE))
    printed = fisher("demo", "demo").stdout
    (shown,) = (block.text for block in blocks(README, "text"))
    # Rounding may differ from machine to machine in the last digit shown.
    check_shown("fisher demo", shown.splitlines(), printed)
    assert len(re.findall(r"step_\d+\.pt", shown)) >= 5
    run("fisher plot demo/digits-clean.csv --what traces -o new.svg", [], tmp_path)
    (named,) = re.findall(r"!\[.*?\]\((.*?)\)", README.read_text())
    drawn, committed = title(tmp_path / "new.svg"), title(ROOT / named)
    assert numbers(drawn) == pytest.approx(numbers(committed), rel=0.02, abs=0.011), "make docs draws it again"
    assert len(numbers(drawn)) >= 5


def test_no_table_of_the_readme_is_wider_than_a_phone() -> None:
    tables = [block.text.splitlines() for block in blocks(README, "text")]
    tables += [[line for line in README.read_text().splitlines() if line.startswith("|")]]
    assert max(len(line) for lines in tables for line in lines) <= PHONE


def test_every_claim_has_its_command() -> None:
    """Under each heading and each bold claim of these parts stands a command, or a page that has the numbers."""
    for heading in ("What not to believe", "What else you can ask"):
        part = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        claims = re.split(r"^\*\*", part, flags=re.MULTILINE)[1:]
        assert len(claims) >= 5
        for claim in claims:
            assert re.search(r"^\$ fisher |^```python|\]\(|`--", claim, flags=re.MULTILINE), claim


def test_the_traces_that_batch_norm_misleads_are_those_that_the_readme_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnish(tmp_path, monkeypatch)
    stated = re.search(r"(\d+) as it was saved in this example, (\d+) with", " ".join(README.read_text().split()))
    (command,) = (each for each in FISHER if "--recalibrate-bn" in each)
    words = [*shlex.split(command)[1:], "--eigenvalues", "0"]
    for number, asked in zip(
        stated.groups() if stated else (), ([each for each in words if each != "--recalibrate-bn"], words), strict=True
    ):
        (row,) = csv.DictReader(io.StringIO(fisher(*asked).stdout))
        assert round(float(row["trace_true"])) == int(number)
