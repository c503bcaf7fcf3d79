"""From a clean machine to a page about a network of one's own, timed: what a newcomer types, and what is printed.

    python -m benchmarks.first_minutes [--write]

Builds the wheel, installs it with its libraries into an empty environment, which needs a package index, runs `fisher
demo` there, executes the notebook of the documents, and makes a page of the table that it saved. `--write` puts the
record into docs/first_minutes.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.test_words import ARGUED, FIELD, PLAIN

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "docs" / "first_minutes.md"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "fisher_cli", "sample_checkpoints")
HEAD = """\
# The first minutes, timed

From a clean machine with Python to a page about a network of one's own. `python -m benchmarks.first_minutes --write`
wrote this record on two cores: it built the wheel, made an empty environment, typed what stands after each `$`, and
counted the seconds. `…` stands for lines that are left out. `notebook.py` has the cells of
[notebook.ipynb](notebook.ipynb), which trains the network.

"""


@dataclass(frozen=True)
class Typed:
    """What one command printed, and when.

    Attributes:
        words: as a person types them.
        printed: on both streams.
        first: seconds until the first line.
        seconds: until its end.
    """

    words: str
    printed: str
    first: float
    seconds: float

    def shown(self, most: int = 8) -> str:
        """The command and the first and last lines that it printed, as in a document."""
        lines = self.printed.rstrip().splitlines()
        if len(lines) > most:
            lines = [*lines[: most // 2], "…", *lines[-(most // 2) :]]
        return "\n".join([f"$ {self.words}", *lines])


def typed(words: str, command: list[str | Path], folder: Path) -> Typed:
    """Run a command in a folder, with nothing of this environment but its path to programs.

    Args:
        words: what a person types for it.
        command: what is run.
        folder: where it runs.

    Raises:
        RuntimeError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FISHER"))}
    environment |= {"NO_COLOR": "1", "COLUMNS": "100"}
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        at = time.perf_counter() - start
        printed = first + process.stdout.read()
    if process.returncode:
        msg = f"{words} ended with {process.returncode}: {printed[-2000:]}"
        raise RuntimeError(msg)
    seconds = time.perf_counter() - start
    return Typed(words, printed.replace(f"{folder.parent}/", ""), at, seconds)


def built(folder: Path, *, isolated: bool) -> Path:
    """The wheel, made of a copy of the sources, since building leaves files beside them.

    Args:
        folder: an empty one.
        isolated: whether an index gives the build its tools; else they are those of this environment.
    """
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        whole, copy = ROOT / name, sources / name
        shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("__pycache__")) if whole.is_dir() else shutil.copy(
            whole, copy
        )
    words = ["wheel", "--quiet", "--no-deps", "--wheel-dir", folder / "dist", sources]
    more = [] if isolated else ["--no-build-isolation", "--no-index"]
    subprocess.run([sys.executable, "-m", "pip", *words, *more], check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def with_libraries_of_an_index(environment: Path, wheel: Path) -> Typed:
    """Install the wheel and all that it needs, as a newcomer does."""
    python = environment / "bin" / "python"
    command = ["-m", "pip", "--python", python, "install", "-qq", f"{wheel}[report]"]
    return typed("pip install 'fisher-cli[report]'", [sys.executable, *command], environment)


def notebook_as_script(folder: Path) -> Path:
    """The cells of the notebook as one file."""
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    script = folder / "notebook.py"
    script.write_text("\n\n".join("".join(each["source"]) for each in cells if each["cell_type"] == "code"))
    return script


def walk(folder: Path, install: Callable[[Path, Path], Typed], *, isolated: bool = True) -> tuple[list[Typed], Path]:
    """Everything that a newcomer does, in a folder.

    Args:
        folder: an empty one.
        install: puts a wheel into an environment.
        isolated: as for `built`.

    Returns:
        What was typed, and the wheel.
    """
    wheel, environment, home = built(folder, isolated=isolated), folder / "environment", folder / "home"
    home.mkdir()
    venv.create(environment, symlinks=True)
    fisher: list[str | Path] = [environment / "bin" / "fisher"]
    steps = [install(environment, wheel), typed("fisher demo", [*fisher, "demo"], home)]
    python = environment / "bin" / "python"
    steps.append(typed("python notebook.py", [python, notebook_as_script(home)], home))
    steps.append(typed("fisher check trend.csv", [*fisher, "check", "trend.csv"], home))
    steps.append(
        typed("fisher report trend.csv -o page.html", [*fisher, "report", "trend.csv", "-o", "page.html"], home)
    )
    steps.append(typed("fisher analyze --help", [*fisher, "analyze", "--help"], home))
    for made in ("fisher-demo/digits-clean.html", "trend.html", "page.html"):
        assert (home / made).read_bytes().startswith(b"<!doctype html>"), made
    return steps, wheel


def record(steps: list[Typed], wheel: Path) -> str:
    """The record, in Markdown."""
    installed, demo, notebook, *_, helped = steps
    rows = {
        "wheel": f"{wheel.stat().st_size / 1e6:.2f} MB",
        "installation with all libraries": f"{installed.seconds:.0f} s",
        "first line of `fisher demo`, its first import of the libraries included": f"{demo.first:.1f} s",
        "`fisher demo` in all: a table of 14 checkpoints and a page": f"{demo.seconds:.0f} s",
        "own network: trained, analysed, plotted, a table and a page": f"{notebook.seconds:.0f} s",
        "from nothing to the page about the own network": f"{sum(each.seconds for each in steps[:3]):.0f} s",
        "lines of `fisher analyze --help`": str(len(helped.printed.splitlines())),
        "words that README, help and documents use": "",
    }
    rows["words that README, help and documents use"] = (
        f"{len(PLAIN) + len(FIELD):,} plain words and words of the field; {len(ARGUED)} others, each with its reason"
    )
    lines = ["| what | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]
    for step in steps[:-1]:
        lines += ["```text", step.shown(), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the record into docs/first_minutes.md")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = record(*walk(Path(folder), with_libraries_of_an_index))
    print(text)
    if asked.write:
        RECORD.write_text(HEAD + text)


if __name__ == "__main__":
    main()
