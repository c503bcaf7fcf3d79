"""The house rules of the architecture, kept by reading the source."""

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fisher_cli

PACKAGE = Path(fisher_cli.__file__).parent

# Floors from the ground up; a module imports only from floors below its own, or from its own folder.
GROUND = {"settings", "results", "errors", "cells", "columns", "durable", "codec", "__init__"}
FLOORS: list[set[str]] = [
    GROUND,
    {"rows", "metadata", "tables", "outputs", "records", "integrity", "inputs", "curvature"},
    {"measurement", "normalizing", "analysis", "run", "reports"},
    {"cli", "__main__"},
]
# Which of the same floor may be used by whom.
BESIDE = {
    "columns": {"cells"},
    "tables": {"rows"},
    "outputs": {"tables"},
    "integrity": {"tables", "outputs", "records"},
    "run": {"measurement", "normalizing", "analysis"},
    "__main__": {"cli"},
}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fisher_cli":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fisher_cli.")}
    return found


def floor(name: str) -> int:
    return next((level for level, names in enumerate(FLOORS) if name in names), 0)


def test_imports_only_go_down() -> None:
    for path, tree in modules():
        here = room(path)
        if here == "__init__":
            continue
        assert any(here in names for names in FLOORS), f"{here} has no floor"
        for other in imported_rooms(tree) - {here, "__version__"}:
            allowed = floor(other) < floor(here) or other in BESIDE.get(here, set())
            assert allowed, f"{path.relative_to(PACKAGE)} imports {other}"


def test_curvature_knows_nothing_but_torch_and_the_ground_floor() -> None:
    for path, tree in modules():
        if room(path) == "curvature":
            assert imported_rooms(tree) <= {"curvature", "results", "errors"}, path


def test_nothing_found_in_a_file_can_be_executed() -> None:
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert name not in {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "torch.jit.load"}, path
                if name == "torch.load":
                    assert keywords.get("weights_only") == "True", path
                if name.endswith("np.load") or name == "numpy.load":
                    assert keywords.get("allow_pickle") == "False", path


def test_only_the_console_prints() -> None:
    for path, tree in modules():
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        if path.name != "console.py":
            assert "print" not in calls, path


def test_help_answers_without_torch_and_at_once() -> None:
    code = "import sys, fisher_cli.cli.app; print([m for m in ('torch', 'pandas', 'pyarrow') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fisher_cli", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    # The promise is half a second; a loaded machine gets some grace, an import of torch (over a second) does not.
    assert min(times) < 1.0


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350
