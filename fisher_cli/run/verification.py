"""One network on one dataset: the identities of `fisher verify` in place of numbers, as one Measurement."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from fisher_cli.curvature.identities.suite import verify
from fisher_cli.curvature.problem.batch_norm_statistics import recalibrate, recalibration
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.results import Measurement, Status
from fisher_cli.settings import Settings


def verified(
    problem: Problem,
    settings: Settings,
    advance: Callable[[str, float], None],
    timed: Callable[[str], AbstractContextManager[None]],
) -> Measurement:
    """All identities that apply, each with both sides and its verdict; `checkpoint` is left empty."""
    chosen = settings.include != ("*",) or settings.exclude or settings.weights_only or settings.without_head
    notes = list[str]()
    if settings.recalibrate_bn:
        with timed("normalization"):
            notes.append(recalibration(recalibrate(problem), problem.examples))
    with timed("identities"):
        found = verify(problem, everything=not chosen, seed=settings.seed, advance=advance)
    return Measurement(
        checkpoint="",
        status=Status.OK,
        parameters=problem.size,
        examples=problem.examples,
        classes=problem.outputs,
        batch_size=problem.batch_size,
        notes=tuple(notes),
        verification=found,
    )
