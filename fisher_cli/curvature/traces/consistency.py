"""What must add up in a trace before anybody sees it: values over the ledger, traces over layers and examples."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from fisher_cli.errors import VerificationError
from fisher_cli.results import Trace

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
