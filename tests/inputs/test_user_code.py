"""The working folder supplies the module that was typed and what lies beside it, and nothing to anybody else."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.user_code import import_factory
from tests.long_lists import some
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
MAKE = "def make():\n    import late\n    return late.value\n"


@pytest.fixture
def library(workdir: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed library that tries whether an optional module is there, in the ways in which libraries do."""
    folder = tmp_path_factory.mktemp("installed")
    name = f"a_library_{os.path.basename(folder)}".replace("-", "_")
    (folder / f"{name}.py").write_text(
        "import importlib, importlib.util\n"
        "def found(name):\n"
        "    there = [importlib.util.find_spec(name) is not None]\n"
        "    for attempt in (importlib.import_module, __import__):\n"
        "        try:\n"
        "            attempt(name)\n"
        "            there.append(True)\n"
        "        except ImportError:\n"
        "            there.append(False)\n"
        "    return there\n"
        "at_import = found('numexpr')\n"
        "def make():\n"
        "    return found('numexpr')\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    (workdir / "numexpr.py").write_text("open('RAN', 'w').close()\n")
    return name


def made(words: str) -> object:
    return import_factory(words)[1]()


@pytest.mark.parametrize("typed", ["net:make", "inner.net:make", "./net.py:make", "./inner/net.py:make"])
def test_what_was_typed_finds_what_lies_beside_it_also_late(typed: str, workdir: Path) -> None:
    for folder, value in ((workdir, 1), (workdir / "inner", 2)):
        folder.mkdir(exist_ok=True)
        (folder / "net.py").write_text(f"import early\nassert early.value == {value}\n{MAKE}")
        (folder / "early.py").write_text(f"value = {value}\n")
        (folder / "late.py").write_text(f"value = {value}\n")
    if typed == "inner.net:make":
        (workdir / "inner" / "net.py").write_text(MAKE)
    assert made(typed) == (2 if typed == "./inner/net.py:make" else 1)


def test_a_package_finds_its_parts_and_what_lies_beside_it(workdir: Path) -> None:
    (workdir / "nets").mkdir()
    (workdir / "nets" / "__init__.py").write_text("from nets import parts\n")
    (workdir / "nets" / "parts.py").write_text(
        "import late\nfrom . import more\nmake = lambda: (late.value, more.value)\n"
    )
    (workdir / "nets" / "more.py").write_text("value = 3\n")
    (workdir / "late.py").write_text("value = 4\n")
    assert made("nets.parts:make") == (4, 3)


def test_two_files_find_each_what_lies_beside_it(workdir: Path) -> None:
    for name in ("a", "b"):
        (workdir / name).mkdir()
        (workdir / name / "net.py").write_text(f"def make():\n    import only_{name}\n    return only_{name}.value\n")
        (workdir / name / f"only_{name}.py").write_text(f"value = {name!r}\n")
    (workdir / "a" / "another.py").touch()
    (workdir / "b" / "crossed.py").write_text("def make():\n    import another\n")
    assert [made(f"./{name}/net.py:make") for name in ("a", "b", "a")] == ["a", "b", "a"]
    with pytest.raises(ModuleNotFoundError):
        made("./b/crossed.py:make")


@pytest.mark.parametrize("typed", ["{}:make", "net:make", "./net.py:make", "{elsewhere}/net.py:make"])
def test_no_library_gets_a_module_of_the_working_folder(
    typed: str, library: str, workdir: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for folder in (workdir, elsewhere):
        (folder / "net.py").write_text(f"from {library} import at_import, make\nassert at_import == [False] * 3\n")
    before = sys.path[:]
    assert made(typed.replace("{elsewhere}", str(elsewhere)).replace("{}", library)) == [False] * 3
    assert not (workdir / "RAN").exists()
    assert sys.path == before


def test_an_installed_module_comes_before_one_of_the_working_folder(library: str, workdir: Path) -> None:
    (workdir / f"{library}.py").write_text("open('RAN', 'w').close()\nmake = None\n")
    (workdir / "json.py").write_text("open('RAN', 'w').close()\n")
    (workdir / "net.py").write_text(f"import json, {library}\ndef make():\n    return json.loads('1')\n")
    assert made(f"{library}:make") == [False] * 3
    assert made("net:make") == 1
    assert not (workdir / "RAN").exists()


def test_a_file_that_needs_more_than_lies_beside_it_is_told_what_to_type(workdir: Path) -> None:
    (workdir / "models").mkdir()
    (workdir / "models" / "net.py").write_text("import helper\nmake = helper.make\n")
    (workdir / "helper.py").write_text("def make():\n    return 5\n")
    with pytest.raises(ArchitectureError, match=r"name it as a module, models\.net:make$"):
        import_factory("./models/net.py:make")
    assert made("models.net:make") == 5


def test_what_pythonpath_names_is_found_by_all(workdir: Path) -> None:
    (workdir / "helper.py").write_text("open('RAN', 'w').close()\n")
    done = run(workdir, [], "import helper", PYTHONPATH=f"{ROOT}{os.pathsep}{workdir}")
    assert done.returncode == 0
    assert (workdir / "RAN").exists()


def run(folder: Path, options: list[str], code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *options, *(("-c", code) if code else ())]
    environment = {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


# Modules that Python or a library tries to import, and that are not there, or whose own place is elsewhere.
PROBED = ("numexpr", "colorama", "bottleneck", "typer", "rich", "shutil", "difflib", "numpy", "usercustomize")


@pytest.mark.parametrize("options", [[], ["-P"]], ids=["python -m", "python -P -m"])
def test_python_m_takes_nothing_from_the_working_folder(options: list[str], workdir: Path) -> None:
    for name in PROBED:
        (workdir / f"{name}.py").write_text(f"open('RAN-{name}', 'w').close()\n")
    done = run(workdir, [*options, "-m", "fisher_cli", "models"], "")
    assert done.returncode == 0, done.stderr
    assert not list(workdir.glob("RAN*"))


def test_python_m_works_in_the_folder_of_the_package_itself(tmp_path: Path) -> None:
    (tmp_path / "fisher_cli").symlink_to(ROOT / "fisher_cli")
    done = run(tmp_path, ["-m", "fisher_cli", "--version"], "", PYTHONPATH="")
    assert done.returncode == 0, done.stderr


@pytest.mark.ci
def test_a_worker_takes_nothing_from_the_working_folder(workdir: Path) -> None:
    """Python puts the folder that a process begins in first, before it knows what it is to do."""
    for name in ("multiprocessing", "socket", "tempfile", "runpy", *PROBED):
        (workdir / f"{name}.py").write_text(f"open('RAN-{name}', 'w').close()\n")
    (workdir / "net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    import beside\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, beside.width), nn.ReLU(), nn.Linear(beside.width, 10))\n"
    )
    (workdir / "beside.py").write_text("width = 4\n")
    code = (
        "import sys; sys.path.remove(''); from fisher_cli.cli.app import main\n"
        "import torch; from torch import nn\n"
        "m = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 10))\n"
        "torch.save(m.state_dict(), 'a.pt')\n"
        "sys.argv = ['fisher', 'analyze', 'a.pt', '--model', 'net:make', '--limit', '5', '--eigenvalues', '0',"
        " '--devices', 'cpu,cpu', '-o', 'r.csv']\n"
        "main()\n"
    )
    done = run(workdir, [], code)
    assert done.returncode == 0, done.stderr
    assert not list(workdir.glob("RAN*")), done.stderr


SETTINGS: dict[str, Callable[[], bytes]] = {
    "latex": lambda: b"text.usetex: True\n",
    "no text": lambda: b"\xff\n",
    "another look": lambda: (
        b"figure.dpi: 9\naxes.facecolor: red\nfont.size: 40\nsvg.fonttype: path\nsavefig.bbox: tight\n"
    ),
    "a pipe": lambda: b"",
}


@pytest.mark.ci
@pytest.mark.parametrize(
    ("what", "how"),
    some([(what, how) for what in SETTINGS for how in ("working folder", "MATPLOTLIBRC", "MPLCONFIGDIR")], part=0.25),
)
def test_no_file_of_settings_changes_or_harms_a_figure(what: str, how: str, workdir: Path) -> None:
    (workdir / "bin").mkdir()
    (workdir / "bin" / "latex").write_text(f"#!/bin/sh\ntouch {workdir}/RAN\nexit 1\n")
    (workdir / "bin" / "latex").chmod(0o755)
    code = (
        "import hashlib; from fisher_cli.reports import drawing\n"
        "with drawing.style():\n"
        "    figure, [axes] = drawing.canvas(3, 2)\n"
        "    drawing.line(axes, [1, 2, 3], [1, 4, 2], [0.1, 0.1, 0.1], 0, 'loss')\n"
        "    axes.legend()\n"
        "print([hashlib.sha256(drawing.picture(figure, form)).hexdigest() for form in ('svg', 'pdf', 'png')])\n"
    )
    path = {"PATH": f"{workdir / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(workdir)}
    expected = run(workdir, ["-P"], code, **path)
    assert expected.returncode == 0, expected.stderr
    place = workdir if how == "working folder" else workdir / "settings"
    place.mkdir(exist_ok=True)
    if what == "a pipe":
        os.mkfifo(place / "matplotlibrc")
    else:
        (place / "matplotlibrc").write_bytes(SETTINGS[what]())
    chosen = {"MATPLOTLIBRC": str(place / "matplotlibrc"), "MPLCONFIGDIR": str(place)}
    found = run(workdir, ["-P"], code, **path, **({how: chosen[how]} if how in chosen else {}))
    assert found.returncode == 0, found.stderr
    assert found.stdout == expected.stdout
    assert not (workdir / "RAN").exists()
