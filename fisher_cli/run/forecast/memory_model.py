"""What is held at the fullest moment on each way to eigenvalues, their density or a comparison, by shapes alone.

First principles throughout: what tensors there are at once, and their sizes. What a batch of the engine takes besides
is the same as in a sweep, and is not counted here.
"""

from dataclasses import dataclass

import torch

from fisher_cli.curvature.comparison.frobenius import PROBES
from fisher_cli.curvature.comparison.true_and_empirical import PRODUCTS
from fisher_cli.curvature.problem.batching import graph_bytes, memory_bytes
from fisher_cli.curvature.problem.problem import Problem
from fisher_cli.curvature.spectra.eigensystems import Matrix, SpectrumRequest
from fisher_cli.curvature.spectra.solver_choice import (
    BASIS_SHARE,
    EXPECTED_VECTORS,
    FIRST_PRODUCTS,
    PRODUCTS_EACH,
    WHOLE_ROWS,
    Eigensolver,
    ProblemShapes,
    vectors_fit,
)
from fisher_cli.curvature.spectra.spectrum import NORM_PROBES, density_vectors

DOUBLE = 8
# Matrices of M × M in float64: while inner products are added up, and while an eigenvalue problem is solved, which
# takes its matrix and three more.
GRAM_SUMS, GRAM_SOLVER = 3, 4
# Likewise of a comparison: while inner products are scaled, and with all eigenvectors, their images and residuals.
SCALED, COMPARED = 2, 9
# Vectors of P values in float64 while two systems are solved by conjugate gradients; sets of eigenvectors of both
# matrices while a basis of them is made.
CONJUGATE, BASIS_SETS = 7, 4
KEPT_GRAPHS, ONE_PRODUCT = "kept graphs", "one product"


@dataclass(frozen=True)
class StepMemory:
    """What one step on N examples holds while something is found.

    Attributes:
        parts: (what it is for, bytes).
        products: how many products with the matrix it takes.
        finds: what is found, in the plural.
    """

    parts: tuple[tuple[str, int], ...]
    products: int = 0
    finds: str = "eigenvalues"

    @property
    def bytes(self) -> int:
        """The bytes of all parts."""
        return _total(self.parts)

    def beside(self, freed: int) -> int:
        """What is left of so many bytes that a sweep has freed in pieces: graphs and products are made of the same."""
        return max(0, freed - sum(size for name, size in self.parts if name in {KEPT_GRAPHS, ONE_PRODUCT}))


def demand(
    matrix: Matrix, route: Eigensolver, count: int, columns: int, graphs: int, *, whole: bool = False
) -> StepMemory:
    """The bytes that the `count` largest eigenvalues and their eigenvectors take by this route.

    Args:
        matrix: the true or the empirical Fisher of all examples.
        route: the way.
        count: k.
        columns: M, of the factor; of these that are taken by `gram-leading`.
        graphs: bytes of the graphs of one example, where products keep them.
        whole: whether all eigenvalues are asked for.
    """
    problem = matrix.problem
    if route in {Eigensolver.GRAM, Eigensolver.LEADING}:
        by_factor = _gram(matrix, count, columns, whole=whole)
        return StepMemory(max(by_factor, _kept(problem, count), key=_total))
    if route is Eigensolver.DENSE:
        return StepMemory((("the matrix and its eigenvectors", 2 * GRAM_SUMS * problem.size**2 * DOUBLE),))
    products = FIRST_PRODUCTS + PRODUCTS_EACH * count
    shared = _graphs(problem, graphs), (ONE_PRODUCT, _product(problem))
    if route is Eigensolver.DUAL:
        has_vectors = vectors_fit(problem, count)
        steps = [_dual(problem, count, columns, has_vectors=has_vectors)]
        steps += [_norm(problem, count)] if has_vectors else []
        return StepMemory((*max(steps, key=_total), shared[0]), products + has_vectors * NORM_PROBES)
    return StepMemory((("vectors of Lanczos", _basis(problem, products, count)), *shared), products + NORM_PROBES)


def _dual(problem: Problem, count: int, columns: int, *, has_vectors: bool) -> tuple[tuple[str, int], ...]:
    """While vectors of the dual are turned into eigenvectors: one and its image, and those there are, put together."""
    kept = 2 * count * problem.size * DOUBLE if has_vectors else 0
    one = 2 * problem.size * problem.dtype.itemsize
    return ("vectors of the dual", EXPECTED_VECTORS * columns * DOUBLE), ("eigenvectors", kept + one)


def _norm(problem: Problem, count: int) -> tuple[tuple[str, int], ...]:
    """While the norm is probed beside the eigenvectors: twice in float64, and those that are kept."""
    size = count * problem.size * (2 * DOUBLE + problem.dtype.itemsize)
    return ("eigenvectors", size), ("a probe, and one product", _product(problem) + 2 * problem.size * DOUBLE)


def density_demand(matrix: Matrix, question: SpectrumRequest, graphs: int) -> StepMemory | None:
    """The bytes of the density of what the leading eigenvalues leave; None where its vectors do not fit."""
    problem, chosen = matrix.problem, density_vectors(matrix, question)
    if chosen is None or not vectors_fit(problem, question.count):
        return None
    size, dtype, _ = chosen
    count = min(question.count, problem.size)
    parts = (
        ("eigenvectors", count * problem.size * (2 * DOUBLE + problem.dtype.itemsize)),
        ("vectors of Lanczos", (question.steps + 2 * count) * size * dtype.itemsize),
        _graphs(problem, graphs),
        (ONE_PRODUCT, _product(problem)),
    )
    return StepMemory(parts, question.probes * question.steps + count, "densities")


def inner_products_demand(true: Matrix) -> StepMemory:
    """The bytes of a comparison by the inner products of all score gradients of the true Fisher."""
    columns = true.problem.examples * true.scores
    square = columns**2 * DOUBLE
    factor, gradients = _factor(true, columns)
    made = (factor, max(gradients, ("inner products", SCALED * square), key=lambda part: part[1]))
    solved = (("inner products and their eigenvectors", (COMPARED if columns <= WHOLE_ROWS else SCALED) * square),)
    return StepMemory(max(made, solved, key=_total), finds="comparisons")


def products_demand(problem: Problem, count: int, graphs: int) -> StepMemory:
    """The bytes of a comparison by products with both matrices, when their eigenvectors, (P, count) each, are found."""
    vector, room = problem.size * DOUBLE, memory_bytes(problem.device) * BASIS_SHARE
    both = 2 * min(count, problem.size) * vector
    both = both if both <= room else 0
    solving = both + CONJUGATE * vector + _product(problem)
    parts = (("eigenvectors and vectors of the comparison", max(BASIS_SETS * both, solving)), _graphs(problem, graphs))
    return StepMemory(parts, 2 * count + PROBES + PRODUCTS, "comparisons")


def _graphs(problem: Problem, graphs: int) -> tuple[str, int]:
    """Of so many bytes an example, as far as there is room for them."""
    kept = min(problem.examples * graphs, graph_bytes(problem.device)) if problem.keep_graphs else 0
    return KEPT_GRAPHS, kept


def _total(parts: tuple[tuple[str, int], ...]) -> int:
    return sum(size for _, size in parts)


def _factor(matrix: Matrix, columns: int) -> tuple[tuple[str, int], tuple[str, int]]:
    """So many columns, and beside them the gradients of one parameter in a batch."""
    problem, shapes, itemsize = matrix.problem, ProblemShapes.of(matrix.engine), matrix.problem.dtype.itemsize
    values = columns * (shapes.explicit + shapes.cotangents) + problem.examples * shapes.inputs
    batch = min(problem.batch_size, problem.examples) * matrix.scores
    return ("columns of the factor", values * itemsize), ("a batch of them", batch * shapes.together * itemsize)


def _gram(matrix: Matrix, count: int, columns: int, *, whole: bool) -> tuple[tuple[str, int], ...]:
    """While there is the factor: with a batch's gradients of one parameter, or its inner products and what follows."""
    problem, square = matrix.problem, columns**2 * DOUBLE
    factor, gradients = _factor(matrix, columns)
    solver = GRAM_SOLVER if whole or columns <= WHOLE_ROWS else GRAM_SUMS
    vectors = count * problem.size * DOUBLE if vectors_fit(problem, count) else 0
    solving = max(solver * square, GRAM_SUMS * square + vectors)
    return factor, max(gradients, ("inner products and eigenvectors", solving), key=lambda part: part[1])


def _kept(problem: Problem, count: int) -> tuple[tuple[str, int], ...]:
    """When the factor is gone: eigenvectors in float64, in the network's precision, and those of them that are kept."""
    size = count * problem.size * (DOUBLE + 2 * problem.dtype.itemsize)
    return (("eigenvectors", size if vectors_fit(problem, count) else 0),)


def _product(problem: Problem) -> int:
    """The float64 sum, its mean over examples, gradients and tangents in the network's precision, one vector more."""
    return problem.size * (3 * DOUBLE + 2 * problem.dtype.itemsize)


def _basis(problem: Problem, products: int, count: int) -> int:
    """The rows of a basis, their images where these are kept, and the eigenvectors: see `Matrix._by_lanczos`."""
    room = memory_bytes(problem.device) * BASIS_SHARE
    doubled = 2 * EXPECTED_VECTORS * problem.size * DOUBLE <= room
    dtype = torch.float64 if doubled else problem.dtype
    images = 2 * EXPECTED_VECTORS * problem.size * dtype.itemsize <= room
    return (products * (1 + images) + 2 * count) * problem.size * dtype.itemsize
