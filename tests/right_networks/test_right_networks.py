"""The traces of every parameter of networks of all kinds are those of a plain loop, in batches of any size.

`verify` finds nothing wrong with them: a tenth of them by default, all with `make test-long`.
"""

import random

import pytest

from fisher_cli import analyze, verify
from tests.cases import Case
from tests.reference import layer_traces
from tests.right_networks import functions, huggingface, parameters, recurrent

CASES = [case for module in (recurrent, parameters, functions, huggingface) for case in module.CASES]
VERIFIED = random.Random(0).sample(CASES, len(CASES) // 10)
# What torch and transformers say about such networks.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_traces_of_every_parameter_are_those_of_the_loop(case: Case) -> None:
    right = layer_traces(*case.make(), case.likelihood)
    total = sum(true for true, _ in right.values())
    assert total > 0
    for batch_size in (None, 1, 3):
        model, inputs, labels = case.make()
        found = analyze(
            model,
            (inputs, labels),
            eigenvalues=0,
            batch_size=batch_size,
            precision="float64",
            likelihood=case.likelihood,
        )
        assert found.table["status"].tolist() == ["ok"]
        assert set(found.layers["layer"]) == set(right)
        for row in found.layers.itertuples():
            traces = pytest.approx(right[row.layer], rel=1e-10, abs=1e-15 * total)
            assert (row.trace_true, row.trace_empirical) == traces, (row.layer, row.method, batch_size)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=() if case in VERIFIED else pytest.mark.long) for case in CASES],
    ids=lambda case: case.name,
)
def test_verify_has_nothing_against_them(case: Case) -> None:
    model, inputs, labels = case.make()
    found = verify(model, (inputs, labels), likelihood=case.likelihood).identities
    assert found.loc[found["verdict"] == "fail", "identity"].tolist() == []


def test_there_are_enough_and_their_names_differ() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40
