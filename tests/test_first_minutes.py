"""The way from an installed wheel to a page about a network of one's own, as docs/first_minutes.md records it."""

import re
import sys
import sysconfig
from pathlib import Path

import pytest

from benchmarks import first_minutes
from benchmarks.first_minutes import Typed, typed

LARGEST_WHEEL = 2_000_000


def with_libraries_of_this_environment(environment: Path, wheel: Path) -> Typed:
    """Install the wheel alone; what it needs is taken from where the tests run, since they have no package index."""
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    words = ["install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel]
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python"]
    return typed("pip install 'fisher-cli[report]'", [*pip, *words], environment)


@pytest.mark.ci
def test_a_newcomer_comes_from_the_wheel_to_a_page(tmp_path: Path) -> None:
    steps, wheel = first_minutes.walk(tmp_path, with_libraries_of_this_environment, isolated=False)
    assert wheel.stat().st_size < LARGEST_WHEEL
    _, demo, notebook, check, report, helped = (each.printed for each in steps)
    assert "your own run:" in demo
    assert "trend.csv" in notebook
    assert all(line.startswith("ok") for line in check.splitlines())
    assert "page.html" in report
    assert len(helped.splitlines()) < 60
    assert lines(first_minutes.record(steps, wheel)) == lines(first_minutes.RECORD.read_text())


def lines(record: str) -> list[str]:
    """What is typed, and the table, but for how long it took and how large the wheel is."""
    found = [line for line in record.splitlines() if line.startswith(("| ", "$ "))]
    return [re.sub(r"[\d.]+ (s|MB)\b", r"… \1", line) for line in found]
