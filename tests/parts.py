"""Networks put together from parts and one function, held against the oracle tensor by tensor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from tests.reference import reference

Body = Callable[["Network", Tensor], Tensor]


class Network(nn.Module):
    """Parts by name, and what is done with them."""

    def __init__(self, body: Body, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_parameter(name, nn.Parameter(part))
        self.body = body

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.5


def compare(network: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> dict[str, str]:
    """Hold both traces of every tensor against the oracle, in float64; what the ledger says of each."""
    expected = reference(network, x, y)
    true, empirical = expected.traces(expected.fisher), expected.traces(expected.empirical)
    trace = sweep(pose(network.double(), TensorData(x, y), batch_size=batch_size)).trace
    for layer in trace.layers:
        assert true[layer.name] > 0, layer.name
        assert layer.true.value == pytest.approx(true[layer.name], rel=1e-10), layer
        assert layer.empirical.value == pytest.approx(empirical[layer.name], rel=1e-10), layer
    return {layer.name: layer.method for layer in trace.layers}


def compare_in_single_precision(network: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> None:
    """Hold the true trace of every tensor against the oracle, in float32."""
    expected = reference(network, x, y)
    true = expected.traces(expected.fisher)
    x = x.float() if x.is_floating_point() else x
    for layer in sweep(pose(network.float(), TensorData(x, y), batch_size=batch_size)).trace.layers:
        assert layer.true.value == pytest.approx(true[layer.name], rel=2e-5), layer
