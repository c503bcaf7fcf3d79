"""Every command in the README runs, and its table is what the demonstration prints."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from fisher_cli.cli.app import app
from tests.data_files import write_cifar

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NETWORK = """
from torch import nn


def make_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> Iterator[str]:
    for block in blocks("console"):
        for line in block.splitlines():
            assert line.startswith("$ "), f"README: {line} is no command"
            yield line[2:]


FISHER = [command for command in commands() if command.startswith("fisher ")]
MAKE = [command for command in commands() if command.startswith("make ")]


def test_every_command_is_of_a_kind_that_is_tested() -> None:
    assert set(commands()) == {*FISHER, *MAKE, "pip install ."}
    assert len(FISHER) >= 7


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the README's reader has: checkpoints, a network's file, CIFAR-10, a folder of images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])  # --model adds the working directory
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "sample_checkpoints").symlink_to(ROOT / "sample_checkpoints")
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "ckpts").mkdir()
    for step in (0, 10):
        torch.manual_seed(step)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
        torch.save(network.state_dict(), tmp_path / "ckpts" / f"step_{step}.pt")
    write_cifar(tmp_path / "data", monkeypatch)
    for label in range(10):
        folder = tmp_path / "images" / f"class{label}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * label, 90, 250 - 20 * label)).save(folder / "one.png")
    return tmp_path


@pytest.mark.parametrize("command", FISHER)
def test_the_readmes_commands_run(command: str, desk: Path) -> None:
    line, _, target = command.partition(" > ")
    if line.split()[1] in {"report", "plot", "check"}:
        earlier = (
            "analyze",
            "sample_checkpoints/digits-clean",
            "--limit",
            "20",
            "--eigenvalues",
            "1",
            "-o",
            "trend.csv",
        )
        assert CliRunner().invoke(app, earlier).exit_code == 0
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, result.stderr
    if "analyze" in line and "--help" not in line:
        output = re.search(r"-o (\S+)", line)
        assert output is None or (desk / output[1]).exists()
        if target:
            rows = result.stdout.splitlines()
            assert rows[0].startswith("checkpoint,order,step")
            assert len(rows) == 3
    else:
        # Two checkpoints or two sides are compared in a row, pages are files; lists and tables are longer.
        written = re.search(r"-o (\S+)", line)
        assert written is None or (desk / written[1]).exists()
        assert len(result.stdout.splitlines()) >= (0 if written else 2 if "compare" in line or "check" in line else 10)


@pytest.mark.parametrize("command", MAKE)
def test_the_readmes_make_targets_exist(command: str) -> None:
    assert shutil.which("make"), "make is needed"
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("code", blocks("python"))
def test_the_readmes_python_runs(code: str, desk: Path) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=desk, check=True, capture_output=True)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])\d[\d,]*\.?\d*(?![\w])", text.replace(",", ""))]


def test_the_readmes_table_is_what_the_demonstration_prints(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    command = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "fisher analyze" in line)
    arguments = shlex.split(command.split("fisher ", 1)[1])
    arguments[arguments.index("-o") + 1] = str(desk / "demo.csv")
    printed = CliRunner().invoke(app, arguments).stdout
    (shown,) = (block for block in blocks("text") if "Fisher information" in block)
    # Rounding may differ from machine to machine in the last digit shown.
    assert numbers(printed) == pytest.approx(numbers(shown), rel=0.02, abs=0.011)
    assert re.findall(r"step_\d+\.pt", printed) == re.findall(r"step_\d+\.pt", shown)
