import importlib
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

# Set before torch is imported: small problems are slower on several threads, and workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("FISHER_DATA_DIR", None)

import hypothesis
import numpy as np
import pytest
import torch

from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.results import Identity, Verification
from tests.cases import CASES, Case
from tests.data_files import save_image
from tests.long_lists import leave_to_ci
from tests.reference import Reference, reference
from tests.small_run import write_checkpoints

# Processes are forked, and may not share threads.
torch.set_num_threads(1)

# A shell that starts the tests in the background lets them, and all their processes, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, and as long for each as the machine takes.
hypothesis.settings.register_profile("the same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("the same")


@pytest.fixture(autouse=True)
def _the_same_numbers_whatever_ran_before() -> None:
    """Seed all that draws: what a test finds does not depend on those before it in the same process."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before marks are selected by `-m`."""
    leave_to_ci(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests leave in `record_property`: values called `tally` counted, others in the runs of the long lists."""
    reports = [each for outcome in ("passed", "failed") for each in terminalreporter.stats.get(outcome, ())]
    noted = [(each.nodeid, *pair) for each in reports if each.when == "call" for pair in each.user_properties]
    tally = Counter(str(value) for _, name, value in noted if name == "tally")
    lines = [f"{count} × {value}" for value, count in sorted(tally.items())]
    if "long" in terminalreporter.config.option.markexpr.replace("not long", "", 1):
        lines += [f"{test}: {name}: {value}" for test, name, value in noted if name != "tally"]
    if lines:
        terminalreporter.section("counts")
        for line in lines:
            terminalreporter.write_line(line)


_references: dict[tuple[str, torch.dtype], Reference] = {}


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def problem_of(case: Case, dtype: torch.dtype = torch.float64, batch_size: int = 4) -> Problem:
    """The case as a problem; four does not divide six, so the last batch is uneven."""
    model, inputs, labels = case.make(dtype)
    return pose(model, TensorData(inputs, labels), likelihood=case.likelihood, batch_size=batch_size)


def reference_of(case: Case, dtype: torch.dtype = torch.float64) -> Reference:
    """The oracle's answer for the case, computed once; weights in the given precision, arithmetic in float64."""
    key = (case.name, dtype)
    if key not in _references:
        _references[key] = reference(*case.make(dtype), case.likelihood)
    return _references[key]


def identity_of(found: Verification, name: str) -> Identity:
    return next(each for each in found.identities if each.name == name)


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, and a terminal of no colours and no known width.

    What tests put on the import path or import from there is gone afterwards.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path[:])
    monkeypatch.setattr("sys.meta_path", sys.meta_path[:])  # finders of what lies here go too
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("FISHER_DATA_DIR", raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:  # packages without a file of their own have a path alone
        module = sys.modules[name]
        places = [str(getattr(module, "__file__", None)), *map(str, getattr(module, "__path__", None) or ())]
        if any(place.startswith(str(tmp_path)) for place in places):
            del sys.modules[name]


@pytest.fixture
def ckpts(workdir: Path) -> Path:
    """The folder ckpts/ with twelve small checkpoints; `make` in net.py builds their network."""
    write_checkpoints(12)
    return workdir / "ckpts"


@pytest.fixture(name="reference")
def _pages_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """docs/reference.py, which writes the pages that are made from the code."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "docs")
    return importlib.import_module("reference")


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    save_image(root / "cat" / "b.png", seed=1)
    save_image(root / "cat" / "a.jpg", seed=2)
    save_image(root / "cat" / "deeper" / "0.webp", seed=3)
    save_image(root / "Dog" / "10.PNG", mode="L", seed=4)
    save_image(root / "Dog" / "9.jpeg", mode="L", seed=5)
    save_image(root / "Dog" / "x.png", mode="RGBA", seed=6)
    (root / "Dog" / "notes.txt").write_text("no image")
    (root / "readme.md").write_text("no class")
    return root
