"""What a table is about, and how a checkpoint is called in a sentence: the same in all that is shown of a run."""

from collections.abc import Sequence

from fisher_cli.results import Measurement
from fisher_cli.text import one_line


def title(heading: str, measurements: Sequence[Measurement], data: str | None, *more: str) -> str:
    """The heading with what all rows have in common: the dataset, the network, the examples, and what else is given."""
    examples = {each.examples for each in measurements if each.examples is not None}
    networks = {each.architecture for each in measurements if each.architecture}
    parts = [heading, data and one_line(data)]
    parts += [one_line(each) for each in networks if len(networks) == 1]
    parts += [f"{each:,} example{'s' if each != 1 else ''}" for each in examples if len(examples) == 1]
    return " · ".join(part for part in (*parts, *more) if part)


def estimator_of(measurements: Sequence[Measurement]) -> str:
    """`exact true trace`, "" if the rows differ in it or have none."""
    estimators = {each.trace.estimator for each in measurements if each.trace}
    return f"{one_line(estimators.pop())} true trace" if len(estimators) == 1 else ""


def place(measurement: Measurement) -> str:
    """The step if known, else the name."""
    return one_line(measurement.checkpoint) if measurement.step is None else f"step {measurement.step}"
