"""The test of the tests: of the errors planted in each place at least 24 of every 25 must be caught."""

import ast
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from types import CodeType

import pytest

from tests.mutants import ROOT, Outcome
from tests.mutation import PACKAGE, Mutation, StaleMutationError
from tests.mutations import MUTATIONS

SHARE = 24 / 25
PLACES = ("engine", "scores", "estimator", "eigenvalues", "inputs", "run")
# Of each place so many are planted by default; all of them in the long test.
SOME = 1


def some_of_each_place() -> list[Mutation]:
    draw = random.Random(0)
    chosen = {each.name for place in PLACES for each in draw.sample([m for m in MUTATIONS if m.place == place], SOME)}
    return [each for each in MUTATIONS if each.name in chosen]


def without_places(source: str) -> CodeType:
    """What it compiles to, without the text and the layout that comments and documentation give it."""
    return compile(source, "module", "exec", optimize=2)


@cache
def plain(module: str) -> CodeType:
    source = ROOT.joinpath(*f"{PACKAGE}.{module}".split(".")).with_suffix(".py").read_text()
    return without_places(ast.unparse(ast.parse(source)))


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_error_is_another_program(mutation: Mutation) -> None:
    """What it replaces is still there, once, and what comes out can be compiled and is not what went in."""
    module, tree = mutation.planted(ROOT)
    assert without_places(ast.unparse(tree)) != plain(module)


def test_every_place_has_at_least_25_planted_errors_and_their_names_differ() -> None:
    assert max(Counter(mutation.name for mutation in MUTATIONS).values()) == 1
    counts = Counter(mutation.place for mutation in MUTATIONS)
    assert set(counts) == set(PLACES)
    assert min(counts.values()) >= 25


def test_an_edit_finds_its_expression_whatever_the_layout_and_leaves_the_rest() -> None:
    """In a function by its name, with what stands for any expression; several of them, or none, are refused."""
    source = (
        "def f(x):\n    return g(\n        x / 2,  # half\n        x\n    )\n\ndef h(x):\n    return x / 2 + x / 3\n"
    )

    def planted(*edit: str) -> str:
        return ast.unparse(Mutation("", "", "m", (edit,), "").applied(source))

    assert planted("in f: _A / 2", "_A") == "def f(x):\n    return g(x, x)\n\ndef h(x):\n    return x / 2 + x / 3"
    assert "return x / 2 + x * 3" in planted("x / 3", "x * 3")
    assert planted("return g(_A, _B)", "").startswith("def f(x):\n    pass")
    for original in ("x / 2", "in h: x / _A", "in f: y", "in k: x"):
        with pytest.raises(StaleMutationError):
            planted(original, "x")
    moved = Mutation("", "", "curvature.problem.output_scores", (("in over_ranks: whole._merge(_A, _B, _C)", ""),), "")
    assert moved.planted(ROOT)[0] == "curvature.problem.moments"


@pytest.mark.ci
@pytest.mark.skipif(not hasattr(os, "fork"), reason="one process per planted error is made by forking")
@pytest.mark.parametrize(
    "planted",
    [some_of_each_place(), pytest.param(MUTATIONS, marks=pytest.mark.long)],
    ids=["some of each place", "all"],
)
def test_the_tests_catch_at_least_24_of_every_25_errors_planted_in_each_place(planted: Sequence[Mutation]) -> None:
    """The tests that catch one pass, all of them, on the code as it is, under the same conditions."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    found = subprocess.run(
        [sys.executable, "-m", "tests.mutants", *(mutation.name for mutation in planted)],
        cwd=ROOT, env=kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    *outcomes, control, checked = (Outcome(**json.loads(line)) for line in found.stdout.splitlines())
    assert (control.ended, checked.ended) == (0, 0), f"fail without an error planted: {control} {checked}"
    assert [outcome.name for outcome in outcomes] == [mutation.name for mutation in planted]
    never_ran = [outcome for outcome in outcomes if outcome.ended not in {0, 1}]
    assert not never_ran, f"the tests that are to catch these did not run: {never_ran}"
    caught = {outcome.name: outcome.caught for outcome in outcomes}
    few = []
    for place in PLACES:
        names = [mutation.name for mutation in planted if mutation.place == place]
        survived = [name for name in names if not caught[name]]
        words = (
            f"{place}: {len(names) - len(survived)} of {len(names)} caught, survived: {'; '.join(survived) or 'none'}"
        )
        print(words)
        few += [words] if len(names) - len(survived) < SHARE * len(names) else []
    assert not few, few
