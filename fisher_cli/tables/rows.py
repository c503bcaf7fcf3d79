"""What a table's rows are about: a measurement → an object or a mapping for each of its rows.

Where an item is a mapping, its keys are columns, or what columns are taken from.
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fisher_cli.results import (
    CheckpointComparison,
    Coverage,
    ExampleRow,
    ExpansionStep,
    Identity,
    Inspection,
    Measurement,
    PerExample,
    Status,
    TensorSummary,
    Trace,
)

Item = Mapping[str, Any]


def layers(measurement: Measurement) -> Iterator[Item]:
    """Each parameter tensor, with its share of the trace; nothing for a checkpoint without one.

    Yields:
        `layer`, a LayerTrace, and `share`.
    """
    if measurement.trace is not None:
        total = measurement.trace.true.value
        for layer in measurement.trace.layers:
            yield {"layer": layer, "share": layer.true.value / total if total else None}


def eigenvalues(measurement: Measurement) -> Iterator[Item]:
    """Each eigenvalue of each matrix; for a checkpoint without any a row that says why.

    Yields:
        The cells.
    """
    if not measurement.spectra:
        yield {"status": measurement.status, "error": measurement.error}
    for spectrum in measurement.spectra:
        leading, errors = spectrum.leading, spectrum.errors or ()
        for i, value in enumerate(spectrum.values):
            yield {
                "matrix": f"{spectrum.matrix} Fisher",  # spreadsheets read a lone "true" as a truth value
                "index": i + 1,
                "eigenvalue": value,
                "eigenvalue_residual": leading.residuals[i] if i < len(leading.residuals) else None,
                "eigenvalue_se": errors[i] if i < len(errors) else None,
                "trace_share": spectrum.shares[i],
                "eig_method": leading.method,
                "status": Status.OK if leading.converged else Status.NOT_CONVERGED,
                "error": "" if leading.converged else measurement.error,
            }


def densities(measurement: Measurement) -> Iterator[Item]:
    """Each grid value of each matrix whose density of eigenvalues was estimated.

    Yields:
        The cells.
    """
    for spectrum in measurement.spectra:
        if (found := spectrum.density) is None:
            continue
        for i, value in enumerate(found.grid):
            least, most = found.cumulative_range[i]
            yield {
                "matrix": f"{spectrum.matrix} Fisher",
                "lambda": value,
                "density": found.density[i],
                "cumulative": found.cumulative[i],
                "cumulative_estimator_se": found.cumulative_error[i] if found.cumulative_error else None,
                "cumulative_least": least,
                "cumulative_most": most,
            }


def identities(measurement: Measurement) -> "Sequence[Identity | Item]":
    """Each identity; for a checkpoint that could not be verified a row that says why."""
    return [{}] if measurement.verification is None else measurement.verification.identities


def groups(measurement: Measurement) -> Iterator[Item]:
    """Each class, then the clean and the noisy examples where they are marked.

    Yields:
        `grouping` and `group`, an ExampleGroup.
    """
    if (summary := measurement.example_summary) is None:
        return
    by_noise = (summary.noise.clean, summary.noise.noisy) if summary.noise else ()
    for grouping, members in (("label", summary.classes), ("noise", by_noise)):
        for group in members:
            yield {"grouping": grouping, "group": group}


def filters(measurement: Measurement) -> Iterator[Item]:
    """Each filter of each weight tensor of a task vector.

    Yields:
        The cells.
    """
    for layer in measurement.task2vec:
        for i, mean in enumerate(layer.means):
            yield {"layer": layer.name, "filter": i, "task2vec": mean}


def expansion(measurement: Measurement) -> Sequence[ExpansionStep]:
    """Each length of the step ε of KL(q_θ ‖ q_θ+ε)."""
    return measurement.verification.expansion if measurement.verification else ()


def compared_layers(measurement: Measurement) -> list[Item]:
    """Each parameter tensor of the comparison of the two Fishers."""
    return [{"layer": each} for each in (measurement.comparison.layers if measurement.comparison else ())]


def layer_steps(found: CheckpointComparison) -> list[Item]:
    """Each parameter tensor of the step between two checkpoints."""
    return [{"layer": each} for each in found.layers]


def coverage(measurement: Measurement) -> Sequence[Coverage]:
    """Each parameter tensor of the coverage ledger."""
    return measurement.ledger.entries if measurement.ledger else ()


def inspection(found: Inspection) -> list[Item]:
    """What one file is."""
    row = asdict(found)
    del row["summaries"]  # a table of their own
    return [{**row, "notes": "; ".join(found.notes)}]


def tensors(found: Inspection) -> Sequence[TensorSummary]:
    """Each tensor of one file."""
    return found.summaries


def examples(measurement: Measurement, top: int | None = None) -> "Iterator[ExampleRow | Item]":
    """Each example, as `example_rows`; of a checkpoint without any a row that says why.

    Args:
        measurement: with or without the terms of its examples.
        top: as for `example_rows`.

    Yields:
        An ExampleRow, or nothing but what the measurement says.
    """
    if measurement.per_example is None or measurement.trace is None or not measurement.trace.per_example_true:
        yield {}
    yield from example_rows(measurement, top)


def example_rows(measurement: Measurement, top: int | None = None) -> Iterator[ExampleRow]:
    """One row per example: ‖J_nᵀ s‖² summed over the scores of either Fisher, with its share and rank.

    Args:
        measurement: one without the terms of its examples has no rows.
        top: how many of the examples with the largest true traces are taken, the largest first; None for all, in the
            order of the data.

    Yields:
        Rows whose share and rank are by the true trace; ranks count from 1.
    """
    import torch

    found, trace = measurement.per_example, measurement.trace
    if found is None or trace is None:
        return
    terms = torch.tensor(trace.per_example_true, dtype=torch.float64)
    order = terms.argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(order) + 1)
    total, places = float(terms.sum()), array("q", ranks.tolist())
    for n in range(len(terms)) if top is None else order[:top].tolist():
        yield _example(found, trace, n, places[n], total)


def _example(found: PerExample, trace: Trace, n: int, rank: int, total: float) -> ExampleRow:
    true, label, predicted = trace.per_example_true[n], _nth(found.labels, n), _nth(found.predicted, n)
    return ExampleRow(
        index=n if found.indices is None else int(found.indices[n]),
        trace_true=true,
        trace_empirical=trace.per_example_empirical[n],
        share=true / total if total > 0 else None,
        rank=rank,
        loss=found.loss[n],
        entropy=found.entropy[n],
        probability=math.exp(-found.loss[n]) if found.is_probability and label is not None else None,
        label=label,
        label_name=class_name(found, label),
        predicted=predicted,
        predicted_name=class_name(found, predicted),
        correct=None if found.correct is None else found.correct[n],
        noisy=None if found.noisy is None else bool(found.noisy[n]),
    )


def _nth(values: Sequence[int] | None, n: int) -> int | None:
    return None if values is None else int(values[n])


def class_name(found: PerExample, number: int | None) -> str | None:
    """The name of a class; None where it has none, or where the number is None."""
    return found.class_names[number] if number is not None and number < len(found.class_names) else None
