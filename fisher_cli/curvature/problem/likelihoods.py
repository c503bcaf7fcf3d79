"""Predictive distributions q(y | z) of a network's outputs z, and the scores s = ∂(−log q)/∂z they give.

Every quantity is computed from the outputs in float64 and without cancellation, whatever the network's
precision: at logits (20, 0, 0) in float32, 1 − Σ p² is 0 where the truth is 8.2e-9.
Shapes: B examples, C outputs, K score directions. Natural logarithms.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fisher_cli.curvature.problem.counter_based_random import Draws
from fisher_cli.errors import DataError, UsageError


def check_classes(outputs: int, labels: Tensor) -> None:
    """Labels of a softmax network: (N,) integers from 0 to C − 1, of C ≥ 2 classes.

    Raises:
        DataError: a label is outside or no integer, or there is one class alone.
    """
    if outputs == 1:
        msg = "softmax over one output has probability 1 always, and its Fisher is zero: type --likelihood sigmoid"
        raise DataError(msg)
    if labels.dim() != 1 or labels.is_floating_point():
        kind = str(labels.dtype).removeprefix("torch.")
        msg = f"softmax needs one integer label per example, the data has {kind} labels of shape {tuple(labels.shape)}"
        raise DataError(msg)
    if not _are_classes(labels, outputs):
        msg = (
            f"labels run from {_range_of(labels)}, the network has {outputs} outputs (classes 0 to "
            f"{outputs - 1}): check --data, --labels and the model's number of classes"
        )
        raise DataError(msg)


def check_binary(outputs: int, labels: Tensor) -> None:
    """Labels of a sigmoid network: 0 or 1 of each of C outputs, or class indices for C > 1.

    Nothing between 0 and 1: q(y | z) gives such labels no probability.

    Raises:
        DataError: the labels are neither.
    """
    if _are_targets(labels, outputs):
        fits = bool(((labels == 0) | (labels == 1)).all())
    else:
        fits = _are_classes(labels, outputs)
    if not fits:
        taken = "labels 0 or 1" if outputs == 1 else f"classes 0 to {outputs - 1}, or {outputs} labels 0 or 1 each"
        msg = (
            f"labels of shape {tuple(labels.shape)} running from {_range_of(labels)} do not fit a sigmoid "
            f"network with {outputs} outputs ({taken}): check --data, --labels and --likelihood"
        )
        raise DataError(msg)


def check_targets(outputs: int, labels: Tensor) -> None:
    """Labels of a Gaussian network: finite numbers (N, C), or (N,) for C = 1, or class indices for C > 1.

    Raises:
        DataError: the labels are none of these.
    """
    if not _are_targets(labels, outputs) and not _are_classes(labels, outputs):
        msg = (
            f"labels of shape {tuple(labels.shape)} do not fit a Gaussian network with {outputs} outputs: "
            "check --data, --labels and --likelihood"
        )
        raise DataError(msg)
    count = int((~labels.isfinite()).reshape(len(labels), -1).any(1).sum())
    if count:
        msg = f"the targets of {count} of {len(labels)} examples are NaN or infinite: leave these examples out"
        raise DataError(msg)


def _range_of(labels: Tensor) -> str:
    ends = [end.item() for end in (labels.min(), labels.max())]
    return " to ".join(f"{end:g}" if isinstance(end, float) else str(end) for end in ends)


def _are_targets(labels: Tensor, outputs: int) -> bool:
    """Whether there is one number per example and output."""
    return labels.shape[1:] == (outputs,) or (labels.dim() == 1 and outputs == 1)


def _are_classes(labels: Tensor, count: int) -> bool:
    """Whether these are (N,) integers from 0 to `count` − 1."""
    if labels.dim() != 1 or labels.is_floating_point():
        return False
    return not len(labels) or (int(labels.min()) >= 0 and int(labels.max()) < count)


LOG_TWO_PI_E = math.log(2 * math.pi) + 1


class Root(NamedTuple):
    """Directions v (K, B, C) and weights w (K, B) ≥ 0 with Σ_k w_k v_k v_kᵀ = Λ.

    Directions are scaled to a largest entry of about one, so that tiny probabilities live in the float64 weights and
    never underflow in the network's own precision.

    Attributes:
        directions: v, in the outputs' precision.
        weights: w, in float64.
        observed: c (K, B) in float64, one of each example not zero, with Σ_k c_k v_k = s_y; None where the observed
            score is parallel to no direction.
    """

    directions: Tensor
    weights: Tensor
    observed: Tensor | None = None


class Pivots(NamedTuple):
    """Classes in an order of pivoting.

    Attributes:
        probabilities: p_j in this order, (B, C) in float64.
        behind: the mass Σ_{i>j} p_i of the classes after j, (B, C) in float64.
        classes: their numbers, (B, C) int64.
    """

    probabilities: Tensor
    behind: Tensor
    classes: Tensor


class Likelihood(ABC):
    """A distribution q(y | z) over labels, given the outputs z of one example; every method takes B examples at once.

    Attributes:
        name: as `--likelihood` and the reports call it.
    """

    name: str

    @abstractmethod
    def root(self, outputs: Tensor, labels: Tensor) -> Root:
        """Σ_k w_k v_k v_kᵀ = Λ = Cov(s) over labels drawn from the model: the exact scores of the true Fisher.

        Args:
            outputs: z (B, C).
            labels: the dataset's, (B,) or (B, C). They change no Λ; the class observed comes first where the root has
                an order.

        Returns:
            The root; K = C − 1 for softmax, else C.
        """

    @abstractmethod
    def observed_score(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """s_y = ∂(−log q(y | z))/∂z, (B, C) in float64, at the dataset's labels."""

    @abstractmethod
    def sampled_scores(self, outputs: Tensor, samples: int, draws: Draws) -> Tensor:
        """s_ŷ at labels ŷ drawn from the model for each example of outputs (B, C): (samples, B, C) in float64.

        Args:
            outputs: z (B, C).
            samples: labels per example.
            draws: the random numbers of the B examples.
        """

    @abstractmethod
    def covariance_product(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        """Λ v, (B, C) in float64, for vectors v (B, C) of any precision."""

    @abstractmethod
    def log_likelihood(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """log q(y | z), (B,) in float64 nats."""

    @abstractmethod
    def entropy(self, outputs: Tensor) -> Tensor:
        """−E_q log q, (B,) in float64 nats; the differential entropy for a density."""

    @abstractmethod
    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """Fraction of the label predicted right, (B,) in float64; None where that has no meaning."""

    @abstractmethod
    def check_labels(self, outputs: int, labels: Tensor) -> None:
        """Refuse labels that do not fit a network with this many outputs.

        Args:
            outputs: C.
            labels: of all examples, (N,) or (N, C).

        Raises:
            DataError: they do not fit.
        """


def _targets(outputs: Tensor, labels: Tensor) -> Tensor:
    """Labels as targets of the outputs' shape (B, C): class indices become one-hot rows."""
    if labels.dim() == 2:
        return labels.double()
    if outputs.shape[1] == 1:
        return labels.double().unsqueeze(1)
    return functional.one_hot(labels, outputs.shape[1]).double()


class Softmax(Likelihood):
    """q(c | z) = exp(z_c) / Σ_j exp(z_j): one of C ≥ 2 classes."""

    name = "softmax"

    def log_probabilities(self, outputs: Tensor) -> Tensor:
        """log p_c, (B, C) in float64, exact to rounding also where p_c is next to one.

        There, z − logsumexp(z) cancels; −log1p(Σ_others exp(z_j − z_max)) does not.
        """
        shifted = outputs.double() - outputs.double().amax(dim=1, keepdim=True)
        largest = torch.zeros_like(shifted, dtype=torch.bool)
        largest.scatter_(1, shifted.argmax(dim=1, keepdim=True), value=True)
        others = shifted.exp().masked_fill(largest, 0).sum(dim=1, keepdim=True)
        return shifted - others.log1p()

    def probabilities(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """p_c and 1 − p_c, both (B, C) in float64 and both exact to rounding."""
        p = self.log_probabilities(outputs).exp()
        top = p.argmax(dim=1, keepdim=True)
        others = p.scatter(1, top, 0.0).sum(dim=1, keepdim=True)
        return p, (1 - p).scatter(1, top, others)

    def pivots(self, outputs: Tensor, first: Tensor | None = None) -> Pivots:
        """The classes by descending probability, the class `first` (B,) of each example before all others.

        Args:
            outputs: z (B, C).
            first: class numbers, None for none.
        """
        p, _ = self.probabilities(outputs)
        key = p if first is None else p.scatter(1, first.unsqueeze(1), 2.0)
        classes = key.argsort(dim=1, descending=True, stable=True)
        ordered = p.gather(1, classes)
        # Summed from the small end, so that the mass behind a class next to one keeps its digits.
        from_here = ordered.flip(1).cumsum(1).flip(1)
        return Pivots(ordered, torch.cat([from_here[:, 1:], torch.zeros_like(from_here[:, :1])], 1), classes)

    def root(self, outputs: Tensor, labels: Tensor) -> Root:
        """The Cholesky root of Λ = diag p − ppᵀ with the observed class as first pivot, the others by probability.

        With q_j the mass behind class j, v_j = e_j − Σ_{i>j} p_i/q_j e_i and w_j = p_j q_j/q_{j−1} for the first
        C − 1 classes; s_y = −(1 − p_y) v_1, so that the empirical Fisher costs no direction of its own. Source:
        Tanabe and Sagae 1992 (doi:10.1111/j.2517-6161.1992.tb01876.x), there for the multinomial distribution.
        """
        p, behind, classes = self.pivots(outputs, labels)
        count, reached = p.shape[1], behind > 0
        divisor = torch.where(reached, behind, torch.ones_like(behind))
        upper = torch.ones(count - 1, count, dtype=torch.bool, device=p.device).triu(1)
        ratios = p.unsqueeze(0) / divisor.T[:-1].unsqueeze(2)
        ordered = torch.where(upper.unsqueeze(1), -ratios, torch.zeros_like(ratios))
        steps = torch.arange(count - 1, device=p.device)
        ordered[steps, :, steps] = 1
        directions = ordered.gather(2, classes.argsort(dim=1).unsqueeze(0).expand_as(ordered))
        before = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], 1)
        weights = torch.where(reached, p * (behind / before), torch.zeros_like(p))
        observed = torch.zeros_like(weights)
        observed[:, 0] = -behind[:, 0]
        return Root(directions.to(outputs.dtype), weights.T[:-1], observed.T[:-1])

    def observed_column(self, outputs: Tensor, labels: Tensor) -> Root:
        """The first direction of `root` alone, e_y − Σ_{i≠y} p_i/(1 − p_y) e_i, with its weight and coefficient: K = 1.

        Nothing here is of size C × C.
        """
        p, complement = self.probabilities(outputs)
        index = labels.unsqueeze(1)
        q = complement.gather(1, index)
        others = p.scatter(1, index, 0.0) / torch.where(q > 0, q, torch.ones_like(q))
        direction = (-others).scatter(1, index, 1.0).to(outputs.dtype)
        return Root(direction.unsqueeze(0), (p.gather(1, index) * q).T, -q.T)

    def observed_score(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """s_y = p − e_y."""
        p, complement = self.probabilities(outputs)
        index = labels.unsqueeze(1)
        return p.scatter(1, index, -complement.gather(1, index))

    def sampled_scores(self, outputs: Tensor, samples: int, draws: Draws) -> Tensor:
        """p − e_ŷ, labels by inverting the cumulative distribution at uniform numbers."""
        p, complement = self.probabilities(outputs)
        labels = draws.classes(p, samples).T.unsqueeze(2)
        p, complement = (each.expand(samples, -1, -1) for each in (p, complement))
        return p.scatter(2, labels, -complement.gather(2, labels))

    def covariance_product(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        """Λ v = p ∘ (v − pᵀv)."""
        p, _ = self.probabilities(outputs)
        v = vectors.double()
        # Subtracting the entry at the largest p first keeps v − pᵀv exact when p is next to one-hot.
        reference = v.gather(1, p.argmax(dim=1, keepdim=True))
        v = v - reference
        return p * (v - (p * v).sum(dim=1, keepdim=True))

    def log_likelihood(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """log p_y."""
        return self.log_probabilities(outputs).gather(1, labels.unsqueeze(1)).squeeze(1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """−Σ_c p_c log p_c."""
        log_p = self.log_probabilities(outputs)
        entropy: Tensor = torch.special.entr(log_p.exp()).sum(dim=1)
        return entropy

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """1 where the largest output is the label's."""
        return (outputs.argmax(dim=1) == labels).double()

    def check_labels(self, outputs: int, labels: Tensor) -> None:
        """Labels are class indices 0 … C − 1, and C ≥ 2."""
        check_classes(outputs, labels)


class Sigmoid(Likelihood):
    """q(y | z) = Π_c σ(z_c)^y_c σ(−z_c)^(1−y_c): C ≥ 1 independent yes-or-no labels.

    With one output this is binary classification. The same classifier written with two softmax logits,
    W = [0; w], has twice the trace, since both rows are parameters: the parameterisation belongs to the number.
    """

    name = "sigmoid"

    def root(self, outputs: Tensor, labels: Tensor) -> Root:
        """Directions e_c with weights σ(z_c) σ(−z_c); with one output the observed score is parallel to it."""
        z = outputs.double()
        directions = torch.eye(z.shape[1], dtype=outputs.dtype, device=z.device)
        weights = (torch.sigmoid(z) * torch.sigmoid(-z)).T.contiguous()
        observed = self.observed_score(outputs, labels).T if z.shape[1] == 1 else None
        return Root(directions.unsqueeze(1).expand(-1, len(z), -1), weights, observed)

    def observed_score(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """s_y = σ(z) − y, written (1 − y) σ(z) − y σ(−z)."""
        z, y = outputs.double(), _targets(outputs, labels)
        return (1 - y) * torch.sigmoid(z) - y * torch.sigmoid(-z)

    def sampled_scores(self, outputs: Tensor, samples: int, draws: Draws) -> Tensor:
        """σ(z) − ŷ, each label one where a uniform number is below σ(z)."""
        z = outputs.double()
        uniform = draws.uniforms(samples, z.shape[1]).transpose(0, 1)
        return torch.where(uniform < torch.sigmoid(z), -torch.sigmoid(-z), torch.sigmoid(z))

    def covariance_product(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        """Λ v = σ(z) σ(−z) ∘ v."""
        z = outputs.double()
        return torch.sigmoid(z) * torch.sigmoid(-z) * vectors.double()

    def log_likelihood(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Σ_c y_c log σ(z_c) + (1 − y_c) log σ(−z_c)."""
        z, y = outputs.double(), _targets(outputs, labels)
        return (y * functional.logsigmoid(z) + (1 - y) * functional.logsigmoid(-z)).sum(dim=1)

    def entropy(self, outputs: Tensor) -> Tensor:
        """−Σ_c σ(z_c) log σ(z_c) + σ(−z_c) log σ(−z_c), the sum of the binary entropies."""
        z = outputs.double()
        return -(torch.sigmoid(z) * functional.logsigmoid(z) + torch.sigmoid(-z) * functional.logsigmoid(-z)).sum(dim=1)

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Class labels: the largest output is the label's. Yes-or-no labels: the fraction on the right side of zero."""
        if labels.dim() == 1 and outputs.shape[1] > 1:
            return (outputs.argmax(dim=1) == labels).double()
        return ((outputs > 0) == (_targets(outputs, labels) > 0.5)).double().mean(dim=1)

    def check_labels(self, outputs: int, labels: Tensor) -> None:
        """One output: labels 0 and 1. Several: class indices, or a 0/1 matrix (N, C)."""
        check_binary(outputs, labels)


class Gaussian(Likelihood):
    """q(y | z) = N(y; z, I): regression with unit variance; class labels become one-hot targets."""

    name = "gaussian"

    def root(self, outputs: Tensor, labels: Tensor) -> Root:
        """Λ = I: directions e_c with weights one; with one output the residual is parallel to the only one."""
        examples, classes = outputs.shape
        directions = torch.eye(classes, dtype=outputs.dtype, device=outputs.device)
        weights = torch.ones(classes, examples, dtype=torch.float64, device=outputs.device)
        observed = self.observed_score(outputs, labels).T if classes == 1 else None
        return Root(directions.unsqueeze(1).expand(-1, examples, -1), weights, observed)

    def observed_score(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """s_y = z − y."""
        return outputs.double() - _targets(outputs, labels)

    def sampled_scores(self, outputs: Tensor, samples: int, draws: Draws) -> Tensor:
        """z − ŷ: standard normal."""
        return draws.normals(samples, outputs.shape[1]).transpose(0, 1)

    def covariance_product(self, outputs: Tensor, vectors: Tensor) -> Tensor:  # noqa: ARG002 - Λ = I
        """Λ v = v."""
        return vectors.double()

    def log_likelihood(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """−½‖z − y‖² − C/2 · log 2π."""
        residual = self.observed_score(outputs, labels)
        return -0.5 * residual.square().sum(dim=1) - 0.5 * outputs.shape[1] * math.log(2 * math.pi)

    def entropy(self, outputs: Tensor) -> Tensor:
        """C/2 · log 2πe."""
        value = 0.5 * outputs.shape[1] * LOG_TWO_PI_E
        return torch.full((len(outputs),), value, dtype=torch.float64, device=outputs.device)

    def correct(self, outputs: Tensor, labels: Tensor) -> Tensor | None:
        """For class labels: the largest output is the label's; a real target is never simply right."""
        if labels.dim() == 1 and outputs.shape[1] > 1:
            return (outputs.argmax(dim=1) == labels).double()
        return None

    def check_labels(self, outputs: int, labels: Tensor) -> None:
        """Finite targets (N, C), or class indices for C > 1, or one number per example for C = 1."""
        check_targets(outputs, labels)


LIKELIHOODS: dict[str, type[Likelihood]] = {kind.name: kind for kind in (Softmax, Sigmoid, Gaussian)}


def likelihood_named(name: str, outputs: int) -> Likelihood:
    """The likelihood of that name; `auto` is sigmoid for one output and softmax for more.

    Raises:
        UsageError: there is none.
    """
    if name == "auto":
        name = Sigmoid.name if outputs == 1 else Softmax.name
    if name not in LIKELIHOODS:
        msg = f"no likelihood {name!r}: there are auto, {', '.join(LIKELIHOODS)}"
        raise UsageError(msg)
    return LIKELIHOODS[name]()
