"""What each way to the eigenvalues holds at its fullest moment, in bytes, by the shapes of the network alone.

First principles throughout: what tensors there are at once, and their sizes. What a batch of the engine takes besides
is the same as in a sweep, and is not counted here.
"""

from dataclasses import dataclass

import torch

from fisher_cli.curvature.batching import graph_bytes, memory_bytes
from fisher_cli.curvature.eigensystems import Matrix
from fisher_cli.curvature.problem import Problem
from fisher_cli.curvature.routes import (
    BASIS_SHARE,
    EXPECTED_VECTORS,
    FIRST_PRODUCTS,
    PRODUCTS_EACH,
    WHOLE_ROWS,
    Route,
    Shapes,
    vectors_fit,
)
from fisher_cli.curvature.spectrum import NORM_PROBES

DOUBLE = 8
# Matrices of M × M in float64: while inner products are added up, and while an eigenvalue problem is solved.
GRAM_SUMS, GRAM_SOLVER = 3, 6
KEPT_GRAPHS = "kept graphs"


@dataclass(frozen=True)
class Demand:
    """Bytes of one route on N examples: in all, and by what they are for. `products` are those with the matrix."""

    route: Route
    parts: tuple[tuple[str, int], ...]
    products: int = 0

    @property
    def bytes(self) -> int:
        """All parts."""
        return _total(self.parts)


def demand(matrix: Matrix, route: Route, count: int, columns: int, graphs: int) -> Demand:
    """The bytes that the `count` largest eigenvalues and their eigenvectors take by this route.

    Args:
        matrix: the true or the empirical Fisher of all examples.
        route: the way.
        count: k.
        columns: M, of the factor; of these that are taken by `gram-leading`.
        graphs: bytes of the graphs of one example, where products keep them.
    """
    problem = matrix.problem
    if route in {Route.GRAM, Route.LEADING}:
        return Demand(route, max(_gram(matrix, count, columns), _kept(problem, count), key=_total))
    if route is Route.DENSE:
        return Demand(route, (("the matrix and its eigenvectors", 2 * GRAM_SUMS * problem.size**2 * DOUBLE),))
    products = FIRST_PRODUCTS + PRODUCTS_EACH * count
    kept = min(problem.examples * graphs, graph_bytes(problem.device)) if problem.keep_graphs else 0
    shared = (KEPT_GRAPHS, kept), ("one product", _product(problem))
    if route is Route.DUAL:
        vectors = EXPECTED_VECTORS * columns * DOUBLE
        vectors += 2 * count * problem.size * DOUBLE if vectors_fit(problem, count) else 0
        return Demand(route, (("vectors of the dual, and eigenvectors", vectors), *shared), products)
    return Demand(route, (("vectors of Lanczos", _basis(problem, products, count)), *shared), products + NORM_PROBES)


def _total(parts: tuple[tuple[str, int], ...]) -> int:
    return sum(size for _, size in parts)


def _gram(matrix: Matrix, count: int, columns: int) -> tuple[tuple[str, int], ...]:
    """While there is the factor: with a batch's gradients of one parameter, or its inner products and what follows."""
    problem, shapes = matrix.problem, Shapes.of(matrix.engine)
    itemsize, square = problem.dtype.itemsize, columns**2 * DOUBLE
    values = columns * (shapes.explicit + shapes.cotangents) + problem.examples * shapes.inputs
    batch = min(problem.batch_size, problem.examples) * matrix.scores
    gradients = batch * shapes.together * itemsize
    solver = GRAM_SOLVER if columns <= WHOLE_ROWS else GRAM_SUMS
    vectors = count * problem.size * DOUBLE if vectors_fit(problem, count) else 0
    solving = max(solver * square, GRAM_SUMS * square + vectors)
    rest = ("a batch of them", gradients) if gradients > solving else ("inner products and eigenvectors", solving)
    return ("columns of the factor", values * itemsize), rest


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
