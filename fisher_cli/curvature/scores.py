"""Scores: the output-space vectors in which all our matrices differ, M = mean_n Σ_k w_nk (J_nᵀ v_nk)(J_nᵀ v_nk)ᵀ."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.likelihoods import Likelihood


@dataclass(frozen=True)
class Scores:
    """Directions v (K, B, C) and, for each matrix, weights w (K, B) in float64.

    true: Σ_k w_k v_k v_kᵀ = Λ, the covariance of the score under the model's own labels;
    observed: Σ_k w_k v_k v_kᵀ = s_y s_yᵀ with the dataset's label.
    """

    directions: Tensor
    true: Tensor
    observed: Tensor


def exact(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> Scores:
    """The exact scores of the true and the empirical Fisher, Σ_k w_k v_k v_kᵀ = Λ and = s_y s_yᵀ.

    Where the observed score is one of the directions (softmax: it is one of the classes), the empirical
    Fisher costs no backward pass of its own; otherwise one direction is added.
    """
    root = likelihood.root(outputs)
    observed = likelihood.observed_weights(outputs, labels)
    if observed is not None:
        return Scores(root.directions, root.weights, observed)
    score = likelihood.observed_score(outputs, labels)
    scale = score.abs().amax(dim=1, keepdim=True)
    unit = (score / torch.where(scale > 0, scale, torch.ones_like(scale))).to(outputs.dtype)
    none = torch.zeros_like(root.weights[:1])
    return Scores(
        torch.cat([root.directions, unit.unsqueeze(0)]),
        torch.cat([root.weights, none]),
        torch.cat([torch.zeros_like(root.weights), scale.T**2]),
    )
