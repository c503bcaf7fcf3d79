"""Accuracy beside chance: a trained network that guesses is told that an unseen choice may be wrong."""

import math

import pytest

from fisher_cli.reports.accuracy_note import accuracy_note
from fisher_cli.results import Estimate, Predictions, Status
from fisher_cli.results import Measurement as Row
from tests.rendering import checkpoint, rendered


def row(accuracy: float, loss: float, classes: int = 10, examples: int = 1000, step: int = 7) -> Row:
    error = math.sqrt(accuracy * (1 - accuracy) / examples)
    found = Predictions(Estimate(loss, 0.01), Estimate(accuracy, error), Estimate(1.0))
    return checkpoint(3, predictions=found, classes=classes, examples=examples, step=step)


def test_accuracy_stands_beside_chance() -> None:
    [said] = accuracy_note([row(0.8, 0.7)])
    assert said.replace("\N{NO-BREAK SPACE}", " ") == "The accuracy is 0.800 ± 0.013; guessing gives 0.1."
    [said] = accuracy_note([row(0.8, 0.7), row(0.5, 0.9, step=9)])
    assert " at step 9; " in said


@pytest.mark.parametrize(
    ("accuracy", "loss", "classes", "examples", "is_doubtful"),
    [
        (0.1, 5.0, 10, 1000, True),  # sure and wrong
        (0.0, 1.0, 10, 1000, True),  # sure, and never right: its own standard error is zero
        (0.125, 5.0, 10, 1000, True),  # 0.1 + 3 · 0.0095 is not reached
        (0.13, 5.0, 10, 1000, False),
        (0.125, 5.0, 10, 10000, False),  # with more examples it is
        (0.1, 2.3, 10, 1000, False),  # nobody trained it
        (0.1, 2.8, 10, 1000, False),
        (0.1, 1.5, 10, 1000, True),
        (0.01, 4.7, 100, 1000, False),  # ln 100 = 4.6
        (0.01, 9.0, 100, 1000, True),
        (0.9, 0.2, 10, 1000, False),
    ],
)
def test_who_is_told_that_a_choice_may_be_wrong(
    accuracy: float, loss: float, classes: int, examples: int, is_doubtful: bool
) -> None:
    said = " ".join(accuracy_note([row(accuracy, loss, classes, examples)]))
    words = "loss that an untrained network does not have: step 7. A choice that weights do not show"
    assert (words in said) == is_doubtful


def test_a_loss_above_that_of_guessing_is_named_also_where_the_accuracy_is_not() -> None:
    said = accuracy_note([row(0.24, 10.5), row(0.3, 2.0, step=9)])
    assert said[1:] == [
        "The loss is above that of guessing, ln 10 = 2.3 nats, while the accuracy is better: step 7. Wrong answers "
        "are given with great confidence."
    ]


def test_it_stands_in_the_summary_and_only_the_doubtful_rows_are_named() -> None:
    text = " ".join(rendered([row(0.8, 0.7, step=1), row(0.1, 6.0, step=2)], 100))
    assert "guessing gives 0.1." in text
    assert "does not have: step 2. A choice" in text


def test_without_classes_or_numbers_nothing_is_said() -> None:
    assert accuracy_note([]) == []
    assert accuracy_note([Row(checkpoint="a", status=Status.FAILED, error="x")]) == []
    no_classes = Predictions(Estimate(1.0, 0.1), None, Estimate(1.0))
    assert accuracy_note([checkpoint(3, predictions=no_classes)]) == []
