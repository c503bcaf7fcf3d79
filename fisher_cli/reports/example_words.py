"""What a run's examples say, in plain words: memorisation, noise detectors, how few carry the trace."""

from collections.abc import Sequence

from fisher_cli.reports.headings import place
from fisher_cli.reports.numbers import number_text
from fisher_cli.results import Estimate, Measurement, NoisyAndClean
from fisher_cli.text import one_line

# As in `words.py`: a difference is said only beyond three standard errors.
_CLEAR = 3.0


def memorisation(measurements: Sequence[Measurement]) -> str:
    """The verdict on the examples marked noisy at the last checkpoint, with the figures behind it; "" without any."""
    marked = [each for each in measurements if each.example_summary and each.example_summary.noise]
    if not marked:
        return ""
    summary = marked[-1].example_summary
    assert summary is not None
    noise = summary.noise
    assert noise is not None
    where = "at the last checkpoint" if marked[-1] is measurements[-1] else f"at {one_line(marked[-1].checkpoint)}"
    return f"{_verdict(noise, where, marked[-1].classes or 2)} {detectors(noise)}".strip()


def finding(measurement: Measurement) -> str:
    """What the noisy examples of one checkpoint come to, in a few words; "" where none is marked or comparable."""
    noise = measurement.example_summary.noise if measurement.example_summary else None
    return "" if noise is None else _finding(noise, measurement.classes or 2)


def _finding(noise: NoisyAndClean, classes: int) -> str:
    ratio, accuracy = noise.ratio, noise.noisy.accuracy
    if ratio is None:
        return ""
    if ratio.high < 1:
        return "less than the clean ones"
    if ratio.low <= 1:
        return "no clear difference"
    is_memorised = accuracy is None or _above(accuracy, 1 / classes)
    return "memorising" if is_memorised else "not memorised yet"


def _verdict(noise: NoisyAndClean, where: str, classes: int) -> str:
    ratio, found = noise.ratio, _finding(noise, classes)
    if ratio is None:
        return f"The noisy and the clean examples cannot be compared {where}: a group has no trace, or one example."
    interval = f"95 % interval {number_text(ratio.low)} to {number_text(ratio.high)}"
    carried = f"{number_text(ratio.value)} times the trace of the clean ones {where} ({interval})"
    accuracy = noise.noisy.accuracy
    right = "" if accuracy is None else f"{accuracy.value:.0%} of their labels are predicted"
    ends = {
        "less than the clean ones": f": {found}.",
        "no clear difference": f": {found}, no sign of memorising.",
        "not memorised yet": f", but {right}: they stand out and are {found}.",
        "memorising": f": {found}{'; ' if right else ''}{right}.",
    }
    return f"The noisy examples carry {carried}{ends[found]}"


def _above(estimate: Estimate, value: float) -> bool:
    return estimate.value - value > _CLEAR * (estimate.standard_error or 0.0)


def detectors(noise: NoisyAndClean) -> str:
    """How well three quantities tell noisy labels from clean ones; "" where none is known."""
    named = {
        "the true trace": noise.auroc_true,
        "the empirical trace": noise.auroc_empirical,
        "the loss": noise.auroc_loss,
    }
    found = [f"{name} {_detector(each)}" for name, each in named.items() if each is not None]
    return f"AUROC as detectors of noisy labels (0.5 is chance): {', '.join(found)}." if found else ""


def _detector(estimate: Estimate) -> str:
    """Three decimals, whatever the error is."""
    error = "" if estimate.standard_error is None else "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"
    return f"{estimate.value:.3f}{error}" + (
        "" if estimate.standard_error is None else f"{estimate.standard_error:.3f}"
    )


def concentrated(measurement: Measurement) -> str:
    """How much of the trace the largest examples carry."""
    summary = measurement.example_summary
    if summary is None or not summary.concentration:
        return ""
    first, *others = summary.concentration
    verb = "carry" if first.examples != 1 else "carries"
    said = f"The largest {_count(first.examples)} ({first.fraction:.0%}) {verb} {first.share:.1%} of the true trace at "
    said += place(measurement)
    for each in others:
        said += f", the largest {each.examples:,} ({each.fraction:.0%}) {each.share:.1%}"
    return f"{said}."


def _count(examples: int) -> str:
    return f"{examples:,} example{'s' if examples != 1 else ''}"
