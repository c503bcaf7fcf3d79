"""What the engine does for a device that runs behind the program, on the CPU: the same numbers.

Quick routes to norms are judged at the end of a batch, and convolutions go back by convolutions.
"""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fisher_cli.curvature.gradient_norms import engine as engine_module
from fisher_cli.curvature.gradient_norms.deferred_checks import DeferredChecks
from fisher_cli.curvature.gradient_norms.grad_factors import ExplicitGradients, OuterProducts
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from tests.cases import Case


@pytest.mark.parametrize("estimator", ["exact", "deflated"])
def test_the_numbers_are_those_of_judging_at_once(case: Case, estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for behind in (False, True):
        monkeypatch.setattr(engine_module, "runs_behind", lambda _, behind=behind: behind)
        model, inputs, labels = case.make()
        problem = pose(model, TensorData(inputs, labels), likelihood=case.likelihood, batch_size=4)
        swept = sweep(problem, estimator=estimator)
        layers = [part for layer in swept.trace.layers for part in (layer.true.value, layer.empirical.value)]
        found.append(torch.tensor([*layers, *swept.mean_gradient.tolist()], dtype=torch.float64))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


class Cancelling(nn.Module):
    """Two positions whose gradients cancel to a sixty-fourth: Gram's form has lost four digits of seven."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(40, 40, bias=False), nn.Linear(40, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.second(y[:, 0] - y[:, 1])


def test_what_cancels_is_noted_and_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, labels, model = torch.randn(5, 1, 40), torch.randint(3, (5,)), Cancelling()
    inputs = torch.cat([x, x * (1 + 1 / 64)], 1)
    expected = sweep(pose(deepcopy(model).double(), TensorData(inputs.double(), labels))).trace.layers[0].true.value
    monkeypatch.setattr(engine_module, "runs_behind", lambda _: True)
    swept = sweep(pose(model, TensorData(inputs, labels), batch_size=2))
    assert swept.trace.layers[0].name == "first.weight"
    assert "first.weight" in swept.engine.careful
    assert swept.trace.layers[0].true.value == pytest.approx(expected, rel=2e-5)


class Reads(TorchDispatchMode):
    """Counts what waits for a value."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func._overloadpacket.__name__ in {"_local_scalar_dense", "is_nonzero", "item"}
        return func(*args, **(kwargs or {}))


def test_norms_of_many_layers_ask_one_question() -> None:
    generator = torch.Generator().manual_seed(0)
    deferred_checks, reads = DeferredChecks(), Reads()
    with reads:
        for layer in range(7):
            a = torch.randn(3, 1, 30, 5, generator=generator)
            delta = torch.randn(4, 3, 1, 20, 5, generator=generator)
            OuterProducts(a, delta).squared_norms(deferred_checks.of(f"{layer}.weight"))
            OuterProducts(a[..., :1], delta[..., :1]).squared_norms(deferred_checks.of(f"{layer}.other"))
            ExplicitGradients(delta.flatten(2)).squared_norms(deferred_checks.of(f"{layer}.bias"))
    assert reads.count == 0
    assert deferred_checks.owners() == set()
    ExplicitGradients(torch.full((1, 1, 4), 1e-25)).squared_norms(deferred_checks.of("tiny"))
    assert deferred_checks.owners() == {"tiny"}
