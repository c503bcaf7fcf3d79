"""Identities of second derivatives: F as expected Hessian, as that of a divergence, and as the Hessian's own blocks."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fisher_cli.curvature.identities import autograd_reference, diagnosis
from fisher_cli.curvature.identities.identity_specs import IdentityCase, IdentitySpec
from fisher_cli.curvature.identities.measured_rounding import Worst, worst_of_vectors
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.results import Identity

# A tensor's second derivative counts as none below this share of what it is for a network without kinks.
AFFINE = 1e-10
# … and than this of the tensor's own form, down to rounding: what moves the outputs by little bends them by less.
CURVED, ROUNDING = 1e-9, 1e-15
# Of the largest form, below which the rounding of a Hessian, which is that of the whole, is all there is to see.
ROUNDED = 1e-6
# Tensor by tensor, so many examples are enough.
BLOCK_EXAMPLES = 8

_BY_TENSOR = "the tensor's norm, or 1/1000 of all"
LEMMA = IdentitySpec(
    "expected Hessian",
    "F v = −E_q[∇² log q] v",
    "Ye et al. 2022, Lemma A.1",
    "JᵀΛ(J v) | double backward",
    _BY_TENSOR,
)
DIVERGENCE = IdentitySpec(
    "Hessian of KL",
    "F v = ∇²_θ' KL(q_θ ‖ q_θ') v = ∇²_θ' KL(q_θ' ‖ q_θ) v at θ' = θ",
    "Ye et al. 2022, Corollary A.1",
    "JᵀΛ(J v) | double backward of either, with torch.distributions",
    _BY_TENSOR,
)
EMPIRICAL = IdentitySpec(
    "empirical product",
    "F̂ v = (1/N) Σₙ gₙ (gₙᵀ v)",
    "Ye et al. 2022, Remark A.1",
    "Jᵀs(sᵀJ v) | plain gradients of every example",
    _BY_TENSOR,
)
BLOCKS = IdentitySpec(
    "Hessian blocks",
    "vᵀH v = vᵀF v for v in one tensor, so tr H_l = tr F_l, for any labels",
    "T1",
    "vᵀJᵀΛJ v | double backward of the loss",
    "vᵀF v",
)
# What autograd says where an operation cannot be differentiated twice.
_TWICE = (RuntimeError, NotImplementedError)


def _not_twice(statement: IdentitySpec, error: Exception) -> Identity:
    raise_if_out_of_memory(error)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return statement.undecided(f"torch cannot differentiate this network twice: {reason}")


def _hessian(subject: IdentityCase, value: Callable[[Tensor, Tensor], Tensor]) -> list[dict[str, Tensor]]:
    """The mean's Hessian times each probe, batch by batch; `value` is of the fixed outputs and the outputs."""
    twin, probes = subject.plain, subject.probes
    found = [subject.zeros() for _ in probes]
    for start, stop in twin.chunks(subject.problem.product_batch_size):
        z = twin.outputs(start, stop)
        with autograd_reference.differentiable_kernels():
            summed = value(z.detach(), z) / len(twin)
        for total, part in zip(found, twin.second(summed, probes), strict=True):
            for name in total:
                total[name] += part[name]
    return found


def unreliable(subject: IdentityCase) -> str:
    """Why torch's second derivatives of this network are not to be relied on; "" where they are.

    A function whose backward has no derivative of its own can be left out of them silently: vᵀ(H w) is then
    another number than wᵀ(H v).
    """
    theirs = _hessian(subject, lambda fixed, z: autograd_reference.expected_loss(subject.plain.kind, fixed, z))
    one, other = (autograd_reference.inner(theirs[k], subject.probes[1 - k]) for k in range(2))
    sizes = [autograd_reference.norm(theirs[k]) * autograd_reference.norm(subject.probes[1 - k]) for k in range(2)]
    limit = subject.saturated_tolerance(1e-9) + subject.lost_to_saturation()
    if abs(one - other) <= limit * max(sizes):
        return ""
    return (
        "torch's second derivatives of this network are not symmetric: a backward function lacks its own derivative, "
        "or they are rounding or at a kink"
    )


def _judged(subject: IdentityCase, statement: IdentitySpec, worst: Worst, theirs: list[dict[str, Tensor]]) -> Identity:
    tolerance = subject.saturated_tolerance(1e-9)
    if not worst.error <= tolerance and (doubt := unreliable(subject)):
        return statement.undecided(doubt)
    cause = "" if worst.error <= tolerance else diagnosis.of_products(subject, subject.products, theirs)
    why = f"{subject.rounding('products')}, and 100 of its units over 1 − Σp², which autograd's softmax rounds"
    return statement.judged(worst.ours, worst.theirs, worst.error, tolerance, why, cause, subject.lost_to_saturation)


def expected_hessian(subject: IdentityCase) -> Identity:
    """The weights p of the expectation are fixed, and −Σ_c p_c log q_c is differentiated twice."""
    try:
        theirs = _hessian(subject, lambda fixed, z: autograd_reference.expected_loss(subject.plain.kind, fixed, z))
    except _TWICE as error:
        return _not_twice(LEMMA, error)
    return _judged(subject, LEMMA, worst_of_vectors(subject.products, theirs), theirs)


def hessian_of_divergence(subject: IdentityCase) -> Identity:
    """In the second argument, and in the first, where the weights move too: to second order KL is symmetric."""
    kind = subject.plain.kind
    try:
        second = _hessian(subject, lambda fixed, z: autograd_reference.divergence(kind, fixed, z))
        first = _hessian(subject, lambda fixed, z: autograd_reference.divergence(kind, z, fixed))
    except _TWICE as error:
        return _not_twice(DIVERGENCE, error)
    found = [worst_of_vectors(subject.products, theirs) for theirs in (second, first)]
    at = max(range(2), key=lambda index: found[index].error)
    return _judged(subject, DIVERGENCE, found[at], (second, first)[at])


def empirical_product(subject: IdentityCase) -> Identity:
    """The dataset's labels, uncentred."""
    few = subject.few
    ours = [few.multiplied(probe, empirical=True) for probe in few.probes]
    theirs = [{name: part / len(few.sums) for name, part in each.items()} for each in few.sums.empirical_products]
    worst, tolerance = worst_of_vectors(ours, theirs), few.tolerance(1e-9)
    cause = ""
    if not worst.error <= tolerance:
        one, other = (
            torch.cat([each[n].double().reshape(-1) for each in side for n in each]) for side in (ours, theirs)
        )
        cause = diagnosis.training_mode(few) or diagnosis.of_factor(one, other, len(few.sums))
    return EMPIRICAL.judged(worst.ours, worst.theirs, worst.error, tolerance, few.rounding("products"), cause, few.lost)


def blocks(subject: IdentityCase) -> Identity:
    """Where the outputs are affine in one tensor alone, that tensor's block of the Hessian is F's; probe by probe.

    Whether they are is decided by the second derivative of the outputs along the probe, the second difference in the
    limit of no step, which no kink of a ReLU can disturb. Both sides see the same probe: there is no sampling error.
    """
    some = subject.some(BLOCK_EXAMPLES)
    try:
        found = _block_forms(some)
    except _TWICE as error:
        return _not_twice(BLOCKS, error)
    largest = max((abs(theirs) for _, theirs, _ in found.values()), default=0.0)
    curved = [name for name, (_, theirs, bend) in found.items() if bend > _affine(max(abs(theirs), ROUNDED * largest))]
    affine = {name: forms for name, forms in found.items() if name not in curved}
    said = f"the outputs are not affine in {diagnosis.listed(curved)}: there H and F differ by design" if curved else ""
    if not affine:
        return BLOCKS.not_applicable(said)
    largest = max(theirs for _, theirs, _ in affine.values())
    errors = {
        name: abs(ours - theirs) / max(abs(theirs), ROUNDED * largest, 1e-300)
        for name, (ours, theirs, _) in affine.items()
    }
    name = max(errors, key=lambda each: errors[each])
    ours, theirs, _ = affine[name]
    tolerance = some.saturated_tolerance(1e-7)
    cause = ""
    if not errors[name] <= tolerance:
        if doubt := unreliable(some):
            return BLOCKS.undecided(doubt)
        forms = [torch.tensor([each[side] for each in affine.values()], dtype=torch.float64) for side in (0, 1)]
        cause = diagnosis.training_mode(some) or diagnosis.of_missing(list(affine), forms[0], forms[1])
        cause = cause or diagnosis.of_factor(forms[0], forms[1], len(some.plain)) or f"{name} differs most"
    why = f"{some.rounding('products')}; {len(affine)} of {len(found)} tensors"
    share = max(abs(theirs) / max(largest, 1e-300), ROUNDED)
    judged = BLOCKS.judged(ours, theirs, errors[name], tolerance, why, cause, lambda: some.lost_to_saturation() / share)
    return judged if judged.reason or not said else _with_reason(judged, said)


def _affine(form: float) -> float:
    """How curved the outputs may be along a tensor whose form is this: less than what would be seen in it."""
    return min(AFFINE, max(CURVED * form, ROUNDING))


def _with_reason(identity: Identity, reason: str) -> Identity:
    return replace(identity, reason=reason)


def _block_forms(subject: IdentityCase) -> dict[str, tuple[float, float, float]]:
    """For every tensor vᵀF v, ours, vᵀH v, plain, and how curved the outputs are along v, v being zero elsewhere."""
    twin, probe = subject.plain, subject.probes[0]
    z = twin.outputs()
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    with autograd_reference.differentiable_kernels():
        loss = autograd_reference.loss(twin.kind, z, twin.labels) / len(twin)
        along = (z * direction).sum()
    gradients, output_gradients = twin.gradients(loss, graph=True), twin.gradients(along, graph=True)
    typical = float(z.detach().norm() * direction.norm())
    found = {}
    for name, v in probe.items():
        hessian = _second_derivative(twin, gradients[name], name, v)
        if hessian is None:
            continue
        curvature = abs(_second_derivative(twin, output_gradients[name], name, v) or 0.0) / max(typical, 1e-300)
        found[name] = (subject.quadratic({name: v}), hessian, curvature)
    return found


def _second_derivative(
    twin: autograd_reference.AutogradReference, gradient: Tensor, name: str, v: Tensor
) -> float | None:
    """vᵀ ∂g/∂θ_l v of a gradient of one tensor; 0 where it is constant, None where the tensor is not used."""
    if not gradient.requires_grad:
        return 0.0 if bool(gradient.any()) else None
    with autograd_reference.differentiable_kernels():
        (found,) = torch.autograd.grad(
            (gradient * v).sum(), twin.parameters[name], retain_graph=True, allow_unused=True
        )
    return 0.0 if found is None else float((found.double() * v).sum())
