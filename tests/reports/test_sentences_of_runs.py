"""Runs that were made up, each with the sentences that end its table beside what an expert would say of it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fisher_cli.reports.closing_lines import of_run
from fisher_cli.results import HIGH_LOSS, UNSETTLED_NOTE, Estimate, Measurement, Predictions, Status, Trace
from fisher_cli.tables.trajectory import Shape, trajectory_of
from tests.rendering import checkpoint

EXAMPLES = 200


def run(
    *values: float | None,
    error: float = 0.02,
    losses: Sequence[float] | None = None,
    unsettled: Sequence[int] = (),
    guessing: Sequence[int] = (),
    failed: Sequence[int] = (),
) -> list[Measurement]:
    """Rows at steps 0, 100, 200, … with these traces, whose error is a share of the largest; None is a row without."""
    counted = [abs(value) for i, value in enumerate(values) if value is not None and i not in {*unsettled, *guessing}]
    top = max(counted, default=1.0)
    losses = losses or np.linspace(2.3, 0.01, len(values)).tolist()
    rows = []
    for i, value in enumerate(values):
        trace = None
        if value is not None and i not in failed:
            ratio = Estimate(0.9, 0.01)
            trace = Trace("exact", Estimate(value, error * top), Estimate(0.9 * value, error * top), ratio, (), (), ())
        accuracy = Estimate(0.1 if i in guessing else 0.8, 0.03)
        rows.append(
            checkpoint(
                i,
                checkpoint=f"step_{100 * i}.pt",
                step=100 * i,
                examples=EXAMPLES,
                trace=trace,
                status=Status.FAILED if i in failed else Status.OK,
                error="NaN in fc.weight" if i in failed else "",
                notes=(f"{UNSETTLED_NOTE}: 9 of 9 layers, most in bn1",) if i in unsettled else (),
                predictions=Predictions(Estimate(5.0 if i in guessing else losses[i], 0.02), accuracy, Estimate(0.5)),
            )
        )
    return rows


COMMAND = ("fisher", "analyze", "ckpts")

# By name: the run, what an expert says of it, and what the tool says of the true trace and of rows that do not count.
CASES: dict[str, tuple[list[Measurement], str, list[str]]] = {
    "bell": (
        run(5, 20, 60, 80, 60, 30, 12, 8),
        "The trace rises sixteenfold to a peak at step 300 and falls back to a tenth of it: the bell of the theory.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.100 of it at the "
            "last checkpoint: a bell.",
        ],
    ),
    "bell, not to its start": (
        run(20, 50, 100, 90, 70, 60),
        "It rises to a peak at step 200 and has come down by two fifths at the end.",
        [
            "The true trace rises from 20 ± 2 to 100 ± 2 at step 200 and falls to 0.600 of it at the last "
            "checkpoint: a skewed bell.",
        ],
    ),
    "rise": (
        run(5, 10, 20, 40, 60, 80),
        "It rises throughout; nothing is known about a fall.",
        [
            "The true trace is still rising at the last checkpoint (80.0 ± 1.6), from 5.0 ± 1.6 at the "
            "first checkpoint: no bell here.",
        ],
    ),
    "rise that levels off": (
        run(5, 30, 60, 78, 80, 79),
        "It rises to a plateau from about step 300 on and does not fall.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 400 and has not clearly fallen at "
            "the last checkpoint (79.0 ± 1.6): no bell here.",
        ],
    ),
    "fall": (
        run(80, 60, 40, 20, 10, 8),
        "It falls from the first checkpoint on: if there was a rise, it was before that.",
        [
            "The true trace is largest at the first checkpoint (80.0 ± 1.6) and falls to 0.100 of it at the "
            "last checkpoint: no rise here.",
        ],
    ),
    "fall from a step after the first": (
        run(79, 80, 60, 30, 12, 8),
        "It falls; the first two checkpoints are the same within their errors.",
        [
            "The true trace is largest at step 100 (80.0 ± 1.6), not clearly above the first checkpoint "
            "(79.0 ± 1.6), and falls to 0.100 of it at the last checkpoint: no rise here.",
        ],
    ),
    "fall that has not ended": (
        run(80, 70, 60, 50, 45, 36),
        "It falls to a little under half, and nothing says that the fall is over.",
        [
            "The true trace is largest at the first checkpoint (80.0 ± 1.6) and falls to 0.450 of it at the "
            "last checkpoint: no rise here.",
        ],
    ),
    "plateau": (
        run(50, 50.5, 49.8, 50.2, 50.1, 50),
        "Nothing happens within the errors.",
        [
            "The true trace shows no clear rise or fall: largest at step 100 (50.5 ± 1.0), beside the first "
            "checkpoint (50.0 ± 1.0) and the last checkpoint (50.0 ± 1.0).",
        ],
    ),
    "a small rise": (
        run(50, 51, 52, 53, 54, 54.5, error=0.002),
        "It rises by 9 %, clearly and not materially: not a phase of training.",
        [
            "The true trace shows no clear rise or fall: largest at the last checkpoint (54.5 ± 0.1), "
            "beside the first checkpoint (50.0 ± 0.1).",
        ],
    ),
    "dip on the way up": (
        run(5, 60, 25, 80, 40, 8),
        "A bell with its peak at step 300; the dip at step 200 is to be looked at.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.100 of it at the "
            "last checkpoint: a bell.",
        ],
    ),
    "second rise on the way down": (
        run(5, 80, 20, 50, 10),
        "A bell with its peak at step 100, and a second rise at step 300.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 100 and falls to 0.125 of it at the "
            "last checkpoint: a bell.",
        ],
    ),
    "two peaks of one height": (
        run(5, 80, 30, 80.4, 8),
        "It rises and falls; steps 100 and 300 are peaks of the same height.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.4 ± 1.6 at step 300 and falls to 0.0995 of it at the "
            "last checkpoint: a bell.",
        ],
    ),
    "two peaks, the second higher": (
        run(5, 50, 20, 80, 8),
        "It rises to a peak at step 300 after a smaller one, and falls.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.100 of it at the "
            "last checkpoint: a bell.",
        ],
    ),
    "noise alone": (
        run(50, 58, 45, 53, 41, 55, 49, error=0.15),
        "The differences are noise.",
        [
            "The true trace shows no clear rise or fall: largest at step 100 (58.0 ± 8.7), beside the first "
            "checkpoint (50.0 ± 8.7) and the last checkpoint (49.0 ± 8.7).",
        ],
    ),
    "a spike of one row": (
        run(10, 11, 80, 10, 11, 10),
        "One checkpoint alone is high, at step 200.",
        [
            "The true trace rises from 10.0 ± 1.6 to 80.0 ± 1.6 at step 200 and falls to 0.125 of it at the "
            "last checkpoint: a bell.",
        ],
    ),
    "first row doubted": (
        run(400, 20, 60, 80, 30, 8, unsettled=[0]),
        "Step 0 is no measurement of the trained network. From step 100 on: a bell with its peak at step 300.",
        [
            "The true trace rises from 20.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.100 of it at the "
            "last checkpoint: a bell.",
            "Left out of this: step 0; its batch-norm statistics are not yet settled.",
            "To count it: fisher analyze ckpts --recalibrate-bn",
        ],
    ),
    "first two rows doubted": (
        run(4000, 300, 20, 60, 80, 30, 8, unsettled=[0, 1]),
        "Steps 0 and 100 do not count. From step 200 on: a bell with its peak at step 400.",
        [
            "The true trace rises from 20.0 ± 1.6 to 80.0 ± 1.6 at step 400 and falls to 0.100 of it at the "
            "last checkpoint: a bell.",
            "Left out of this: step 0 and step 100; their batch-norm statistics are not yet settled.",
            "To count them: fisher analyze ckpts --recalibrate-bn",
        ],
    ),
    "middle row doubted": (
        run(5, 20, 900, 80, 30, 8, guessing=[2]),
        "A bell with its peak at step 300; step 200 is broken and does not count.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.100 of it at the "
            "last checkpoint: a bell.",
            "Left out of this: step 200; it is no better than guessing, at a loss above that of guessing.",
        ],
    ),
    "last row doubted": (
        run(5, 20, 60, 80, 30, 700, guessing=[5]),
        "A peak at step 300 and a fall by more than half; what step 500 gives is not to be believed.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.375 of it at step "
            "400: a bell.",
            "Left out of this: step 500; it is no better than guessing, at a loss above that of guessing.",
        ],
    ),
    "first and last doubted": (
        run(400, 5, 60, 80, 30, 700, unsettled=[0], guessing=[5]),
        "Between the two rows that do not count: a rise to step 300 and a fall.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.375 of it at step "
            "400: a bell.",
            "Left out of this: step 0; its batch-norm statistics are not yet settled.",
            "To count it: fisher analyze ckpts --recalibrate-bn",
            "Left out of this: step 500; it is no better than guessing, at a loss above that of guessing.",
        ],
    ),
    "all rows doubted": (
        run(400, 300, 200, unsettled=[0, 1, 2]),
        "There is no row to speak of.",
        [
            "Nothing can be said about the training: every row with a trace is doubtful.",
            "Left out of this: step 0, step 100 and step 200; their batch-norm statistics are not yet settled.",
            "To count them: fisher analyze ckpts --recalibrate-bn",
        ],
    ),
    "all but one doubted": (
        run(400, 300, 20, unsettled=[0, 1]),
        "One row counts: its trace is 20.",
        [
            "The true trace is 20.0 ± 0.4.",
            "Left out of this: step 0 and step 100; their batch-norm statistics are not yet settled.",
            "To count them: fisher analyze ckpts --recalibrate-bn",
        ],
    ),
    "one row": (
        run(18),
        "One number and its error.",
        [
            "The true trace is 18.0 ± 0.4.",
        ],
    ),
    "one row, doubted": (
        run(18, unsettled=[0]),
        "There is no row to speak of.",
        [
            "Nothing can be said about the training: every row with a trace is doubtful.",
            "Left out of this: step 0; its batch-norm statistics are not yet settled.",
            "To count it: fisher analyze ckpts --recalibrate-bn",
        ],
    ),
    "two rows, equal": (
        run(50, 50),
        "Both are the same.",
        [
            "The true trace is 50.0 ± 1.0 at every checkpoint.",
        ],
    ),
    "two rows, a fall": (
        run(80, 10),
        "It falls to an eighth between the two.",
        [
            "The true trace is largest at the first checkpoint (80.0 ± 1.6) and falls to 0.125 of it at the "
            "last checkpoint: no rise here.",
        ],
    ),
    "two rows, a rise": (
        run(10, 80),
        "It rises eightfold between the two.",
        [
            "The true trace is still rising at the last checkpoint (80.0 ± 1.6), from 10.0 ± 1.6 at the "
            "first checkpoint: no bell here.",
        ],
    ),
    "equal rows": (
        run(50, 50, 50, 50),
        "All are the same.",
        [
            "The true trace is 50.0 ± 1.0 at every checkpoint.",
        ],
    ),
    "all zero": (
        run(0, 0, 0),
        "The trace is zero throughout.",
        [
            "The true trace is 0.0 ± 0.0 at every checkpoint.",
        ],
    ),
    "a factor of a thousand": (
        run(0.05, 50, 20, 1, 0.04),
        "A bell whose peak is a thousand times its ends.",
        [
            "The true trace rises from 0.050 ± 1.000 to 50.000 ± 1.000 at step 100 and falls to 0.000800 of "
            "it at the last checkpoint: a bell.",
        ],
    ),
    "first row failed": (
        run(5, 20, 60, 80, 30, 8, failed=[0]),
        "From step 100 on: a bell with its peak at step 300.",
        [
            "The true trace rises from 20.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.100 of it at the "
            "last checkpoint: a bell.",
        ],
    ),
    "last row failed": (
        run(5, 20, 60, 80, 30, 8, failed=[5]),
        "A bell with its peak at step 300; the last number is that of step 400.",
        [
            "The true trace rises from 5.0 ± 1.6 to 80.0 ± 1.6 at step 300 and falls to 0.375 of it at step "
            "400: a bell.",
        ],
    ),
    "peak failed": (
        run(5, 20, 60, 80, 30, 8, failed=[3]),
        "A rise and a fall; the highest number is that of step 200, and step 300 is not known.",
        [
            "The true trace rises from 5.0 ± 1.6 to 60.0 ± 1.6 at step 200 and falls to 0.133 of it at the "
            "last checkpoint: a skewed bell.",
        ],
    ),
    "every row failed": (
        run(5, 20, failed=[0, 1]),
        "There is no number.",
        [
            "No checkpoint gave a trace.",
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_sentences_say_what_an_expert_would(name: str) -> None:
    rows, expert, said = CASES[name]
    assert expert
    found = [each.replace("\N{NO-BREAK SPACE}", " ") for each in of_run(rows, COMMAND)]
    assert [each for each in found if not each.startswith("The empirical trace")] == said


def test_from_python_the_mending_is_a_keyword() -> None:
    assert "To count it: recalibrate_bn=True" in of_run(run(400, 20, 60, 80, 30, 8, unsettled=[0]))


def test_a_doubted_row_has_no_phase_and_is_no_peak() -> None:
    found = trajectory_of(run(4000, 20, 60, 80, 8, 9, unsettled=[0]))
    assert found is not None
    assert (found.phases[0], found.fit[0], found.peak, found.first) == (None, None, 3, 1)
    assert [each.doubt for each in run(1, 1, 1, unsettled=[0], guessing=[1])] == [UNSETTLED_NOTE, HIGH_LOSS, ""]


# --- simulations: how often a shape is claimed


def simulated(generator: np.random.Generator, means: np.ndarray, error: float) -> Shape:
    values = generator.normal(means, error)
    rows = run(*values, error=error / values.max())
    found = trajectory_of(rows)
    assert found is not None
    return found.shape


def test_pure_noise_is_seldom_given_a_shape() -> None:
    generator, claimed = np.random.default_rng(0), 0
    for _ in range(500):
        claimed += simulated(generator, np.full(12, 50.0), 5.0) is not Shape.LEVEL
    assert claimed <= 25


def test_a_true_bell_is_given_its_shape() -> None:
    generator, found = np.random.default_rng(0), 0
    bell = 10 + 70 * np.exp(-((np.linspace(-2, 2, 12)) ** 2))
    for _ in range(500):
        found += simulated(generator, bell, 7.0) is Shape.BELL
    assert found >= 450


# --- when a run is called converged


@pytest.mark.parametrize(
    ("losses", "last"),
    [
        ((2.3, 1.5, 0.9, 0.2, 0.1, 0.05), "low, converged"),
        ((2.3, 1.9, 1.5, 1.0, 0.7, 0.5), "low"),  # near a fifth of that of guessing: still being learned
        ((2.3, 1.5, 0.9, 0.2, 0.1, 0.4), "low"),  # it has left its floor again
        ((2.3, 1.5, 0.9, 0.4, 0.22, 0.22), "low, converged"),
    ],
)
def test_converged_is_said_where_the_loss_rests_near_its_floor(losses: tuple[float, ...], last: str) -> None:
    found = trajectory_of(run(5, 60, 80, 20, 10, 8, losses=losses))
    assert found is not None
    assert found.phases[-1] == last


def test_a_fall_that_has_not_ended_is_a_fall() -> None:
    found = trajectory_of(run(80, 70, 60, 50, 45, 20, losses=[2.3, 2, 1.5, 1.2, 1, 0.9]))
    assert found is not None
    assert found.phases[-1] == "falling"


def test_outputs_that_are_no_classes_are_never_called_converged() -> None:
    rows = [replace(each, likelihood="gaussian") for each in run(5, 60, 80, 20, 10, 8, losses=[0.01] * 6)]
    found = trajectory_of(rows)
    assert found is not None
    assert found.phases[-1] == "low"
    assert all(each.doubt == "" for each in rows)
