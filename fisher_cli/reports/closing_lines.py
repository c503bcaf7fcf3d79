"""The one or two sentences at the end of what a command prints: what happened."""

from collections import Counter
from collections.abc import Sequence

from rich.text import Text

from fisher_cli.reports.layout import place, shorten, wrapped
from fisher_cli.reports.numbers import finite, number_text, unbroken
from fisher_cli.reports.trend import left_out_rows, trace_sentence
from fisher_cli.results import (
    CheckpointComparison,
    Comparison,
    ComparisonFinding,
    Estimate,
    ExampleSummary,
    Inspection,
    Measurement,
    Spectrum,
)
from fisher_cli.text import one_line

_CLEAR = frozenset({ComparisonFinding.FITTED, ComparisonFinding.SURPRISED, ComparisonFinding.SHIFTED})
_NAME = 24


def closing_lines(sentences: Sequence[str], width: int) -> list[Text]:
    """Each sentence on lines of its own."""
    return [line for sentence in sentences for line in wrapped(sentence, width, "bold")]


def of_run(measurements: Sequence[Measurement], command: Sequence[str] = ()) -> list[str]:
    """How the true trace went, which rows that leaves out, and what part of it the empirical trace is at the end."""
    said = [trace_sentence(measurements), *left_out_rows(measurements, command)]
    counted = [each for each in measurements if each.trace and finite(each.trace.true.value) and not each.doubt]
    if counted and (trace := counted[-1].trace) and trace.ratio and finite(trace.ratio.value) is not None:
        said.append(
            f"The empirical trace is {_number(trace.ratio)} of the true one at {place(counted[-1])}: tr F̂/tr F over "
            "the same examples."
        )
    return said


def of_spectra(pairs: Sequence[tuple[Measurement, Spectrum]]) -> list[str]:
    """How the largest eigenvalue of one matrix went, and how much of the trace the leading ones carry."""
    known = [(each, found) for each, found in pairs if found.leading.values]
    if not known:
        return []
    matrix = known[0][1].matrix
    ends = [known[0], max(known, key=lambda pair: pair[1].leading.values[0]), known[-1]]
    ends = list({id(found): (each, found) for each, found in ends}.values())
    values = [f"{_largest(found)} at {place(each)}" for each, found in ends]
    first = f"The largest eigenvalue of the {matrix} Fisher is {', '.join(values)}."
    shares = [found.shares[len(found.leading.values) - 1] for _, found in known if found.shares]
    ranks = [found.effective_rank.value for _, found in known if found.effective_rank]
    count = len(known[-1][1].leading.values)
    carried, rank = _from_to([f"{share:.1%}" for share in shares]), _from_to([number_text(each) for each in ranks])
    said = [f"the top {count} carry {carried} of its trace" if carried else "", rank and f"effective rank {rank}"]
    text = "; ".join(part for part in said if part)
    return [first, f"{text[0].upper()}{text[1:]}."] if text else [first]


def of_comparison(pairs: Sequence[tuple[Measurement, Comparison]]) -> list[str]:
    """At how many checkpoints the traces differ clearly, and the ratio at the last beside its null."""
    if not pairs:
        return []
    counts = Counter(found.verdict.finding for _, found in pairs)
    clear, count = sum(counts[each] for each in _CLEAR), len(pairs)
    where = f"at {clear} of {count} checkpoints" if count > 1 else f"at {place(pairs[0][0])}"
    said = f"differs clearly {where}" if clear or count > 1 else f"does not differ clearly {where}"
    first = f"The empirical Fisher's trace {said} from the true one's (more than three deviations of label noise)."
    measurement, last = pairs[-1]
    ratio = measurement.trace.ratio if measurement.trace else None
    if ratio is None or last.null_deviation is None or finite(ratio.value) is None:
        return [first]
    null = unbroken(number_text(1.0, last.null_deviation))
    return [
        first,
        f"At {place(measurement)} it is {_number(ratio)} of the true one; labels drawn from the model give {null}.",
    ]


def of_pair(found: CheckpointComparison, holds: float) -> list[str]:
    """How far the predictions moved against the second-order view, and how many examples keep theirs."""
    moved, quadratic = found.kl_ab_parameters or found.kl_ab, found.whole.quadratic_a.value
    first = f"KL(a‖b) is {_number(moved)} nats"
    if quadratic > 0 and finite(moved.value / quadratic) is not None:
        ratio = moved.value / quadratic
        how = "the second-order view holds" if abs(ratio - 1) <= holds else "too long a step for the second-order view"
        first += f", {number_text(ratio)} times ½ΔᵀFΔ at a: {how}"
    if found.agreement is None:
        return [f"{first}."]
    same = f"Both predict the same for {found.agreement.value:.1%} of the examples"
    if found.accuracy_a is None or found.accuracy_b is None:
        return [f"{first}.", f"{same}."]
    right = f"a is right for {found.accuracy_a.value:.1%}, b for {found.accuracy_b.value:.1%}"
    return [f"{first}.", f"{same}; {right}."]


def of_examples(measurement: Measurement, summary: ExampleSummary, finding: str) -> list[str]:
    """Noisy against clean where they are marked, and how few examples carry how much.

    Args:
        measurement: the last one.
        summary: what its examples say.
        finding: the verdict on noisy against clean in a word or two; "" where no example is marked.
    """
    said: list[str] = []
    ratio = summary.noise.ratio if summary.noise else None
    if finding and ratio is not None:
        figure, low, high = (number_text(value) for value in (ratio.value, ratio.low, ratio.high))
        said.append(
            f"At {place(measurement)} the noisy examples carry {figure} times the trace of the clean ones "
            f"({low} to {high}): {finding}."
        )
    if summary.concentration:
        each = summary.concentration[-1]
        count = f"{each.examples:,} example{'s' if each.examples != 1 else ''}"
        verb = "carry" if each.examples != 1 else "carries"
        said.append(
            f"At {place(measurement)} the largest {count} ({each.fraction:.0%}) {verb} {each.share:.1%} of the "
            "true trace."
        )
    return said


def of_files(inspections: Sequence[Inspection]) -> list[str]:
    """How many files can be analysed, and with which network."""
    good = [each for each in inspections if not each.error]
    count = len(inspections)
    if not good:
        return ["No file can be analysed." if count > 1 else "This file cannot be analysed."]
    said = "It can be analysed" if count == 1 else f"{len(good)} of {count} checkpoints can be analysed"
    networks = {each.architecture for each in good if each.architecture}
    named = f": {shorten(one_line(networks.pop()), _NAME)}" if len(networks) == 1 else ""
    steps = [each.step for each in good if each.step is not None]
    span = f", steps {min(steps)} to {max(steps)}" if len(set(steps)) > 1 else ""
    return [f"{said}{named}{span}."]


def _largest(found: Spectrum) -> str:
    error = found.errors[0] if found.errors else None
    return unbroken(number_text(found.leading.values[0], error))


def _from_to(texts: Sequence[str]) -> str:
    """The first and the last of some texts, "" if there is none."""
    if not texts:
        return ""
    return texts[0] if len(texts) == 1 else f"{texts[0]} → {texts[-1]}"


def _number(estimate: Estimate) -> str:
    return unbroken(number_text(estimate.value, estimate.standard_error))
