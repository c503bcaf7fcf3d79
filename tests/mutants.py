"""Runs tests of this folder on the package with one planted error: `python -m tests.mutants NAME…`, a JSON line each.

Modules import names from each other, so an error is planted in the source before anything is imported. One parent
that has imported torch, and nothing of the package, forks a child per error. The run-time checks inside `sweep` are
silent there: the tests must find the error by themselves.
"""

import ast
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from tests.mutation import CHECKS, PACKAGE, Mutation
from tests.mutations import MUTATIONS

ROOT = Path(__file__).parent.parent
# What the tests import besides the package; imported once, before the forks.
SHARED = ("torch.func", "torchvision", "pandas")
# Tests of the run-time checks themselves; they fail where those are silent.
OF_THE_CHECK = (
    "tests/curvature/traces/test_traces.py::test_what_cannot_be_measured_is_refused_in_one_line",
    "tests/curvature/gradient_norms/test_any_network.py::test_outputs_that_depend_on_anything_but_the_example_are_refused",
)
# An error that makes a test run for ever is none that the tests catch.
SECONDS = 120


@dataclass(frozen=True)
class Outcome:
    """What became of an error: the first test that failed and with what, or nothing.

    `ended` is pytest's exit status: 0 all passed, 1 one failed, anything else that the tests never ran properly.
    """

    name: str
    ended: int
    test: str = ""
    error: str = ""

    @property
    def caught(self) -> bool:
        return self.ended == pytest.ExitCode.TESTS_FAILED and bool(self.test)


class _Loader(SourceFileLoader):
    """Loads a module from its syntax tree with the edits of a mutation; never from a cache."""

    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self._tree = tree

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the loader is of one module
        return compile(self._tree, self.path, "exec")


class _Finder(MetaPathFinder):
    """Finds one module, and has the mutated one loaded in its place."""

    def __init__(self, mutation: Mutation) -> None:
        self._module, self._tree = mutation.planted(ROOT)
        self.found = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != f"{PACKAGE}.{self._module}":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(fullname, spec.origin, self._tree)
        self.found = True
        return spec


class _FirstFailure:
    """The pytest plugin that remembers the first failed test and the kind of its error."""

    def __init__(self) -> None:
        self.test, self.error = "", ""

    @pytest.hookimpl
    def pytest_collection_finish(self) -> None:
        """Let files be read in this process: in the one of its own that they have else no error is planted."""
        reader = sys.modules.get(f"{PACKAGE}.storage.reader_process")
        if reader is not None:
            vars(reader)["ReaderOwner"].is_possible = False

    @pytest.hookimpl
    def pytest_exception_interact(self, node: pytest.Item, call: pytest.CallInfo[object]) -> None:
        if not self.test and call.excinfo is not None:
            self.test, self.error = node.nodeid, call.excinfo.typename


def _silence_the_checks() -> None:
    """Let the run-time checks find what they will, and say nothing."""
    errors = importlib.import_module("fisher_cli.errors")

    def silenced(check: Callable[..., object]) -> Callable[..., object]:
        def silent(*arguments: object, **words: object) -> object:
            with contextlib.suppress(errors.CoupledExamplesError, errors.VerificationError):
                return check(*arguments, **words)
            return None

        return silent

    for name in CHECKS:
        module = vars(importlib.import_module(f"{PACKAGE}.{name}"))
        module["check"] = silenced(module["check"])
    checker = importlib.import_module(f"{PACKAGE}.{CHECKS[0]}").Checker
    checker.look_at = silenced(checker.look_at)


def _run(mutation: Mutation | None, tests: Sequence[str], *, checked: bool) -> tuple[int, str, str]:
    """Exit status of pytest, first failed test and its error, in a process that has not imported the package."""
    assert not any(name.split(".")[0] == "fisher_cli" for name in sys.modules)
    finder = _Finder(mutation) if mutation is not None else None
    if finder is not None:
        sys.meta_path.insert(0, finder)
    options = ["-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
    if not checked:
        _silence_the_checks()
        options += [word for test in OF_THE_CHECK for word in ("--deselect", test)]
    if all("[" in test for test in tests):  # one case of a list, whether it is among those that run by default or not
        options += ["-m", ""]
    first = _FirstFailure()
    ended = pytest.main([*options, *tests], plugins=[first])
    assert finder is None or finder.found, "the tests never import the module"
    return int(ended), first.test, first.error


def in_a_child(mutation: Mutation | None, tests: Sequence[str], *, checked: bool) -> Outcome:
    """The outcome of the tests in a forked process, whose output is thrown away."""
    name = mutation.name if mutation is not None else "no error"
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ended, test, error = -1, "", ""
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: on a busy machine they last longer
            signal.alarm(10 * SECONDS)
            silence = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(silence, stream)
            ended, test, error = _run(mutation, tests, checked=checked)
        except BaseException as failure:
            error = f"{type(failure).__name__}: {failure}"
        finally:
            os.write(writing, json.dumps([ended, test, error]).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return Outcome(name, *json.loads(answer)) if answer else Outcome(name, -1, error=f"no end after {SECONDS} seconds")


def warm() -> None:
    """Import what the tests share, and let torch load what it loads on first use."""
    import torch

    torch.set_num_threads(1)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for name in SHARED:
        importlib.import_module(name)
    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(x.exp(), x, torch.eye(2), is_grads_batched=True)
    torch.func.jvp(torch.exp, (torch.ones(2),), (torch.ones(2),))
    gc.freeze()


def main(names: Sequence[str]) -> None:
    """Print the outcome of every named mutation, then that of the tests which caught one, on the unchanged code.

    These last ones first with the run-time checks silent, then those of the checks themselves with them on.
    """
    warm()
    catchers: dict[bool, dict[str, None]] = {False: {}, True: {}}
    for mutation in (mutation for mutation in MUTATIONS if mutation.name in names):
        outcome = in_a_child(mutation, [mutation.tests], checked=mutation.is_in_a_check)
        print(json.dumps(asdict(outcome)), flush=True)
        if outcome.caught:
            catchers[mutation.is_in_a_check][outcome.test] = None
    for checked, tests in catchers.items():
        # Without a test named, pytest would run all of them.
        control = in_a_child(None, list(tests), checked=checked) if tests else Outcome("no error", 0)
        print(json.dumps(asdict(control)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
