"""What labels drawn from a model add to a trace: from their own spread, and from one more label drawn by size.

A confident network draws its first choice again and again, whose score is small; the trace is with labels that it
hardly ever draws. The spread of the draws is then zero and says nothing. What the model knows is said instead: one
more label is drawn with the chances q(c) = p(c) ‖s_c‖²/tr Λ, the rare labels in proportion to what they may carry, and
counts by its ratio p/q = tr Λ/‖s_c‖². Source: Hansen and Hurwitz 1943 (doi:10.1214/aoms/1177731356), sampling with
chances in proportion to size; Veach and Guibas 1995 (doi:10.1145/218380.218498), the balance of two ways to draw.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fisher_cli.curvature.problem.counter_based_random import Draws
from fisher_cli.curvature.problem.likelihoods import Likelihood, Sigmoid, Softmax


class SizeWeights(NamedTuple):
    """How the norms of scores at S labels drawn from the model and one drawn by size are weighed, each (S + 1, B).

    Attributes:
        squares: what makes ‖J_nᵀs‖² of ‖J_nᵀv‖² along the unit directions.
        odds: q/p = ‖s‖²/tr Λ.
    """

    squares: Tensor
    odds: Tensor


class DrawErrors(NamedTuple):
    """The errors of the mean of S terms ‖J_nᵀs‖², each (…, B) in float64.

    Attributes:
        spread: the variance of the mean from the spread of the S terms.
        balanced: the same variance from all S + 1.
        terms: the balanced estimate of tr F_n, for errors over examples.
        noise: the variance of that estimate, zero where S = 1 cannot tell.
    """

    spread: Tensor
    balanced: Tensor
    terms: Tensor
    noise: Tensor


def scores_by_size(likelihood: Likelihood, outputs: Tensor, count: int, draws: Draws) -> Tensor:
    """Scores s_c at labels drawn with the chances q(c) = p(c) ‖s_c‖²/tr Λ, (count, B, C) in float64.

    Softmax: the classes have these chances. Sigmoid: p ‖s‖² = Σ_j p s_j², so one output j is chosen by E s_j², whose
    label is turned against the model, 1 with the chance σ(−z_j); the others are the model's own. Gaussian: a radius
    with two degrees of freedom more.

    Args:
        likelihood: p.
        outputs: z (B, C).
        count: labels per example.
        draws: the random numbers of the B examples.

    Source: Hansen and Hurwitz 1943 (doi:10.1214/aoms/1177731356), for chances in proportion to size.
    """
    outputs = outputs.double()
    examples, size = outputs.shape
    if isinstance(likelihood, Softmax):
        p, complement = likelihood.probabilities(outputs)
        labels = draws.classes(p * _squares(p, complement), count).T.unsqueeze(2)
        p, complement = (each.expand(count, -1, -1) for each in (p, complement))
        return p.scatter(2, labels, -complement.gather(2, labels))
    if isinstance(likelihood, Sigmoid):
        ones, noughts = torch.sigmoid(outputs), torch.sigmoid(-outputs)
        turned = draws.classes(ones * noughts, count).T.unsqueeze(2)
        chances = ones.expand(count, -1, -1).scatter(2, turned, noughts.expand(count, -1, -1).gather(2, turned))
        uniform = draws.uniforms(count * (size + 1))[:, count:].reshape(examples, count, size).transpose(0, 1)
        return torch.where(uniform < chances, -noughts, ones)
    normals = draws.normals(count, size + 2).transpose(0, 1)
    plain, beside = normals[:, :, :size], normals[:, :, size:]
    return plain * (1 + beside.square().sum(2) / plain.square().sum(2)).sqrt().unsqueeze(2)


def odds(likelihood: Likelihood, outputs: Tensor, scores: Tensor) -> Tensor:
    """q/p = ‖s‖²/tr Λ of scores (K, B, C), (K, B) in float64; infinite where tr Λ is zero and nothing is random.

    Args:
        likelihood: p.
        outputs: z (B, C).
        scores: s, K for each example.
    """
    z = outputs.double()
    if isinstance(likelihood, Softmax):
        p, complement = likelihood.probabilities(z)
        trace = (p * complement).sum(1)
    elif isinstance(likelihood, Sigmoid):
        trace = (torch.sigmoid(z) * torch.sigmoid(-z)).sum(1)
    else:
        trace = torch.full_like(z[:, 0], z.shape[1])
    found = scores.square().sum(2) / torch.where(trace > 0, trace, torch.ones_like(trace))
    return torch.where(trace > 0, found, torch.full_like(found, torch.inf))


def _squares(p: Tensor, complement: Tensor) -> Tensor:
    """‖p − e_c‖² of every class, (B, C): Σ_{j≠c} p_j² + (1 − p_c)², the sum without the largest p taken apart."""
    top = p.argmax(1, keepdim=True)
    others = p.scatter(1, top, 0.0).square()
    rest = others.sum(1, keepdim=True)
    beside = (rest - others).clamp_min(0) + p.gather(1, top).square()
    return beside.scatter(1, top, rest) + complement.square()


def draw_errors(terms: Tensor, found: Tensor) -> DrawErrors:
    """The errors of the mean of S terms t = ‖J_nᵀs‖², with one more drawn by size, (…, S + 1, B).

    With the weights ω = 1/(S + q/p) of the balance of both ways to draw, Σ ω f(t) is unbiased for E f(t): for tr F_n =
    E t it has next to no noise where the network is confident, and V = (S + 1)/S · Σ ω (t − tr F_n)² is the variance of
    one term, which errs upwards by up to 1/S there. V/S is that of the mean. A single label's spread is taken about the
    balanced mean, of which it is a half where the network is not confident.

    Args:
        terms: t (…, S + 1, B), the last along the S + 1 drawn by size.
        found: q/p of each, (S + 1, B).

    Returns:
        The errors by example, each (…, B).

    Source: Veach and Guibas 1995 (doi:10.1145/218380.218498), for the balance of two ways to draw.
    """
    count = len(found) - 1
    weights = 1 / (count + found)
    balanced = (weights * terms).sum(-2)
    variance = (weights * (terms - balanced.unsqueeze(-2)).square()).sum(-2) * ((count + 1) / count)
    plain = terms[..., :-1, :]
    if count == 1:
        return DrawErrors(2 * (plain.squeeze(-2) - balanced).square(), variance, balanced, torch.zeros_like(balanced))
    noise = (count + 1) * (weights[:-1] * plain).var(dim=-2)
    return DrawErrors(plain.var(dim=-2) / count, variance / count, balanced, noise)
