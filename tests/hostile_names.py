"""Names that mean harm where they are printed, and what of an output a terminal or a spreadsheet acts on."""

import csv
import io
import json
import os
import re
from pathlib import Path

import torch

from tests.data_files import save_image

# What a terminal, a browser or a spreadsheet acts on.
NAMES = {
    "clear the screen": "\x1b[2J\x1b[31mred",
    "a title of the window": "\x1b]0;owned\x07",
    "a link": "\x1b]8;;http:evil\x1b\\here\x1b]8;;\x1b\\",
    "eight-bit controls": "\x9b2J\x90x\x9c",
    "a bell": "\x07bell",
    "steps back": "safe\x08\x08\x08\x08evil",
    "back to the start of the line": "safe\revil",
    "another line": "safe\nerror: evil",
    "from right to left": "a\u202etxt\u2066.exe",
    "nothing that is seen": "a\u200b\u2060\ufeffb",
    "half a pair": "a\udc80\ud800b",
    "a zero": "a\x00b",
    "deleted": "a\x7fb",
    "a line of its own": "a\u2028b\u2029c\x85d",
    "a formula": "=cmd|' /C calc'!A0",
    "a formula behind |": "a|=cmd",
    "a formula behind ;": "a;=cmd",
    "a formula behind a comma": "a,@SUM(1)",
    "a formula behind a tab": "a\t+cmd",
    "a wide formula": "＝cmd|－1",
    "markup of rich": "[bold red]b[/] [link=http:evil]x[/link]",
    "markup of pages": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a template": "{{ 7*7 }}{% raw %}$\\frac{1}{2}$",
    "what is escaped already": "\\x1b[2J\\u202e",
}
# What a file's name cannot be.
_NOT_IN_FILES = re.compile(r"[/\x00]|^\.{1,2}$")
FILE_NAMES = {what: name for what, name in NAMES.items() if not _NOT_IN_FILES.search(name) and what != "half a pair"}
MODEL = "./net.py:make"
NETWORK = """
import json, pathlib, torch
from torch import nn
from torch.nn.functional import linear

NAMES = json.loads(pathlib.Path("names.json").read_text())

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        for name in NAMES:
            self.register_parameter(name, nn.Parameter(torch.ones(3, 48) / 50))

    def forward(self, images):
        return sum(linear(images.flatten(1), getattr(self, name)) for name in NAMES)

def make():
    return Net()
"""


def furnish(folder: Path) -> None:
    """Checkpoints, a file that is none, images and a network, in all of whose names there is harm."""
    names = [name for name in NAMES.values() if "." not in name]
    (folder / "names.json").write_text(json.dumps(names))
    (folder / "net.py").write_text(NETWORK)
    (folder / "run").mkdir()
    weights = {name: torch.randn(3, 48, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(names)}
    for i, name in enumerate(FILE_NAMES.values()):
        if i < 2:
            torch.save({"state_dict": weights, "step": i, name: 1}, folder / "one.pt")
            os.rename(folder / "one.pt", folder / "run" / f"{name}.pt")
        else:
            (folder / "run" / f"{name}.pt").write_bytes(f"no checkpoint {name}".encode("utf-8", "surrogatepass"))
    for i, name in enumerate(["\x1b[2J\u202ecat", "|=cmd\x07", "[bold]<b>\udc80"]):
        save_image(folder / "images" / name / "a.png", (4, 4), seed=i)


def acted_on(text: str, layout: str = "\n") -> list[str]:
    """Characters that a terminal would act on or hide, but for those that the format is laid out with."""
    return sorted({repr(each) for each in text if not each.isprintable() and each not in layout})


_NUMBER = re.compile(r"[-+]?[0-9.,]+(?:e[-+]?[0-9]+)?")


def formulas(text: str) -> list[str]:
    """Cells that begin a formula, whatever a spreadsheet splits the lines at."""
    rows = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    cells = [part for each in (text, *rows) for part in re.split(r"[,;|\t\n\r]", each)]
    starts = (part.strip(' \xa0\u3000"\ufeff') for part in cells)
    return [part for part in starts if part.startswith(tuple("=+-@＝＋－＠")) and not _NUMBER.fullmatch(part)]
