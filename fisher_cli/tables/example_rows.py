"""Examples, groups of them, and task vectors as rows of tables: column name → value."""

from collections.abc import Iterator
from dataclasses import fields

from fisher_cli.results import Estimate, ExampleGroup, ExampleRow, Measurement
from fisher_cli.tables.rows import Value

_FIELDS = tuple(field.name for field in fields(ExampleRow))


def place_of(measurement: Measurement, order: int) -> dict[str, Value]:
    """The columns that say which checkpoint a row is about."""
    return {"checkpoint": measurement.checkpoint, "order": order, "step": measurement.step}


def example_row(measurement: Measurement, order: int, example: ExampleRow) -> dict[str, Value]:
    """One example's row of the table of examples."""
    estimator = measurement.trace.estimator if measurement.trace else None
    ending: dict[str, Value] = {"trace_estimator": estimator, "status": measurement.status, "error": measurement.error}
    return place_of(measurement, order) | {name: getattr(example, name) for name in _FIELDS} | ending


def failed_row(measurement: Measurement, order: int) -> dict[str, Value]:
    """The row of a checkpoint whose examples could not be measured."""
    return place_of(measurement, order) | {"status": measurement.status, "error": measurement.error}


def group_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the table of groups.

    Yields:
        One row per class, then the clean and the noisy examples where they are marked.
    """
    summary = measurement.example_summary
    if summary is None:
        return
    noise = summary.noise
    by_noise = (noise.clean, noise.noisy) if noise else ()
    for grouping, groups in (("label", summary.classes), ("noise", by_noise)):
        for group in groups:
            yield place_of(measurement, order) | {"grouping": grouping} | _group(group)


def _group(group: ExampleGroup) -> dict[str, Value]:
    row: dict[str, Value] = {"group": group.name, "examples": group.examples, "share": group.share}
    estimates: dict[str, Estimate | None] = {
        "trace_true": group.trace_true,
        "trace_empirical": group.trace_empirical,
        "loss": group.loss,
        "accuracy": group.accuracy,
    }
    for name, estimate in estimates.items():
        if estimate is not None:
            row |= {name: estimate.value, f"{name}_se": estimate.standard_error}
    return row


def task2vec_rows(measurement: Measurement, order: int) -> Iterator[dict[str, Value]]:
    """One checkpoint's rows of the table of its task vector.

    Yields:
        One row per weight tensor and filter.
    """
    for layer in measurement.task2vec:
        for i, mean in enumerate(layer.means):
            yield place_of(measurement, order) | {"layer": layer.name, "filter": i, "task2vec": mean}
