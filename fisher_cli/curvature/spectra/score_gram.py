"""The inner products of all score gradients, and F and F̂ for the dataset's or any other labels expressed in them.

With D = [J_nᵀv_nk] for the directions of the roots, U = DᵀD, F = (1/N) D W Dᵀ and F̂ = (1/N) (D C)(D C)ᵀ, C holding
the coordinates of the scores at the labels. Everything below is linear algebra in U: once it is there, other labels
cost no pass over the data.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms import score_gradients
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.linalg.krylov import Product
from fisher_cli.curvature.linalg.lanczos import largest_eigenpairs
from fisher_cli.curvature.problem.batching import memory_bytes
from fisher_cli.curvature.problem.likelihoods import Likelihood
from fisher_cli.curvature.spectra import factors
from fisher_cli.curvature.spectra.label_coordinates import coordinates, drawn
from fisher_cli.curvature.spectra.solver_choice import FACTOR_SHARE, WHOLE_ROWS, ProblemShapes
from fisher_cli.errors import NumericalError

# Rows of U, and multiplications to fill it, that are spent without being asked: some ten seconds on one core, of which
# the conjugate gradients and the labels drawn take the larger part.
LARGEST_ROWS, LARGEST_WORK = 5_000, 5e11
# An eigenvalue below so many units of the precision of U, relative to the largest, is zero.
ROUNDING = 100


def is_affordable(engine: Engine) -> bool:
    """Whether the inner products of all N·K score gradients fit into memory and a fixed number of operations."""
    problem = engine.problem
    scores = problem.outputs - (problem.likelihood.name == "softmax")
    rows, shapes, itemsize = problem.examples * scores, ProblemShapes.of(engine), problem.dtype.itemsize
    held = shapes.held(rows, problem.examples, itemsize)
    held += min(problem.batch_size, problem.examples) * scores * (shapes.explicit + shapes.cotangents) * itemsize
    work = rows**2 * (shapes.explicit + shapes.cotangents) / 2 + problem.examples**2 * shapes.inputs / 2
    return rows <= LARGEST_ROWS and work <= LARGEST_WORK and held <= memory_bytes(problem.device) * FACTOR_SHARE


@dataclass(frozen=True)
class GramEigenpairs:
    """The k leading eigenpairs of a matrix M, found through the inner products U.

    Attributes:
        values: θ (k,) in descending order.
        residuals: ‖Mv − θv‖, (k,).
        vectors: c (N·K, l), the coordinates of the unit eigenvectors v = D c with θ above rounding.
        converged: whether all residuals are within the tolerance.
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor
    converged: bool = True

    def first(self, count: int) -> "GramEigenpairs":
        """The `count` largest of them."""
        return GramEigenpairs(self.values[:count], self.residuals[:count], self.vectors[:, :count], self.converged)


@dataclass(frozen=True)
class LabelSet:
    """F̂ of one set of labels.

    Attributes:
        coordinates: C (N, K), those of the scores at the labels.
        images: U C, (N, M).
        gram: the Gram matrix (1/N) CᵀUC, (N, N).
    """

    coordinates: Tensor
    images: Tensor
    gram: Tensor

    @cached_property
    def eigenpairs(self) -> tuple[Tensor, Tensor]:
        """All eigenvalues of the Gram matrix in descending order, (N,), and its eigenvectors (N, N)."""
        values, vectors = torch.linalg.eigh(self.gram)
        return values.flip(0), vectors.flip(1)


@dataclass(frozen=True)
class ScoreGram:
    """The inner products U = DᵀD of the M = N·K score gradients J_nᵀv_nk, and F in them.

    Attributes:
        products: U (M, M) in float64, in order of examples and then of directions.
        weights: w (N, K), F = (1/N) D W Dᵀ.
        observed: (N, K), coordinates of the scores at the dataset's labels.
        drawn: (draws, N, K), coordinates of the scores at labels drawn from the model.
        eps: the machine epsilon of the network's precision.
        seed: of the start vectors.
    """

    products: Tensor
    weights: Tensor
    observed: Tensor
    drawn: Tensor
    eps: float
    seed: int = 0

    @property
    def examples(self) -> int:
        """N."""
        return len(self.weights)

    @cached_property
    def roots(self) -> Tensor:
        """√(w/N), (M,)."""
        return (self.weights / self.examples).sqrt().reshape(-1)

    def true_product(self, vector: Tensor) -> Tensor:
        """AᵀA x for the factor A = D √(W/N) of F and x (M,) or (M, k)."""
        roots = self.roots if vector.dim() == 1 else self.roots.unsqueeze(1)
        return roots * (self.products @ (roots * vector))

    def labels(self, chosen: Tensor) -> LabelSet:
        """F̂ of the labels with these coordinates (N, K)."""
        number, each = chosen.shape
        rows = self.products.view(number, each, -1)
        images = torch.einsum("nk,nkm->nm", chosen, rows)
        gram = torch.einsum("nmk,mk->nm", images.view(number, number, each), chosen)
        return LabelSet(chosen, images, (gram + gram.T) / (2 * number))

    def squared_norm(self) -> float:
        """‖F‖_F² = Σ_ij w_i w_j U_ij²/N², in blocks of rows."""
        weights, total = self.roots.square(), 0.0
        for start in range(0, len(weights), score_gradients.BLOCK_ROWS):
            some = slice(start, start + score_gradients.BLOCK_ROWS)
            total += float(weights[some] @ (self.products[some].square() @ weights))
        return total

    def inner_product(self, labels: LabelSet) -> float:
        """⟨F, F̂⟩ = (1/N²) Σ_m w_m Σ_n (U C)_mn²."""
        return float((labels.images.square() @ self.roots.square()).sum()) / self.examples

    def true_pairs(self, count: int, tolerance: float) -> GramEigenpairs:
        """The leading eigenpairs of F; all eigenvalues where M is at most some 1,500, by Lanczos on AᵀA beyond.

        Args:
            count: how many.
            tolerance: of the residuals on Lanczos' way, relative to the largest eigenvalue.
        """
        size, converged = len(self.roots), True
        if size <= WHOLE_ROWS:
            values, inner = torch.linalg.eigh(self.products * self.roots * self.roots.unsqueeze(1))
            values, inner = values.flip(0), inner.flip(1)
        else:
            trace = float((self.products.diagonal() * self.roots.square()).sum())
            found = largest_eigenpairs(
                self.true_product,
                size,
                count,
                tolerance=tolerance,
                seed=self.seed,
                device=self.products.device,
                trace=trace,
                squared_norm=self.squared_norm(),
            )
            values, inner, converged = found.values.to(self.roots), found.vectors, found.converged
        values, inner = values[:count], inner[:, :count]
        pairs = self._pairs(values, inner, self.true_product, converged)
        return replace(pairs, vectors=pairs.vectors * self.roots.unsqueeze(1))

    def empirical_pairs(self, labels: LabelSet, count: int) -> GramEigenpairs:
        """The leading eigenpairs of F̂, from all eigenvectors of its Gram matrix.

        Args:
            labels: those of F̂.
            count: how many.
        """
        values, inner = labels.eigenpairs
        values, inner = values[:count], inner[:, :count]
        pairs = self._pairs(values, inner, lambda x: labels.gram @ x, True)
        spread = labels.coordinates.unsqueeze(2) * pairs.vectors.unsqueeze(1) / self.examples**0.5
        return replace(pairs, vectors=spread.flatten(0, 1))

    def _pairs(self, values: Tensor, inner: Tensor, product: Product, converged: bool) -> GramEigenpairs:
        """Residuals of v = Au/‖Au‖ from G = AᵀA: with r = Gu − θu it is √(rᵀGr/uᵀGu); u/‖Au‖ as the vectors."""
        rank = int((values > ROUNDING * self.eps * values[:1].clamp_min(0)).sum())
        images = product(inner)
        rest = images - inner * values
        residuals: Tensor = rest.norm(dim=0)
        lengths = (inner * images).sum(0)[:rank]
        squares = (rest[:, :rank] * product(rest[:, :rank])).sum(0)
        residuals[:rank] = (squares.clamp_min(0) / lengths).sqrt()
        return GramEigenpairs(values, residuals, inner[:, :rank] / lengths.sqrt(), converged)

    def overlap(self, true: GramEigenpairs, empirical: GramEigenpairs) -> float | None:
        """‖V_kᵀV̂_l‖_F²/min(k, l), None where one matrix is zero."""
        least = min(true.vectors.shape[1], empirical.vectors.shape[1])
        if not least:
            return None
        return float((true.vectors.T @ (self.products @ empirical.vectors)).square().sum()) / least

    @property
    def gradient(self) -> Tensor:
        """ḡ = D b, the mean gradient of the loss, by b (M,)."""
        return self.observed.reshape(-1) / self.examples


def collect(engine: Engine, *, draws: int = 0, seed: int = 0) -> ScoreGram:
    """U of all examples and all directions of their roots, with sets of labels drawn from the model.

    One forward pass, K backward passes, N·K gradients held (as two factors for linear layers), (N·K)² products.

    Args:
        engine: that of the network and its examples.
        draws: how many sets of labels.
        seed: of the labels and of Lanczos' start vectors.

    Raises:
        NumericalError: a gradient is NaN or infinite.
    """
    weights, observed, sets = list[Tensor](), list[Tensor](), list[Tensor]()
    starts = [batch.start for batch in engine.problem.batches()]

    def directions(likelihood: Likelihood, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found = coordinates(likelihood, outputs, labels)
        sets.append(drawn(likelihood, outputs, found, starts[len(weights)], draws, seed))
        weights.append(found.weights)
        observed.append(found.observed)
        return found.directions, torch.ones_like(found.weights.T)

    products = factors.collect(engine, directions).gram() * engine.problem.examples
    if not bool(products.isfinite().all()):
        msg = "a gradient is NaN or infinite: the matrices cannot be compared"
        raise NumericalError(msg)
    eps = torch.finfo(engine.problem.dtype).eps
    return ScoreGram(products, torch.cat(weights), torch.cat(observed), torch.cat(sets, 1), eps, seed)
