"""The run-time check: a few examples against plain autograd, one example and one direction at a time."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import per_example
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.kernels import reproducible_kernels
from fisher_cli.curvature.memory import raise_if_out_of_memory
from fisher_cli.curvature.problem import Batch, Problem
from fisher_cli.errors import CoupledExamplesError, VerificationError
from fisher_cli.results import Check

EXAMPLES = 2
DIRECTIONS = 4

# Largest accepted difference, relative to the larger of the tensor's own norm and 1e-3 of all tensors'
# together (the gradients of some tensors are exactly zero, and rounding is all that is left of them).
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-7}
SMALL_SHARE = 1e-3


def check(engine: Engine) -> Check:
    """Hold a few examples against themselves evaluated alone: their outputs, and the engine's norms against autograd's.

    In float32 a unit whose input is all but zero may be on in one run and off in the other; what looks wrong
    there is looked at again in float64, where that does not happen. Where vectorised per-example gradients are
    what differs, the engine is told to take them one by one.

    Raises:
        CoupledExamplesError: outputs depend on the other examples, on chance or on earlier calls.
        VerificationError: a parameter's norms differ.
    """
    problem = engine.problem
    batch = problem.slice(0, min(problem.batch_size, problem.examples))
    found = _look(engine, batch)
    double = _in_double(problem) if not isinstance(found, Check) and problem.dtype is torch.float32 else None
    if double is not None:
        found = _look(replace(engine, problem=double, methods={}), double.slice(0, len(batch)))
    if not isinstance(found, Check):
        raise found
    return found


def _look(engine: Engine, batch: Batch) -> Check | CoupledExamplesError | VerificationError:
    """What was compared when all is well, else the error that says what is not."""
    coupled = _coupling(engine.problem, batch)
    return CoupledExamplesError(coupled) if coupled else _compared(engine, batch)


def _in_double(problem: Problem) -> Problem | None:
    """The same problem with a copy of the network in float64; None for a network that cannot be copied."""
    try:
        model = copy.deepcopy(problem.model).double()
    except RuntimeError as error:  # computed tensors among the attributes, as old-style pruning leaves them
        raise_if_out_of_memory(error)
        return None
    copies = dict(zip(map(id, problem.model.parameters()), model.parameters(), strict=True))
    parameters = {name: copies[id(parameter)] for name, parameter in problem.parameters.items()}
    return replace(problem, model=model, parameters=parameters)


def _outputs(problem: Problem, inputs: Tensor) -> Tensor:
    with reproducible_kernels(), torch.no_grad():
        return problem.forward(inputs)


def _coupling(problem: Problem, batch: Batch) -> str:
    """How outputs change when nothing about the example does, in one line; "" when they do not."""
    together, again = _outputs(problem, batch.inputs), _outputs(problem, batch.inputs)
    limit = TOLERANCE[problem.dtype] * float(together.abs().amax())
    if float((together - again).abs().amax()) > limit:
        return (
            "the network's outputs change from one evaluation to the next: its forward pass draws random numbers or "
            "keeps state, and no Fisher belongs to it; make it deterministic in evaluation mode"
        )
    for example in {0, len(batch) - 1}:
        alone = _outputs(problem, batch.inputs[example : example + 1])[0]
        if float((alone - together[example]).abs().amax()) > limit:
            return (
                f"the network couples the examples of a batch: the outputs for example {batch.start + example} differ "
                "alone and among others, so the Fisher of an example is not defined"
            )
    return ""


def _compared(engine: Engine, batch: Batch) -> Check | VerificationError:
    """The engine's norms of the first examples against autograd's."""
    problem = engine.problem
    few = replace(batch, inputs=batch.inputs[:EXAMPLES], labels=batch.labels[:EXAMPLES])
    evaluated = engine.evaluate(few)
    shape = evaluated.outputs.shape
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(min(DIRECTIONS, shape[1]), *shape, generator=generator, dtype=torch.float64)
    directions = directions.to(device=evaluated.outputs.device, dtype=evaluated.outputs.dtype)
    theirs = per_example.one_by_one(problem, list(problem.parameters), few.inputs, directions)
    largest, fault = _worst(problem, evaluated.norms(directions), theirs, batch.start)
    if fault and engine.vectorise:
        engine.vectorise = False
        largest, fault = _worst(problem, evaluated.norms(directions), theirs, batch.start)
    if fault:
        return VerificationError(fault)
    precision = str(problem.dtype).removeprefix("torch.")
    return Check(len(few), len(directions), largest, TOLERANCE[problem.dtype], precision)


def _worst(problem: Problem, ours: dict[str, Tensor], theirs: dict[str, Tensor], start: int) -> tuple[float, str]:
    """The largest relative difference, and a line about the first parameter whose own is too large."""
    total = torch.stack(list(theirs.values())).sum(0)
    largest = 0.0
    for name, expected in theirs.items():
        scale = torch.maximum(expected, SMALL_SHARE * total).clamp_min(torch.finfo(torch.float64).tiny)
        excess = (ours[name] - expected).abs() / scale
        largest = max(largest, float(excess.max()))
        if not bool((excess <= TOLERANCE[problem.dtype]).all()):
            worst = divmod(int(excess.argmax()), expected.shape[1])
            return largest, (
                f"parameter {name}: squared gradient norm {float(ours[name][worst]):.9g} among others, "
                f"{float(expected[worst]):.9g} by autograd on example {start + worst[1]} alone; either the network "
                "couples the examples of a batch or this is a defect of fisher: please report the layer"
            )
    return largest, ""
