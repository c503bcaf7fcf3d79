"""The scores of all labels that a model could have drawn, as combinations of the columns of a root of Λ.

Every score s_c is in the span of the directions v_k of the root, s_c = Σ_k a_ck v_k. The inner products of the
gradients J_nᵀv_k give those of every label's gradient: no label drawn from the model costs a pass.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.problem.counter_based_random import of_examples
from fisher_cli.curvature.problem.drawn_labels import odds, scores_by_size
from fisher_cli.curvature.problem.likelihoods import Likelihood, Softmax
from fisher_cli.curvature.problem.output_scores import unit_scale


@dataclass(frozen=True)
class LabelCoordinates:
    """One batch: an exact root of Λ, and the scores of all labels in its directions.

    Attributes:
        directions: v (K, B, C).
        weights: w (B, K), Σ_k w_k v_k v_kᵀ = Λ.
        observed: a (B, K) of the score at the dataset's label.
        probabilities: p (B, C) of one label out of C, classes in the order of pivoting; else None.
        labels: a (B, C, K) of every class, in the same order; else None.
        excess: E s_k⁴ − (E s_k²)², (B, K), of K independent labels, whose scores are their own coordinates; else None.
    """

    directions: Tensor
    weights: Tensor
    observed: Tensor
    probabilities: Tensor | None = None
    labels: Tensor | None = None
    excess: Tensor | None = None

    def moments(self, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tr_n = E‖g‖², Var ‖g‖² and E‖g gᵀ − F_n‖_F² of g = Jᵀs under the model's own labels, each (B,); F_n = E g gᵀ.

        Args:
            products: R = (Jᵀv_k)ᵀ(Jᵀv_k'), (B, K, K) in float64.

        One label out of C: Var = Σ_c p_c (‖g_c‖² − tr_n)². Independent ones: Σ_k R_kk² (E s_k⁴ − (E s_k²)²) +
        2 Σ_{k≠l} R_kl² E s_k² E s_l², both from ‖g‖² = sᵀRs. The last is E‖g‖⁴ − ‖F_n‖_F².
        Source: Soen and Sun 2021 (arXiv:2107.04205), there for an estimate of F with one drawn label per example.
        """
        diagonal, w = products.diagonal(dim1=1, dim2=2), self.weights
        trace = (w * diagonal).sum(1)
        weighted = products.square() * w.unsqueeze(1) * w.unsqueeze(2)
        squared = weighted.sum((1, 2))
        if self.labels is not None and self.probabilities is not None:
            norms = ((self.labels @ products) * self.labels).sum(2)
            variance = (self.probabilities * (norms - trace.unsqueeze(1)).square()).sum(1)
        else:
            assert self.excess is not None
            own = weighted.diagonal(dim1=1, dim2=2).sum(1)
            variance = (diagonal.square() * self.excess).sum(1) + 2 * (squared - own)
        return trace, variance, variance + trace.square() - squared


@dataclass(frozen=True)
class DrawnScores:
    """One batch: scores s = scale · v of S ≥ 2 labels drawn by size for each example.

    Attributes:
        directions: unit directions v (S, B, C).
        scales: of the scores, (B, S).
        ratios: p/q of the labels, (B, S), drawn with the chances q(c) = p(c) ‖s_c‖²/tr Λ: of labels drawn from a
            confident model itself all may be its first choice, and tell nothing.
    """

    directions: Tensor
    scales: Tensor
    ratios: Tensor

    def moments(self, products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unbiased estimates of tr_n, Var ‖g‖² and E‖g gᵀ − F_n‖_F² from S gradients of each example, each (B,).

        With r = p/q: E‖g‖⁴ is the mean of r‖g‖⁴; tr_n² and ‖F_n‖_F² = E (gᵀg')², of two independent labels, are means
        over the pairs of different draws, of r‖g‖² r'‖g'‖² and r r' (gᵀg')².
        """
        products = products * self.scales.unsqueeze(1) * self.scales.unsqueeze(2)
        norms, both = products.diagonal(dim1=1, dim2=2), self.ratios.unsqueeze(1) * self.ratios.unsqueeze(2)
        terms = self.ratios * norms
        fourth = (terms * norms).mean(1)
        squared, matrix = _pairs(terms.unsqueeze(1) * terms.unsqueeze(2)), _pairs(both * products.square())
        return terms.mean(1), fourth - squared, fourth - matrix


def _pairs(values: Tensor) -> Tensor:
    """The mean of values (B, S, S) over the pairs of different draws, (B,)."""
    count = values.shape[1]
    return (values.sum((1, 2)) - values.diagonal(dim1=1, dim2=2).sum(1)) / (count * (count - 1))


def drawn_scores(likelihood: Likelihood, outputs: Tensor, start: int, labels: int, seed: int) -> DrawnScores:
    """Scores at labels drawn by size for each example of a batch.

    Args:
        likelihood: q.
        outputs: z (B, C), without a graph.
        start: the number of the batch's first example.
        labels: how many to draw per example, S ≥ 2.
        seed: of the labels.

    Source: Hansen and Hurwitz 1943 (doi:10.1214/aoms/1177731356), for chances in proportion to size.
    """
    draws = of_examples(seed, "null by size", start, len(outputs), outputs.device)
    scores = scores_by_size(likelihood, outputs, labels, draws)
    unit, scales = unit_scale(scores)
    return DrawnScores(unit.to(outputs.dtype), scales.T, 1 / odds(likelihood, outputs, scores).T)


def coordinates(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> LabelCoordinates:
    """The root of Λ that the exact traces are computed with, and every label's score in its directions.

    Args:
        likelihood: q.
        outputs: z (B, C), without a graph.
        labels: the dataset's, (B,) or (B, C).
    """
    root = likelihood.root(outputs, labels)
    if isinstance(likelihood, Softmax):
        ordered, table = _of_classes(likelihood, outputs, labels)
        return LabelCoordinates(root.directions, root.weights.T, table[:, 0], ordered, table)
    weights = root.weights.T
    kurtosis = weights * (1 - 4 * weights) if likelihood.name == "sigmoid" else 2 * weights
    return LabelCoordinates(
        root.directions, weights, likelihood.observed_score(outputs, labels), excess=kurtosis.clamp_min(0)
    )


def _of_classes(likelihood: Softmax, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """p (B, C) and a (B, C, C − 1), classes in the order of pivoting, with the observed one first.

    s_c = −Λe_c/p_c = −Σ_k w_k v_k[c]/p_c v_k, which is p_k/q_{k−1} for the pivots k before c and −q_c/q_{c−1} for
    c itself: no division by p_c and nothing that cancels.
    """
    p, behind, _ = likelihood.pivots(outputs, labels)
    before = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], 1)
    reached = before > 0
    divisor = torch.where(reached, before, torch.ones_like(before))
    earlier, own = torch.where(reached, p / divisor, 0.0), torch.where(reached, behind / divisor, 0.0)
    below = torch.ones(p.shape[1], p.shape[1], dtype=p.dtype, device=p.device).tril(-1)
    table = earlier.unsqueeze(1) * below - torch.diag_embed(own)
    return p, table[:, :, :-1]


def drawn(
    likelihood: Likelihood, outputs: Tensor, found: LabelCoordinates, start: int, draws: int, seed: int
) -> Tensor:
    """Coordinates (draws, B, K) of the scores at labels drawn from the model, each example with its own numbers."""
    random = of_examples(seed, "null", start, len(outputs), outputs.device)
    if found.labels is None or found.probabilities is None:
        return likelihood.sampled_scores(outputs, draws, random)
    chosen = random.classes(found.probabilities, draws)
    examples = torch.arange(len(outputs), device=outputs.device)
    return found.labels[examples, chosen.T]
