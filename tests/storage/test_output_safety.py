"""Whatever checkpoints, parameters, classes and errors are called: tables, record and terminal take no harm from it."""

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fisher_cli.results import Estimate, LayerTrace, PerExample
from fisher_cli.storage.integrity import check_report
from fisher_cli.storage.readers import read_table
from fisher_cli.tables.build import frame, to_csv
from fisher_cli.tables.registry import EXAMPLES, LAYERS, MAIN
from fisher_cli.text import unescape, unguard
from tests.command import fisher
from tests.measurements import TRIGGERS, broken, sample
from tests.small_run import NET

CODES = {0, 1, 2, 3, 4, 5, 129, 130, 138, 143}
FORMULAS = [
    *("=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\n=1", " =1", "\xa0=1", "\u3000=1", "＝1", "＋1", "－1", "＠a"),
    *('=HYPERLINK("http://x","y")', "=cmd|' /C calc'!A0", "a\n=1", "a\r\n+1", "a;=1", "a,=1", 'a;"=1"', "'=1", "''=1"),
    *('"=1"', "\u2028=1", "a\u2029-1", "a\x85@b", "a\x1c=b", "=", "-"),
]


def starts(cell: str) -> list[str]:
    """Where a spreadsheet could begin a cell: at the start, on a new line, after a comma or semicolon."""
    return [part.strip(' \xa0\u3000"') for part in re.split(r"[,;\n\r\v\f\x1c-\x1e\x85\u2028\u2029]", cell)]


def cells_of(table: pd.DataFrame, column: str) -> list[str]:
    return [row[column] for row in csv.DictReader(io.StringIO(to_csv(table), newline=""))]


def test_no_text_is_a_formula_and_every_text_can_be_read_back(record_property: Callable[[str, object], None]) -> None:
    """O1: thirty payloads as a path, a parameter, a class, an architecture and an error."""
    assert len(set(FORMULAS)) == 30
    right = 0
    for text in FORMULAS:
        found = sample(text, architecture=text)
        assert found.trace is not None
        named = LayerTrace(text, 10, "linear", Estimate(0.1, 0.01), Estimate(0.2, 0.02))
        found = replace(found, trace=replace(found.trace, layers=(named,)))
        per_example = PerExample(loss=(0.5,), entropy=(0.1,), labels=(0,), predicted=(0,), class_names=(text,))
        examples = frame(EXAMPLES, [replace(found, per_example=per_example)])
        cells = {
            "path": cells_of(frame(MAIN, [found]), "checkpoint"),
            "parameter": cells_of(frame(LAYERS, [found]), "layer"),
            "class": cells_of(examples, "label_name"),
            "architecture": cells_of(frame(MAIN, [found]), "architecture"),
            "error": cells_of(frame(MAIN, [broken(error=text)]), "error"),
        }
        for place, [cell] in cells.items():
            assert not [start for start in starts(cell) if start.startswith(tuple(TRIGGERS))], (place, text, cell)
            right += unguard(unescape(cell)) == text
    record_property("O1", f"{right}/{5 * len(FORMULAS)} names read back")
    assert right == 5 * len(FORMULAS)
    assert cells_of(frame(MAIN, [sample()]), "trace_covariance") == ["-0.12"]  # a number stays one


NAMES = [
    *(b"=cmd", b"=1+1.pt", b"-1.pt", b"+1.pt", b"@x.pt", b"[].pt", b"[link=x]a.pt", b"[bold]b[red].pt"),
    *(b"\x1b[31mred.pt", b"\x1b]0;title\x07.pt", b"\x1b[2J.pt", b"\x9b2J.pt", b"\xc2\x9b31m.pt", b"\x07bell.pt"),
    *(b"a\nb.pt", b"a\r\nb.pt", b"tab\t.pt", b"\x7f.pt", b"\xff\xfe.pt", b"\xed\xa0\x80.pt", b"lone\x80.pt"),
    *(
        "\u202etxt.pt".encode(),
        "\u200fx.pt".encode(),
        "\u2066y\u2069.pt".encode(),
        "\u200bz.pt".encode(),
        "\ufeffbom.pt".encode(),
    ),
    *("step_٣.pt".encode(), "step_³.pt".encode(), b"step_" + b"9" * 200 + b".pt", b"a,b;c.pt", b'quo"te.pt'),
    *(b"it's.pt", b"back\\slash.pt", b"\\x1b.pt", b"$(touch x).pt", b"`touch x`.pt", b"<script>.pt", b"&amp;.pt"),
    *("漢字🎉.pt".encode(), b"--force.pt", b" leading.pt"),
]


@pytest.mark.usefixtures("workdir")
def test_forty_hostile_file_names_from_end_to_end(record_property: Callable[[str, object], None]) -> None:
    """O5: a report of checkpoints with these names, its page of results on a terminal, and what is said meanwhile."""
    names = [name if name.endswith(b".pt") else name + b".pt" for name in NAMES]
    assert len(set(names)) >= 40
    Path("net.py").write_text(NET)
    Path("ckpts").mkdir()
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
    torch.save(network.state_dict(), "one.pt")
    for name in names:
        shutil.copy(b"one.pt", b"ckpts/" + name)
    Path("ckpts/\x1bbad.pt").write_bytes(b"no checkpoint")
    words = ["analyze", "ckpts", "--limit", "2", "--eigenvalues", "0", "--model", "./net.py:make"]
    done = fisher(*words, "--format", "table", "-o", "r.csv", code=3)
    said = done.stdout + done.stderr
    assert all(character.isprintable() or character == "\n" for character in said)
    read = read_table(Path("r.csv"))["checkpoint"]
    assert {os.fsencode(unescape(name)) for name in read} == {*names, b"\x1bbad.pt"}
    Path("r.csv").read_text("utf-8")
    stated = {each["checkpoint"] for each in json.loads(Path("r.fisher/record.json").read_text("utf-8"))["checkpoints"]}
    assert {unescape(name) for name in stated} == set(read)
    assert all(finding.ok for finding in check_report(Path("r.csv").absolute()))
    assert not Path("x").exists()
    record_property("O5", f"{len(names)} names")


FAILURES: dict[str, tuple[tuple[str, ...], int]] = {
    "no such checkpoint": (("analyze", "nothing.pt"), 1),
    "an empty folder": (("analyze", "empty"), 1),
    "no checkpoint": (("analyze", "text.pt"), 1),
    "no such data": (("analyze", "one.pt", "--data", "nowhere"), 1),
    "no such file of data": (("analyze", "one.pt", "--data", "nothing.npz"), 1),
    "no such folder of data": (("analyze", "one.pt", "--data", "folder:nothing"), 1),
    "no such model": (("analyze", "one.pt", "--model", "resnet17"), 1),
    "no such file of a model": (("analyze", "one.pt", "--model", "./nothing.py:make"), 1),
    "no such folder of the report": (("analyze", "one.pt", "-o", "nothing/r.csv"), 1),
    "a folder in place of the report": (("analyze", "one.pt", "-o", "empty"), 2),
    "a strange suffix": (("analyze", "one.pt", "-o", "r.doc"), 2),
    "a strange number": (("analyze", "one.pt", "--limit", "-1"), 2),
    "a strange option": (("analyze", "one.pt", "--nothing"), 2),
    "no checkpoint named": (("analyze",), 2),
    "another command": (("nothing",), 2),
    "labels that are not there": (("analyze", "one.pt", "--labels", "nothing.csv"), 1),
    "a key that is not there": (("analyze", "one.pt", "--state-key", "nothing"), 1),
    "a good and a bad file": (("analyze", "one.pt", "text.pt"), 3),
    "no such report": (("check", "nothing.csv"), 1),
    "no report": (("report", "text.pt", "-o", "page.html"), 1),
    "one file to compare": (("compare", "checkpoints", "one.pt"), 2),
    "no such device": (("analyze", "one.pt", "--device", "abacus"), 2),
    "an example of nothing": (("examples", "nothing.pt"), 1),
    "a spectrum of nothing": (("spectrum", "nothing.pt"), 1),
    "an identity of nothing": (("verify", "nothing.pt"), 1),
    "an inspection of nothing": (("inspect", "nothing.pt"), 1),
}


def test_every_failure_is_one_line_with_a_documented_code_and_no_place_of_the_machine(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """O6: paths are said as they were typed; what stands in the environment is not said at all."""
    monkeypatch.setenv("HOME", str(workdir))
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    Path("empty").mkdir()
    Path("text.pt").write_text("no checkpoint")
    Path("net.py").write_text(NET)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10)).state_dict(), "one.pt")
    for name, (words, code) in FAILURES.items():
        given = () if "--model" in words or words[0] in {"check", "report", "inspect"} else ("--model", "./net.py:make")
        quick = () if words[0] != "analyze" else ("--eigenvalues", "0", "--limit", "2")
        extra = () if code == 2 and words[0] != "analyze" else (*given, *(q for q in quick if "--limit" not in words))
        assert code in CODES
        done = fisher(*words, *extra, code=code)
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.startswith("error:")]
        assert len(errors) == (code != 3), (name, done.stderr)
        assert str(workdir) not in done.output, (name, done.output)
        assert "hunter2" not in done.output
    record_property("O6", f"{len(FAILURES)}/{len(FAILURES)} failures")
