"""The run-time check: a few examples against plain autograd, one example and one direction at a time."""

import copy
from dataclasses import replace

import torch

from fisher_cli.curvature.gradient_norms import per_example
from fisher_cli.curvature.gradient_norms.coverage import plan
from fisher_cli.curvature.gradient_norms.engine import Pass, evaluate
from fisher_cli.curvature.problem import Batch, Problem
from fisher_cli.errors import VerificationError

EXAMPLES = 2
DIRECTIONS = 4

# Largest accepted difference, relative to the larger of the tensor's own norm and 1e-3 of all tensors'
# together (the gradients of some tensors are exactly zero, and rounding is all that is left of them).
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
SMALL_SHARE = 1e-3


def check(problem: Problem, batch: Batch, evaluated: Pass) -> None:
    """Compare the engine's norms of the batch's first examples with plain autograd's.

    The examples run alone here and within the batch there, so a network that couples examples shows too. In
    float32 a unit whose input is all but zero may be on in one run and off in the other; what looks wrong
    there is looked at again in float64, where that does not happen.

    Raises:
        VerificationError: a parameter's norms differ.
    """
    found = _disagreement(problem, batch, evaluated)
    if found and problem.dtype is torch.float32:
        double = _in_double(problem)
        few = double.slice(batch.start, batch.start + len(batch))
        found = _disagreement(double, few, evaluate(double, plan(double), few))
    if found:
        raise VerificationError(found)


def _in_double(problem: Problem) -> Problem:
    """The same problem with a copy of the network in float64."""
    model = copy.deepcopy(problem.model).double()
    named = dict(model.named_parameters())
    return replace(problem, model=model, parameters={name: named[name] for name in problem.parameters})


def _disagreement(problem: Problem, batch: Batch, evaluated: Pass) -> str:
    """What differs, in one line; "" when nothing does."""
    examples = min(EXAMPLES, len(batch))
    shape = evaluated.outputs.shape
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(min(DIRECTIONS, shape[1]), *shape, generator=generator, dtype=torch.float64)
    directions = directions.to(device=evaluated.outputs.device, dtype=evaluated.outputs.dtype)
    ours = evaluated.norms(directions)
    names = list(problem.parameters)
    theirs = per_example.one_by_one(problem, names, batch.inputs[:examples], directions[:, :examples])
    total = torch.stack(list(theirs.values())).sum(0)
    for name, expected in theirs.items():
        scale = torch.maximum(expected, SMALL_SHARE * total).clamp_min(torch.finfo(torch.float64).tiny)
        found = ours[name][:, :examples]
        excess = (found - expected).abs() / scale
        if bool((excess > TOLERANCE[problem.dtype]).any()):
            worst = divmod(int(excess.argmax()), examples)
            return (
                f"parameter {name}: squared gradient norm {float(found[worst]):.9g} in the batch, "
                f"{float(expected[worst]):.9g} by autograd on example {batch.start + worst[1]} alone; either the "
                "network couples the examples of a batch or this is a defect of fisher: please report the layer"
            )
    return ""
