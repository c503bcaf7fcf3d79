"""The oracle: Fisher matrices from their definitions, one example and one label at a time, in float64.

Slow and obviously right. It shares no code with the package: log-probabilities come from torch.distributions,
gradients from plain autograd on a batch of one.
"""

import copy
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def labels_and_probabilities(kind: str, outputs: Tensor) -> list[tuple[Tensor, float]]:
    """Every label of one example's distribution with its probability."""
    z = outputs.detach()
    if kind == "softmax":
        return [(torch.tensor(c), float(p)) for c, p in enumerate(torch.softmax(z, 0))]
    if kind == "sigmoid":
        p = torch.sigmoid(z)
        table = []
        for bits in itertools.product([0.0, 1.0], repeat=len(z)):
            y = torch.tensor(bits, dtype=z.dtype)
            table.append((y, float(torch.prod(torch.where(y == 1, p, 1 - p)))))
        return table
    # A standard normal has the same second moments as the 2C points ±√C e_c, each with weight 1/(2C).
    classes = len(z)
    points = [s * classes**0.5 * e for e in torch.eye(classes, dtype=z.dtype) for s in (1, -1)]
    return [(z + point, 1 / (2 * classes)) for point in points]


def log_probability(kind: str, outputs: Tensor, label: Tensor) -> Tensor:
    if kind == "softmax":
        return torch.distributions.Categorical(logits=outputs).log_prob(label)
    if kind == "sigmoid":
        return torch.distributions.Bernoulli(logits=outputs).log_prob(label).sum()
    return torch.distributions.Normal(outputs, torch.ones_like(outputs)).log_prob(label).sum()


def observed_label(kind: str, outputs: Tensor, label: Tensor) -> Tensor:
    """The dataset's label in the form that `log_probability` takes."""
    if kind == "softmax" or label.dim() == 1:
        return label
    if len(outputs) == 1:
        return label.to(outputs.dtype).reshape(1)
    return nn.functional.one_hot(label, len(outputs)).to(outputs.dtype)


@dataclass
class Reference:
    """Dense matrices (P × P) and per-example terms (N,), parameters in the order of `names`."""

    names: list[str]
    sizes: list[int]
    fisher: Tensor
    empirical: Tensor
    mean_gradient: Tensor
    true_terms: Tensor  # (N, number of parameters): contribution of each example to each tensor's trace
    empirical_terms: Tensor

    def traces(self, matrix: Tensor) -> dict[str, float]:
        parts = torch.split(matrix.diagonal(), self.sizes)
        return {name: float(part.sum()) for name, part in zip(self.names, parts, strict=True)}


def reference(model: nn.Module, inputs: Tensor, labels: Tensor, kind: str = "softmax") -> Reference:
    """F = (1/N) Σ_n Σ_y p(y) ∇log p(y) ∇log p(y)ᵀ and F̂ = (1/N) Σ_n ∇log p(y_n) ∇log p(y_n)ᵀ, in float64."""
    model = copy.deepcopy(model).double().eval()
    if inputs.is_floating_point():
        inputs = inputs.double()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    parameters = list(named.values())
    sizes = [p.numel() for p in parameters]
    total = sum(sizes)
    fisher, empirical = torch.zeros(total, total).double(), torch.zeros(total, total).double()
    mean_gradient = torch.zeros(total).double()
    true_terms, empirical_terms = [], []

    def gradient(outputs: Tensor, label: Tensor) -> Tensor:
        value = log_probability(kind, outputs, label)
        parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(p) if part is None else part.to_dense()).reshape(-1)
                for p, part in zip(parameters, parts, strict=True)
            ]
        )

    def by_tensor(squares: Tensor) -> Tensor:
        return torch.stack([part.sum() for part in torch.split(squares, sizes)])

    attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for x, y in zip(inputs, labels, strict=True):
        outputs = model(x.unsqueeze(0)).reshape(-1)
        squares = torch.zeros(total).double()
        for label, probability in labels_and_probabilities(kind, outputs):
            g = gradient(outputs, label)
            fisher += probability * torch.outer(g, g)
            squares += probability * g**2
        true_terms.append(by_tensor(squares))
        g = gradient(outputs, observed_label(kind, outputs, y))
        empirical += torch.outer(g, g)
        empirical_terms.append(by_tensor(g**2))
        mean_gradient -= g
    torch.backends.mha.set_fastpath_enabled(attention)
    n = len(inputs)
    return Reference(
        list(named),
        sizes,
        fisher / n,
        empirical / n,
        mean_gradient / n,
        torch.stack(true_terms),
        torch.stack(empirical_terms),
    )
