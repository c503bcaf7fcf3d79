"""The other side of the identities: plain autograd on the network itself, densities written down once more.

Nothing here uses the engine, the products or the likelihoods of this package: what both sides share can hide a fault.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, kl_divergence
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fisher_cli.curvature.problem.problem import Problem, as_outputs
from fisher_cli.curvature.torch_backend.evaluation import evaluated
from fisher_cli.curvature.torch_backend.finite_differences import Watched, moved, watched_evaluation
from fisher_cli.curvature.torch_backend.network_state import NetworkState

Change = Mapping[str, Tensor]
"""A vector of the parameters' space, by parameter."""


@contextmanager
def differentiable_kernels() -> Iterator[None]:
    """Run with gradients, with attention that can be differentiated twice; all else as torch has it."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def targets(outputs: Tensor, labels: Tensor) -> Tensor:
    """Labels in the outputs' shape: class indices one-hot, a single output's as they are."""
    if labels.dim() == 2:
        return labels.to(outputs)
    if outputs.shape[1] == 1:
        return labels.to(outputs).unsqueeze(1)
    return functional.one_hot(labels, outputs.shape[1]).to(outputs)


def probabilities(kind: str, outputs: Tensor) -> Tensor:
    """The probability of each class, or of each yes, (B, C)."""
    return torch.softmax(outputs, 1) if kind == "softmax" else torch.sigmoid(outputs)


def covariance(kind: str, outputs: Tensor) -> Tensor:
    """Λ = Cov(s), (B, C, C)."""
    if kind == "gaussian":
        return torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device).expand(len(outputs), -1, -1)
    p = probabilities(kind, outputs)
    if kind == "sigmoid":
        return torch.diag_embed(p * torch.sigmoid(-outputs))
    # Off the diagonal −p_i p_j; on it what makes the rows add up to zero, which keeps 1 − p exact next to one.
    off = -p.unsqueeze(2) * p.unsqueeze(1)
    off.diagonal(dim1=1, dim2=2).zero_()
    return off - torch.diag_embed(off.sum(2))


def weighted_scores(kind: str, outputs: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights w (B,) and scores s (B, C) with Σ w s sᵀ = Λ; of softmax p_c and p − e_c for every class c.

    Yields:
        One pair per class.
    """
    p = probabilities(kind, outputs)
    for c in range(outputs.shape[1]):
        if kind == "softmax":
            yield p[:, c], label_score(outputs, c)
        else:
            unit = torch.zeros_like(outputs)
            unit[:, c] = 1
            flat = torch.ones_like(p[:, c])
            yield (p[:, c] * torch.sigmoid(-outputs[:, c]) if kind == "sigmoid" else flat), unit


def label_score(outputs: Tensor, label: int) -> Tensor:
    """p − e_c of softmax, (B, C), with 1 − p_c as the sum of the others."""
    score = torch.softmax(outputs, 1)
    score[:, label] = 0
    score[:, label] = -score.sum(1)
    return score


def observed_score(kind: str, outputs: Tensor, labels: Tensor) -> Tensor:
    """∂(−log q(y))/∂z at the dataset's labels, (B, C)."""
    if kind == "softmax":
        return torch.cat([label_score(outputs[n : n + 1], int(label)) for n, label in enumerate(labels)])
    y = targets(outputs, labels)
    return outputs - y if kind == "gaussian" else (1 - y) * torch.sigmoid(outputs) - y * torch.sigmoid(-outputs)


def loss(kind: str, outputs: Tensor, labels: Tensor) -> Tensor:
    """−Σ_n log q(y_n), to be differentiated; constants are left out."""
    if kind == "softmax":
        return functional.cross_entropy(outputs, labels, reduction="sum")
    if kind == "sigmoid":
        return functional.binary_cross_entropy_with_logits(outputs, targets(outputs, labels), reduction="sum")
    return 0.5 * (outputs - targets(outputs, labels)).square().sum()


def expected_loss(kind: str, fixed: Tensor, outputs: Tensor) -> Tensor:
    """−Σ_n E_y log q(y | outputs), y drawn from the distribution of the `fixed` outputs; constants are left out."""
    if kind == "softmax":
        return -(torch.softmax(fixed, 1) * torch.log_softmax(outputs, 1)).sum()
    if kind == "sigmoid":
        yes, no = functional.logsigmoid(outputs), functional.logsigmoid(-outputs)
        return -(torch.sigmoid(fixed) * yes + torch.sigmoid(-fixed) * no).sum()
    return 0.5 * (outputs - fixed).square().sum()


def distribution(kind: str, outputs: Tensor) -> Distribution:
    """The predictive distribution as torch has it."""
    if kind == "softmax":
        return Categorical(logits=outputs, validate_args=False)
    if kind == "sigmoid":
        return Bernoulli(logits=outputs, validate_args=False)
    return Normal(outputs, torch.ones_like(outputs), validate_args=False)


def divergence(kind: str, outputs: Tensor, moved: Tensor) -> Tensor:
    """Σ_n KL(q_n ‖ q'_n), to be differentiated with respect to either."""
    found: Tensor = kl_divergence(distribution(kind, outputs), distribution(kind, moved)).sum()
    return found


def small_divergence(kind: str, outputs: Tensor, moved: Tensor) -> float:
    """Σ_n KL(q_n ‖ q'_n), exact to rounding also where the two are next to each other.

    With d = z' − z it is log E[exp(d − E d)] under q, and eˣ − 1 − x is summed as a series for small x.
    """
    if kind == "gaussian":
        return 0.5 * float((moved - outputs).square().sum())
    if kind == "sigmoid":  # a yes and a no are two classes with the logits z and 0
        outputs, moved = (torch.stack([z.reshape(-1), torch.zeros_like(z.reshape(-1))], 1) for z in (outputs, moved))
    p, d = torch.softmax(outputs, 1), moved - outputs
    x = d - (p * d).sum(1, keepdim=True)
    series = x.square() / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7)))))
    beyond = torch.where(x.abs() < 0.05, series, torch.expm1(x) - x)
    return float((p * beyond).sum(1).log1p().sum())


@dataclass(frozen=True)
class ReferenceSums:
    """Over some examples, by plain gradients of one example and one score at a time; L tensors, in order of the names.

    true, empirical, uniform: Σ_k w_k ‖∇_l‖² by example and tensor, (n, L): of the model's labels, of the dataset's, and
    with every class weighted alike. gradient: Σ_n g_n by tensor; empirical_products: Σ_n g_n (g_nᵀv) for each vector.
    """

    true: Tensor
    empirical: Tensor
    uniform: Tensor
    gradient: dict[str, Tensor]
    empirical_products: list[dict[str, Tensor]]

    def __len__(self) -> int:
        return len(self.true)


@dataclass(frozen=True)
class AutogradReference:
    """A network in float64, its examples and its parameters, for plain autograd."""

    model: nn.Module
    kind: str
    inputs: Tensor
    labels: Tensor
    parameters: Mapping[str, nn.Parameter]
    state: NetworkState

    @classmethod
    def of(cls, problem: Problem) -> "AutogradReference":
        """That of a problem: the network itself where it is in float64, else a copy that is."""
        if problem.dtype is not torch.float64:
            problem = problem.double()
        batch = problem.slice(0, problem.examples)
        inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
        return cls(problem.model, problem.likelihood.name, inputs, batch.labels, problem.parameters, problem.state)

    def __len__(self) -> int:
        return len(self.inputs)

    def first(self, count: int) -> "AutogradReference":
        """The same with the first examples only."""
        return self.at(torch.arange(min(count, len(self))))

    def at(self, places: Tensor) -> "AutogradReference":
        """The same with the examples at these places only."""
        inputs, labels = self.inputs[places.to(self.inputs.device)], self.labels[places.to(self.labels.device)]
        return replace(self, inputs=inputs, labels=labels)

    @cached_property
    def watched(self) -> Watched:
        """The coarsest numbers that an evaluation of one example makes, and the rows it has no gradient of."""
        with watched_evaluation(self.parameters) as watched:
            self.outputs(0, 1)
        return watched

    def outputs(self, start: int = 0, stop: int | None = None) -> Tensor:
        """z of examples start … stop − 1, with its graph."""
        inputs = self.inputs[start:stop]
        self.state.restore()
        try:
            with differentiable_kernels():
                return as_outputs(evaluated(self.model, inputs), len(inputs))
        finally:
            self.state.restore()

    def chunks(self, size: int) -> Iterator[tuple[int, int]]:
        """Bounds of consecutive examples.

        Yields:
            start and stop.
        """
        for start in range(0, len(self), size):
            yield start, min(start + size, len(self))

    def gradients(self, value: Tensor, cotangent: Tensor | None = None, *, graph: bool = False) -> dict[str, Tensor]:
        """The gradient of a value by parameter; zero where nothing leads to it."""
        with differentiable_kernels():
            found = torch.autograd.grad(
                value,
                list(self.parameters.values()),
                cotangent,
                create_graph=graph,
                retain_graph=True,
                allow_unused=True,
            )
        pairs = zip(self.parameters.items(), found, strict=True)
        return {
            name: torch.zeros_like(parameter) if part is None else part.to_dense() if part.is_sparse else part
            for (name, parameter), part in pairs
        }

    def second(self, value: Tensor, vectors: Sequence[Change]) -> list[dict[str, Tensor]]:
        """The Hessian of a value times each vector, by double backward."""
        first = self.gradients(value, graph=True)
        return [self._along(first, vector) for vector in vectors]

    def _along(self, first: Change, vector: Change) -> dict[str, Tensor]:
        used = [name for name in first if first[name].requires_grad]
        if not used:
            return {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        with differentiable_kernels():
            along = torch.stack([(first[name] * vector[name]).sum() for name in used]).sum()
        if not along.requires_grad:
            return {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        return self.gradients(along)

    def sums(self, vectors: Sequence[Change]) -> ReferenceSums:
        """Squared gradients of every example and class, one backward pass each."""
        names = list(self.parameters)
        true, empirical, uniform = (torch.zeros(len(self), len(names), dtype=torch.float64) for _ in range(3))
        total = {name: torch.zeros_like(parameter) for name, parameter in self.parameters.items()}
        products = [{name: torch.zeros_like(parameter) for name, parameter in total.items()} for _ in vectors]
        for n in range(len(self)):
            z = self.outputs(n, n + 1)
            fixed = z.detach()
            for weight, score in weighted_scores(self.kind, fixed):
                squares = _squares(self.gradients(z, score))
                true[n] += float(weight) * squares
                uniform[n] += squares / fixed.shape[1]
            observed = self.gradients(z, observed_score(self.kind, fixed, self.labels[n : n + 1]))
            empirical[n] = _squares(observed)
            for product, vector in zip(products, vectors, strict=True):
                along = inner(observed, vector)
                for name in names:
                    product[name] += along * observed[name]
            for name in names:
                total[name] += observed[name]
        return ReferenceSums(true, empirical, uniform, total, products)

    def outputs_at(self, change: Change, length: float = 1.0) -> Tensor:
        """z at θ + length · change, without a graph."""
        with moved(self.parameters, change, length):
            return self.outputs().detach()


def _squares(gradients: Change) -> Tensor:
    return torch.stack([part.square().sum() for part in gradients.values()]).cpu()


def inner(one: Change, other: Change) -> float:
    """⟨a, b⟩ over all tensors."""
    return math.fsum(float((one[name].double() * other[name].double()).sum()) for name in one)


def norm(one: Change) -> float:
    """‖a‖ over all tensors."""
    return math.sqrt(inner(one, one))
