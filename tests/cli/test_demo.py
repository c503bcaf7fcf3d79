"""`fisher demo`: what a newcomer sees first, also where the program was installed from a wheel."""

import importlib.metadata
import importlib.util
from pathlib import Path

import pytest

import fisher_cli
from fisher_cli.cli import demo
from fisher_cli.storage.readers import read_table
from tests.command import error_line, fisher

ROOT = Path(__file__).parents[2]
RUNS = ["digits-clean", "digits-cnn", "digits-noisy"]


def test_it_ends_with_a_table_a_page_and_what_to_type_next(workdir: Path) -> None:
    done = fisher("demo")
    assert "step_01760.pt" in done.stdout
    assert "The true trace rises from" in done.stdout
    assert len(read_table(workdir / "fisher-demo" / "digits-clean.csv")) == 14
    assert (workdir / "fisher-demo" / "digits-clean.html").read_bytes().startswith(b"<!doctype html>")
    *_, look, own = done.stderr.splitlines()
    assert look == "look at fisher-demo/digits-clean.html"
    assert own.startswith("your own run: ")
    assert own.endswith("fisher analyze CHECKPOINTS --data DATA -o trend.csv")
    samples = workdir / "fisher-demo" / "sample_checkpoints"
    assert sorted(each.name for each in samples.iterdir()) == RUNS
    for path in samples.glob("*/*"):
        assert path.read_bytes() == (ROOT / "sample_checkpoints" / path.parent.name / path.name).read_bytes()
    fisher("demo", "fisher-demo")  # once more, over its own files


@pytest.mark.ci
def test_without_matplotlib_there_is_a_table_and_what_to_install(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    done = fisher("demo", "here")
    assert "no page: it needs matplotlib, pip install 'fisher-cli[report]'" in done.stderr
    assert "look at here/digits-clean.csv" in done.stderr
    assert not list(workdir.glob("here/*.html"))


def test_the_environment_is_activated_first_where_the_command_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("sys.prefix", "/home/me/some env")
    done = fisher("demo", "--help")
    assert "Write the sample runs" in done.stdout
    assert demo.activation() == "source '/home/me/some env/bin/activate' && "


def test_a_wheel_brings_the_samples(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its data files are where the installer's list says; no source tree is near."""
    installed = workdir / "share" / "fisher" / "sample_checkpoints" / "digits-clean"
    installed.mkdir(parents=True)
    (installed / "step_00000.pt").write_bytes(b"weights")
    monkeypatch.setattr(fisher_cli, "__file__", str(workdir / "lib" / "fisher_cli" / "__init__.py"))

    class Listed(importlib.metadata.PackagePath):
        def locate(self) -> Path:
            return workdir / self

    names = ["fisher_cli/__init__.py", "share/fisher/sample_checkpoints/digits-clean/step_00000.pt"]
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [Listed(name) for name in names])
    demo.copy_samples(workdir / "out")
    assert (workdir / "out/sample_checkpoints/digits-clean/step_00000.pt").read_bytes() == b"weights"
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    assert "the sample runs are missing" in error_line(fisher("demo", "again", code=2))


@pytest.mark.ci
@pytest.mark.usefixtures("workdir")
def test_what_lies_in_the_folder_is_never_replaced() -> None:
    mine = Path("here/sample_checkpoints/digits-clean/step_00000.pt")
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert "is not a sample file: name another folder" in error_line(fisher("demo", "here", code=1))
    assert mine.read_bytes() == b"mine"
    mine.unlink()
    fisher("demo", "here")
    page = Path("here/digits-clean.html")
    page.write_text("a note")
    assert "is not as this command wrote it" in error_line(fisher("demo", "here", code=1))
    assert page.read_text() == "a note"


@pytest.mark.usefixtures("workdir")
def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    Path("taken").write_text("a file")
    assert "name another folder: fisher demo FOLDER" in error_line(fisher("demo", "taken", code=1))
    assert Path("taken").read_text() == "a file"
