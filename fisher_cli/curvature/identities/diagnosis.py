"""From how two sides differ to what was done wrong, in words."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fisher_cli.curvature.identities.autograd_reference import Change
from fisher_cli.curvature.identities.identity_specs import ALONE, IdentityCase
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels

# Two sides are proportional, or a side is explained, to this relative accuracy.
EXPLAINED = 1e-4
# Between rounding of float64 and what can be called another number lies rounding of float32.
SINGLE = 3e-5

TRAINING = (
    "the network behaves as in training mode: an example's outputs depend on the others (batch norm takes the "
    "statistics of the batch in place of its running ones, or dropout is on); the Fisher of an example is not defined"
)
FLOAT32 = "the sides agree to seven digits and no more: something is summed or evaluated in float32"


def training_mode(subject: IdentityCase) -> str:
    """Whether our outputs are those of the network in evaluation mode, example by example; "" where they are."""
    subject = subject.first(ALONE)
    plain = subject.plain
    ours = together(subject)
    theirs = torch.cat([plain.outputs(n, n + 1).detach() for n in range(len(plain))])
    limit = subject.tolerance(1e-9) + (subject.measured.of_outputs if subject.measured.is_coarse else 0.0)
    scale = max(float(theirs.abs().max()), 1e-300)
    return TRAINING if float((ours - theirs).abs().max()) > limit * scale else ""


def together(subject: IdentityCase) -> Tensor:
    """z of all examples at once, as the engine evaluates the network."""
    problem = subject.problem
    with reproducible_kernels():
        outputs = problem.forward(problem.slice(0, problem.examples).inputs)
    return outputs.detach().double()


def of_factor(ours: Tensor, theirs: Tensor, examples: int) -> str:
    """A factor that all values have in common, or digits that only float32 loses; "" where it is neither."""
    size = float(theirs.norm())
    if size == 0 or not bool(ours.isfinite().all()):
        return ""
    factor = float((ours.flatten() @ theirs.flatten()) / size**2)
    if float((ours - theirs).norm()) <= SINGLE * size:
        return FLOAT32
    if factor == 0 or float((ours - factor * theirs).norm()) > EXPLAINED * abs(factor) * size:
        return ""
    if math.isclose(factor, 0.5, rel_tol=EXPLAINED):
        return "all values are half of what they must be: a factor ½ too many"
    if math.isclose(factor, 2, rel_tol=EXPLAINED):
        return "all values are twice what they must be: a factor ½ was forgotten"
    if math.isclose(factor, examples, rel_tol=EXPLAINED):
        return f"all values are {examples} times too large, the number of examples: the mean's 1/N was dropped"
    if math.isclose(factor * examples, 1, rel_tol=EXPLAINED):
        return f"all values are {examples} times too small, the number of examples: 1/N was applied twice"
    return f"all values are {factor:.6g} times what they must be: a constant factor is wrong"


def of_missing(names: Sequence[str], ours: Tensor, theirs: Tensor) -> str:
    """Tensors whose value is zero where it must not be; "" where there are none."""
    limit = 1e-9 * float(theirs.abs().sum())
    absent = [name for name, a, b in zip(names, ours, theirs, strict=True) if float(a) == 0 and float(b) > limit]
    if not absent:
        return ""
    return f"a layer is missing: {listed(absent)}, where plain autograd finds gradients"


def of_traces(subject: IdentityCase, ours: Tensor, theirs: Tensor) -> str:
    """Why the true trace by tensor, (L,), is another than the plain one."""
    names, sums = list(subject.plain.parameters), subject.sums
    found = training_mode(subject) or of_missing(names, ours, theirs)
    if found:
        return found
    if _close(ours, sums.empirical.mean(0)) and not _close(ours, theirs):
        return "it is the empirical trace: the labels of the dataset were used in place of the model's own"
    if _close(ours, sums.uniform.mean(0)):
        return "it is the trace with all classes weighted alike: the classes' probabilities were left out"
    found = of_factor(ours, theirs, len(sums))
    if found:
        return found
    factors = ours / theirs.where(theirs > 0, torch.ones_like(theirs))
    share = theirs / theirs.sum()
    wrong = [name for name, f, s in zip(names, factors, share, strict=True) if s > 1e-6 and abs(float(f) - 1) > 1e-6]
    if len(wrong) == int((share > 1e-6).sum()):
        return (
            "every tensor differs, by factors of its own: the classes have wrong weights, or the gradient that enters "
            "the layers is wrong"
        )
    return f"{listed(wrong)} differ and the other tensors do not: the rule for these layers is wrong"


def of_products(subject: IdentityCase, ours: Sequence[Change], theirs: Sequence[Change]) -> str:
    """Why a product with a vector is another than the plain one."""
    names = list(subject.plain.parameters)
    found = training_mode(subject)
    if found:
        return found
    norms = [torch.tensor([float(side[0][name].norm()) for name in names]) for side in (ours, theirs)]
    found = of_missing(names, norms[0], norms[1])
    if found:
        return found
    one, other = (
        torch.cat([each[name].double().reshape(-1) for each in side for name in names]) for side in (ours, theirs)
    )
    found = of_factor(one, other, subject.problem.examples)
    if found:
        return found
    empirical = [subject.multiplied(probe, empirical=True) for probe in subject.probes[: len(ours)]]
    observed = torch.cat([each[name].reshape(-1) for each in empirical for name in names])
    if len(ours) == len(subject.probes) and _close(one, observed):
        return "it is the empirical product: the labels of the dataset were used in place of the model's own"
    return "the products differ by more than a factor: the classes have wrong weights, or J or its transpose is wrong"


def _close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).norm()) <= EXPLAINED * float(other.norm())


def listed(names: Sequence[str], most: int = 3) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
