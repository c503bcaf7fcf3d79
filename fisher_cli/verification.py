"""One network on one dataset: the identities of `fisher verify` in place of numbers, as one Measurement."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from fisher_cli.curvature.identities.suite import verify
from fisher_cli.curvature.problem import Problem
from fisher_cli.results import Measurement, Status
from fisher_cli.settings import Settings


def verified(
    problem: Problem,
    settings: Settings,
    advance: Callable[[str, float], None],
    timed: Callable[[str], AbstractContextManager[None]],
) -> Measurement:
    """All identities that apply, each with both sides and its verdict; `checkpoint` is left empty."""
    everything = settings.include == ("*",) and not settings.exclude
    with timed("identities"):
        found = verify(problem, everything=everything, seed=settings.seed, advance=advance)
    return Measurement(
        checkpoint="",
        status=Status.OK,
        parameters=problem.size,
        examples=problem.examples,
        classes=problem.outputs,
        batch_size=problem.batch_size,
        verification=found,
    )
