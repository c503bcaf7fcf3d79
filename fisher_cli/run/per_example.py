"""A measurement's examples: one row each, and what classes, noisy labels and the largest ones say together."""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fisher_cli.curvature.problem.moments import mean_of
from fisher_cli.curvature.traces.example_groups import auroc, concentration, ratio_of_groups
from fisher_cli.results import ExampleGroup, ExampleRow, ExampleSummary, Measurement, NoisyAndClean, PerExample, Trace
from fisher_cli.storage.row_files import CHUNK_ROWS
from fisher_cli.tables.columns import EXAMPLE_COLUMNS, GROUP_COLUMNS
from fisher_cli.tables.rows import example_row, failed_row, group_rows

if TYPE_CHECKING:
    import pandas as pd

FRACTIONS = (0.01, 0.1)
# That many of the largest are kept for the terminal when nobody says how many.
TOP = 10


def example_rows(measurement: Measurement, top: int | None = None) -> Iterator[ExampleRow]:
    """One row per example, in order of the data; with `top` only the examples that carry most, the largest first.

    Yields:
        Rows with ‖J_nᵀ s‖² summed over the scores of either Fisher, the share and the rank by the true trace.
    """
    found, trace = measurement.per_example, measurement.trace
    if found is None or trace is None:
        return
    terms = torch.tensor(trace.per_example_true, dtype=torch.float64)
    order = terms.argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(order) + 1)
    total, places = float(terms.sum()), array("q", ranks.tolist())
    for n in range(len(terms)) if top is None else order[:top].tolist():
        yield _row(found, trace, n, places[n], total)


def _row(found: PerExample, trace: Trace, n: int, rank: int, total: float) -> ExampleRow:
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
        label_name=_name(found, label),
        predicted=predicted,
        predicted_name=_name(found, predicted),
        correct=None if found.correct is None else found.correct[n],
        noisy=None if found.noisy is None else bool(found.noisy[n]),
    )


def _nth(values: Sequence[int] | None, n: int) -> int | None:
    return None if values is None else int(values[n])


def _name(found: PerExample, number: int | None) -> str | None:
    return found.class_names[number] if number is not None and number < len(found.class_names) else None


def with_summary(measurement: Measurement, top: int = TOP) -> Measurement:
    """The measurement with what its examples say together: by class, clean against noisy, the largest."""
    found, trace = measurement.per_example, measurement.trace
    if found is None or trace is None:
        return measurement
    terms = _Terms(found, trace)
    fractions = (concentration(terms.true, fraction) for fraction in FRACTIONS)
    summary = ExampleSummary(
        classes=terms.classes(),
        concentration=tuple(each for each in fractions if each is not None),
        top=tuple(example_rows(measurement, top)),
        noise=terms.noise(),
    )
    return replace(measurement, example_summary=summary)


def without_examples(measurement: Measurement) -> Measurement:
    """The measurement without anything as long as the data: a run of many checkpoints holds one of them at a time."""
    trace = measurement.trace and replace(measurement.trace, per_example_true=(), per_example_empirical=())
    return replace(measurement, trace=trace, per_example=None)


class _Terms:
    """The per-example quantities as tensors (N,)."""

    def __init__(self, found: PerExample, trace: Trace) -> None:
        self.found = found
        self.true = _reals(trace.per_example_true)
        self.empirical = _reals(trace.per_example_empirical)
        self.loss = _reals(found.loss)
        self.correct = None if found.correct is None else _reals(found.correct)

    def classes(self) -> tuple[ExampleGroup, ...]:
        """A group per label that occurs, in order."""
        if self.found.labels is None:
            return ()
        labels = torch.tensor(list(self.found.labels))
        numbers = torch.unique(labels).tolist()
        return tuple(self._group(_name(self.found, c) or f"class {c}", labels == c) for c in numbers)

    def noise(self) -> NoisyAndClean | None:
        """The examples marked noisy against the others; None where nothing marks them, or all, or none."""
        if self.found.noisy is None:
            return None
        noisy = torch.tensor(list(self.found.noisy), dtype=torch.bool)
        if bool(noisy.all()) or not bool(noisy.any()):
            return None
        return NoisyAndClean(
            clean=self._group("clean", ~noisy),
            noisy=self._group("noisy", noisy),
            ratio=ratio_of_groups(self.true[noisy], self.true[~noisy]),
            auroc_true=auroc(self.true, noisy),
            auroc_empirical=auroc(self.empirical, noisy),
            auroc_loss=auroc(self.loss, noisy),
        )

    def _group(self, name: str, members: Tensor) -> ExampleGroup:
        total = float(self.true.sum())
        return ExampleGroup(
            name=name,
            examples=int(members.sum()),
            trace_true=mean_of(self.true[members]),
            trace_empirical=mean_of(self.empirical[members]),
            loss=mean_of(self.loss[members]),
            accuracy=None if self.correct is None else mean_of(self.correct[members]),
            share=float(self.true[members].sum()) / total if total > 0 else None,
        )


def _reals(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def example_tables(measurement: Measurement, order: int, top: int | None = None) -> "Iterator[pd.DataFrame]":
    """The rows of one checkpoint's examples in parts of at most CHUNK_ROWS; of one without any a row that says why.

    Yields:
        Tables with EXAMPLE_COLUMNS.
    """
    from fisher_cli.tables.build import make_table

    examples = example_rows(measurement, top)
    part = [example_row(measurement, order, each) for each in islice(examples, CHUNK_ROWS)]
    if not part:
        part = [failed_row(measurement, order)]
    while part:
        yield make_table(part, EXAMPLE_COLUMNS)
        part = [example_row(measurement, order, each) for each in islice(examples, CHUNK_ROWS)]


def group_table(measurements: Sequence[Measurement]) -> "pd.DataFrame":
    """One row per checkpoint and group of examples: the classes, the clean and the noisy ones."""
    from fisher_cli.tables.build import make_table

    return make_table([row for i, each in enumerate(measurements) for row in group_rows(each, i)], GROUP_COLUMNS)
