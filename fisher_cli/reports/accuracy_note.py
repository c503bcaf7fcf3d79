"""The accuracy beside that of guessing, in plain words: where a network is not computed as it was trained, it shows."""

import math
from collections.abc import Sequence

from fisher_cli.reports.layout import place
from fisher_cli.reports.numbers import finite, number_text, unbroken
from fisher_cli.results import INITIAL_LOSS, Estimate, Measurement


def accuracy_note(measurements: Sequence[Measurement]) -> list[str]:
    """The accuracy beside that of guessing, 1/C, and which rows are no better, or worse in their loss than ln C.

    A network that nobody trained has a loss near ln C. One that was trained and does no better than chance is probably
    not computed as it was trained: weights do not show max-pools, strides, activations or the scale of the inputs. A
    loss above ln C beside an accuracy above chance means that wrong answers are given with great confidence.

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
    guessing = [each for each in known if each.is_better_than_guessing is False and _loss_ratio(each) is not None]
    blind = [each for each in guessing if abs((_loss_ratio(each) or 1.0) - 1) > INITIAL_LOSS]
    if blind:
        said.append(
            f"No better than guessing, with a loss that an untrained network does not have: {_places(blind)}. A choice "
            "that weights do not show may be wrong (the notes name those that were assumed; --model-arg changes them), "
            "or --normalize, or the order of the classes."
        )
    sure = [each for each in known if each.is_better_than_guessing and (_loss_ratio(each) or 0.0) > 1]
    if sure:
        said.append(
            f"The loss is above that of guessing, ln {classes} = {math.log(classes):.3g} nats, while the accuracy is "
            f"better: {_places(sure)}. Wrong answers are given with great confidence."
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


def _loss_ratio(measurement: Measurement) -> float | None:
    """The loss over that of guessing."""
    loss = finite(measurement.predictions.loss.value) if measurement.predictions else None
    return None if loss is None or measurement.guessing_loss is None else loss / measurement.guessing_loss


def _places(rows: Sequence[Measurement]) -> str:
    return ", ".join(place(each) for each in rows[:3]) + (", …" if len(rows) > 3 else "")
