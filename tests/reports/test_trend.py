"""What a run comes to, in words: no more than the numbers carry, in one sentence however wide the terminal is."""

import math

import pytest
from rich.cells import cell_len

from fisher_cli.reports.closing_lines import closing_lines, of_run
from fisher_cli.reports.trend import asides, layer_shares, trace_sentence, verdict
from fisher_cli.results import Estimate, Measurement, Trace
from tests.rendering import checkpoint, rendered


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((6.0, 77.3, 18.4), "The true trace rises from 6.0 ± 0.2 to 77.3 ± 1.2 at step 22 and falls to 0.238 of it at"),
        ((6.0, 77.3, 18.4), "the last checkpoint: a skewed bell; the empirical trace is 0.743 ± 0.025 of the true one"),
        ((6.0, 18.0, 77.3), "The true trace is still rising at the last checkpoint (77.3 ± 1.2), from 6.0 ± 0.2 at"),
        ((6.0, 18.0, 77.3), "at the first checkpoint: no bell here;"),
        ((6.0, 77.0, 77.3), "to 77.3 ± 1.2 at the last checkpoint (22 and 66 cannot be told apart): no bell here;"),
        ((77.3, 18.0, 6.0), "is largest at the first checkpoint (77.3 ± 1.2) and falls to 0.0776 of it at the last"),
        ((6.0, 77.3, 76.0), "(22 and 66 cannot be told apart) and has not clearly fallen at the last checkpoint (76.0"),
        ((76.0, 77.3, 6.0), "is largest at step 22 (77.3 ± 1.2), not clearly above the first checkpoint (76.0 ± 1.2),"),
        (
            (77.3, 77.2),
            "no clear rise or fall: largest at the first checkpoint (77.3 ± 1.2), beside the last checkpoint",
        ),
        ((18.4,), "The true trace is 18.4 ± 0.4; the empirical trace is 0.980 ± 0.030 of the true one."),
        ((math.nan,), "No checkpoint gave a trace."),
        ((6.0, 77.3, 18.4, math.nan), "falls to 0.238 of it at step 66: a skewed bell;"),
        ((6, 70, 71, 72, 71, 9), "at step 132 (22 to 220 cannot be told apart) and falls"),
        ((6, 70, 30, 72, 71, 70, 9), "132 (22, 132, 220 and 330 cannot be told apart) and falls"),
        ((6, 70, 30, 72, 71, 70, 9), "but with a dip from 70.0 ± 1.1 at step 22 to 30.0 ± 0.5 at step 66;"),
        ((6, 70, 30, 70, 71, 70, 71, 9), "(22, 3 others and 462 cannot be told apart) and falls"),
        ((6, 70, 30, 50, 9), "with a second rise from 30.0 ± 0.5 at step 66 to 50.0 ± 0.8 at step 132;"),
    ],
)
def test_the_words_claim_what_the_numbers_carry(values: tuple[float, ...], said: str) -> None:
    rows = [checkpoint(i, true=value) for i, value in enumerate(values)]
    assert said in verdict(rows).replace("\N{NO-BREAK SPACE}", " ")


def test_without_errors_nothing_is_called_a_peak() -> None:
    def row(i: int, value: float) -> Measurement:
        trace = Trace("exact", Estimate(value), Estimate(value), None, (), (), ())
        return checkpoint(i, trace=trace)

    text = verdict([row(0, 1.0), row(1, 50.0), row(2, 1.0)])
    assert "no clear rise or fall" in text
    assert "empirical" not in text


def test_the_layers_shares_are_told_from_first_to_last() -> None:
    rows = [checkpoint(i, true=value) for i, value in enumerate((6.0, 77.3, 18.4))]
    shares = "head.weight 0.60 → 0.60 → 0.60, body.weight 0.40 → 0.40 → 0.40"
    assert (
        layer_shares(rows).replace("\N{NO-BREAK SPACE}", " ") == f"Share of tr F first, at the peak, at last: {shares}"
    )
    assert layer_shares(rows[:2]).startswith("Share of tr F first and at last: head.weight 0.60")
    assert layer_shares(rows[:1]) == ""
    assert layer_shares([]) == ""
    assert "Share of tr F first" in "\n".join(rendered(rows, 100))


@pytest.mark.parametrize("values", [(6.0, 77.3, 18.4), (6, 70, 30, 72, 71, 70, 9), (18.4,), (math.nan,)], ids=str)
def test_what_ends_a_table_does_not_depend_on_the_width_of_the_terminal(values: tuple[float, ...]) -> None:
    rows = [checkpoint(i, true=value) for i, value in enumerate(values)]
    for width in (30, 80, 200):
        lines = [line.plain for line in closing_lines(of_run(rows), width)]
        assert max(map(cell_len, lines)) <= width
        assert " ".join(lines) == " ".join(of_run(rows)).replace("\N{NO-BREAK SPACE}", " ")


def test_the_sentence_at_the_end_is_the_verdict_without_what_stands_above_it() -> None:
    rows = [checkpoint(i, true=value) for i, value in enumerate((6, 70, 30, 72, 71, 70, 9))]
    assert trace_sentence(rows).replace("\N{NO-BREAK SPACE}", " ") == (
        "The true trace rises from 6.0 ± 0.2 to 72.0 ± 1.1 at step 132 and falls to 0.125 of it at the last "
        "checkpoint: a skewed bell."
    )
    assert trace_sentence([checkpoint(0, true=math.nan)]) == "No checkpoint gave a trace."


def test_what_the_last_sentences_leave_out_stands_above_them() -> None:
    rows = [checkpoint(i, true=value) for i, value in enumerate((6, 70, 30, 72, 71, 70, 9))]
    text = " ".join(asides(rows)).replace("\N{NO-BREAK SPACE}", " ")
    assert "The largest traces (22, 132, 220 and 330) cannot be told apart." in text
    assert "On the way there is a dip from 70.0 ± 1.1 at step 22 to 30.0 ± 0.5 at step 66." in text
    assert text in " ".join(rendered(rows, 160))
    assert asides([checkpoint(i, true=value) for i, value in enumerate((6.0, 77.3, 18.4))]) == []
    assert asides([]) == []
