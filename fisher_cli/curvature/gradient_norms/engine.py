"""Squared per-example gradient norms of a batch, for many score directions at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.batching import DIRECTIONS_AT_ONCE
from fisher_cli.curvature.gradient_norms import per_example
from fisher_cli.curvature.gradient_norms.capture import Calls, recorded_calls
from fisher_cli.curvature.gradient_norms.coverage import Coverage
from fisher_cli.curvature.problem import Batch, Problem, reproducible_kernels
from fisher_cli.errors import VerificationError


@dataclass(frozen=True)
class Pass:
    """One batch evaluated: its outputs with their graph, and the squared norms of any directions.

    norms(directions (K, B, C)) is {parameter name: ‖Jᵀ v‖² (K, B) in float64}.
    """

    outputs: Tensor
    norms: Callable[[Tensor], dict[str, Tensor]]


def evaluate(problem: Problem, coverage: Coverage, batch: Batch) -> Pass:
    """Run a batch forward, ready for any number of directions; the graph lives as long as the result."""
    with reproducible_kernels(), recorded_calls({n: layer for n, (layer, _) in coverage.layers.items()}) as calls:
        outputs = problem.forward(batch.inputs)
    _check_calls(coverage, calls, len(batch))

    def norms(directions: Tensor) -> dict[str, Tensor]:
        parts = [some_norms(some) for some in torch.split(directions, DIRECTIONS_AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]) for name in coverage.methods}

    def some_norms(directions: Tensor) -> dict[str, Tensor]:
        found = _by_rules(coverage, calls, outputs, directions)
        if coverage.per_example:
            found |= per_example.squared_norms(problem, batch, directions, coverage.per_example)
        zero = torch.zeros(directions.shape[:2], dtype=torch.float64, device=directions.device)
        return {name: found.get(name, zero) for name in coverage.methods}

    return Pass(outputs, norms)


def _check_calls(coverage: Coverage, calls: Calls, examples: int) -> None:
    """Hold every batch against what the plan assumed of each layer.

    Raises:
        VerificationError: the network took another path than in the planning pass.
    """
    for name in coverage.layers:
        if not calls.called_once(name, examples):
            msg = (
                f"layer {name} was not used in this batch as in the first one (its forward pass depends on the "
                "data or the batch size): its gradients cannot be attributed to examples"
            )
            raise VerificationError(msg)


def _by_rules(coverage: Coverage, calls: Calls, outputs: Tensor, directions: Tensor) -> dict[str, Tensor]:
    """One backward pass per direction for the cotangents of all layers, then one product per layer.

    Asking for the layers' output edges alone means that no weight gradient is ever computed.
    """
    names = list(coverage.layers)
    edges = [calls.by_layer[name][0].edge for name in names]
    by_direction = []
    if edges:
        with reproducible_kernels():
            by_direction = [
                torch.autograd.grad(outputs, edges, direction, retain_graph=True) for direction in directions
            ]
    found: dict[str, Tensor] = {}
    for index, name in enumerate(names):
        layer, rule = coverage.layers[name]
        cotangents = torch.stack([gradients[index] for gradients in by_direction])
        with torch.no_grad():
            norms = rule.squared_norms(layer, calls.by_layer[name][0].inputs, cotangents)
        for local_name, values in norms.items():
            if (name, local_name) in coverage.covered:
                found[coverage.covered[name, local_name]] = values
    return found
