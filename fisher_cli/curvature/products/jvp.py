"""J v of a batch: by forward mode, by a backward pass through the backward pass, or row by row."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import jvp

from fisher_cli.curvature.gradient_norms.call_recorder import recorded_calls
from fisher_cli.curvature.linalg.sums import dot
from fisher_cli.curvature.problem.batching import graph_bytes
from fisher_cli.curvature.problem.problem import Batch, Problem
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.functional_call import parameters_replaced
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.curvature.torch_backend.patches import TRANSPOSABLE_LAYERS
from fisher_cli.curvature.torch_backend.vjp import gradients_in_turn

PushForward = Callable[[Batch, Mapping[str, Tensor]], tuple[Tensor, Tensor]]
"""(batch, v by parameter) → outputs (B, C) and J v (B, C)."""

# Largest accepted difference between uᵀ(J v) and (Jᵀu)ᵀ v, relative to ‖u‖‖J v‖. Tight, since the other way
# is as exact and only slower.
ADJOINT_TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
ADJOINT_EXAMPLES = 3
# Graphs of transposes, which hold a gradient each, are kept where it is no more than this share of what may be kept.
GRADIENT_SHARE = 1 / 16


@cache
def _load_forward_mode() -> None:
    """Let torch load its forward-mode formulas now; it compiles some with a function that it calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


def _forward_mode(problem: Problem) -> PushForward:
    """J v by forward-mode differentiation: about three forward passes, and no graph."""

    def push(batch: Batch, tangents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        primal = {name: parameter.detach() for name, parameter in problem.parameters.items()}

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            with parameters_replaced(problem.model, problem.parameters, parameters):
                return problem.forward(batch.inputs)

        _load_forward_mode()
        with reproducible_kernels(), torch.no_grad():
            pair: tuple[Tensor, Tensor] = jvp(outputs, (primal,), (dict(tangents),))  # type: ignore[assignment]
        return pair

    return push


@dataclass(frozen=True)
class Transpose:
    """The graph of u ↦ Jᵀu, which is linear in u: its derivative is the transpose of what autograd calls Jᵀ.

    Of the gradients by parameter only the edges are held, so that they take no memory.
    """

    direction: Tensor
    gradients: Mapping[str, GradientEdge]

    @classmethod
    def of(cls, problem: Problem, outputs: Tensor) -> "Transpose":
        """The transpose at outputs with their graph, which it keeps."""
        with reproducible_kernels():
            direction = torch.zeros_like(outputs, requires_grad=True)
            parameters = list(problem.parameters.values())
            found = torch.autograd.grad(outputs, parameters, direction, create_graph=True, allow_unused=True)
        used = {
            name: get_gradient_edge(gradient)
            for name, gradient in zip(problem.parameters, found, strict=True)
            if gradient is not None and gradient.requires_grad
        }
        return cls(direction, used)

    def apply(self, tangents: Mapping[str, Tensor]) -> Tensor:
        """J v, (B, C)."""
        weights = [tangents[name] for name in self.gradients]
        with reproducible_kernels():
            found = torch.autograd.grad(list(self.gradients.values()), self.direction, weights, retain_graph=True)
        return found[0]


def tracked(problem: Problem, batch: Batch) -> Tensor:
    """Outputs with a graph that costs least to go back through twice."""
    with reproducible_kernels(TRANSPOSABLE_LAYERS):
        return problem.forward(batch.inputs)


def double_backward(problem: Problem) -> PushForward:
    """J v as the derivative of u ↦ (Jᵀu)ᵀ v: without a kept graph cheaper than forward mode in linear layers only."""

    def push(batch: Batch, tangents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        outputs = tracked(problem, batch)
        return outputs.detach(), Transpose.of(problem, outputs).apply(tangents)

    return push


def _rows(problem: Problem) -> PushForward:
    """J v from the rows of J, one backward pass per example and output: slow, and always what autograd says."""

    def push(batch: Batch, tangents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        vector, outputs = torch.cat([piece.double().reshape(-1) for piece in tangents.values()]), []
        tangent = torch.zeros(len(batch), problem.outputs, dtype=torch.float64, device=vector.device)
        for example in range(len(batch)):
            for output in range(problem.outputs):
                with reproducible_kernels():
                    z = problem.forward(batch.inputs[example : example + 1])
                unit = torch.zeros_like(z)
                unit[0, output] = 1
                tangent[example, output] = torch.dot(problem.pull_back(z, unit), vector)
            outputs.append(z.detach())
        return torch.cat(outputs), tangent

    return push


def is_transpose(problem: Problem, push: PushForward) -> bool:
    """Whether uᵀ(J v) = (Jᵀu)ᵀ v holds on a few examples for random u and v."""
    batch = problem.slice(0, min(ADJOINT_EXAMPLES, problem.examples))
    generator = torch.Generator().manual_seed(0)
    tangents = {
        name: torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype).to(parameter.device)
        for name, parameter in problem.parameters.items()
    }
    try:
        outputs, tangent = push(batch, tangents)
    except (RuntimeError, NotImplementedError) as error:
        raise_if_out_of_memory(error)
        return False
    direction = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    backward = 0.0

    def add(name: str, gradient: Tensor) -> None:
        nonlocal backward
        backward += float(dot(gradient, tangents[name]))

    with reproducible_kernels():
        gradients_in_turn(problem.forward(batch.inputs), problem.parameters, direction, add)
    forth = float((direction.double() * tangent.double()).sum())
    scale = float(direction.double().norm() * tangent.double().norm())
    return abs(forth - backward) <= ADJOINT_TOLERANCE[problem.dtype] * scale


def _has_few_convolutions(problem: Problem) -> bool:
    """Whether most parameters are in vectors and matrices."""
    return 2 * sum(p.numel() for p in problem.parameters.values() if p.dim() > 2) < problem.size


def _pads_embeddings(problem: Problem) -> bool:
    """Whether an embedding has a row without a gradient, which a few examples need not contain."""
    with recorded_calls(problem.parameters) as calls:
        problem.forward(problem.slice(0, 1).inputs)
    return any(call.arguments.get("padding_idx") is not None for call in calls)


def gradients_fit(problem: Problem) -> bool:
    """Whether graphs of transposes, which hold a gradient each, may be made and kept."""
    return problem.size * problem.dtype.itemsize <= graph_bytes(problem.device) * GRADIENT_SHARE


def jvp_of(problem: Problem) -> PushForward:
    """The map v ↦ J v by the fastest way that is the transpose of backward mode on this network.

    Forward mode or double backward, else row by row. They can differ: an embedding's padding row has a forward
    derivative and no backward one, and some operations lack forward mode or a second derivative.

    Args:
        problem: the network; a few of its examples go forward and back to choose the way.

    Returns:
        The map from a batch and v, by parameter in its shape and precision, to z (B, C) without a graph and J v (B, C).
    """
    ways = [_forward_mode, double_backward]
    if _has_few_convolutions(problem) and gradients_fit(problem):
        ways.reverse()
    if _pads_embeddings(problem):
        ways.remove(_forward_mode)
    return next((push for push in (way(problem) for way in ways) if is_transpose(problem, push)), _rows(problem))
