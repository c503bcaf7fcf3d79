"""The command inside a folder full of modules that pretend to be its libraries: none of them is run."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PACKAGES = ("rich", "numpy", "fisher_cli", "torch", "pandas", "natsort", "encodings", "safetensors", "torchvision")
MODULES = ("typer", "random", "json", "zipfile", "hubconf", "sitecustomize", "usercustomize", "conftest", "model")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """The folder; whatever in it is run makes the file `marker` beside it."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    code = f"open({str(tmp_path / 'marker')!r}, 'w')\n"
    for package in PACKAGES:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(code)
    for module in MODULES:
        (folder / f"{module}.py").write_text(code)
    (folder / "setup.cfg").write_text("[options]\n")
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "model.Model"}, "model_file": "model.py"}')
    hint = {"arch": "model:Model", "arch_args": {"_target_": "os.system"}, "args": {"model": "os:system"}}
    torch.save({"state_dict": torch.nn.Linear(3, 2).state_dict(), **hint}, folder / "a.pt")
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=PATIENCE)


def console_script(tmp_path: Path) -> list[str]:
    """The installed `fisher`, or where tests run from a plain folder what an installer would write."""
    installed = Path(sys.executable).with_name("fisher")
    if installed.exists():
        return [str(installed)]
    [entry] = [e for e in entry_points(group="console_scripts") if e.name == "fisher"] or [None]
    module, _, function = (entry.value if entry else "fisher_cli.cli.app:main").partition(":")
    script = tmp_path / "bin" / "fisher"
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return [sys.executable, str(script)]


@pytest.mark.parametrize("arguments", [("--version",), ("inspect", ".")])
def test_the_command_runs_nothing_that_lies_in_the_folder(
    hostile: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    found = run(hostile, *console_script(tmp_path), *arguments)
    assert not (tmp_path / "marker").exists()
    assert "Traceback" not in found.stderr
    assert found.stdout or found.stderr


def test_python_m_needs_its_switch(hostile: Path, tmp_path: Path) -> None:
    """`python -m` puts the working directory first, before any line of ours: docs tell to add -P."""
    found = run(hostile, sys.executable, "-P", "-m", "fisher_cli", "--version")
    assert found.returncode == 0, found.stderr
    assert not (tmp_path / "marker").exists()
    run(hostile, sys.executable, "-m", "fisher_cli", "--version")
    assert (tmp_path / "marker").exists(), "the control: without -P it is run"
