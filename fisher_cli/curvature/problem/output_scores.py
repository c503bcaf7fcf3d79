"""Scores: the output-space vectors in which all our matrices differ, M = mean_n Σ_k w_nk (J_nᵀ v_nk)(J_nᵀ v_nk)ᵀ."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fisher_cli.curvature.problem import counter_based_random as draws
from fisher_cli.curvature.problem.drawn_labels import SizeWeights, odds, scores_by_size
from fisher_cli.curvature.problem.likelihoods import Likelihood


@dataclass(frozen=True)
class OutputScores:
    """K directions v per example, and what the true and the empirical Fisher make of them.

    Attributes:
        directions: v (K, B, C), in the outputs' precision.
        true: weights w (K, B) in float64 with Σ_k w_k v_k v_kᵀ = Λ, the covariance of the score under the model's own
            labels, exactly or in expectation.
        observed: coefficients c (K, B) in float64 with Σ_k c_k v_k = s_y, the score at the dataset's label; one of each
            example is not zero, and all of these belong to the same direction.
        observed_row: the number of that direction.
        draws: the directions that are independent draws of the same distribution: their spread is the estimator's own
            error.
        balance: where that spread may miss what is rare, the weights of the draws and of the direction that follows
            them, which only serves the errors.
    """

    directions: Tensor
    true: Tensor
    observed: Tensor
    draws: range = range(0)
    observed_row: int = 0
    balance: SizeWeights | None = None


Scoring = Callable[[Tensor, Tensor, int], OutputScores]
"""(outputs (B, C), labels, index of the first example) → the batch's scores."""


def unit_scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (…, C) scaled to a largest entry of one, and the scale (…); tiny ones then survive float32.

    Vectors of zero stay zero, with the scale zero.
    """
    scale = vectors.abs().amax(dim=-1)
    return vectors / torch.where(scale > 0, scale, torch.ones_like(scale)).unsqueeze(-1), scale


def exact(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> OutputScores:
    """The exact scores of the true and the empirical Fisher, Σ_k w_k v_k v_kᵀ = Λ and = s_y s_yᵀ.

    Where the observed score is a multiple of a direction of the root (softmax: of the first), the empirical Fisher
    costs no backward pass of its own; otherwise one direction is added.

    Args:
        likelihood: q.
        outputs: z (B, C), without a graph.
        labels: the dataset's, (B,) or (B, C).

    Returns:
        K = C − 1 directions for softmax, 1 for one output, else C + 1; nothing is drawn.
    """
    root = likelihood.root(outputs, labels)
    if root.observed is not None:
        return OutputScores(root.directions, root.weights, root.observed)
    return with_observed(likelihood, outputs, labels, root.directions, root.weights)


def with_observed(
    likelihood: Likelihood,
    outputs: Tensor,
    labels: Tensor,
    directions: Tensor,
    weights: Tensor,
    draws: range = range(0),
) -> OutputScores:
    """Scores of the true Fisher with the observed score added as a direction of its own, the last.

    Args:
        likelihood: q.
        outputs: z (B, C), without a graph.
        labels: the dataset's, (B,) or (B, C).
        directions: those of the true Fisher, (K, B, C).
        weights: theirs, (K, B) in float64.
        draws: which of them are independent draws.

    Returns:
        K + 1 directions.
    """
    unit, scale = unit_scale(likelihood.observed_score(outputs, labels))
    none = torch.zeros_like(weights[:1])
    return OutputScores(
        torch.cat([directions, unit.to(outputs.dtype).unsqueeze(0)]),
        torch.cat([weights, none]),
        torch.cat([torch.zeros_like(weights), scale.unsqueeze(0)]),
        draws,
        len(directions),
    )


def sampled(likelihood: Likelihood, samples: int, seed: int) -> Scoring:
    """Scores s_ŷ/√S of S labels ŷ drawn from the model, E Σ_k v_k v_kᵀ = Λ, and one drawn by size for the errors.

    Unbiased, one backward pass per label, and heavy-tailed exactly where networks are confident: for comparison with
    the literature. Of the error, `drawn_labels.draw_errors` says what is known.

    Args:
        likelihood: q.
        samples: S.
        seed: of the labels.

    Returns:
        The function from a batch's outputs to its S + 2 directions: S drawn, one drawn by size, the observed score.
    """

    def scoring(outputs: Tensor, labels: Tensor, start: int) -> OutputScores:
        own, by_size = (
            draws.of_examples(seed, purpose, start, len(outputs), outputs.device)
            for purpose in ("labels", "labels by size")
        )
        scores = torch.cat(
            [likelihood.sampled_scores(outputs, samples, own), scores_by_size(likelihood, outputs, 1, by_size)]
        )
        unit, scale = unit_scale(scores)
        squares = scale**2
        weights = squares / samples
        weights[samples:] = 0
        found = with_observed(likelihood, outputs, labels, unit.to(outputs.dtype), weights, range(samples))
        return replace(found, balance=SizeWeights(squares, odds(likelihood, outputs, scores)))

    return scoring


ScoresOf = Callable[[Likelihood, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(likelihood, outputs (B, C), labels) → directions v (K, B, C) and amplitudes √w (K, B) in float64: s = √w v."""


def true_scores(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of an exact root of Λ, Σ_k s_k s_kᵀ = Λ, as directions (K, B, C) and amplitudes (K, B).

    Args:
        likelihood: q.
        outputs: z (B, C), without a graph.
        labels: the dataset's; they change no Λ.
    """
    root = likelihood.root(outputs, labels)
    return root.directions, root.weights.sqrt()


def empirical_scores(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The score s_y at the dataset's label alone, as a direction (1, B, C) and its amplitude (1, B).

    Args:
        likelihood: q.
        outputs: z (B, C), without a graph.
        labels: the dataset's, (B,) or (B, C).
    """
    unit, scale = unit_scale(likelihood.observed_score(outputs, labels))
    return unit.to(outputs.dtype).unsqueeze(0), scale.unsqueeze(0)
