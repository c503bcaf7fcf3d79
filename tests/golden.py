"""Tables and toy data sets of the literature, and Newton's method on them."""

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn

from fisher_cli.curvature.problem.problem import Problem, TensorData, pose


def table(name: str) -> tuple[Tensor, Tensor]:
    bunch = getattr(datasets, f"load_{name}")()
    return torch.tensor(bunch.data).double(), torch.tensor(bunch.target).long()


TOYS = {
    "correct": (1.0, 2 * np.eye(2), 2 * np.eye(2)),
    "A": (1.5, 3 * np.eye(2), np.eye(2)),
    "B": (1.0, 1.5 * np.array([[1, -0.6], [-0.6, 1]]), 1.5 * np.array([[1, 0.6], [0.6, 1]])),
}


def toy(name: str) -> tuple[Tensor, Tensor]:
    """Two Gaussians of 500 points each, and which one a point belongs to."""
    mean, *spreads = TOYS[name]
    generator = np.random.RandomState(0)
    halves = [generator.randn(500, 2) @ spread + sign * mean for sign, spread in zip((1, -1), spreads, strict=True)]
    return torch.tensor(np.concatenate(halves)), torch.arange(1000) // 500


def single_logit(x: Tensor, y: Tensor, weights: Tensor) -> Problem:
    """Logistic regression without a bias: one logit, −log σ(±θᵀx)."""
    model = nn.Linear(x.shape[1], 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(weights.unsqueeze(0))
    return pose(model, TensorData(x, y))


def newton_step(x: Tensor, y: Tensor, weights: Tensor, damping: float = 0.0) -> Tensor:
    """θ − (H + damping)⁻¹ ∇ of the logistic loss, by hand."""
    p = torch.sigmoid(x @ weights)
    hessian = (x.T * (p * (1 - p))) @ x / len(x) + damping * torch.eye(x.shape[1]).double()
    step: Tensor = torch.linalg.solve(hessian, x.T @ (p - y) / len(x))
    return weights - step
