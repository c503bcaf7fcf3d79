"""Products of the true and the empirical Fisher with a vector, F v = mean_n J_nᵀ M_n (J_n v), without a matrix."""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp

from fisher_cli.curvature.problem import Batch, Problem, reproducible_kernels
from fisher_cli.curvature.substitution import substituted

OutputProduct = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs (B, C), labels, J v (B, C)) → M J v (B, C), the output-space matrix of each example applied."""

PushForward = Callable[[Batch, Tensor], tuple[Tensor, Tensor]]
"""(batch, v (P,)) → outputs (B, C) and J v (B, C)."""

# Largest accepted difference between uᵀ(J v) and (Jᵀu)ᵀ v, relative to ‖u‖‖J v‖. Tight, since the other way
# is as exact and only slower.
ADJOINT_TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
ADJOINT_EXAMPLES = 3


def split(problem: Problem, vector: Tensor) -> dict[str, Tensor]:
    """A flat vector (P,) as tensors of the parameters' shapes and precision."""
    sizes = [parameter.numel() for parameter in problem.parameters.values()]
    return {
        name: part.reshape(parameter.shape).to(parameter.dtype)
        for (name, parameter), part in zip(problem.parameters.items(), torch.split(vector, sizes), strict=True)
    }


@cache
def _load_forward_mode() -> None:
    """Let torch load its forward-mode formulas now; it compiles some with a function that it calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


def _forward_mode(problem: Problem) -> PushForward:
    """J v by forward-mode differentiation: about two forward passes."""

    def push(batch: Batch, vector: Tensor) -> tuple[Tensor, Tensor]:
        primal = {name: parameter.detach() for name, parameter in problem.parameters.items()}

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            with substituted(problem.model, problem.parameters, parameters):
                return problem.forward(batch.inputs)

        _load_forward_mode()
        with reproducible_kernels(), torch.no_grad():
            pair: tuple[Tensor, Tensor] = jvp(outputs, (primal,), (split(problem, vector),))  # type: ignore[assignment]
        return pair

    return push


def _double_backward(problem: Problem) -> PushForward:
    """J v as the derivative of u ↦ (Jᵀu)ᵀ v, which is linear in u: the transpose of what autograd calls Jᵀ."""

    def push(batch: Batch, vector: Tensor) -> tuple[Tensor, Tensor]:
        parameters, pieces = list(problem.parameters.values()), split(problem, vector)
        with reproducible_kernels():
            outputs = problem.forward(batch.inputs)
            dummy = torch.zeros_like(outputs, requires_grad=True)
            gradients = torch.autograd.grad(outputs, parameters, dummy, create_graph=True, allow_unused=True)
            pairs = zip(gradients, pieces.values(), strict=True)
            used = [(gradient, piece) for gradient, piece in pairs if gradient is not None and gradient.requires_grad]
            (tangent,) = torch.autograd.grad([gradient for gradient, _ in used], dummy, [piece for _, piece in used])
        return outputs.detach(), tangent

    return push


def _rows(problem: Problem) -> PushForward:
    """J v from the rows of J, one backward pass per example and output: slow, and always what autograd says."""

    def push(batch: Batch, vector: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        tangent = torch.zeros(len(batch), problem.outputs, dtype=torch.float64, device=vector.device)
        for example in range(len(batch)):
            for output in range(problem.outputs):
                with reproducible_kernels():
                    z = problem.forward(batch.inputs[example : example + 1])
                unit = torch.zeros_like(z)
                unit[0, output] = 1
                tangent[example, output] = torch.dot(problem.pull_back(z, unit), vector.double())
            outputs.append(z.detach())
        return torch.cat(outputs), tangent

    return push


def _is_transpose(problem: Problem, push: PushForward) -> bool:
    """Whether uᵀ(J v) = (Jᵀu)ᵀ v holds on a few examples for random u and v."""
    batch = problem.slice(0, min(ADJOINT_EXAMPLES, problem.examples))
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(problem.size, generator=generator, dtype=torch.float64).to(problem.device)
    try:
        outputs, tangent = push(batch, vector)
    except (RuntimeError, NotImplementedError):
        return False
    direction = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    with reproducible_kernels():
        tracked = problem.forward(batch.inputs)
    backward = float(torch.dot(problem.pull_back(tracked, direction), vector))
    forth = float((direction.double() * tangent.double()).sum())
    scale = float(direction.double().norm() * tangent.double().norm())
    return abs(forth - backward) <= ADJOINT_TOLERANCE[problem.dtype] * scale


def push_forward(problem: Problem) -> PushForward:
    """The map v ↦ J v by the fastest way that is the transpose of backward mode on this network.

    Forward mode, else double backward, else row by row. They can differ: an embedding's padding row has a
    forward derivative and no backward one, and some operations lack forward mode or a second derivative.
    """
    ways = [_forward_mode(problem), _double_backward(problem)]
    if any(getattr(module, "padding_idx", None) is not None for module in problem.model.modules()):
        ways.pop(0)
    return next((way for way in ways if _is_transpose(problem, way)), _rows(problem))


def product(problem: Problem, output_product: OutputProduct) -> Callable[[Tensor], Tensor]:
    """The map v ↦ mean_n J_nᵀ M_n (J_n v) on flat vectors (P,), float64 sums over examples.

    Costs about a forward pass with tangents and a forward and backward pass per product.
    """
    push = push_forward(problem)

    def apply(vector: Tensor) -> Tensor:
        total = torch.zeros(problem.size, dtype=torch.float64, device=problem.device)
        for batch in problem.batches():
            outputs, tangent = push(batch, vector)
            cotangents = output_product(outputs, batch.labels, tangent)
            with reproducible_kernels():
                tracked = problem.forward(batch.inputs)
            total += problem.pull_back(tracked, cotangents)
        return total / problem.examples

    return apply


def fisher_product(problem: Problem) -> Callable[[Tensor], Tensor]:
    """v ↦ F v = mean_n J_nᵀ Λ_n (J_n v), Λ_n the covariance of the model's own score."""
    likelihood = problem.likelihood
    return product(problem, lambda outputs, _, tangent: likelihood.covariance_product(outputs, tangent))


def empirical_product(problem: Problem) -> Callable[[Tensor], Tensor]:
    """v ↦ F̂ v = mean_n J_nᵀ s_y (s_yᵀ J_n v), s_y the score at the dataset's label; uncentred."""
    likelihood = problem.likelihood

    def apply(outputs: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
        score = likelihood.observed_score(outputs, labels)
        return score * (score * tangent.double()).sum(dim=1, keepdim=True)

    return product(problem, apply)
