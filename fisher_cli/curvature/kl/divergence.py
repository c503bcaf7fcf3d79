"""How far predictions move from one network to another: the KL between them, and ½ΔᵀFΔ of the step in the weights."""

import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.kl.relative_entropy import quadratic_form, relative_entropy
from fisher_cli.curvature.problem.likelihoods import Likelihood
from fisher_cli.curvature.problem.moments import Moments, mean_of, over_ranks, root_sum_of_squares
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.products.fisher_products import Jacobian
from fisher_cli.curvature.products.jvp import jvp_of
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.results import Estimate, Movement, Trace


@dataclass(frozen=True)
class Snapshot:
    """What of a measured network the next one is held against, all of it on the CPU.

    Attributes:
        outputs: z of all examples, (N, C).
        tensors: all parameters and buffers, by name.
        analysed: the names of those that make up Δ.
        likelihood: its name.
        trace: that of the network, None where the change of tr F is not asked for.
    """

    outputs: Tensor
    tensors: Mapping[str, Tensor]
    analysed: tuple[str, ...]
    likelihood: str
    trace: Trace | None = None

    def on(self, device: torch.device) -> dict[str, Tensor]:
        """All tensors by name, on a device; those that are there already are not copied."""
        return {name: tensor.to(device) for name, tensor in self.tensors.items()}


def snapshot(problem: Problem, outputs: Tensor, trace: Trace | None = None) -> Snapshot:
    """What the next network is held against: the outputs (N, C), and one copy of every tensor of the network.

    Args:
        problem: the network as it is now.
        outputs: z of all examples, (N, C).
        trace: that of the network, where the change of tr F is asked for later.
    """
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in named_tensors(problem).items()}
    return Snapshot(outputs.detach().cpu(), copies, tuple(problem.parameters), problem.likelihood.name, trace)


def named_tensors(problem: Problem) -> dict[str, Tensor]:
    """All parameters and buffers of a network, tied ones once: the analysed ones by the names that they have there."""
    analysed = {id(parameter) for parameter in problem.parameters.values()}
    others = itertools.chain(problem.model.named_parameters(), problem.model.named_buffers())
    return {**problem.parameters, **{name: tensor for name, tensor in others if id(tensor) not in analysed}}


def why_apart(problem: Problem, before: Snapshot) -> str:
    """Why a step between the two networks means nothing, "" if it does: other tensors, outputs or likelihood.

    Args:
        problem: the network as it is now.
        before: the earlier one.
    """
    here = {name: tensor.shape for name, tensor in named_tensors(problem).items()}
    there = {name: tensor.shape for name, tensor in before.tensors.items()}
    if odd := sorted(here.keys() ^ there.keys()):
        return f"only one of the two networks has {odd[0]}"
    if odd := [name for name, shape in here.items() if shape != there[name]]:
        return f"{odd[0]} has the shape {tuple(here[odd[0]])} in place of {tuple(there[odd[0]])}"
    if tuple(problem.parameters) != before.analysed:
        return "other parameters are analysed"
    if (problem.outputs, problem.likelihood.name) != (before.outputs.shape[1], before.likelihood):
        return "the outputs mean something else"
    if problem.examples != len(before.outputs):
        return f"{len(before.outputs)} examples in place of {problem.examples}"
    return ""


@contextmanager
def exchanged(problem: Problem, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the network's tensors of these names hold other values while the context is open; nothing is copied.

    Args:
        problem: the network.
        values: by name, on its device, in the tensors' shapes.
    """
    tensors = named_tensors(problem)
    held = {name: tensors[name].data for name in values}
    try:
        for name, value in values.items():
            tensors[name].data = value
        yield
    finally:
        for name, value in held.items():
            tensors[name].data = value


def divergence(likelihood: Likelihood, outputs: Tensor, others: Tensor) -> Estimate:
    """mean_n KL(q_a(· | x_n) ‖ q_b(· | x_n)) in nats, with its standard error over examples.

    Args:
        likelihood: that of both networks.
        outputs: z_a of all examples, (N, C).
        others: z_b of the same examples, (N, C), on the same device.

    Source: Kullback and Leibler 1951 (doi:10.1214/aoms/1177729694).
    """
    return mean_of(relative_entropy(likelihood, outputs, others))


def second_order(problem: Problem, step: Mapping[str, Tensor]) -> Estimate:
    """½ΔᵀFΔ = mean_n ½ (J_n Δ)ᵀΛ_n(J_n Δ) in nats for a step Δ by parameter, with its standard error over examples.

    One product J Δ: KL(q_θ ‖ q_θ+Δ) = ½ΔᵀFΔ + O(‖Δ‖³), with the ½. Source: Kullback and Leibler 1951
    (doi:10.1214/aoms/1177729694), section 6.
    """
    push, moments = jvp_of(problem), Moments()
    for batch in problem.batches(problem.product_batch_size):
        outputs, tangent = push(batch, step)
        moments.add(quadratic_form(problem.likelihood, outputs, tangent))
    [whole] = over_ranks([moments], problem.process_group)
    return whole.estimate()


def second_order_by_tensor(problem: Problem, step: Mapping[str, Tensor]) -> tuple[Estimate, dict[str, Estimate]]:
    """½ΔᵀFΔ, and ½Δ_lᵀF_llΔ_l of every parameter tensor l alone; the cross terms are what is left of the first.

    One product J Δ_l per tensor; J Δ is their sum. Collective.

    Args:
        problem: the network at θ.
        step: Δ, for every analysed parameter by name, in its shape and precision.

    Returns:
        The whole, and each tensor's part by name: means over examples in nats, with their standard errors.

    Source: Kullback and Leibler 1951 (doi:10.1214/aoms/1177729694), section 6.
    """
    total, parts = Moments(), {name: Moments() for name in step}
    zero = {name: torch.zeros_like(part) for name, part in step.items()}
    jacobian = Jacobian(problem)
    for piece in jacobian.pieces():
        whole = torch.zeros(piece.outputs.shape, dtype=torch.float64, device=problem.device)
        for name, part in step.items():
            tangent = jacobian.push(piece, zero | {name: part}).double()
            parts[name].add(quadratic_form(problem.likelihood, piece.outputs, tangent))
            whole += tangent
        total.add(quadratic_form(problem.likelihood, piece.outputs, whole))
    merged, *each = over_ranks([total, *parts.values()], problem.process_group)
    return merged.estimate(), {name: moments.estimate() for name, moments in zip(parts, each, strict=True)}


@torch.inference_mode(mode=False)
def all_outputs(problem: Problem) -> Tensor:
    """The network's outputs z for the examples of all ranks, (N, C), in its precision, at least float32; collective."""
    with reproducible_kernels(), torch.no_grad():
        return problem.process_group.gather([problem.forward(batch.inputs) for batch in problem.batches()])


@torch.inference_mode(mode=False)
def movement(problem: Problem, outputs: Tensor, trace: Trace, before: Snapshot) -> Movement:
    """KL(q_before ‖ q), ½ΔᵀF_beforeΔ and the paired change of tr F, from an earlier network to the one of the problem.

    Δ are the analysed parameters now less those before. Where anything else has moved as well, such as batch-norm
    statistics, it moves the KL and not the quadratic: `kl_parameters` is the KL to this network's parameters with all
    else as before. One product J Δ, and then one forward pass. Collective.

    Args:
        problem: the network as it is now; it holds the earlier tensors meanwhile.
        outputs: z of all examples, (N, C), on its device.
        trace: that of the network as it is now.
        before: the earlier network, with its trace. `why_apart` must have nothing to say.

    Returns:
        All of it as means over examples, in nats but for the trace.

    Source: Kullback and Leibler 1951 (doi:10.1214/aoms/1177729694), section 6, for the quadratic.
    """
    assert before.trace is not None
    step = step_from(problem, before)
    with exchanged(problem, before.on(problem.device)):
        quadratic = second_order(problem, step)
    del step
    return Movement(
        kl=divergence(problem.likelihood, before.outputs.to(problem.device), outputs),
        kl_quadratic=quadratic,
        kl_parameters=divergence_by_parameters(problem, before),
        trace_change=_paired_change(before.trace, trace),
    )


def step_from(problem: Problem, before: Snapshot) -> dict[str, Tensor]:
    """Δ by parameter: the analysed parameters of the problem less those of before, on its device."""
    here = problem.parameters.items()
    return {name: parameter.detach() - before.tensors[name].to(parameter.device) for name, parameter in here}


def divergence_by_parameters(problem: Problem, before: Snapshot) -> Estimate | None:
    """mean KL(q_before ‖ q) to the problem's analysed parameters with all else as before; None if that has not moved.

    One forward pass. Collective.

    Args:
        problem: the network as it is now.
        before: the earlier one.

    Returns:
        In nats, with its standard error over examples.
    """
    device = problem.device
    rest = {name: tensor.to(device) for name, tensor in before.tensors.items() if name not in problem.parameters}
    if not _has_moved(problem, rest):
        return None
    with exchanged(problem, rest):
        return divergence(problem.likelihood, before.outputs.to(device), all_outputs(problem))


def _has_moved(problem: Problem, before: Mapping[str, Tensor]) -> bool:
    """Whether one of these tensors has other values now; a mere counter of batches does not count."""
    tensors = named_tensors(problem)
    return any(
        not torch.equal(tensors[name], value)
        for name, value in before.items()
        if name.rpartition(".")[2] != "num_batches_tracked"
    )


def _paired_change(before: Trace, now: Trace) -> Estimate:
    """tr F less that of before, with the standard error of the mean difference over the same examples.

    Drawn labels and signs differ from example to example, so that the spread of the differences contains what they
    add, with what both draws have in common; the part that is theirs is then not told apart. Errors that the spread
    does not show are added, and where one of them is not known, that of the difference is not.
    """
    here, there = (torch.tensor(each.per_example_true, dtype=torch.float64) for each in (now, before))
    change = mean_of(here - there)
    error = root_sum_of_squares(change.standard_error, now.hidden_error, before.hidden_error)
    is_exact = now.true.estimator_error == before.true.estimator_error == 0
    return Estimate(change.value, error, 0.0 if is_exact else None)


def buffers_share(movement: Movement) -> float | None:
    """1 − KL by the parameters alone / KL: the share of what moved the predictions and is no analysed parameter.

    None where nothing else has moved, or the KL is zero.
    """
    if movement.kl_parameters is None or not movement.kl.value > 0:
        return None
    share = 1 - movement.kl_parameters.value / movement.kl.value
    return share if math.isfinite(share) else None
