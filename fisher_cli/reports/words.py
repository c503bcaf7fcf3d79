"""What a run's numbers say, in plain words; nothing is claimed that the error bars do not carry."""

import math
from collections.abc import Sequence

from fisher_cli.cells import one_line
from fisher_cli.reports.numbers import finite, number_text, number_texts
from fisher_cli.results import Estimate, Measurement

# A maximum is picked from many noisy values, so two standard errors would be too few. The errors are combined
# as if the checkpoints had been measured on different examples, which overstates the error of a difference.
_CLEAR = 3.0
# How far from ln(classes), in parts of it, a loss must be to be one of training: initial weights give up to a fifth.
_TRAINED = 0.25


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


def against_chance(measurements: Sequence[Measurement]) -> list[str]:
    """The accuracy beside that of guessing, 1/classes, and which rows are no better though they were trained.

    A network that nobody trained has a loss near ln(classes). One that was trained and guesses no better than chance
    is probably not computed as it was trained: weights do not show max-pools, strides, activations or the scale of
    the inputs.

    Returns:
        Sentences; none where no accuracy is known.
    """
    known = [each for each in measurements if _accuracy(each) is not None and (each.classes or 0) > 1]
    if not known:
        return []
    last, classes = known[-1], known[-1].classes or 2
    estimate = last.predictions.accuracy if last.predictions else None
    text = _unbroken(number_text(estimate.value, estimate.standard_error)) if estimate else ""
    where = "" if len(known) == 1 else f" at {_place(last)}"
    said = [f"The accuracy is {text}{where}; guessing gives {1 / classes:.3g}."]
    doubtful = [each for each in known if _is_doubtful(each)]
    if doubtful:
        places = ", ".join(_place(each) for each in doubtful[:3]) + (", …" if len(doubtful) > 3 else "")
        said.append(
            f"No better than guessing, with a loss that an untrained network does not have: {places}. A choice that "
            "weights do not show may be wrong (the notes name those that were assumed; --model-arg changes them), "
            "or --normalize, or the order of the classes."
        )
    return said


def is_clear(larger: Estimate, smaller: Estimate) -> bool:
    """Whether one value exceeds another by more than their errors explain; never, if an error is unknown."""
    if larger.standard_error is None or smaller.standard_error is None:
        return False
    # Where the estimator's own error is not known apart, the standard error contains it.
    added = (larger.estimator_error or 0.0, smaller.estimator_error or 0.0)
    return larger.value - smaller.value > _CLEAR * math.hypot(larger.standard_error, smaller.standard_error, *added)


def _accuracy(measurement: Measurement) -> float | None:
    estimate = measurement.predictions and measurement.predictions.accuracy
    return finite(estimate.value) if estimate else None


def _is_doubtful(measurement: Measurement) -> bool:
    """Whether the accuracy is not above chance by three standard errors, and the loss far from ln(classes)."""
    accuracy = _accuracy(measurement)
    loss = finite(measurement.predictions.loss.value) if measurement.predictions else None
    classes, examples = measurement.classes, measurement.examples
    if accuracy is None or loss is None or not classes or not examples:
        return False
    chance = 1 / classes
    # The error that guessing would have: the sample's own is zero where nothing at all is right.
    is_above = accuracy > chance + _CLEAR * math.sqrt(chance * (1 - chance) / examples)
    untrained = math.log(classes)
    return not is_above and abs(loss - untrained) > _TRAINED * untrained


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
