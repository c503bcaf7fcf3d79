"""The traces of every parameter of networks of all kinds are those of a plain loop, in batches of any size.

`verify` finds nothing wrong with them. By default a tenth of them is tried, and half of these with `verify`; all of
them with `make test-long`.
"""

import pytest
import torch

from fisher_cli import analyze, verify
from fisher_cli.errors import FisherError
from tests.cases import Case
from tests.long_lists import some
from tests.reference import layer_traces
from tests.right_networks import functions, huggingface, parameters, recurrent

CASES = [case for module in (recurrent, parameters, functions, huggingface) for case in module.CASES]
# What torch and transformers say about such networks.
pytestmark = pytest.mark.filterwarnings("ignore")


def plainly(name: str) -> str:
    """A parametrised weight's name as `analyze` shows it, where it has one original: without the parametrisation."""
    return name.removesuffix(".original").replace("parametrizations.", "") if name.endswith(".original") else name


@pytest.mark.parametrize("case", some(CASES), ids=lambda case: case.name)
def test_the_traces_of_every_parameter_are_those_of_the_loop(case: Case) -> None:
    right = {plainly(name): traces for name, traces in layer_traces(*case.make(), case.likelihood).items()}
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
            tolerance = 1e-6 if case.name in huggingface.FLOAT32_INSIDE else 1e-10
            traces = pytest.approx(right[row.layer], rel=tolerance, abs=1e-15 * total)
            assert (row.trace_true, row.trace_empirical) == traces, (row.layer, row.method, batch_size)


@pytest.mark.parametrize("case", some(CASES, part=0.05), ids=lambda case: case.name)
def test_verify_has_nothing_against_them(case: Case) -> None:
    model, inputs, labels = case.make()
    found = verify(model, (inputs, labels), likelihood=case.likelihood).identities
    assert found.loc[found["verdict"] == "fail", "identity"].tolist() == []


def test_reentrant_recomputation_which_torch_cannot_derive_is_refused_by_name() -> None:
    inputs, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    with pytest.raises(FisherError, match="use_reentrant"):
        analyze(functions.Recomputed(reentrant=True), (inputs, labels), eigenvalues=0)


def test_there_are_enough_and_their_names_differ() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 40
