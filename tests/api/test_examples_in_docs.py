"""What docstrings and the notebook show is what a reader gets."""

import ast
import contextlib
import doctest
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fisher_cli
from tests.documents import ROOT, check_shown

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.mark.parametrize("name", ["analyze", "compare", "examples", "inspect", "spectrum", "verify"])
def test_the_example_of_a_function_runs(name: str) -> None:
    (test,) = doctest.DocTestFinder(recurse=False).find(getattr(fisher_cli, name), name, globs={})
    said = io.StringIO()
    found = doctest.DocTestRunner(verbose=False).run(test, out=said.write)
    assert found.attempted >= 2
    assert not found.failed, said.getvalue()


def cells() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"]), cell["outputs"]


def executed(source: str, names: dict[str, Any]) -> tuple[str, Any]:
    """What a cell prints, and the value of its last line."""
    tree, value = ast.parse(source), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, str(NOTEBOOK), "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)
    return printed.getvalue(), value


def test_the_notebook_says_what_its_cells_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    kinds = set()
    for source, outputs in cells():
        printed, value = executed(source, names)
        for output in outputs:
            if output["output_type"] == "stream":
                check_shown(source, "".join(output["text"]).splitlines(), printed)
                continue
            kinds |= set(output["data"])
            check_shown(source, "".join(output["data"]["text/plain"]).splitlines(), repr(value))
        assert bool(outputs) == (value is not None or bool(printed)), source
    assert {path.name for path in tmp_path.iterdir()} >= {"trend.csv", "trend.html"}
    assert kinds == {"text/plain", "text/html", "image/png"}


def test_the_notebook_was_executed_from_the_first_cell_to_the_last() -> None:
    found = json.loads(NOTEBOOK.read_text())["cells"]
    counts = [cell["execution_count"] for cell in found if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert "/tmp" not in NOTEBOOK.read_text()
