"""Documents that are run: their blocks, and what a reader has in the folder where the commands are typed.

Blocks of `console` hold commands after `$ `, each followed by lines that it must print: the same words, and numbers
that agree. A line `…` stands for others. Blocks of `python` are run, or become the file that their first line names.
A block after the line `<!-- long -->` is run with the long tests only. Blocks of `text` are for the eye.
"""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from tests.command import fisher
from tests.data_files import write_cifar

ROOT = Path(__file__).parent.parent
NETWORK = """
from torch import nn


def make_net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""
BARS = re.compile("[▏▎▍▌▋▊▉█▁▂▃▄▅▆▇]+")
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*\.?\d*(?:e[-+]\d+)?(?![\w])")
# Commands that print a table to a terminal, which a test is not.
TABLES = {"analyze", "spectrum", "compare", "verify", "examples", "inspect"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and whether it is one of the long ones."""

    language: str
    text: str
    is_long: bool

    def commands(self) -> list[tuple[str, list[str]]]:
        """The commands of a console block, each with the lines that are shown below it."""
        found: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif found:
                found[-1][1].append(line)
            else:
                pytest.fail(f"{line}: no command")
        return found


def blocks(path: Path, *languages: str) -> list[Block]:
    found = re.findall(r"(<!-- long -->\n)?```(\w+)\n(.*?)```", path.read_text(), flags=re.DOTALL)
    return [Block(language, text, bool(long)) for long, language, text in found if language in languages]


def furnish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a document's reader has: checkpoints, a network's file, CIFAR-10, a folder of images."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    (folder / "sample_checkpoints").symlink_to(ROOT / "sample_checkpoints")
    (folder / "net.py").write_text(NETWORK)
    (folder / "ckpts").mkdir()
    for step in (0, 10):
        torch.manual_seed(step)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
        torch.save(network.state_dict(), folder / "ckpts" / f"step_{step}.pt")
    write_cifar(folder / "data", monkeypatch)
    for label in range(10):
        below = folder / "images" / f"class{label}"
        below.mkdir(parents=True)
        Image.new("RGB", (8, 8), (20 * label, 90, 250 - 20 * label)).save(below / "one.png")
    return folder


def run_python(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a block in this process, as in a notebook that lies in the folder."""
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    exec(compile(code, "<document>", "exec"), {"__name__": "__main__"})
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def run(command: str, shown: list[str], folder: Path) -> str:
    """Run a command as a reader does who looks at a terminal; what it printed on stdout."""
    line, _, target = command.partition(" > ")
    words = shlex.split(line)
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True, capture_output=True)
        return ""
    assert words[0] == "fisher", f"{command}: of no kind that is tested"
    if shown and words[1] in TABLES and "--format" not in words:
        words += ["--format", "table"]
    result = fisher(*words[1:])
    written = re.search(r"(?:-o|--output) (\S+\.\w+)", line)
    assert written is None or any(folder.glob(f"{Path(written[1]).stem}*")), command
    if target:
        (folder / target).write_text(result.stdout)
        assert result.stdout
    return result.stdout


def check_shown(command: str, shown: list[str], printed: str) -> None:
    """Every line below a command is one that it prints, in this order; numbers may differ in the last digit."""
    left = [_split(line) for line in printed.splitlines()]
    for line in shown:
        if line.strip() in ("…", ""):
            continue
        words, numbers = _split(line)
        place = next(
            (i for i, (other, found) in enumerate(left) if other == words and _agree(found, numbers)),
            None,
        )
        assert place is not None, f"{command}\ndoes not print\n{line}\nbut\n{printed}"
        left = left[place + 1 :]


def _split(line: str) -> tuple[str, list[float]]:
    """A line without its numbers and bars, and the numbers."""
    text = BARS.sub("", line)
    numbers = [float(each.replace(",", "").replace("−", "-")) for each in NUMBER.findall(text)]
    return " ".join(NUMBER.sub("#", text).split()), numbers


def _agree(found: list[float], shown: list[float]) -> bool:
    return found == pytest.approx(shown, rel=0.03, abs=0.011)
