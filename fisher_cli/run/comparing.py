"""A measurement with the comparison of the true and the empirical Fisher."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

from fisher_cli.curvature.comparison.true_and_empirical import Inquiry, compare
from fisher_cli.curvature.traces.traces import Sweep
from fisher_cli.results import Eigenvalues, Measurement, Status
from fisher_cli.settings import ComparisonSettings, Settings

# A natural gradient's residual above this has not converged; two digits of a cosine are still right.
LARGEST_RESIDUAL = 1e-2


def with_comparison(
    measurement: Measurement,
    swept: Sweep,
    settings: Settings,
    advance: Callable[[str, float], None],
    timed: Callable[[str], AbstractContextManager[None]],
) -> Measurement:
    """The measurement with F̂ against F, and the leading eigenvalues of both, from the sweep's examples and traces."""
    asked = settings.comparison or ComparisonSettings()
    inquiry = Inquiry(
        max(1, settings.eigenvalues), asked.damping, asked.draws, settings.eigenvalue_tolerance, settings.seed
    )
    with timed("comparison"):
        comparison, (true, empirical) = compare(swept, inquiry, advance=advance)
    problems = [
        f"eigenvalues of the {name} Fisher did not reach the tolerance in {found.products} products"
        for name, found in (("true", true), ("empirical", empirical))
        if not found.converged
    ]
    if comparison.residual > LARGEST_RESIDUAL:
        text = f"natural gradients have a relative residual of {comparison.residual:.2g}: give a larger --damping"
        problems.append(text)
    notes = [*measurement.notes, *_remarks(comparison.method, comparison.draws, asked.draws, true, empirical)]
    return replace(
        measurement,
        comparison=comparison,
        eigenvalues_true=true,
        eigenvalues_empirical=empirical,
        status=Status.NOT_CONVERGED if problems else Status.OK,
        error="; ".join(problems),
        notes=tuple(notes),
    )


def _remarks(method: str, drawn: int, asked: int, true: Eigenvalues, empirical: Eigenvalues) -> list[str]:
    remarks = [each.note for each in (true, empirical) if each.note]
    if method == "products" and asked > drawn:
        remarks.append(
            "too many score gradients to hold: norms from random probes, and no labels were drawn for the nulls of "
            "natural gradients and eigenspaces; --limit N with fewer examples makes all exact"
        )
    return list(dict.fromkeys(remarks))
