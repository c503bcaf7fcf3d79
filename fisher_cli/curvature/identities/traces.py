"""Identities of traces: by enumeration, empirical, their sums, and what they must not depend on."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from fisher_cli.curvature.identities import diagnosis
from fisher_cli.curvature.identities.identity_specs import IdentityCase, IdentitySpec, swept
from fisher_cli.curvature.identities.measured_rounding import worst_of_numbers, worst_of_vectors
from fisher_cli.curvature.problem.problem import TensorData
from fisher_cli.results import Identity, Trace

_BY_TENSOR = "the tensor's trace, or 1/1000 of all"
TRUE = IdentitySpec(
    "true trace",
    "tr F = (1/N) Σₙ Σ_c p_c ‖∇ log p_c‖², tensor by tensor",
    "T5; Ye et al. 2022, Definition A.1",
    "norms without gradients | plain gradients of every example and class",
    _BY_TENSOR,
)
EMPIRICAL = IdentitySpec(
    "empirical trace",
    "tr F̂ = (1/N) Σₙ ‖∇ log p_y‖², tensor by tensor",
    "Ye et al. 2022, Remark A.1, uncentred",
    "norms without gradients | plain gradients of every example",
    _BY_TENSOR,
)
GRADIENT = IdentitySpec(
    "mean gradient",
    "ḡ = ∇ (1/N) Σₙ −log q(yₙ), tensor by tensor",
    "T13; tr F̂ = tr Σ + ‖ḡ‖²",
    "from the passes of the traces | plain gradient of the mean loss",
    "the tensor's norm, or 1/1000 of all",
)
LABELS = IdentitySpec(
    "other labels",
    "F(labels permuted) = F",
    "T15",
    "tr F with every label moved on by one class | with the dataset's labels",
    _BY_TENSOR,
)
ORDER = IdentitySpec(
    "batches and order",
    "F(reversed, one at a time) = F",
    "T15",
    "tr F of examples in reverse and one at a time | in batches",
    "the example's trace, or 1/1000 of all",
)
SUMS = IdentitySpec(
    "sums",
    "Σ_layers tr F_l = (1/N) Σₙ trₙ = tr F, likewise F̂",
    "T20",
    "the larger of both sums, added exactly | the total",
    "the total",
)
COVERAGE = IdentitySpec(
    "coverage",
    "every trainable parameter is in tr F once",
    "T20",
    "values in the ledger | trainable values of the network",
    "trainable values",
)


def _layers(trace: Trace, matrix: str = "true") -> Tensor:
    return torch.tensor([getattr(layer, matrix).value for layer in trace.layers], dtype=torch.float64)


def true_trace(subject: IdentityCase) -> Identity:
    """Ours by the rules of the engine, theirs from the definition."""
    few = subject.few
    trace = few.swept.trace
    ours, theirs = _layers(trace), few.sums.true.mean(0)
    worst = worst_of_numbers([layer.name for layer in trace.layers], ours, theirs)
    cause = diagnosis.of_traces(few, ours, theirs) if not worst.error <= few.tolerance(1e-10) else ""
    why = subject.rounding("gradients")
    return TRUE.judged(worst.ours, worst.theirs, worst.error, few.tolerance(1e-10), why, cause, few.lost)


def empirical_trace(subject: IdentityCase) -> Identity:
    """At the dataset's labels."""
    few = subject.few
    trace = few.swept.trace
    names = [layer.name for layer in trace.layers]
    ours, theirs = _layers(trace, "empirical"), few.sums.empirical.mean(0)
    worst = worst_of_numbers(names, ours, theirs)
    cause = ""
    if not worst.error <= few.tolerance(1e-10):
        found = diagnosis.training_mode(few) or diagnosis.of_missing(names, ours, theirs)
        cause = found or diagnosis.of_factor(ours, theirs, len(few.sums))
    why = subject.rounding("gradients")
    return EMPIRICAL.judged(worst.ours, worst.theirs, worst.error, few.tolerance(1e-10), why, cause, few.lost)


def mean_gradient(subject: IdentityCase) -> Identity:
    """ḡ as the sweep collects it."""
    few = subject.few
    ours = few.shaped(few.swept.mean_gradient)
    theirs = {name: part / len(few.sums) for name, part in few.sums.gradient.items()}
    worst = worst_of_vectors([ours], [theirs])
    cause = ""
    if not worst.error <= few.tolerance(1e-9):
        one, other = (torch.cat([side[name].double().reshape(-1) for name in theirs]) for side in (ours, theirs))
        norms = [torch.stack([side[name].double().norm() for name in theirs]) for side in (ours, theirs)]
        cause = diagnosis.training_mode(few) or diagnosis.of_missing(list(theirs), norms[0], norms[1])
        cause = cause or diagnosis.of_factor(one, other, len(few.sums))
    why = subject.rounding("gradients, which partly cancel over the examples")
    return GRADIENT.judged(worst.ours, worst.theirs, worst.error, few.tolerance(1e-9), why, cause, few.lost)


def other_labels(subject: IdentityCase) -> Identity:
    """The true Fisher does not depend on the labels; the scores that we take for it begin with the observed one."""
    few = subject.few
    inputs, labels = few.problem.data.batch(0, few.problem.examples)
    moved = (labels + 1) % max(few.problem.outputs, 2) if not labels.is_floating_point() else 1 - labels
    trace = few.swept.trace
    other = swept(replace(few.problem, data=TensorData(inputs, moved)), "exact").trace
    worst = worst_of_numbers([layer.name for layer in trace.layers], _layers(other), _layers(trace))
    cause = "the true Fisher changes with the dataset's labels: they were used in place of the model's own"
    tolerance, why = few.tolerance(1e-10), subject.rounding("gradients")
    return LABELS.judged(worst.ours, worst.theirs, worst.error, tolerance, why, cause, few.lost)


def batches_and_order(subject: IdentityCase) -> Identity:
    """Every example's term, whatever examples it shares a batch with."""
    few = subject.few
    inputs, labels = few.problem.data.batch(0, few.problem.examples)
    trace = few.swept.trace
    reverse = replace(few.problem, data=TensorData(inputs.flip(0), labels.flip(0)), batch_size=1)
    other = swept(reverse, "exact").trace
    theirs = torch.tensor(trace.per_example_true, dtype=torch.float64)
    ours = torch.tensor(other.per_example_true, dtype=torch.float64).flip(0)
    worst = worst_of_numbers([str(n) for n in range(len(ours))], ours, theirs)
    cause = diagnosis.training_mode(few) or (
        f"example {worst.name} has another trace among others than alone: examples of a batch are mixed up"
    )
    tolerance, why = few.tolerance(1e-10), subject.rounding("gradients")
    return ORDER.judged(worst.ours, worst.theirs, worst.error, tolerance, why, cause, few.lost)


def sums(subject: IdentityCase) -> Identity:
    """Layers, examples and totals are added up apart from each other."""
    trace = subject.summed.trace
    found = []
    for matrix, terms in (("true", trace.per_example_true), ("empirical", trace.per_example_empirical)):
        whole = getattr(trace, matrix).value
        for summed in (float(math.fsum(_layers(trace, matrix).tolist())), math.fsum(terms) / len(terms)):
            found.append((abs(summed - whole) / max(abs(whole), 1e-300), summed, whole))
    error, ours, theirs = max(found)
    cause = (
        diagnosis.FLOAT32 if error < diagnosis.SINGLE else "layers or examples are missing from a sum, or in it twice"
    )
    return SUMS.judged(ours, theirs, error, 1e-12, "float64 sums of the same terms in different order", cause)


def coverage(subject: IdentityCase) -> Identity:
    """Nothing that is trained is left out, unless it was asked for."""
    if not subject.everything:
        return COVERAGE.not_applicable("--include or --exclude leave parameters out")
    trainable = {name: p.numel() for name, p in subject.problem.model.named_parameters() if p.requires_grad}
    listed = {layer.name: layer.parameters for layer in subject.few.swept.trace.layers}
    ours, theirs = sum(listed.values()), sum(trainable.values())
    missing = [name for name in trainable if name not in listed]
    cause = (
        f"a layer is missing: {diagnosis.listed(missing)}" if missing else "a parameter is counted with another size"
    )
    return COVERAGE.judged(ours, theirs, abs(ours - theirs) / theirs, 0.0, "whole numbers", cause)
