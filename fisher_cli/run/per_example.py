"""A measurement's examples: what classes, noisy labels and the largest ones say together."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fisher_cli.curvature.problem.moments import mean_of
from fisher_cli.curvature.traces.example_groups import auroc, concentration, ratio_of_groups
from fisher_cli.results import ExampleGroup, ExampleSummary, Measurement, NoisyAndClean, PerExample, Trace
from fisher_cli.tables.rows import class_name, example_rows

FRACTIONS = (0.01, 0.1)
# That many of the largest are kept for the terminal when nobody says how many.
TOP = 10


def with_summary(measurement: Measurement, top: int = TOP) -> Measurement:
    """The measurement with what its examples say together: by class, clean against noisy, the largest.

    Args:
        measurement: with the terms of its examples; one without them is returned as it is.
        top: how many of the examples with the largest true traces are kept.
    """
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
        return tuple(self._group(class_name(self.found, c) or f"class {c}", labels == c) for c in numbers)

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
