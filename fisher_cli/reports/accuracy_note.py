"""The accuracy beside that of guessing, in plain words: where a network is not computed as it was trained, it shows."""

import math
from collections.abc import Sequence

from fisher_cli.reports.layout import place
from fisher_cli.reports.numbers import finite, number_text, unbroken
from fisher_cli.results import Estimate, Measurement

# How many standard errors above guessing an accuracy must be to count.
_CLEAR = 3.0
# How far from ln(classes), in parts of it, a loss must be to be one of training: initial weights give up to a fifth.
_TRAINED = 0.25


def accuracy_note(measurements: Sequence[Measurement]) -> list[str]:
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
    text = _said(estimate, last.examples) if estimate else ""
    where = "" if len(known) == 1 else f" at {place(last)}"
    said = [f"The accuracy is {text}{where}; guessing gives {1 / classes:.3g}."]
    doubtful = [each for each in known if _is_doubtful(each)]
    if doubtful:
        places = ", ".join(place(each) for each in doubtful[:3]) + (", …" if len(doubtful) > 3 else "")
        said.append(
            f"No better than guessing, with a loss that an untrained network does not have: {places}. A choice that "
            "weights do not show may be wrong (the notes name those that were assumed; --model-arg changes them), "
            "or --normalize, or the order of the classes."
        )
    return said


def _said(estimate: Estimate, examples: int | None) -> str:
    """`0.950 ± 0.007`; where all or none is right the sample knows no error, and the count is said instead."""
    if estimate.value in (0.0, 1.0) and examples:
        return f"{estimate.value:.0f} ({'all' if estimate.value else 'none'} of {examples:,} examples)"
    return unbroken(number_text(estimate.value, estimate.standard_error))


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
