"""Under a limit of addresses (`ulimit -v`) that is too small there is one line, whatever libraries would do."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("kilobytes", "words"), [(150_000, ["check", "t.csv"]), (700_000, ["analyze", "a.pt"])])
def test_too_few_addresses_are_told_in_one_line(kilobytes: int, words: list[str], tmp_path: Path) -> None:
    command = f'ulimit -v {kilobytes}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "fisher_cli", *words],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: the limit of addresses, {kilobytes * 1024 / 1e9:.1f} GB, is too small")
    assert "ulimit -v unlimited" in line
    assert (done.returncode, done.stdout) == (1, "")
