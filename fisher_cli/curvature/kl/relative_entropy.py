"""How far two predictive distributions are apart: KL(q_a ‖ q_b) of each example, its second-order view, agreement.

From the outputs alone, in float64 and with all terms of one sign, so that two networks that nearly agree and
outputs that are next to one-hot lose no digits. Shapes: B examples, C outputs. Natural logarithms.
"""

from functools import singledispatch

import torch
from torch import Tensor

from fisher_cli.curvature.problem.likelihoods import Gaussian, Likelihood, Sigmoid, Softmax

# Below this e^d − 1 − d is taken from its series, whose terms beyond these are smaller than float64 resolves.
_SMALL, _TERMS = 0.5, 15
# Up to this difference of logits the exponentials are taken as they are.
_MODERATE = 30.0


@singledispatch
def relative_entropy(likelihood: Likelihood, outputs: Tensor, others: Tensor) -> Tensor:
    """KL(q(· | z_a) ‖ q(· | z_b)), (B,) in float64 nats, for outputs z_a and z_b (B, C).

    Raises:
        NotImplementedError: the likelihood has no rule.
    """
    msg = f"no relative entropy for the likelihood {likelihood.name}"
    raise NotImplementedError(msg)


@relative_entropy.register
def _(_: Softmax, outputs: Tensor, others: Tensor) -> Tensor:
    """Σ_c p_c (log p_c − log p'_c)."""
    return _categorical(outputs, others)


@relative_entropy.register
def _(_: Sigmoid, outputs: Tensor, others: Tensor) -> Tensor:
    """The sum over outputs of the two-class divergence: σ(z) is a softmax over the logits z and 0."""
    pairs = [torch.stack([z.reshape(-1), torch.zeros_like(z).reshape(-1)], 1) for z in (outputs, others)]
    return _categorical(*pairs).reshape(outputs.shape).sum(1)


@relative_entropy.register
def _(_: Gaussian, outputs: Tensor, others: Tensor) -> Tensor:
    """½‖z_a − z_b‖²."""
    return 0.5 * (outputs.double() - others.double()).square().sum(1)


def _categorical(outputs: Tensor, others: Tensor) -> Tensor:
    """Σ_c p_c (e^d_c − 1 − d_c) with d = log p' − log p: the divergence, as Σ_c p_c (e^d_c − 1) = 0."""
    softmax = Softmax()
    log_p, log_other = softmax.log_probabilities(outputs), softmax.log_probabilities(others)
    p, d = log_p.exp(), _log_ratio(outputs, others, log_p, log_other)
    terms = torch.where(d.abs() <= _SMALL, p * _remainder(d.clamp(-_SMALL, _SMALL)), log_other.exp() - p - p * d)
    return terms.sum(1)


def _log_ratio(outputs: Tensor, others: Tensor, log_p: Tensor, log_other: Tensor) -> Tensor:
    """log p' − log p = δ − log Σ_c p_c e^δ_c with δ = z' − z: no cancellation where the two nearly agree."""
    change = others.double() - outputs.double()
    change = change - change.gather(1, log_p.argmax(dim=1, keepdim=True))
    is_moderate = change.abs().amax(dim=1, keepdim=True) <= _MODERATE
    within = change.clamp(-_MODERATE, _MODERATE)
    ratio = within - (log_p.exp() * within.expm1()).sum(dim=1, keepdim=True).log1p()
    return torch.where(is_moderate, ratio, log_other - log_p)


def _remainder(d: Tensor) -> Tensor:
    """e^d − 1 − d for |d| ≤ ½: d²/2 (1 + d/3 (1 + d/4 (…)))."""
    nested = torch.ones_like(d)
    for order in range(_TERMS, 2, -1):
        nested = 1 + d / order * nested
    return 0.5 * d.square() * nested


def quadratic_form(likelihood: Likelihood, outputs: Tensor, vectors: Tensor) -> Tensor:
    """½ vᵀΛ v, (B,) in float64, for vectors v (B, C): the second-order view of KL(q(· | z) ‖ q(· | z + v))."""
    v = vectors.double()
    if isinstance(likelihood, Softmax):
        # Λ knows no common shift of the logits; without the shift of the likeliest class nothing cancels.
        v = v - v.gather(1, outputs.argmax(dim=1, keepdim=True))
    return 0.5 * (v * likelihood.covariance_product(outputs, v)).sum(1)


def agreement(likelihood: Likelihood, outputs: Tensor, others: Tensor, labels: Tensor) -> Tensor | None:
    """Whether both predict the same label, (B,) in float64: the largest output, or each output's sign.

    Args:
        likelihood: that of both networks.
        outputs: z_a (B, C).
        others: z_b (B, C).
        labels: (B,) or (B, C); their shape tells whether classes or signs are predicted, and their values are not used.

    Returns:
        1 or 0, a fraction for several yes-or-no labels; None where predictions are not labels.
    """
    if labels.dim() == 1 and outputs.shape[1] > 1:
        return likelihood.correct(outputs, others.argmax(dim=1))
    return likelihood.correct(outputs, (others > 0).double() if labels.dim() == 2 else (others[:, 0] > 0).long())
