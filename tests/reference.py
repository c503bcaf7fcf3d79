"""The oracle: Fisher matrices from their definitions, one example and one label at a time, in float64.

Slow and obviously right. It shares no code with the package: log-probabilities come from torch.distributions,
gradients from plain autograd on a batch of one.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def labels_and_probabilities(kind: str, outputs: Tensor) -> list[tuple[Tensor, float]]:
    """Every label of one example's distribution with its probability."""
    z = outputs.detach()
    if kind == "softmax":
        return [(torch.tensor(c), float(p)) for c, p in enumerate(torch.softmax(z, 0))]
    if kind == "sigmoid":
        p, q = torch.sigmoid(z), torch.sigmoid(-z)  # 1 − p would lose what certain predictions leave
        table = []
        for bits in itertools.product([0.0, 1.0], repeat=len(z)):
            y = torch.tensor(bits, dtype=z.dtype)
            table.append((y, float(torch.prod(torch.where(y == 1, p, q)))))
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


class Loop:
    """A network in float64, one example at a time: gradients of log-probabilities by plain autograd, flat."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        self.model, self.kind = model.double().eval(), kind
        named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.names, self.parameters = list(named), list(named.values())
        self.sizes = [p.numel() for p in self.parameters]

    def examples(self, inputs: Tensor, labels: Tensor) -> Iterator[tuple[list[tuple[float, Tensor]], Tensor]]:
        """For every example: each label's probability and gradient, and the gradient of the observed label."""
        if inputs.is_floating_point():
            inputs = inputs.double()
        attention = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        for x, y in zip(inputs, labels, strict=True):
            found = self.model(x.unsqueeze(0).clone())
            outputs = (found["logits"] if isinstance(found, Mapping) else found).reshape(-1)
            every = labels_and_probabilities(self.kind, outputs)
            yield (
                [(probability, self._gradient(outputs, label)) for label, probability in every],
                self._gradient(outputs, observed_label(self.kind, outputs, y)),
            )
        torch.backends.mha.set_fastpath_enabled(attention)

    def by_tensor(self, squares: Tensor) -> Tensor:
        return torch.stack([part.sum() for part in torch.split(squares, self.sizes)])

    def _gradient(self, outputs: Tensor, label: Tensor) -> Tensor:
        value = log_probability(self.kind, outputs, label)
        parts = torch.autograd.grad(value, self.parameters, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(p) if part is None else part.to_dense()).reshape(-1)
                for p, part in zip(self.parameters, parts, strict=True)
            ]
        )


def reference(model: nn.Module, inputs: Tensor, labels: Tensor, kind: str = "softmax") -> Reference:
    """F = (1/N) Σ_n Σ_y p(y) ∇log p(y) ∇log p(y)ᵀ and F̂ = (1/N) Σ_n ∇log p(y_n) ∇log p(y_n)ᵀ, in float64."""
    loop, n = Loop(copy.deepcopy(model), kind), len(inputs)
    total = sum(loop.sizes)
    fisher, empirical = torch.zeros(total, total).double(), torch.zeros(total, total).double()
    mean_gradient = torch.zeros(total).double()
    true_terms, empirical_terms = [], []
    for every, observed in loop.examples(inputs, labels):
        for probability, g in every:
            fisher += probability * torch.outer(g, g)
        true_terms.append(loop.by_tensor(sum((p * g**2 for p, g in every), torch.zeros(total).double())))
        empirical += torch.outer(observed, observed)
        empirical_terms.append(loop.by_tensor(observed**2))
        mean_gradient -= observed
    return Reference(
        loop.names,
        loop.sizes,
        fisher / n,
        empirical / n,
        mean_gradient / n,
        torch.stack(true_terms),
        torch.stack(empirical_terms),
    )


def layer_traces(
    model: nn.Module, inputs: Tensor, labels: Tensor, kind: str = "softmax"
) -> dict[str, tuple[float, float]]:
    """Each parameter's parts of tr F and tr F̂. The network itself becomes float64: not every one can be copied."""
    loop = Loop(model, kind)
    true = empirical = torch.zeros(len(loop.sizes)).double()
    for every, observed in loop.examples(inputs, labels):
        true = sum((p * loop.by_tensor(g**2) for p, g in every), true)
        empirical = empirical + loop.by_tensor(observed**2)
    n = len(inputs)
    return dict(zip(loop.names, zip((true / n).tolist(), (empirical / n).tolist(), strict=True), strict=True))
