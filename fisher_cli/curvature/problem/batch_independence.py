"""Whether an example's outputs depend on the other examples of its batch or on earlier calls."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fisher_cli.curvature.problem.problem import Batch, Problem, as_outputs
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.evaluation import evaluated
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.errors import CoupledExamplesError

# Differences of outputs, relative to the largest, that are looked at again in float64, where rounding is this little. A
# network that cannot be copied is not looked at again: what its own precision may make of deep networks is accepted.
SUSPICIOUS = {torch.bfloat16: 0.2, torch.float32: 1e-5, torch.float64: 1e-9}
ACCEPTED = {torch.bfloat16: 0.2, torch.float32: 1e-3, torch.float64: 1e-7}
# Evaluations one after the other of a network that keeps something between them.
LATER = 4
# Suspicious examples that are looked at again.
LOOKED_AT = 4


def outputs_of(problem: Problem, inputs: Tensor) -> Tensor:
    """The network's outputs z, (B, C), without a graph and by reproducible kernels.

    Args:
        problem: the network.
        inputs: (B, …), on its device and in its precision.

    Raises:
        CoupledExamplesError: the forward pass draws random numbers.
    """
    with reproducible_kernels(), torch.no_grad():
        return problem.forward(inputs)


def refuse_state(problem: Problem, inputs: Tensor) -> None:
    """Evaluate one batch with gradients and without, and some times more where that left something in the network.

    Args:
        problem: the network; its state is put back.
        inputs: of one batch, (B, …).

    Raises:
        CoupledExamplesError: the outputs differ; what the network keeps is named.
    """
    with reproducible_kernels():
        once = problem.forward(inputs).detach()
    with reproducible_kernels(), torch.no_grad():
        try:
            again = as_outputs(evaluated(problem.model, inputs), len(inputs))
            changed = problem.state.changed()
            later = [as_outputs(evaluated(problem.model, inputs), len(inputs)) for _ in range(LATER if changed else 0)]
        finally:
            problem.state.restore()
    limit = SUSPICIOUS[problem.dtype] * float(once.abs().amax())
    if float((once - again).abs().amax()) > limit:
        with reproducible_kernels():
            is_steady = float((once - problem.forward(inputs).detach()).abs().amax()) <= limit
        if is_steady:
            msg = (
                "the network's outputs are others where gradients are on: its forward pass asks for that, and the "
                "Fisher would be of another network than the one that is evaluated"
            )
            raise CoupledExamplesError(msg)
        msg = (
            "the network's outputs change from one evaluation to the next: its forward pass draws random numbers or "
            "keeps state outside of its modules, and no Fisher belongs to it; make it deterministic in evaluation mode"
        )
        raise CoupledExamplesError(msg)
    if any(float((once - other).abs().amax()) > limit for other in later):
        names = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
        msg = (
            f"the network keeps state between calls, and its outputs depend on it: {names}; the Fisher of an example "
            "is not defined; let every forward pass begin from the same state in evaluation mode"
        )
        raise CoupledExamplesError(msg)


def refuse_coupling_in(problem: Problem, batch: Batch, places: Sequence[int] = ()) -> None:
    """Hold the outputs of some examples of a batch against those of the same examples alone.

    Args:
        problem: the network; an example that differs is looked at again in float64.
        batch: the examples together.
        places: which of them, counted from 0 within the batch; by default the middle one.

    Raises:
        CoupledExamplesError: the outputs of one differ.
    """
    together = outputs_of(problem, batch.inputs)
    for place in places or (len(batch) // 2,):
        alone = outputs_of(problem, batch.inputs[place : place + 1])
        difference = float((alone[0] - together[place]).abs().amax())
        if difference > SUSPICIOUS[problem.dtype] * float(together.abs().amax()):
            _look_again(problem, batch.start + place, difference / float(together.abs().amax()))


def differing_examples(problem: Problem, outputs: Tensor) -> list[tuple[float, int]]:
    """Evaluate every example once more, among other examples in another order: one forward pass without a graph.

    A single example is evaluated among changed copies of itself.

    Args:
        problem: the network and its examples.
        outputs: z of all N examples, (N, C), as they were evaluated batch by batch.

    Returns:
        Examples whose outputs differ by more than rounding usually makes of them: the largest difference, relative to
        the largest output, and the example's number, the worst first. With several ranks, those of this rank's batches.
    """
    largest = float(outputs.abs().amax())
    worst: list[tuple[float, int]] = []
    for numbers, found in _in_other_company(problem):
        differences = (found - outputs[numbers]).abs().amax(1) / largest
        suspicious = (differences > SUSPICIOUS[problem.dtype]).nonzero().flatten().tolist()
        worst += [(float(differences[place]), int(numbers[place])) for place in suspicious]
    return sorted(worst, reverse=True)


def refuse_coupling(problem: Problem, differing: Sequence[tuple[float, int]]) -> None:
    """Look again, in float64, at the worst four of the examples whose outputs depend on the others of their batch.

    Args:
        problem: the network and its examples.
        differing: what `differing_examples` gave, the worst first.

    Raises:
        CoupledExamplesError: the outputs of an example depend on the others of its batch.
    """
    for difference, example in differing[:LOOKED_AT]:
        _look_again(problem, example, difference)


def _in_other_company(problem: Problem) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of another size in another order: the numbers of their examples, and their outputs.

    Yields:
        (n,) and (n, C).
    """
    if problem.examples == 1:
        inputs = problem.slice(0, 1).inputs
        others = [inputs.flip(-1), inputs.roll(1, -1), inputs.roll(2, -1)]
        if inputs.is_floating_point():
            others = [other * 0.5 for other in others]
        company = torch.cat([others[0], inputs, others[1], inputs, others[2]])
        yield torch.zeros(2, dtype=torch.int64, device=problem.device), outputs_of(problem, company)[[1, 3]]
        return
    for batch in problem.batches(_other_size(problem)):
        order = _order(batch)
        yield batch.start + order, outputs_of(problem, batch.inputs[order])


def _order(batch: Batch) -> Tensor:
    """A random order of its examples, always the same."""
    generator = torch.Generator().manual_seed(batch.start)
    return torch.randperm(len(batch), generator=generator).to(batch.inputs.device)


def _other_size(problem: Problem) -> int:
    """As many as go through the network without gradients, but not the batches that the outputs are from."""
    size, most = min(problem.batch_size, problem.examples), min(problem.product_batch_size, problem.examples)
    if size == problem.examples:
        return math.ceil(size / 2)
    # Where more than these may not fit, fewer are taken; one or two are put among others, without gradients.
    return most if most != size else min(size // 2 + 1 if size > 2 else 3, problem.examples)


def _look_again(problem: Problem, example: int, difference: float) -> None:
    """One example in float64, alone and in its batch.

    Raises:
        CoupledExamplesError: its outputs differ by more than rounding.
    """
    if problem.dtype is torch.float32:
        try:
            problem = problem.double()
        except RuntimeError as error:
            raise_if_out_of_memory(error)
            if difference <= ACCEPTED[problem.dtype]:
                return
        else:
            difference = _difference(problem, example)
            if difference <= SUSPICIOUS[torch.float64]:
                return
    msg = (
        f"the network couples the examples of a batch: the outputs for example {example} differ by {difference:.1e} of "
        "the largest alone and among others, so the Fisher of an example is not defined"
    )
    raise CoupledExamplesError(msg)


def _difference(problem: Problem, example: int) -> float:
    """The largest difference of an example's outputs between its own batch, another, and alone, of the largest."""
    found = []
    for size in (problem.batch_size, _other_size(problem)):
        start = example // size * size
        batch = problem.slice(start, min(start + size, problem.examples))
        order = _order(batch) if size != problem.batch_size else torch.arange(len(batch), device=problem.device)
        found.append(outputs_of(problem, batch.inputs[order])[int(order.argsort()[example - start])])
    alone = outputs_of(problem, problem.slice(example, example + 1).inputs)[0]
    if problem.examples == 1:
        _, outputs = next(_in_other_company(problem))
        found += list(outputs)
    scale = float(torch.stack(found).abs().amax())
    return max(float((other - alone).abs().amax()) for other in found) / max(scale, torch.finfo(torch.float64).tiny)
