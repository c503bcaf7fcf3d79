"""Evaluation in bfloat16 or TF32, and its cost: the same traces of a few examples in float32 before and in it after."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from fisher_cli.curvature.gradient_norms import verification
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.torch_backend.backend_flags import tf32_products
from fisher_cli.curvature.torch_backend.precision import in_precision
from fisher_cli.curvature.traces.deflation import PilotResult, columns_for_many_outputs, deflated
from fisher_cli.results import Check, Rounding

Timed = Callable[[str], AbstractContextManager[None]]

# Examples on which both precisions are compared.
EXAMPLES = 4


def _traces(problem: Problem, seed: int) -> tuple[float, float]:
    """tr F, of many classes by few columns and two mixtures, and tr F̂ of the first examples."""
    engine = Engine(problem)
    batch = problem.slice(0, min(EXAMPLES, problem.batch_size, problem.examples))
    evaluated = engine.evaluate(batch)
    scoring = deflated(engine, PilotResult(None, columns_for_many_outputs(problem.outputs)), seed)
    scores = scoring(evaluated.outputs.detach(), batch.labels, batch.start)
    norms = torch.stack(list(evaluated.norms(scores.directions).values())).sum(0)
    true, empirical = norms * scores.true, norms * scores.observed.square()
    return float(true.sum()) / len(batch), float(empirical.sum()) / len(batch)


@torch.inference_mode(mode=False)
def round_network(
    problem: Problem,
    seed: int = 0,
    *,
    tf32: bool = False,
    verify: bool = True,
    timed: Timed = lambda _stage: nullcontext(),
) -> tuple[Check | None, Rounding]:
    """Convert the problem's network to bfloat16 in place; |tr − tr₃₂|/tr₃₂ of both traces on its first examples.

    The network is to be in float32, with its weights as they were read: their rounding is a part of the error. One
    precision after the other is evaluated, so that no second network is made. The random signs are the same in both.

    Args:
        problem: the network, changed in place, and its examples, of which the first four or fewer are taken.
        seed: of the signs.
        tf32: leave the network as it is, and compare its traces within `tf32_products`.
        verify: hold the rules against autograd first, in float32, where nothing but a mistake makes them differ.
        timed: makes the context in which a named part of the work is done, `check` or `rounding`.

    Returns:
        The check, None without `verify`; and both traces in both precisions.

    Raises:
        VerificationError: the engine disagrees with plain autograd.
    """
    check = None
    if verify:
        with timed("check"):
            check = verification.check(Engine(problem)).result()
    with timed("rounding"):
        return check, _compared(problem, seed, tf32=tf32)


def _compared(problem: Problem, seed: int, *, tf32: bool) -> Rounding:
    true, empirical = _traces(problem, seed)
    if not tf32:
        in_precision(problem.model, torch.bfloat16)
        problem.state.renew()
        problem.give_back_memory()
    with tf32_products(wanted=tf32):
        rounded_true, rounded_empirical = _traces(problem, seed)
    return Rounding(
        precision="tf32" if tf32 else "bfloat16",
        examples=min(EXAMPLES, problem.batch_size, problem.examples),
        trace_true_float32=true,
        trace_true_rounded=rounded_true,
        trace_true_error=_relative(rounded_true, true),
        trace_empirical_float32=empirical,
        trace_empirical_rounded=rounded_empirical,
        trace_empirical_error=_relative(rounded_empirical, empirical),
    )


def _relative(value: float, expected: float) -> float | None:
    return abs(value - expected) / expected if expected > 0 else None
