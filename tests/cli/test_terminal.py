"""What a person sees at a terminal: every command's table at every width, whole, and with the sentences that end it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.command import fisher

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_checkpoints"
CLEAN = [SAMPLES / "digits-clean" / f"step_{step:05d}.pt" for step in (0, 66, 1760)]
NOISY = [SAMPLES / "digits-noisy" / f"step_{step:05d}.pt" for step in (0, 5280)]
LABELS = SAMPLES / "digits-noisy" / "labels.csv"
WIDTHS = (40, 60, 80, 100, 160, 200)
# Of each command: its words, the headings that stay at 80 columns, and those that stay at 40.
COMMANDS: dict[str, tuple[list[object], set[str], set[str]]] = {
    "analyze": (
        ["analyze", *CLEAN, "--limit", 30, "--eigenvalues", 1, "-o", "analyze.csv"],
        {"checkpoint", "step", "loss", "acc", "tr F", "tr F̂", "F̂/F", "λ₁"},
        {"checkpoint", "tr F"},
    ),
    "spectrum": (
        ["spectrum", *CLEAN, "--limit", 20, "-o", "spectrum.csv"],
        {"checkpoint", "trace", "λ₁", "top 10", "eff. rank"},
        {"checkpoint", "trace", "λ₁"},
    ),
    "compare true-vs-empirical": (
        ["compare", "true-vs-empirical", *CLEAN, "--limit", 20, "--draws", 4, "-o", "compare.csv"],
        {"checkpoint", "F̂/F", "null", "z", "‖F̂−F‖/‖F‖"},
        {"checkpoint", "F̂/F", "null", "z"},
    ),
    "compare checkpoints": (
        ["compare", "checkpoints", *CLEAN[:2], "--limit", 20],
        {"layer", "‖Δ‖", "‖Δ‖/‖θ‖", "cos", "½ΔᵀFΔ at a"},
        {"layer"},
    ),
    "examples": (
        ["examples", *NOISY, "--labels", LABELS, "--limit", 60, "-o", "examples.csv"],
        {"checkpoint", "tr F", "clean", "noisy", "noisy/clean", "AUROC tr F"},
        {"checkpoint", "tr F", "noisy/clean"},
    ),
    "verify": (
        ["verify", CLEAN[1], "--limit", 8, "-o", "verify.csv"],
        {"identity", "formula", "error", "tolerance"},
        {"identity", "formula", "error"},
    ),
    "inspect": (
        ["inspect", *CLEAN],
        {"checkpoint", "step", "network", "parameters"},
        {"checkpoint", "step"},
    ),
}
# This needs some 60 columns, for its formulas.
WIDE = {"verify"}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], list[str]]:
    """The lines of every command at every width; numbers are computed once and then come from the journal."""
    folder = tmp_path_factory.mktemp("terminal")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("NO_COLOR", "1")
        for name, (words, _, _) in COMMANDS.items():
            for width in WIDTHS:
                patch.setenv("COLUMNS", str(width))
                found[name, width] = fisher(*words, "--format", "table").stdout.splitlines()
    return found


EACH = pytest.mark.parametrize(("name", "width"), [(name, width) for name in COMMANDS for width in WIDTHS])


@EACH
def test_no_line_is_wider_than_the_terminal(name: str, width: int, shown: dict[tuple[str, int], list[str]]) -> None:
    if width >= 60 or name not in WIDE:
        assert max(map(cell_len, shown[name, width])) <= width


@EACH
def test_no_number_is_cut(name: str, width: int, shown: dict[tuple[str, int], list[str]]) -> None:
    """Every number of a narrow table is one of the widest, digit by digit; none ends in an ellipsis."""

    def numbers(lines: list[str]) -> set[str]:
        cells = [cell for line in lines for cell in re.split(r"\s{2,}", line.strip(" .,;"))]
        return {cell for cell in cells if re.fullmatch(r"[-+]?\d[\d.,e+-]*%?( ± [\d.e+-]+)?", cell)}

    every, here = numbers(shown[name, WIDTHS[-1]]), numbers(shown[name, width])
    parts = {part for cell in every for part in cell.split(" ± ")}
    parts |= {word.strip(".,;") for line in shown[name, WIDTHS[-1]] for word in line.split()}  # alone on a wrapped line
    ticks = {str(i) for i in range(-20, 20)}  # of the axis below the eigenvalues, which has as many as fit
    assert here - every - parts - ticks == set()
    assert not any(re.search(r"\d…|…\d", line) for line in shown[name, width] if "step_" not in line)


@EACH
def test_what_matters_is_there_at_every_width(name: str, width: int, shown: dict[tuple[str, int], list[str]]) -> None:
    _, at_80, at_40 = COMMANDS[name]
    text = "\n".join(shown[name, width])
    headings = {heading for heading in at_80 | at_40 if re.search(rf"(^|\s\s?){re.escape(heading)}(\s|$)", text)}
    assert (at_80 if width >= 80 else at_40) <= headings


def ending(lines: list[str]) -> str:
    """What stands below the last blank line."""
    while not lines[-1].strip():
        lines = lines[:-1]
    blank = max(i for i, line in enumerate(lines) if not line.strip())
    return " ".join(lines[blank + 1 :])


@EACH
def test_the_end_says_what_happened_and_the_same_at_every_width(
    name: str, width: int, shown: dict[tuple[str, int], list[str]]
) -> None:
    said = ending(shown[name, width])
    assert said == ending(shown[name, WIDTHS[-1]])
    assert said.endswith(".")
    expected = {
        "analyze": "The true trace .* The empirical trace is",
        "spectrum": "The largest eigenvalue of the .* Fisher",
        "compare true-vs-empirical": r"differs clearly at \d of 3",
        "compare checkpoints": "KL",
        "examples": "noisy examples carry .* the largest 6 examples",
        "verify": r"All \d+ identities hold",
        "inspect": r"3 of 3 checkpoints",
    }
    assert re.search(expected[name], said)


def in_terminal(words: list[str], width: int, **environment: str) -> str:
    """What a command shows in a pseudo-terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}}
    child = subprocess.Popen(
        [sys.executable, "-m", "fisher_cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**kept, "TERM": "xterm-256color", **environment},
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # the terminal is closed
            break
        if not more:
            break
        seen += more
    os.close(ours)
    assert child.wait() == 0, seen
    return seen.decode()


def test_a_run_in_a_terminal_ends_in_a_table_of_its_width() -> None:
    words = ["analyze", *map(str, CLEAN), "--limit", "20", "--eigenvalues", "0"]
    table = in_terminal(words, 80).rpartition("\x1b[?25h")[2]  # what follows the progress bar
    assert "\x1b[1m" in table
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", table).replace("\r", "").splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert "tr F" in "".join(lines)
    assert "The empirical trace is" in ending(lines)


def test_names_stand_side_by_side_on_a_terminal_and_one_a_line_in_a_pipe() -> None:
    text = in_terminal(["models"], 60, NO_COLOR="1")
    assert max(map(cell_len, text.replace("\r", "").splitlines())) <= 60
    assert "names and shapes of the weights" in " ".join(text.split())
    assert re.search(r"digits-mlp +\S+ +\S+", text)
    assert "\x1b" not in text
    assert fisher("models").stdout.splitlines()[0] == "digits-mlp"
    listed = fisher("datasets").stdout.splitlines()
    assert max(map(cell_len, listed[listed.index("Other forms of --data") :])) <= 80


@pytest.mark.parametrize("words", ["", "analyze", "spectrum", "compare", "compare checkpoints", "inspect", "plot"])
def test_switches_need_no_type_in_the_help(words: str) -> None:
    text = fisher(*words.split(), "--help", TERMINAL_WIDTH="100").stdout
    assert "--help" in text
    assert "<bool>" not in text
