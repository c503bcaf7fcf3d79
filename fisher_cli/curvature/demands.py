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
)
from fisher_cli.curvature.spectrum import NORM_PROBES

DOUBLE = 8
# Matrices of M × M in float64: while inner products are added up, and while an eigenvalue problem is solved.
GRAM_SUMS, GRAM_SOLVER = 3, 6
# Sets of eigenvectors (P, k) in float64 at once, while they are combined of the columns and put together.
COMBINED = 4
# Pieces of a factor and the whole that they are joined to.
PIECES_AND_WHOLE = 2
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
        return sum(size for _, size in self.parts)


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
        return Demand(route, _gram(matrix, count, columns))
    if route is Route.DENSE:
        return Demand(route, (("the matrix and its eigenvectors", 2 * GRAM_SUMS * problem.size**2 * DOUBLE),))
    products = FIRST_PRODUCTS + PRODUCTS_EACH * count
    kept = min(problem.examples * graphs, graph_bytes(problem.device)) if problem.keep_graphs else 0
    shared = (KEPT_GRAPHS, kept), ("one product", _product(problem))
    if route is Route.DUAL:
        vectors = EXPECTED_VECTORS * columns * DOUBLE + 2 * count * problem.size * DOUBLE
        return Demand(route, (("vectors of the dual, and eigenvectors", vectors), *shared), products)
    return Demand(route, (("vectors of Lanczos", _basis(problem, products, count)), *shared), products + NORM_PROBES)


def _gram(matrix: Matrix, count: int, columns: int) -> tuple[tuple[str, int], ...]:
    """Of the factor and its inner products: while the pieces are joined, or while the small matrix is solved."""
    problem, shapes = matrix.problem, Shapes.of(matrix.engine)
    itemsize, square = problem.dtype.itemsize, columns**2 * DOUBLE
    values = columns * (shapes.explicit + shapes.cotangents) + problem.examples * shapes.inputs
    batch = min(problem.batch_size, problem.examples) * matrix.scores
    joining = (PIECES_AND_WHOLE - 1) * values * itemsize + batch * shapes.together * itemsize
    solver = GRAM_SOLVER if columns <= WHOLE_ROWS else GRAM_SUMS
    solving = max(solver * square, GRAM_SUMS * square + COMBINED * count * problem.size * DOUBLE)
    rest = ("their pieces", joining) if joining > solving else ("inner products and eigenvectors", solving)
    return ("columns of the factor", values * itemsize), rest


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
