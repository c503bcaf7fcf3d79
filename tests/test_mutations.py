"""The test of the tests: at least 96 % of the errors planted in the curvature package must be caught."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

import fisher_cli
from tests.mutants import ROOT, Outcome
from tests.mutation import PACKAGE, Mutation
from tests.mutations import MUTATIONS

SHARE = 0.96
THIRD = sorted(random.Random(0).sample(range(len(MUTATIONS)), len(MUTATIONS) // 3))


def source_of(module: str) -> str:
    path = Path(fisher_cli.__file__).parent.parent.joinpath(*f"{PACKAGE}.{module}".split("."))
    return path.with_suffix(".py").read_text()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_planted_error_is_another_program(mutation: Mutation) -> None:
    """What it replaces is still there, once, and what comes out can be compiled and is not what went in."""
    source = source_of(mutation.module)
    mutated = mutation.applied(source)
    assert compile(mutated, "mutated", "exec", optimize=2) != compile(source, "mutated", "exec", optimize=2)


def test_the_names_of_the_planted_errors_differ() -> None:
    assert max(Counter(mutation.name for mutation in MUTATIONS).values()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="one process per planted error is made by forking")
@pytest.mark.parametrize(
    "planted",
    [[MUTATIONS[index] for index in THIRD], pytest.param(MUTATIONS, marks=pytest.mark.long)],
    ids=["a third", "all"],
)
def test_the_tests_catch_at_least_96_percent_of_the_planted_errors(planted: Sequence[Mutation]) -> None:
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
    survived = [outcome.name for outcome in outcomes if not outcome.caught]
    words = f"caught {len(outcomes) - len(survived)} of {len(outcomes)}: survived {'; '.join(survived) or 'none'}"
    print(words)
    assert len(outcomes) - len(survived) >= SHARE * len(outcomes), words
