"""The coverage ledger of a sweep: every parameter's method, and its share of the work."""

from dataclasses import replace

from fisher_cli.curvature.gradient_norms.engine import NOT_CHECKED, Engine
from fisher_cli.curvature.gradient_norms.operation_count import Operations, counted
from fisher_cli.curvature.problem.output_scores import Scoring
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.results import Coverage, Ledger, Trace

# Operations are counted on so many examples; every example takes the same.
WATCHED_EXAMPLES = 2


def without_work(trace: Trace, directions: int) -> Ledger:
    """The ledger of a trace that took so many backward passes per batch, nothing counted yet."""
    entries = tuple(Coverage(layer.name, layer.parameters, layer.method, None) for layer in trace.layers)
    return Ledger(entries, directions, None)


def not_checked(ledger: Ledger | None) -> set[str]:
    """The tensors whose gradient no check could tell from rounding."""
    return set() if ledger is None else {entry.name for entry in ledger.entries if entry.method.endswith(NOT_CHECKED)}


def with_work(ledger: Ledger, engine: Engine, scoring: Scoring, known: Ledger | None = None) -> Ledger:
    """Work of a parameter = operations on its norms / operations after the forward pass, on a few examples.

    Counted apart from the sweep, whose numbers no counting touches; what an operation is, `work.py` says. Where
    the network does something that cannot be watched, nothing is counted.

    Args:
        ledger: names, values and methods.
        engine: the engine that they are from.
        scoring: the scores of the sweep's estimator.
        known: a ledger of the same network with other weights: returned where all but the work is the same.
    """
    if known is not None and _forgotten(known) == ledger:
        return known
    operations = _operations(engine, scoring)
    if operations is None:
        return ledger
    work, backward = operations.shares({entry.name: entry.values for entry in ledger.entries})
    entries = tuple(replace(entry, work=work[entry.name]) for entry in ledger.entries)
    return replace(ledger, entries=entries, backward=backward)


def _forgotten(ledger: Ledger) -> Ledger:
    """The ledger without its work."""
    return replace(ledger, entries=tuple(replace(entry, work=None) for entry in ledger.entries), backward=None)


def _operations(engine: Engine, scoring: Scoring) -> Operations | None:
    problem = engine.problem
    batch = problem.slice(0, min(WATCHED_EXAMPLES, problem.batch_size, problem.examples))
    evaluated = replace(engine, methods={}).evaluate(batch)  # a copy: the ledger is what the sweep itself did
    scores = scoring(evaluated.outputs.detach(), batch.labels, batch.start)

    def measure() -> None:
        evaluated.measure(scores.directions, scores.observed, lambda _name, _sum: None, scores.observed_row)

    try:
        with counted() as operations:
            measure()
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise_if_out_of_memory(error)
        measure()  # what fails unwatched too is a fault, and not for want of a way to watch it
        return None
    return operations
