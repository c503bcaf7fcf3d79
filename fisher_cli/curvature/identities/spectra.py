"""Identities of eigenvalues: duality, moments of Lanczos quadrature, and the trace by classes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fisher_cli.curvature.identities import autograd_reference, diagnosis
from fisher_cli.curvature.identities.autograd_reference import Change, inner
from fisher_cli.curvature.identities.hessians import unreliable
from fisher_cli.curvature.identities.identity_specs import IdentityCase, IdentitySpec, engine_of
from fisher_cli.curvature.linalg.krylov import tridiagonalise
from fisher_cli.curvature.problem.likelihoods import Likelihood
from fisher_cli.curvature.products.fisher_products import fisher_product
from fisher_cli.curvature.spectra import factors
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.results import Identity

# Score gradients that are held at once, in numbers: a gigabyte in float64.
HELD = 2**27
# Examples × classes up to which plain score gradients are made one by one, and all eigenvalues taken.
ROWS = 400
EIGENVALUES = 3
# Beyond so many parameters Lanczos keeps its basis on the dual side.
LONGEST_VECTOR = 2_000_000
MOMENT_STEPS = 3
LANCZOS_TOLERANCE = 1e-8

GRAM = IdentitySpec(
    "Gram duality",
    "eigenvalues of AᵀA = those of (1/N) Sᵀ(JJᵀ)S, rank ≤ min(P, N(C − 1))",
    "T7",
    "from the engine's score gradients | from plain gradients of every class",
    "the largest eigenvalue",
)
LANCZOS = IdentitySpec(
    "Lanczos duality",
    "largest eigenvalues of F by products = those of the Gram matrix",
    "T7",
    "Lanczos | eigenvalues of the Gram matrix",
    "the largest eigenvalue",
)
GRAM_TRACE = IdentitySpec(
    "sum of eigenvalues",
    "Σ λ = tr F",
    "T5, T7",
    "trace of the Gram matrix | norms without gradients",
    "the trace",
)
MOMENTS = IdentitySpec(
    "Lanczos moments",
    "e₁ᵀTᵏe₁ = vᵀFᵏv for k ≤ 2m − 1, m = 3 steps",
    "T11",
    "Lanczos quadrature | plain products F v by double backward",
    "vᵀFᵏv",
)
CLASSES = IdentitySpec(
    "trace by classes",
    "tr F = class means + cross-class means + their spread + within",
    "T10, Papyan 2020",
    "the four traces from inner products of class scores | norms without gradients",
    "the trace",
)


def _fitting(subject: IdentityCase, rows: int) -> IdentityCase | None:
    """As many of the first examples as have their score gradients held at once; None where not even one has."""
    count = min(HELD // max(subject.problem.size * rows, 1), ROWS // rows, subject.problem.examples)
    return subject.first(count) if count else None


def _too_large(subject: IdentityCase) -> str:
    size, outputs = subject.problem.size, subject.problem.outputs
    return f"the score gradients of one example, {outputs} × {size:,} numbers, are not held at once"


def duality(subject: IdentityCase) -> list[Identity]:
    """The same eigenvalues from the engine's Gram matrix, from a plain one, and from products by Lanczos."""
    some = _fitting(subject, subject.problem.outputs)
    if some is None:
        return [each.not_applicable(_too_large(subject)) for each in (GRAM, LANCZOS, GRAM_TRACE)]
    true, _ = matrices(some.problem, engine=engine_of(some.problem))
    count = min(EIGENVALUES, some.problem.size)
    found = true.leading(count, route=Eigensolver.GRAM, whole=True)
    whole = (found.values if found.whole is None else found.whole).cpu()
    return [_gram(some, whole), _lanczos(some, whole), _gram_trace(some, float(whole.sum()))]


def _gram(subject: IdentityCase, whole: Tensor) -> Identity:
    theirs = plain_gram_eigenvalues(subject)
    length = max(len(whole), len(theirs))
    ours, other = (torch.nn.functional.pad(each, (0, length - len(each))) for each in (whole, theirs))
    largest = max(float(other[0]), 1e-300)
    error = float((ours - other).abs().max()) / largest
    problem = subject.problem
    limit = min(problem.size, problem.examples * (problem.outputs - (subject.plain.kind == "softmax")))
    rank = int((ours > subject.tolerance(1e-12) * largest).sum())
    cause = ""
    if not error <= subject.tolerance(1e-10):
        cause = diagnosis.training_mode(subject) or diagnosis.of_factor(ours, other, problem.examples)
        cause = cause or "the score gradients of the engine, or their weights, are wrong"
    elif rank > limit:
        error, cause = math.inf, f"the rank is {rank}, and {limit} is the most it can be"
    tolerance, why = subject.tolerance(1e-10), subject.rounding("eigenvalues")
    return GRAM.judged(float(ours[0]), float(other[0]), error, tolerance, why, cause, subject.lost)


def plain_gram_eigenvalues(subject: IdentityCase) -> Tensor:
    """Of (1/N) Sᵀ(JJᵀ)S, one row of S and one plain gradient per example and class; descending."""
    twin, rows = subject.plain, []
    for n in range(len(twin)):
        z = twin.outputs(n, n + 1)
        for weight, score in autograd_reference.weighted_scores(twin.kind, z.detach()):
            gradient = twin.gradients(z, score)
            rows.append(torch.cat([part.reshape(-1) for part in gradient.values()]) * float(weight) ** 0.5)
    factor = torch.stack(rows)
    found: Tensor = torch.linalg.eigvalsh(factor @ factor.T / len(twin))
    return found.flip(0).clamp_min(0).cpu()


def _lanczos(subject: IdentityCase, whole: Tensor) -> Identity:
    problem = subject.problem
    route = Eigensolver.LANCZOS if problem.size <= LONGEST_VECTOR else Eigensolver.DUAL
    true, _ = matrices(problem, engine=engine_of(problem))
    count = min(EIGENVALUES, problem.size, len(whole))
    tolerance = LANCZOS_TOLERANCE if subject.is_double else 1e-3
    found = true.leading(count, tolerance=tolerance, route=route)
    ours, theirs = found.values[:count].cpu(), whole[:count]
    largest = max(float(theirs[0]), 1e-300)
    at = int((ours - theirs).abs().argmax())
    error = float((ours - theirs).abs().max()) / largest
    cause = ""
    if not error <= tolerance:
        cause = diagnosis.training_mode(subject) or diagnosis.of_factor(ours, theirs, problem.examples)
        cause = cause or "products and score gradients belong to different matrices"
    why = f"residual that Lanczos was asked for; {len(subject.plain)} examples"
    return LANCZOS.judged(float(ours[at]), float(theirs[at]), error, tolerance, why, cause, subject.lost)


def _gram_trace(subject: IdentityCase, summed: float) -> Identity:
    trace = subject.swept.trace.true.value
    error = abs(summed - trace) / max(trace, 1e-300)
    tolerance, cause = subject.tolerance(1e-10), ""
    if not error <= tolerance:
        one, other = torch.tensor([summed]).double(), torch.tensor([trace]).double()
        cause = diagnosis.training_mode(subject) or diagnosis.of_factor(one, other, len(subject.plain))
    return GRAM_TRACE.judged(summed, trace, error, tolerance, subject.rounding("sums"), cause, subject.lost)


def moments(subject: IdentityCase) -> Identity:
    """Three steps of our Lanczos on our product, against powers of the plain one."""
    start = subject.probes[0]
    ours_product = fisher_product(subject.problem, subject.jacobian)
    dtype = torch.float64 if subject.is_double else subject.problem.dtype
    diagonal, couplings = tridiagonalise(ours_product, subject.flat(start).to(dtype), MOMENT_STEPS)
    beside = torch.tensor(couplings, dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(beside, 1) + torch.diag(beside, -1)
    try:
        theirs = _plain_moments(subject, start)
    except (RuntimeError, NotImplementedError) as error:
        raise_if_out_of_memory(error)
        return MOMENTS.undecided(f"torch cannot differentiate this network twice: {str(error).splitlines()[0]}")
    squared = inner(start, start)
    powers, ours = torch.eye(len(matrix), dtype=torch.float64), []
    for _ in theirs:
        powers = powers @ matrix
        ours.append(float(powers[0, 0]) * squared)
    errors = [abs(one / other - 1) if other else abs(one) for one, other in zip(ours, theirs, strict=True)]
    at = max(range(len(errors)), key=lambda k: errors[k] if math.isfinite(errors[k]) else math.inf)
    tolerance, cause = subject.saturated_tolerance(1e-8), ""
    if not errors[at] <= tolerance:
        if doubt := unreliable(subject):
            return MOMENTS.undecided(doubt)
        cause = diagnosis.training_mode(subject) or _of_moments(ours, theirs, subject.problem.examples)
    why = f"{subject.rounding('products')}, five of them"
    return MOMENTS.judged(ours[at], theirs[at], errors[at], tolerance, why, cause, subject.lost_to_saturation)


def _of_moments(ours: Sequence[float], theirs: Sequence[float], examples: int) -> str:
    first = [torch.tensor([side[0]], dtype=torch.float64) for side in (ours, theirs)]
    return diagnosis.of_factor(first[0], first[1], examples) or "the basis of Lanczos is not orthogonal"


def _plain_moments(subject: IdentityCase, start: Change) -> list[float]:
    """vᵀFᵏv for k = 1 … 5 from F v, F² v and F³ v."""
    vectors: list[Change] = [start]
    for _ in range(MOMENT_STEPS):
        vectors.append(plain_product(subject, vectors[-1]))
    return [inner(vectors[k // 2], vectors[k - k // 2]) for k in range(1, 2 * MOMENT_STEPS)]


def plain_product(subject: IdentityCase, vector: Change) -> dict[str, Tensor]:
    """F v as the Hessian of the expected loss, by double backward."""
    twin, total = subject.plain, subject.zeros()
    for start, stop in twin.chunks(subject.problem.product_batch_size):
        z = twin.outputs(start, stop)
        with autograd_reference.differentiable_kernels():
            value = autograd_reference.expected_loss(twin.kind, z.detach(), z) / len(twin)
        for name, part in twin.second(value, [vector])[0].items():
            total[name] += part
    return total


def class_scores(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Directions p − e_c of all classes with amplitudes √p_c: the scores that the decomposition is made of."""
    p = torch.softmax(outputs.double(), 1)
    every = [torch.full_like(labels, c) for c in range(outputs.shape[1])]
    directions = torch.stack([likelihood.observed_score(outputs, each) for each in every])
    return directions.to(outputs.dtype), p.T.sqrt()


def by_classes(subject: IdentityCase) -> Identity:
    """The trace as the sum of what lies between classes, between guessed classes, and within."""
    if subject.plain.kind != "softmax":
        return CLASSES.not_applicable("the labels are not one of several classes")
    some = _fitting(subject, subject.problem.outputs)
    if some is None:
        return CLASSES.not_applicable(_too_large(subject))
    gram = factors.collect(engine_of(some.problem), class_scores).gram()
    p = torch.softmax(some.plain.outputs().detach(), 1)
    ours = math.fsum(class_traces(gram, p, some.plain.labels))
    theirs = some.swept.trace.true.value
    error, tolerance, cause = abs(ours - theirs) / max(theirs, 1e-300), some.tolerance(1e-10), ""
    if not error <= tolerance:
        one, other = torch.tensor([ours]).double(), torch.tensor([theirs]).double()
        cause = diagnosis.training_mode(some) or diagnosis.of_factor(one, other, len(some.plain))
        if "constant factor" in cause:
            cause = "the classes have wrong weights"
    return CLASSES.judged(ours, theirs, error, tolerance, some.rounding("sums"), cause, some.lost)


def class_traces(gram: Tensor, p: Tensor, labels: Tensor) -> tuple[float, float, float, float]:
    """Of the class means, the cross-class means, their spread, and within; of the Gram matrix of √(p_c/N) s_nc.

    Rows of the Gram matrix are examples, then classes. Source: Papyan 2020 (arXiv:2008.11865), section 3.
    """
    examples, classes = p.shape
    weights = (p / examples).reshape(-1)
    groups = (labels.unsqueeze(1) * classes + torch.arange(classes, device=p.device)).reshape(-1)
    pick = torch.zeros(classes**2, examples * classes, dtype=gram.dtype, device=p.device)
    pick[groups, torch.arange(len(groups), device=p.device)] = weights.sqrt()
    sums = pick @ gram @ pick.T  # inner products of S_cc' = Σ w s
    mass = torch.zeros(classes**2, dtype=gram.dtype, device=p.device).index_add_(0, groups, weights)
    here = mass > 0
    own = torch.arange(classes, device=p.device) * (classes + 1)
    between = math.fsum(float(sums[k, k] / mass[k]) for k in own if mass[k] > 0)
    crossed = spread = 0.0
    for c in range(classes):
        others = [c * classes + k for k in range(classes) if k != c and bool(here[c * classes + k])]
        if not others:
            continue
        block, masses = sums[others][:, others], mass[others]
        mean = float(block.sum() / masses.sum())  # W_c ‖g_c‖²
        crossed += mean
        spread += float((block.diagonal() / masses).sum()) - mean
    within = float(gram.diagonal().sum()) - float((sums.diagonal()[here] / mass[here]).sum())
    return between, crossed, spread, within
