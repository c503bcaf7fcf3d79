"""The coverage ledger of a sweep: every parameter's method, and its share of the work."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fisher_cli.curvature.gradient_norms.engine import NOT_CHECKED, Engine
from fisher_cli.curvature.gradient_norms.operation_count import OperationCounter, counted
from fisher_cli.curvature.problem.output_scores import Scoring
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.errors import VerificationError
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

    Counted apart from the sweep, whose numbers no counting touches; what an operation is, `operation_count.py` says.
    Where the network does something that cannot be watched, nothing is counted.

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


def _operations(engine: Engine, scoring: Scoring) -> OperationCounter | None:
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


# Largest accepted relative difference between two float64 sums of the same terms in different order.
TOLERANCE = 1e-9
# Below this float64 itself has fewer than nine digits.
SMALLEST = 1e-290
REPORT = "this is a defect of fisher: please report it with the network"
SHOWN = 3


def check(trace: Trace, sizes: Mapping[str, int], examples: int) -> None:
    """Hold Σ_layers values = P, Σ_layers tr_l = tr and (1/N) Σ_n tr_n = tr, for both traces, to 1e-9 of the total.

    The two sides of each equation are accumulated apart from each other: layers by name, the total and the terms
    of the examples each on their own.

    Args:
        trace: what is to be shown.
        sizes: number of values of every selected parameter, by name.
        examples: N, as the data count them.

    Raises:
        VerificationError: one of the sums does not hold; no number of this trace can be relied on.
    """
    _check_values(trace, sizes)
    terms = {"true": trace.per_example_true, "empirical": trace.per_example_empirical}
    for matrix, total in (("true", trace.true.value), ("empirical", trace.empirical.value)):
        layers = math.fsum(getattr(layer, matrix).value for layer in trace.layers)
        if not _agree(layers, total):
            msg = f"the layers' {matrix} traces add up to {layers:.12g} and their total is {total:.12g}; {REPORT}"
            raise VerificationError(msg, (layers, total))
        if len(terms[matrix]) != examples:
            msg = f"the {matrix} trace has terms of {len(terms[matrix])} examples where there are {examples}; {REPORT}"
            raise VerificationError(msg)
        mean = math.fsum(terms[matrix]) / examples
        if not _agree(mean, total):
            msg = f"the {matrix} trace is {total:.12g} and the mean over its {examples} examples {mean:.12g}; {REPORT}"
            raise VerificationError(msg, (mean, total))


def _agree(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=SMALLEST)


def _check_values(trace: Trace, sizes: Mapping[str, int]) -> None:
    """Hold the values that the ledger lists against those that were selected.

    Raises:
        VerificationError: a parameter is missing, is there twice, was not selected, or has another size.
    """
    listed: Counter[str] = Counter()
    for layer in trace.layers:
        listed[layer.name] += layer.parameters
    if listed == dict(sizes):
        return
    missing = [name for name in sizes if name not in listed]
    wrong = [name for name in listed if name in sizes and listed[name] != sizes[name]]
    unasked = [name for name in listed if name not in sizes]
    found = {"selected and not measured": missing, "miscounted": wrong, "measured and not selected": unasked}
    which = "; ".join(f"{what}: {_some(names)}" for what, names in found.items() if names)
    msg = (
        f"the coverage ledger holds {listed.total()} of the {sum(sizes.values())} analysed values; "
        f"what was {which}; {REPORT}"
    )
    raise VerificationError(msg)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
