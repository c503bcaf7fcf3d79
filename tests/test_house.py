"""The house rules of the architecture, kept by reading the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import fisher_cli

PACKAGE = Path(fisher_cli.__file__).parent

# Floors from the ground up; a module imports only from floors below its own, or from its own folder.
GROUND = {
    "shards",
    "settings",
    "presets",
    "results",
    "errors",
    "cells",
    "columns",
    "comparison_columns",
    "durable",
    "codec",
    "dialects",
    "launch",
    "machine",
    "watch",
    "checked_lines",
    "seal",
} | {"__init__"}
FLOORS: list[set[str]] = [
    GROUND,
    {"rows", "comparison_rows", "example_rows", "glossary", "tables", "identity_tables", "table_reading", "row_files"}
    | {
        "metadata",
        "outputs",
        "formats",
        "recollection",
        "long_form",
        "workbooks",
        "workbook_reading",
        "records",
        "integrity",
        "inputs",
        "curvature",
        "trajectory",
        "lock",
        "accelerator",
    },
    {"trail", "selection", "comparing", "verification", "measurement", "normalizing", "examples", "analysis", "run"}
    | {"library", "checkpoint_comparison", "reports", "distributed", "agreement"}
    | {"rejoining", "row_sequence"}
    | {"clock", "refusals"}
    | {"sharing", "crew", "devices", "parts", "merging"}
    | {"outline", "growth", "matrix_probe", "probe", "forecast"},
    {"cli", "__main__"},
]
# Which of the same floor may be used by whom.
BESIDE = {
    "accelerator": {"curvature"},
    "columns": {"cells"},
    "comparison_columns": {"columns"},
    "presets": {"settings", "errors"},
    "shards": {"errors", "cells"},
    "settings": {"shards", "cells"},
    "watch": {"launch", "errors", "durable"},
    "rows": {"trajectory"},
    "comparison_rows": {"rows"},
    "example_rows": {"rows"},
    "identity_tables": {"rows", "tables"},
    "tables": {"rows", "comparison_rows", "trajectory", "glossary"},
    "table_reading": {"tables", "glossary", "rows", "workbook_reading"},
    "row_files": {"tables", "durable", "workbooks"},
    "long_form": {"glossary", "rows", "tables"},
    "workbooks": {"glossary", "tables"},
    "formats": {"tables", "workbooks"},
    "outputs": {"tables", "row_files", "workbooks", "formats"},
    "integrity": {"table_reading", "outputs", "records", "formats", "rows"},
    "measurement": {"trail", "comparing", "verification", "selection", "clock", "refusals"},
    "analysis": {"examples"},
    "records": {"lock"},
    "rejoining": {"measurement", "trail"},
    "row_sequence": {"rejoining", "trail"},
    "run": {"measurement", "normalizing", "analysis", "trail", "rejoining", "row_sequence", "agreement"} | {"refusals"},
    "library": {"run", "analysis", "measurement", "normalizing", "trail"},
    "sharing": {"run", "measurement", "row_sequence"},
    "crew": {"sharing"},
    "devices": {"crew", "sharing", "measurement", "row_sequence", "trail"},
    "merging": {"parts"},
    "outline": {"selection"},
    "matrix_probe": {"measurement", "growth"},
    "probe": {"run", "measurement", "trail", "selection", "growth", "matrix_probe"},
    "forecast": {"probe", "outline", "run"},
    "checkpoint_comparison": {"measurement", "run", "refusals"},
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
            assert imported_rooms(tree) <= {"curvature", "results", "errors", "machine"}, path


INPUT_FLOORS: Final = {"formats": 0, "factories": 1, "checkpoints": 1, "networks": 2, "data": 2}


def test_the_folders_of_inputs_are_floors_too() -> None:
    for path, tree in modules():
        if room(path) == "inputs" and path.parent.name != "fisher_cli" and path.name != "__init__.py":
            here = path.relative_to(PACKAGE / "inputs").parts[0].removesuffix(".py")
            modules_used = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            used = {name.split(".")[2] for name in modules_used if name.startswith("fisher_cli.inputs.")}
            for other in used - {here}:
                assert INPUT_FLOORS[other] < INPUT_FLOORS[here], f"{path.relative_to(PACKAGE)} imports {other}"


# What runs, imports or unpickles; each with the only modules that may, all of which take the user's own words.
EXECUTING: Final = {
    "torch.load": {"inputs/formats/trusted.py"},  # behind --trust-pickle
    "import_module": {"inputs/factories.py", "__init__.py"},
    "spec_from_file_location": {"inputs/factories.py"},
    "exec_module": {"inputs/factories.py"},
}
NEVER: Final = (
    *("yaml.load", "torch.jit.load", "torch.export.load", "torch.hub.load", "torch.serialization.load", "read_pickle"),
    *("execfile", "os.system", "os.popen", "os.execv", "os.startfile", "run_path", "run_module", "add_safe_globals"),
    *("builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__"),
)
BUILTINS: Final = {"eval", "exec", "compile", "__import__"}
UNPICKLING: Final = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "subprocess", "runpy"}


def calls(tree: ast.Module) -> Iterator[tuple[str, dict[str | None, str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def forbidden(path: str, tree: ast.Module) -> Iterator[str]:
    """What in this module could run something found in a file."""
    for name, keywords in calls(tree):
        named = {executing for executing in (*EXECUTING, *NEVER) if name == executing or name.endswith(f".{executing}")}
        named -= {"torch.load"} if name == "safetensors.torch.load" else set()  # no pickle
        if name in BUILTINS or any(path not in EXECUTING.get(executing, set()) for executing in named):
            yield name
        if name.rpartition(".")[2] == "load" and name.startswith(("np.", "numpy.")):
            yield from () if keywords.get("allow_pickle") == "False" else (name,)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (name for name in names if name.partition(".")[0] in UNPICKLING)


def test_nothing_found_in_a_file_can_be_executed() -> None:
    for path, tree in modules():
        assert not list(forbidden(path.relative_to(PACKAGE).as_posix(), tree)), path


def test_the_one_loader_that_runs_files_is_used_in_one_place_that_is_told_to() -> None:
    loads = [(path, keywords) for path, tree in modules() for name, keywords in calls(tree) if name == "torch.load"]
    assert [(path.name, keywords["weights_only"]) for path, keywords in loads] == [("trusted.py", "False")]
    uses = {path.name for path, tree in modules() for name, _ in calls(tree) if name == "load_trusting"}
    assert uses == {"containers.py"}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f, weights_only=True)",
        "np.load(f, allow_pickle=True)",
        "numpy.load(f)",
        "eval(text)",
        "builtins.exec(text)",
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "importlib.import_module(name)",
        "pd.read_pickle(f)",
        "yaml.load(f)",
        "torch.serialization.add_safe_globals([x])",
        "import subprocess",
    ],
)
def test_the_rule_above_finds_what_it_forbids(line: str) -> None:
    assert list(forbidden("inputs/other.py", ast.parse(line)))


def names_torch_distributed(tree: ast.Module) -> bool:
    texts = [
        ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom | ast.Attribute)
    ]
    return any("torch.distributed" in text or text == "from torch import distributed" for text in texts)


def test_collectives_are_in_one_place() -> None:
    """Checkpoints that torch.distributed has written are read without it."""
    found = [path.relative_to(PACKAGE).as_posix() for path, tree in modules() if names_torch_distributed(tree)]
    assert found == ["distributed.py"]


def test_the_memory_of_the_machine_is_read_in_one_place() -> None:
    """Which honours control groups: whatever is chosen by another reader ends in a container's kill."""
    found = {path.name for path, _ in modules() if "SC_PHYS_PAGES" in path.read_text()}
    assert found == {"machine.py"}
    assert not [path for path, tree in modules() if "psutil" in ast.unparse(tree) or "meminfo" in ast.unparse(tree)]


TESTS = Path(__file__).parent
# What is another number on a busy machine. `tests/waiting.py` waits for what happens and counts its pauses.
CLOCKS: Final = {
    *("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time"),
    *("process_time_ns", "thread_time", "sleep"),
}
RESIDENT: Final = {
    *("getrusage", "wait4", "ru_maxrss", "ru_utime", "ru_stime", "peak_memory", "resident_memory", "psutil"),
    *("cpu_percent", "memory_info"),
}
RESIDENT_FILES: Final = ("/proc/self/stat", "/proc/meminfo", "schedstat", "clear_refs", "VmRSS", "VmHWM")


def depends_on_the_machine(tree: ast.Module) -> Iterator[str]:
    """Where a test reads a clock, sleeps for a while, or reads how much memory is resident."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id == "time" and node.attr in CLOCKS) or node.attr in RESIDENT:
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module in {"time", "psutil"}:
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (name for name in RESIDENT_FILES if node.value.startswith(name) or f"/{name}" in node.value)
        elif isinstance(node, ast.keyword) and node.arg == "timeout" and isinstance(node.value, ast.Constant):
            yield f"timeout={node.value.value}"


@pytest.mark.parametrize(
    "path", sorted({*TESTS.rglob("*.py")} - {TESTS / "waiting.py", TESTS / "test_house.py"}), ids=lambda path: path.name
)
def test_no_test_depends_on_the_clock_or_on_resident_memory(path: Path) -> None:
    """Live bytes are counted by `tests/live_memory.py`, work by calls; figures of time belong into benchmarks."""
    assert not list(depends_on_the_machine(ast.parse(path.read_text())))


@pytest.mark.parametrize(
    "line",
    [
        "start = time.perf_counter()",
        "time.sleep(1)",
        "from time import monotonic",
        "peak = machine.peak_memory()",
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss",
        "Path('/proc/self/statm').read_text()",
        "Path(f'/proc/{child}/schedstat')",
        "process.wait(timeout=30)",
    ],
)
def test_the_rule_above_finds_what_it_names(line: str) -> None:
    assert list(depends_on_the_machine(ast.parse(line)))


def test_only_the_console_prints() -> None:
    for path, tree in modules():
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        if path.name != "console.py":
            assert "print" not in calls, path


@pytest.mark.parametrize("words", [["--help"], ["analyze", "--help"], ["models", "--help"], ["--version"], ["nothing"]])
def test_help_answers_without_what_takes_long_to_import(words: list[str]) -> None:
    code = f"""
import atexit, sys
atexit.register(lambda: print("imported:", [m for m in ("torch", "pandas", "pyarrow") if m in sys.modules]))
sys.argv = ["fisher", *{words}]
from fisher_cli.cli.app import main
main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == (2 if words == ["nothing"] else 0), found.stderr
    assert found.stdout.splitlines()[-1] == "imported: []"
