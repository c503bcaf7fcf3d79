"""Products of the Jacobian of all examples, and of the true and the empirical Fisher, with a vector."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fisher_cli.curvature.problem.batching import graph_bytes
from fisher_cli.curvature.problem.output_scores import ScoresOf
from fisher_cli.curvature.problem.problem import Batch, Problem
from fisher_cli.curvature.products.jvp import (
    PushForward,
    Transpose,
    double_backward,
    gradients_fit,
    is_transpose,
    jvp_of,
    tracked,
)

OutputProduct = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs (B, C), labels, J v (B, C)) → M J v (B, C), the output-space matrix of each example applied."""


def split(problem: Problem, vector: Tensor) -> dict[str, Tensor]:
    """A flat vector (P,) as tensors of the parameters' shapes and precision, by name."""
    return {name: part.to(problem.parameters[name].dtype) for name, part in views(problem, vector.reshape(-1)).items()}


def views(problem: Problem, vector: Tensor) -> dict[str, Tensor]:
    """Views of a flat vector (P,) in the parameters' shapes and the vector's precision, by name."""
    sizes = [parameter.numel() for parameter in problem.parameters.values()]
    parts = torch.split(vector, sizes)
    return {
        name: part.view(parameter.shape)
        for (name, parameter), part in zip(problem.parameters.items(), parts, strict=True)
    }


@dataclass(frozen=True)
class BatchGraph:
    """A batch that has gone forward.

    Attributes:
        batch: the examples.
        outputs: z (B, C), without a graph.
        graph: z with its graph, where that is kept.
        transpose: the graph of the backward pass, where that is kept.
    """

    batch: Batch
    outputs: Tensor
    graph: Tensor | None
    transpose: Transpose | None


class Jacobian:
    """J_n of all examples as two linear maps, v ↦ J_n v and u ↦ Σ_n J_nᵀ u_n, batch by batch.

    The graphs of as many batches as fit into memory are kept between products, those of the backward passes too. A
    product with JᵀMJ then costs four to six forward passes, about half of them each way, and seven to ten without: J v
    then goes by forward mode, which has no use for graphs.

    Attributes:
        problem: the network and its examples. Its parameters are not to change while graphs are kept.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._pieces: list[BatchGraph] = []
        self._room = (
            graph_bytes(problem.device) // problem.process_group.sharers(problem.device) if problem.keep_graphs else -1
        )

    @cached_property
    def _push(self) -> PushForward:
        """The way to J v without a kept graph."""
        return jvp_of(self.problem)

    @cached_property
    def _goes_back_twice(self) -> bool:
        return gradients_fit(self.problem) and is_transpose(self.problem, double_backward(self.problem))

    def pieces(self) -> Iterator[BatchGraph]:
        """This rank's examples in order, batch by batch; the first time they go forward, and graphs are kept."""
        if self._pieces:
            yield from self._pieces
            return
        made, room = [], self._room
        for batch in self.problem.batches(self.problem.product_batch_size):
            piece, room = self._piece(batch, room)
            made.append(piece)
            yield piece
        self._pieces = made

    def _piece(self, batch: Batch, room: int) -> tuple[BatchGraph, int]:
        """A batch that has gone forward, with its graphs where there is room, and the bytes left for others."""
        twice = room >= 0 and self._goes_back_twice
        with self._holding() as held:
            outputs = tracked(self.problem, batch)
            transpose = Transpose.of(self.problem, outputs) if twice else None
        room -= sum(held.values())
        if room < 0:
            return BatchGraph(batch, outputs.detach(), None, None), room
        return BatchGraph(batch, outputs.detach(), outputs, transpose), room

    def graph_bytes(self, batch: Batch) -> int:
        """Bytes that the graphs of a batch hold beside parameters and buffers, by one forward pass."""
        whole = 2**62
        return whole - self._piece(batch, whole)[1]

    @contextmanager
    def _holding(self) -> Iterator[dict[int, int]]:
        """The bytes, by address, that graphs made meanwhile hold beside parameters and buffers."""
        held: dict[int, int] = {}
        known = {tensor.untyped_storage().data_ptr() for tensor in self.problem.model.state_dict().values()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                held[storage.data_ptr()] = storage.nbytes()
            # Not the tensor itself: an output that its own graph holds is freed by nothing but the garbage collector.
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            yield held

    def push(self, piece: BatchGraph, tangents: Mapping[str, Tensor]) -> Tensor:
        """J_n v of a piece, (B, C), for v by parameter.

        Args:
            piece: one of `pieces`.
            tangents: v, for every parameter by name, in its shape and precision.
        """
        return piece.transpose.apply(tangents) if piece.transpose else self._push(piece.batch, tangents)[1]

    def pull(self, piece: BatchGraph, cotangents: Tensor, total: Tensor) -> None:
        """Add Σ_n J_nᵀ u_n to a flat vector (P,).

        Args:
            piece: one of `pieces`; without a kept graph it goes forward once more.
            cotangents: u, (B, C).
            total: (P,), changed in place.
        """
        graph = tracked(self.problem, piece.batch) if piece.graph is None else piece.graph
        self.problem.add_pulled_back(graph, cotangents, views(self.problem, total), keep=piece.graph is not None)


def product(jacobian: Jacobian, output_product: OutputProduct) -> Callable[[Tensor], Tensor]:
    """The map v ↦ mean_n J_nᵀ M_n (J_n v) on flat vectors (P,), float64 sums over examples."""
    problem = jacobian.problem

    def apply(vector: Tensor) -> Tensor:
        total = torch.zeros(problem.size, dtype=torch.float64, device=problem.device)
        tangents = split(problem, vector)
        for piece in jacobian.pieces():
            tangent = jacobian.push(piece, tangents)
            jacobian.pull(piece, output_product(piece.outputs, piece.batch.labels, tangent), total)
        return problem.process_group.sum(total) / problem.examples

    return apply


def fisher_product(problem: Problem, jacobian: Jacobian | None = None) -> Callable[[Tensor], Tensor]:
    """v ↦ F v = mean_n J_nᵀ Λ_n (J_n v), Λ_n the covariance of the model's own score.

    Args:
        problem: the network and its N examples, of all ranks.
        jacobian: one that may be shared with other products; None for a new one.

    Returns:
        The map from v (P,) of any precision to F v (P,) in float64; calls are collective.
    """
    likelihood = problem.likelihood
    return product(
        jacobian or Jacobian(problem), lambda outputs, _, tangent: likelihood.covariance_product(outputs, tangent)
    )


def empirical_product(problem: Problem, jacobian: Jacobian | None = None) -> Callable[[Tensor], Tensor]:
    """v ↦ F̂ v = mean_n J_nᵀ s_y (s_yᵀ J_n v), s_y the score at the dataset's label; uncentred.

    Args:
        problem: the network and its N examples, of all ranks.
        jacobian: one that may be shared with other products; None for a new one.

    Returns:
        The map from v (P,) of any precision to F̂ v (P,) in float64; calls are collective.
    """
    likelihood = problem.likelihood

    def apply(outputs: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
        score = likelihood.observed_score(outputs, labels)
        return score * (score * tangent.double()).sum(dim=1, keepdim=True)

    return product(jacobian or Jacobian(problem), apply)


@dataclass
class ScoreFactor:
    """w ↦ A w and v ↦ Aᵀv for the factor A with a column J_nᵀ s_nk/√N per example and score, in order of both.

    Vectors of length M = N·K take the place of those of length P, of which one at a time is made. Calling it gives AᵀA
    w. All methods are collective.

    Attributes:
        jacobian: J_n of all examples.
        scores_of: the scores s_nk, K of each example.
        dtype: the precision of A w.
    """

    jacobian: Jacobian
    scores_of: ScoresOf
    dtype: torch.dtype = torch.float64

    @cached_property
    def size(self) -> int:
        """M = N·K, the number of columns."""
        return sum(self.jacobian.problem.process_group.exchange(sum(each.numel() for _, _, each in self._scored())))

    def _scored(self) -> Iterator[tuple[BatchGraph, Tensor, Tensor]]:
        likelihood = self.jacobian.problem.likelihood
        for piece in self.jacobian.pieces():
            directions, amplitudes = self.scores_of(likelihood, piece.outputs, piece.batch.labels)
            yield piece, directions, amplitudes / self.jacobian.problem.examples**0.5

    def combine(self, weights: Tensor) -> Tensor:
        """A w, (P,) in `dtype`, for w (M,) in order of examples and then of scores."""
        problem = self.jacobian.problem
        total = torch.zeros(problem.size, dtype=self.dtype, device=problem.device)
        for piece, directions, amplitudes in self._scored():
            start = piece.batch.start * len(amplitudes)
            some = weights[start : start + amplitudes.numel()].reshape(amplitudes.T.shape).T
            cotangents = (directions.double() * (amplitudes * some).unsqueeze(2)).sum(0)
            self.jacobian.pull(piece, cotangents, total)
        return problem.process_group.sum(total)

    def project(self, vector: Tensor) -> Tensor:
        """Aᵀv, (M,) in float64, for v (P,)."""
        tangents, parts = split(self.jacobian.problem, vector), []
        for piece, directions, amplitudes in self._scored():
            tangent = self.jacobian.push(piece, tangents).double()
            parts.append((amplitudes * (directions.double() * tangent).sum(2)).T.reshape(-1))
        return self.jacobian.problem.process_group.gather(parts)

    def coordinates(self, vectors: Tensor) -> Tensor:
        """Aᵀv of several vectors, (M, k) for (P, k), one after the other."""
        return torch.stack([self.project(vector) for vector in vectors.T], dim=1)

    def __call__(self, weights: Tensor) -> Tensor:
        """AᵀA w."""
        return self.project(self.combine(weights))
