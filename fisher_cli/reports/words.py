"""What a run's numbers say, in plain words; nothing is claimed that the error bars do not carry."""

import math
from collections.abc import Sequence

from fisher_cli.cells import one_line
from fisher_cli.reports.numbers import finite, number_text, number_texts
from fisher_cli.results import Estimate, Measurement

# A maximum is picked from many noisy values, so two standard errors would be too few. The errors are combined
# as if the checkpoints had been measured on different examples, which overstates the error of a difference.
_CLEAR = 3.0


def trend(measurements: Sequence[Measurement]) -> str:
    """Where the true trace is largest, what it is at the end, and the empirical Fisher's part of it there.

    Returns:
        A sentence; numbers hold no-break spaces, so that wrapping keeps them whole.
    """
    measured = [each for each in measurements if each.trace and finite(each.trace.true.value) is not None]
    if not measured:
        return "No checkpoint gave a trace."
    traces = [each.trace.true for each in measured if each.trace]
    # Written together, so that the sentence has the digits of the table.
    texts = number_texts([each.value for each in traces], [each.standard_error for each in traces])
    texts = [_unbroken(text) for text in texts]
    if len(measured) == 1:
        return f"The true trace is {texts[0]}{_empirical(measured[0], '')}."
    at = max(range(len(traces)), key=lambda i: traces[i].value)
    first, peak, last = traces[0], traces[at], traces[-1]
    place = f"{_place(measured[at])} ({texts[at]})"
    end = "the last checkpoint" if measured[-1] is measurements[-1] else "the last checkpoint with a trace"
    if at == len(traces) - 1 and is_clear(last, traces[-2]):
        said = f"The true trace is still rising at {end} ({texts[-1]}), from {texts[0]} at the first"
    elif at == len(traces) - 1:
        said = f"The true trace is largest at {end} ({texts[-1]})"
    elif at == 0 and is_clear(first, last):
        said = f"The true trace is largest at the first checkpoint ({texts[0]}), {texts[-1]} at {end}"
    elif is_clear(peak, first) and is_clear(peak, last):
        said = f"The true trace peaks at {place}, {texts[-1]} at {end}"
    else:
        rival = end if not is_clear(peak, last) else "the first checkpoint"
        value = texts[-1] if not is_clear(peak, last) else texts[0]
        said = f"The true trace is largest at {place}, not clearly above {rival} ({value})"
    return f"{said}{_empirical(measured[-1], ' there' if said.endswith(end) else f' at {end}')}."


def is_clear(larger: Estimate, smaller: Estimate) -> bool:
    """Whether one value exceeds another by more than their errors explain; never, if an error is unknown."""
    if larger.standard_error is None or smaller.standard_error is None:
        return False
    # Where the estimator's own error is not known apart, the standard error contains it.
    added = (larger.estimator_error or 0.0, smaller.estimator_error or 0.0)
    return larger.value - smaller.value > _CLEAR * math.hypot(larger.standard_error, smaller.standard_error, *added)


def _empirical(measurement: Measurement, where: str) -> str:
    """The clause about the empirical Fisher, "" if its ratio is not known."""
    ratio = measurement.trace and measurement.trace.ratio
    if not ratio or finite(ratio.value) is None:
        return ""
    return (
        f"; the empirical trace is {_unbroken(number_text(ratio.value, ratio.standard_error))} of the true one{where}"
    )


def _unbroken(text: str) -> str:
    """`77.3 ± 1.1` without padding, and so that no wrapping divides it."""
    return "\N{NO-BREAK SPACE}".join(text.split())


def _place(measurement: Measurement) -> str:
    """The step if known, else the name."""
    return one_line(measurement.checkpoint) if measurement.step is None else f"step {measurement.step}"
