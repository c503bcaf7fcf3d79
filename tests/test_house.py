"""The house rules of the architecture, kept by reading the source."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

import fisher_cli

PACKAGE = Path(fisher_cli.__file__).parent

# From the ground up, by folder: a module imports from lower floors, or from its own folder. The entries of a folder
# that is not listed here are one room, and those of one floor do not know each other.
FLOORS: Final[dict[str, list[set[str]]]] = {
    "": [
        {"errors", "text", "results", "_version"},
        {"settings", "tables", "curvature"},
        {"storage"},
        {"inputs"},
        {"run", "reports"},
        {"parallel", "api"},
        {"cli"},
        {"__main__", "__init__"},
    ],
    "curvature": [
        {"torch_backend", "linalg"},
        {"problem"},
        {"gradient_norms"},
        {"products"},
        {"traces", "spectra", "kl"},
        {"comparison"},
        {"identities"},
    ],
    "inputs": [{"formats"}, {"user_code", "checkpoints"}, {"networks", "data"}],
}


@cache
def modules() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def imported(tree: ast.Module) -> set[tuple[str, ...]]:
    """The places in the package that a module imports: ("curvature", "linalg", "krylov")."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {tuple(name.split(".")[1:]) for name in found if name.startswith("fisher_cli.")}


def imported_rooms(tree: ast.Module) -> set[str]:
    return {place[0] for place in imported(tree)}


def climbs(here: tuple[str, ...], there: tuple[str, ...]) -> bool:
    """Whether the way from one module to another leads sideways or up, in the folder where their ways part."""
    for depth, (own, other) in enumerate(zip(here, there, strict=False)):
        if own != other:
            floors = FLOORS.get("/".join(here[:depth]))
            height = {name: floor for floor, names in enumerate(floors or []) for name in names}
            return floors is not None and height[other] >= height[own]
    return False


def place(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def test_a_folder_imports_from_lower_floors_or_from_itself() -> None:
    steps = [(place(path), other) for path, tree in modules() for other in imported(tree)]
    assert not [f"{'.'.join(here)} imports {'.'.join(other)}" for here, other in steps if climbs(here, other)]


def test_every_name_in_the_package_has_its_floor() -> None:
    for folder, floors in FLOORS.items():
        entries = {each.stem for each in (PACKAGE / folder).iterdir() if each.suffix == ".py" or each.is_dir()}
        assert entries - {"__init__", "__pycache__"} == set().union(*floors) - {"__init__"}, folder
    assert len([name for floor in FLOORS[""] for name in floor if not name.startswith("_")]) <= 13


def test_the_rule_of_floors_finds_what_it_forbids() -> None:
    assert climbs(("storage", "journal"), ("run", "sequence"))
    assert climbs(("run", "sequence"), ("reports", "console"))
    assert climbs(("curvature", "linalg", "krylov"), ("curvature", "problem", "problem"))
    assert not climbs(("run", "sequence"), ("run", "movement"))
    assert not climbs(("cli", "app"), ("errors",))


def test_the_pictures_of_the_architecture_are_the_floors() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    pictures = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    for folder, picture in zip(["", "curvature"], pictures, strict=True):
        floors = re.findall(r"subgraph \w+ \[ \]\n(.*?)\n  end", picture, re.DOTALL)
        drawn = [{line.split("[")[0].strip() for line in each.splitlines() if "[" in line} for each in floors]
        assert drawn == [names - {"_version"} for names in FLOORS[folder] if "__main__" not in names]


def lines_of_code(function: ast.FunctionDef) -> int:
    """Without its docstring: that may be as long as whoever calls the function needs."""
    first = function.body[0]
    is_documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_no_function_has_more_than_sixty_lines_of_code() -> None:
    functions = [
        (path, node) for path, tree in modules() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    ]
    assert not [f"{path}: {node.name}" for path, node in functions if lines_of_code(node) > 60]


def test_a_class_has_a_name_of_its_own() -> None:
    """Within the package; private ones within their module."""
    names = Counter(node.name for _, tree in modules() for node in tree.body if isinstance(node, ast.ClassDef))
    assert not [name for name, count in names.items() if count > 1 and not name.startswith("_")]


def test_curvature_knows_nothing_but_torch_and_the_ground_floor() -> None:
    for path, tree in modules():
        if place(path)[0] == "curvature":
            assert imported_rooms(tree) <= {"curvature", "results", "errors"}, path


# What runs, imports or unpickles; each with the only modules that may: all of them take the user's own words, but for
# the rules of layers, which import the modules of their own folder.
EXECUTING: Final = {
    "torch.load": {"inputs/formats/trusted.py"},  # behind --trust-pickle
    "import_module": {"inputs/user_code.py", "__init__.py", "curvature/gradient_norms/rules/__init__.py"},
    "spec_from_file_location": {"inputs/user_code.py"},
    "exec_module": {"inputs/user_code.py"},
    "posix_spawn": {"storage/reader_process.py"},  # Python with code of our own, which reads what files hold
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
        "os.posix_spawn(program, words, environment)",
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
    assert found == ["parallel/ranks.py"]


def test_the_memory_of_the_machine_is_read_in_one_place() -> None:
    """Which honours control groups: whatever is chosen by another reader ends in a container's kill."""
    texts = {path.name: path.read_text() for path, _ in modules()}
    assert [name for name, text in texts.items() if "SC_PHYS_PAGES" in text] == ["machine_memory.py"]
    assert not [name for name, text in texts.items() if re.search("psutil|meminfo", text)]


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


def names_defined(tree: ast.Module) -> Iterator[str]:
    """Of functions and classes, and what is assigned to names and to attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield ast.unparse(node).removeprefix("self.")


def private_names_used(tree: ast.Module, private: set[str]) -> Iterator[str]:
    """Where these names are imported, looked up on what is no other library's, or given to `setattr` and its like."""
    nodes, own = list(ast.walk(tree)), {f"self.{name}" for name in names_defined(tree)}
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    others = [each for each in imports if "fisher_cli" not in ast.unparse(each)]
    foreign = {(alias.asname or alias.name).partition(".")[0] for each in others for alias in each.names}
    for node in nodes:
        if node in imports and node not in others:
            yield from private.intersection(re.findall(r"\w+", ast.unparse(node)))
        elif isinstance(node, ast.Attribute) and node.attr in private:
            text = ast.unparse(node)
            yield from () if text in own or text.partition(".")[0] in foreign else (text,)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            words = [str(each.value).rpartition(".")[2] for each in node.args if isinstance(each, ast.Constant)]
            yield from private.intersection(words)


def test_no_test_uses_a_private_name_of_the_package() -> None:
    """What is private may change without a word: a claim is made through what callers call."""
    names = {name for _, tree in modules() for name in names_defined(tree)}
    private = {name for name in names if re.fullmatch(r"_\w+(?<!_)", name)}  # notebooks call _repr_html_
    paths = [*TESTS.rglob("*.py"), *(TESTS.parent / "benchmarks").rglob("*.py")]
    used = {path: list(private_names_used(ast.parse(path.read_text()), private)) for path in sorted(paths)}
    assert not {path.name: found for path, found in used.items() if found}


@pytest.mark.parametrize(
    "line",
    [
        "from fisher_cli.run.row import _join",
        "from fisher_cli._join import join",
        "row._join(1)",
        "found.rows[0]._join.x",
        "class Mine(Row):\n    def rows(self):\n        return self._join",
        "patch.setattr(row, '_join', None)",
        "patch.setattr('fisher_cli.run.row._join', None)",
        "getattr(row, '_join')",
    ],
)
def test_the_rule_of_private_names_finds_what_it_forbids(line: str) -> None:
    assert list(private_names_used(ast.parse(line), {"_join"}))


@pytest.mark.parametrize(
    "line",
    [
        "import torch\ntorch.nn._join(1)",
        "class Mine:\n    def __init__(self):\n        self._join = 1\n    def rows(self):\n        return self._join",
        "row.join(_join)",
    ],
)
def test_private_names_of_the_test_and_of_other_libraries_are_their_own(line: str) -> None:
    assert not list(private_names_used(ast.parse(line), {"_join"}))


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
