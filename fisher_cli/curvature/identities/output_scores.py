"""Identities of outputs and scores: evaluation mode, E_q[score] = 0, Σ_k s_k s_kᵀ = Λ."""

import hashlib

import torch
from torch import Tensor

from fisher_cli.curvature.identities import diagnosis
from fisher_cli.curvature.identities.autograd_reference import covariance, probabilities, targets
from fisher_cli.curvature.identities.identity_specs import ALONE, IdentityCase, IdentitySpec
from fisher_cli.curvature.problem.batch_independence import refuse_state
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.evaluation import refuse_random_numbers
from fisher_cli.curvature.torch_backend.random_state import RandomState
from fisher_cli.results import Identity

# Examples of which the score at every class is taken.
EXAMPLES = 8

MODE = IdentitySpec(
    "evaluation mode",
    "z(xₙ) among others = z(xₙ) alone",
    "definition of the per-example Fisher",
    "the engine's forward pass of all examples | the network's of each one",
    "largest |z|",
)
CHANCE = IdentitySpec(
    "chance",
    "z(x) evaluated again = z(x), and no random number is drawn",
    "definition of q(y | x, θ)",
    "a second evaluation | the first",
    "largest |z|",
)
MEAN_SCORE = IdentitySpec(
    "mean score",
    "E_q[∇ log q] = 0, for every example",
    "T4; derivative of Σ_c p_c = 1",
    "‖Σ_c p_c ∇ log p_c‖ with our scores and plain p | 0",
    "Σ_c p_c ‖∇ log p_c‖",
)
ROOT = IdentitySpec(
    "score covariance",
    "Σ_k s_k s_kᵀ = Cov_q[s], for every example",
    "Ye et al. 2022, Definition A.1",
    "the estimator's scores | diag p − ppᵀ (softmax)",
    "largest entry of the example's covariance",
)


def chance(subject: IdentityCase) -> Identity:
    """The same examples give the same outputs, whatever was evaluated before, and no random number is drawn for them.

    Raises:
        CoupledExamplesError: random numbers are drawn, or the outputs depend on what earlier calls left behind.
    """
    plain, problem = subject.plain.first(ALONE), subject.problem
    inputs, before = problem.slice(0, len(plain)).inputs, RandomState.now(problem.device)
    first = plain.outputs().detach()
    if before.has_moved():
        refuse_random_numbers(problem.model, inputs)
    refuse_state(problem, inputs)
    again = plain.outputs().detach()
    difference = torch.nan_to_num((again - first).abs(), nan=float("inf"))
    at = divmod(int(difference.argmax()), first.shape[1])
    error = float(difference.max()) / max(float(first.abs().max()), 1e-300)
    cause = "the network keeps a state that its next evaluation sees: its outputs are no function of the example"
    why = subject.rounding("outputs")
    return CHANCE.judged(float(again[at]), float(first[at]), error, subject.tolerance(1e-10), why, cause)


def evaluation_mode(subject: IdentityCase) -> Identity:
    """An example's outputs are its own, and no evaluation changes the network's buffers."""
    subject = subject.first(ALONE)
    plain, before = subject.plain, _digest(subject)
    ours = diagnosis.together(subject)
    theirs = torch.cat([plain.outputs(n, n + 1).detach() for n in range(len(plain))])
    scale = max(float(theirs.abs().max()), 1e-300)
    difference = (ours - theirs).abs()
    at = divmod(int(difference.argmax()), theirs.shape[1])
    error, cause = float(difference.max()) / scale, diagnosis.TRAINING
    if _digest(subject) != before:
        error, cause = float("inf"), f"{diagnosis.TRAINING}; its running statistics move with every evaluation"
    why = subject.rounding("outputs, which depends on how many examples are multiplied at once")
    limit = subject.tolerance(1e-10)
    return MODE.judged(
        float(ours[at]), float(theirs[at]), error, limit, why, cause, lambda: subject.measured.of_outputs
    )


def _digest(subject: IdentityCase) -> bytes:
    """Of all buffers."""
    found = hashlib.sha256()
    for buffer in subject.problem.model.buffers():
        found.update(buffer.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.digest()


def mean_score(subject: IdentityCase) -> Identity:
    """Our scores at every label, weighted by the plain probabilities, have no mean; in the space of the parameters."""
    few = subject.few.some(EXAMPLES)
    problem = few.problem
    mean = worst = 0.0
    for n in range(len(few.plain)):
        with reproducible_kernels():
            z = problem.forward(problem.slice(n, n + 1).inputs)
        cotangents = _label_scores(few, z.detach())
        summed, lengths = None, 0.0
        for weights, score in cotangents:
            gradient = few.plain.gradients(few.plain.outputs(n, n + 1), (weights * score).to(torch.float64))
            flat = torch.cat([part.reshape(-1) for part in gradient.values()])
            lengths += float(flat.norm())
            summed = flat if summed is None else summed + flat
        length = 0.0 if summed is None else float(summed.norm())
        if lengths > 0 and length / lengths >= worst:
            worst, mean = length / lengths, length
    cause = "the scores of the classes do not add up to zero: a score or a class's weight is wrong"
    why = subject.rounding("gradients, which cancel")
    tolerance = subject.tolerance(1e-11)
    return MEAN_SCORE.judged(mean, 0.0, worst, tolerance, why, diagnosis.training_mode(subject) or cause, subject.lost)


def _label_scores(subject: IdentityCase, outputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Weights and our scores of labels that make up the distribution, for one example's outputs (1, C)."""
    likelihood, kind, count = subject.problem.likelihood, subject.plain.kind, outputs.shape[1]
    if kind == "softmax":
        p = probabilities(kind, outputs.double())
        labels = [torch.full((1,), c, device=outputs.device) for c in range(count)]
        return [(p[:, c : c + 1], likelihood.observed_score(outputs, label)) for c, label in enumerate(labels)]
    if kind == "sigmoid":
        p, ones = probabilities(kind, outputs.double()), torch.ones_like(outputs, dtype=torch.float64)
        pairs = [(p, ones), (torch.sigmoid(-outputs.double()), 0 * ones)]
    else:
        half = torch.full_like(outputs, 0.5, dtype=torch.float64)
        pairs = [(half, outputs.double() + 1), (half, outputs.double() - 1)]
    return [(weight, likelihood.observed_score(outputs, label)) for weight, label in pairs]


def score_covariance(subject: IdentityCase) -> Identity:
    """The scores that the estimator takes have the covariance of the model's own, whatever labels the data have."""
    problem, plain = subject.problem, subject.plain
    outputs = plain.outputs().detach()
    root = problem.likelihood.root(outputs, plain.labels)
    directions = root.directions.double()
    ours = torch.einsum("kn,kni,knj->nij", root.weights, directions, directions)
    theirs = covariance(plain.kind, outputs)
    scale = theirs.abs().amax((1, 2), keepdim=True).clamp_min(1e-300)
    errors = torch.nan_to_num((ours - theirs).abs() / scale, nan=float("inf"))
    n, rest = divmod(int(errors.argmax()), errors.shape[1] ** 2)
    i, j = divmod(rest, errors.shape[1])
    return ROOT.judged(
        float(ours[n, i, j]),
        float(theirs[n, i, j]),
        float(errors.max()),
        1e-12,
        "rounding of float64",
        _why_not(subject, ours, theirs, n, i),
    )


def _why_not(subject: IdentityCase, ours: Tensor, theirs: Tensor, n: int, i: int) -> str:
    """What is wrong with the scores."""
    z = subject.plain.outputs().detach()
    found = diagnosis.of_factor(ours, theirs, len(subject.plain))
    if found:
        return found
    if subject.plain.kind == "softmax":
        y = targets(z, subject.plain.labels)
        score = probabilities("softmax", z) - y
        if float((ours - score.unsqueeze(2) * score.unsqueeze(1)).norm()) <= diagnosis.EXPLAINED * float(ours.norm()):
            return "it is s_y s_yᵀ: the labels of the dataset were used in place of the model's own"
    value, truth = float(ours[n, i, i]), float(theirs[n, i, i])
    return f"the classes have wrong weights: that of class {i} is {value:.4g} where {truth:.4g} belongs (example {n})"
