"""Products of the Jacobian of all examples, and of the true and the empirical Fisher, with a vector."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp

from fisher_cli.curvature.batching import graph_bytes
from fisher_cli.curvature.gradient_norms.capture import recorded_calls
from fisher_cli.curvature.krylov import dot
from fisher_cli.curvature.memory import raise_if_out_of_memory
from fisher_cli.curvature.problem import Batch, Problem, reproducible_kernels
from fisher_cli.curvature.scores import ScoresOf
from fisher_cli.curvature.substitution import substituted

OutputProduct = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs (B, C), labels, J v (B, C)) → M J v (B, C), the output-space matrix of each example applied."""

PushForward = Callable[[Batch, Mapping[str, Tensor]], tuple[Tensor, Tensor]]
"""(batch, v by parameter) → outputs (B, C) and J v (B, C)."""

# Largest accepted difference between uᵀ(J v) and (Jᵀu)ᵀ v, relative to ‖u‖‖J v‖. Tight, since the other way
# is as exact and only slower.
ADJOINT_TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
ADJOINT_EXAMPLES = 3
# Graphs of transposes, which hold a gradient each, are kept where it is no more than this share of what may be kept.
GRADIENT_SHARE = 1 / 16


def split(problem: Problem, vector: Tensor) -> dict[str, Tensor]:
    """A flat vector (P,) as tensors of the parameters' shapes and precision."""
    return {name: part.to(problem.parameters[name].dtype) for name, part in _views(problem, vector.reshape(-1)).items()}


def _views(problem: Problem, vector: Tensor) -> dict[str, Tensor]:
    """Views of a flat vector (P,) in the parameters' shapes."""
    sizes = [parameter.numel() for parameter in problem.parameters.values()]
    parts = torch.split(vector, sizes)
    return {
        name: part.view(parameter.shape)
        for (name, parameter), part in zip(problem.parameters.items(), parts, strict=True)
    }


@cache
def _load_forward_mode() -> None:
    """Let torch load its forward-mode formulas now; it compiles some with a function that it calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


def _forward_mode(problem: Problem) -> PushForward:
    """J v by forward-mode differentiation: about three forward passes, and no graph."""

    def push(batch: Batch, tangents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        primal = {name: parameter.detach() for name, parameter in problem.parameters.items()}

        def outputs(parameters: dict[str, Tensor]) -> Tensor:
            with substituted(problem.model, problem.parameters, parameters):
                return problem.forward(batch.inputs)

        _load_forward_mode()
        with reproducible_kernels(), torch.no_grad():
            pair: tuple[Tensor, Tensor] = jvp(outputs, (primal,), (dict(tangents),))  # type: ignore[assignment]
        return pair

    return push


@dataclass(frozen=True)
class _Transpose:
    """The graph of u ↦ Jᵀu, which is linear in u: its derivative is the transpose of what autograd calls Jᵀ."""

    direction: Tensor
    gradients: Mapping[str, Tensor]

    @classmethod
    def of(cls, problem: Problem, outputs: Tensor) -> "_Transpose":
        """The transpose at outputs with their graph, which it keeps."""
        with reproducible_kernels():
            direction = torch.zeros_like(outputs, requires_grad=True)
            parameters = list(problem.parameters.values())
            found = torch.autograd.grad(outputs, parameters, direction, create_graph=True, allow_unused=True)
        used = {
            name: gradient
            for name, gradient in zip(problem.parameters, found, strict=True)
            if gradient is not None and gradient.requires_grad
        }
        return cls(direction, used)

    def apply(self, tangents: Mapping[str, Tensor]) -> Tensor:
        """J v, (B, C)."""
        weights = [tangents[name] for name in self.gradients]
        with reproducible_kernels():
            found = torch.autograd.grad(list(self.gradients.values()), self.direction, weights, retain_graph=True)
        return found[0]


def _double_backward(problem: Problem) -> PushForward:
    """J v as the derivative of u ↦ (Jᵀu)ᵀ v: less work than forward mode where no convolution is."""

    def push(batch: Batch, tangents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        with reproducible_kernels():
            outputs = problem.forward(batch.inputs)
        return outputs.detach(), _Transpose.of(problem, outputs).apply(tangents)

    return push


def _rows(problem: Problem) -> PushForward:
    """J v from the rows of J, one backward pass per example and output: slow, and always what autograd says."""

    def push(batch: Batch, tangents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        vector, outputs = torch.cat([piece.double().reshape(-1) for piece in tangents.values()]), []
        tangent = torch.zeros(len(batch), problem.outputs, dtype=torch.float64, device=vector.device)
        for example in range(len(batch)):
            for output in range(problem.outputs):
                with reproducible_kernels():
                    z = problem.forward(batch.inputs[example : example + 1])
                unit = torch.zeros_like(z)
                unit[0, output] = 1
                tangent[example, output] = torch.dot(problem.pull_back(z, unit), vector)
            outputs.append(z.detach())
        return torch.cat(outputs), tangent

    return push


def _is_transpose(problem: Problem, push: PushForward) -> bool:
    """Whether uᵀ(J v) = (Jᵀu)ᵀ v holds on a few examples for random u and v."""
    batch = problem.slice(0, min(ADJOINT_EXAMPLES, problem.examples))
    generator = torch.Generator().manual_seed(0)
    tangents = {
        name: torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype).to(parameter.device)
        for name, parameter in problem.parameters.items()
    }
    try:
        outputs, tangent = push(batch, tangents)
    except (RuntimeError, NotImplementedError) as error:
        raise_if_out_of_memory(error)
        return False
    direction = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    with reproducible_kernels():
        tracked = problem.forward(batch.inputs)
        parts = torch.autograd.grad(tracked, list(problem.parameters.values()), direction, allow_unused=True)
    pairs = zip(parts, tangents.values(), strict=True)
    backward = sum(float(dot(part.to_dense().reshape(-1), v.reshape(-1))) for part, v in pairs if part is not None)
    forth = float((direction.double() * tangent.double()).sum())
    scale = float(direction.double().norm() * tangent.double().norm())
    return abs(forth - backward) <= ADJOINT_TOLERANCE[problem.dtype] * scale


def _has_few_convolutions(problem: Problem) -> bool:
    """Whether most parameters are in vectors and matrices."""
    return 2 * sum(p.numel() for p in problem.parameters.values() if p.dim() > 2) < problem.size


def _pads_embeddings(problem: Problem) -> bool:
    """Whether an embedding has a row without a gradient, which a few examples need not contain."""
    with reproducible_kernels(), recorded_calls(problem.parameters) as calls:
        problem.forward(problem.slice(0, 1).inputs)
    return any(call.arguments.get("padding_idx") is not None for call in calls)


def _gradients_fit(problem: Problem) -> bool:
    """Whether graphs of transposes, which hold a gradient each, may be made and kept."""
    return problem.size * problem.dtype.itemsize <= graph_bytes(problem.device) * GRADIENT_SHARE


def push_forward(problem: Problem) -> PushForward:
    """The map v ↦ J v by the fastest way that is the transpose of backward mode on this network.

    Forward mode or double backward, else row by row. They can differ: an embedding's padding row has a
    forward derivative and no backward one, and some operations lack forward mode or a second derivative.
    """
    return _ways(problem)[1]


def _ways(problem: Problem) -> tuple[bool, PushForward]:
    """Whether J v goes by double backward, and how it goes."""
    ways = [(False, _forward_mode(problem)), (True, _double_backward(problem))]
    if _has_few_convolutions(problem) and _gradients_fit(problem):
        ways.reverse()
    if _pads_embeddings(problem):
        ways = [way for way in ways if way[0]]
    return next((way for way in ways if _is_transpose(problem, way[1])), (False, _rows(problem)))


@dataclass(frozen=True)
class Piece:
    """A batch, its outputs (B, C) without their graph, the graph where it is kept, and that of its transpose."""

    batch: Batch
    outputs: Tensor
    graph: Tensor | None
    transpose: _Transpose | None


class Jacobian:
    """J_n of all examples as two linear maps, v ↦ J_n v and u ↦ Σ_n J_nᵀ u_n, batch by batch.

    The graphs of as many batches as fit into memory are kept between products. A product with JᵀMJ then costs
    about six forward passes where convolutions dominate (forward mode four, the backward pass two), four elsewhere.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._by_double_backward, self._push = _ways(problem)
        self._pieces: list[Piece] = []
        self._room = graph_bytes(problem.device) // problem.world.sharers(problem.device) if problem.keep_graphs else -1

    def pieces(self) -> Iterator[Piece]:
        """The examples in order; the first time around they go forward, and graphs are kept."""
        if self._pieces:
            yield from self._pieces
            return
        made, room = [], self._room
        for batch in self.problem.batches(self.problem.product_batch_size):
            piece, room = self._piece(batch, room)
            made.append(piece)
            yield piece
        self._pieces = made

    def _piece(self, batch: Batch, room: int) -> tuple[Piece, int]:
        """A batch that has gone forward, and the bytes that are left for the graphs of others."""
        tracked, held = self._forward(batch)
        room -= held
        transposed = self._by_double_backward and _gradients_fit(self.problem)
        if transposed:
            room -= held + self.problem.size * tracked.element_size()
        if room < 0:
            return Piece(batch, tracked.detach(), None, None), room
        transpose = _Transpose.of(self.problem, tracked) if transposed else None
        return Piece(batch, tracked.detach(), tracked, transpose), room

    def _forward(self, batch: Batch) -> tuple[Tensor, int]:
        """Outputs with their graph, and the bytes that the graph holds beside parameters and buffers."""
        held: dict[int, int] = {}
        known = {tensor.untyped_storage().data_ptr() for tensor in self.problem.model.state_dict().values()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                held[storage.data_ptr()] = storage.nbytes()
            # Not the tensor itself: an output that its own graph holds is freed by nothing but the garbage collector.
            return tensor.detach()

        with reproducible_kernels(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs = self.problem.forward(batch.inputs)
        return outputs, sum(held.values())

    def push(self, piece: Piece, tangents: Mapping[str, Tensor]) -> Tensor:
        """J_n v of a piece, (B, C), for v by parameter."""
        return piece.transpose.apply(tangents) if piece.transpose else self._push(piece.batch, tangents)[1]

    def pull(self, piece: Piece, cotangents: Tensor, total: Tensor) -> None:
        """Add Σ_n J_nᵀ u_n for cotangents u (B, C) to a flat vector (P,)."""
        graph = piece.graph
        if graph is None:
            with reproducible_kernels():
                graph = self.problem.forward(piece.batch.inputs)
        views = _views(self.problem, total)
        self.problem.add_pulled_back(graph, cotangents, views, keep=piece.graph is not None)


def product(jacobian: Jacobian, output_product: OutputProduct) -> Callable[[Tensor], Tensor]:
    """The map v ↦ mean_n J_nᵀ M_n (J_n v) on flat vectors (P,), float64 sums over examples."""
    problem = jacobian.problem

    def apply(vector: Tensor) -> Tensor:
        total = torch.zeros(problem.size, dtype=torch.float64, device=problem.device)
        tangents = split(problem, vector)
        for piece in jacobian.pieces():
            tangent = jacobian.push(piece, tangents)
            jacobian.pull(piece, output_product(piece.outputs, piece.batch.labels, tangent), total)
        return problem.world.sum(total) / problem.examples

    return apply


def fisher_product(problem: Problem, jacobian: Jacobian | None = None) -> Callable[[Tensor], Tensor]:
    """v ↦ F v = mean_n J_nᵀ Λ_n (J_n v), Λ_n the covariance of the model's own score."""
    likelihood = problem.likelihood
    return product(
        jacobian or Jacobian(problem), lambda outputs, _, tangent: likelihood.covariance_product(outputs, tangent)
    )


def empirical_product(problem: Problem, jacobian: Jacobian | None = None) -> Callable[[Tensor], Tensor]:
    """v ↦ F̂ v = mean_n J_nᵀ s_y (s_yᵀ J_n v), s_y the score at the dataset's label; uncentred."""
    likelihood = problem.likelihood

    def apply(outputs: Tensor, labels: Tensor, tangent: Tensor) -> Tensor:
        score = likelihood.observed_score(outputs, labels)
        return score * (score * tangent.double()).sum(dim=1, keepdim=True)

    return product(jacobian or Jacobian(problem), apply)


@dataclass
class Dual:
    """w ↦ A w and v ↦ Aᵀv for the factor A with a column J_nᵀ s_nk/√N per example and score, in order of both.

    Vectors of length M = N·K take the place of those of length P, of which one at a time is made, in `dtype`.
    """

    jacobian: Jacobian
    scores_of: ScoresOf
    dtype: torch.dtype = torch.float64

    @cached_property
    def size(self) -> int:
        """M."""
        return sum(self.jacobian.problem.world.exchange(sum(each.numel() for _, _, each in self._scored())))

    def _scored(self) -> Iterator[tuple[Piece, Tensor, Tensor]]:
        likelihood = self.jacobian.problem.likelihood
        for piece in self.jacobian.pieces():
            directions, amplitudes = self.scores_of(likelihood, piece.outputs, piece.batch.labels)
            yield piece, directions, amplitudes / self.jacobian.problem.examples**0.5

    def combine(self, weights: Tensor) -> Tensor:
        """A w, (P,), for w (M,)."""
        problem = self.jacobian.problem
        total = torch.zeros(problem.size, dtype=self.dtype, device=problem.device)
        for piece, directions, amplitudes in self._scored():
            start = piece.batch.start * len(amplitudes)
            some = weights[start : start + amplitudes.numel()].reshape(amplitudes.T.shape).T
            cotangents = (directions.double() * (amplitudes * some).unsqueeze(2)).sum(0)
            self.jacobian.pull(piece, cotangents, total)
        return problem.world.sum(total)

    def project(self, vector: Tensor) -> Tensor:
        """Aᵀv, (M,) in float64, for v (P,)."""
        tangents, parts = split(self.jacobian.problem, vector), []
        for piece, directions, amplitudes in self._scored():
            tangent = self.jacobian.push(piece, tangents).double()
            parts.append((amplitudes * (directions.double() * tangent).sum(2)).T.reshape(-1))
        return self.jacobian.problem.world.gather(parts)

    def __call__(self, weights: Tensor) -> Tensor:
        """AᵀA w."""
        return self.project(self.combine(weights))
