"""Which way to the eigenvalues is cheapest: an estimate from the shapes of the network, the same on every machine."""

from dataclasses import dataclass
from enum import StrEnum

import torch

from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.gradient_norms.grad_factors import OuterProducts
from fisher_cli.curvature.gradient_norms.score_gradients import is_outer
from fisher_cli.curvature.problem.batching import memory_bytes
from fisher_cli.curvature.problem.problem import Problem

# Products that Lanczos takes, about: so many, and so many more for each eigenvalue.
FIRST_PRODUCTS, PRODUCTS_EACH = 15, 3
# Forward passes per product: four with kept graphs, more without, see fisher_products.py.
PASSES = 5
# What is not multiplications, in multiplications: a batch of a product or of the engine; an entry of a matrix read and
# written in float64.
PER_BATCH, PER_ENTRY = 10**8, 20
# A symmetric eigenvalue problem of M rows takes this many M³ float64 multiplications, at half the speed.
EIGENSOLVER = 10
# Shares of the memory for the columns of a factor, and for the vectors of Lanczos.
FACTOR_SHARE, BASIS_SHARE = 1 / 8, 1 / 16
EXPECTED_VECTORS = 60
# Up to so many rows the whole spectrum of a matrix is taken at once; `dense` is not for more parameters than that.
WHOLE_ROWS, DENSE_PARAMETERS = 1500, 4000


class Eigensolver(StrEnum):
    """How eigenvalues are found, as the reports call it."""

    LANCZOS = "lanczos"  # on vectors of length P
    DUAL = "lanczos-dual"  # on vectors of length N·K, for networks whose vectors of length P do not fit
    GRAM = "gram"  # all non-zero eigenvalues from the inner products of the N·K score gradients
    LEADING = "gram-leading"  # likewise of the largest score gradients, the rest bounded by its trace
    DENSE = "dense"  # from the matrix itself, P × P


@dataclass(frozen=True)
class ProblemShapes:
    """What one example costs: multiplications of a forward pass, and values of a column of the factor.

    Attributes:
        forward: multiplications of a forward pass, at least P.
        explicit: values of a column in the parameters that are held as they are.
        cotangents: values of a column in the cotangents of the layers held as two factors.
        inputs: values of an example in the inputs of these layers.
        layers: the number of these layers.
        together: of `explicit`, how many values of a column are made at once.
    """

    forward: int
    explicit: int
    cotangents: int
    inputs: int
    layers: int
    together: int = 0

    @classmethod
    def of(cls, engine: Engine) -> "ProblemShapes":
        """The shapes of the engine's network, read off its first example; one forward and one backward pass."""
        problem = engine.problem
        batch = problem.slice(0, 1)
        evaluated = engine.evaluate(batch)
        direction = torch.ones(1, 1, problem.outputs, dtype=evaluated.outputs.dtype, device=problem.device)
        forward = explicit = cotangents = inputs = layers = largest = by_example = 0
        with torch.no_grad():
            for name, found in evaluated.contributions(direction):
                outer = [part for part in found if isinstance(part, OuterProducts)]
                for part in outer:
                    forward += part.cotangents.numel() * part.inputs.shape[2]
                if not isinstance(found, torch.Tensor) and is_outer(found):
                    cotangents, inputs = cotangents + outer[0].cotangents.numel(), inputs + outer[0].inputs.numel()
                    layers += 1
                    continue
                size = problem.parameters[name].numel()
                explicit += size
                if isinstance(found, torch.Tensor):
                    by_example += size
                else:
                    largest = max(largest, size)
        return cls(max(forward, problem.size), explicit, cotangents, inputs, layers, max(largest, by_example))

    def held(self, columns: int, examples: int, itemsize: int) -> int:
        """Bytes of some columns of the factor, of their inner products and of two more matrices of that size.

        Args:
            columns: how many.
            examples: how many they are of.
            itemsize: bytes of a value of a column.
        """
        values = columns * (self.explicit + self.cotangents) + examples * self.inputs
        return values * itemsize + 3 * columns**2 * 8


def fits(engine: Engine, scores: int, columns: int) -> bool:
    """Whether so many columns of the factor, beside all of a batch from which they are chosen, fit into memory.

    Args:
        engine: that of the network.
        scores: K, the scores per example.
        columns: how many are held.
    """
    problem = engine.problem
    columns += min(problem.batch_size, problem.examples) * scores
    held = ProblemShapes.of(engine).held(columns, problem.examples, problem.dtype.itemsize)
    return held <= memory_bytes(problem.device) * FACTOR_SHARE


def vectors_fit(problem: Problem, count: int) -> bool:
    """Whether min(count, P) eigenvectors of length P in float64 fit into the memory that is set aside for them."""
    return min(count, problem.size) * problem.size * 8 <= memory_bytes(problem.device) * BASIS_SHARE


def choose_eigensolver(engine: Engine, scores: int, count: int, *, whole: bool = False) -> Eigensolver:
    """The cheapest way to the largest eigenvalues, or to all, of a Fisher.

    Args:
        engine: that of the network and its examples.
        scores: K, the scores per example.
        count: how many eigenvalues.
        whole: prefer a way that gives all eigenvalues, where one fits into memory.
    """
    problem, shapes = engine.problem, ProblemShapes.of(engine)
    columns, itemsize = problem.examples * scores, problem.dtype.itemsize
    memory = memory_bytes(problem.device)
    fits = shapes.held(columns, problem.examples, itemsize) <= memory * FACTOR_SHARE
    gram = gram_work(shapes, problem.examples, scores, problem.batch_size, whole)
    dense = _dense_work(shapes, problem.examples, scores, problem.size, problem.batch_size)
    if problem.size > DENSE_PARAMETERS or 3 * problem.size**2 * 8 > memory * FACTOR_SHARE:
        dense = float("inf")
    if whole and (fits or dense < float("inf")):
        return Eigensolver.GRAM if fits and gram <= dense else Eigensolver.DENSE
    products = FIRST_PRODUCTS + PRODUCTS_EACH * count
    batches = -(-problem.examples // problem.product_batch_size)
    lanczos = products * (PASSES * problem.examples * shapes.forward + batches * PER_BATCH)
    lanczos += 2 * products**2 * problem.size * PER_ENTRY
    if fits and gram <= min(lanczos, dense):
        return Eigensolver.GRAM
    if dense < lanczos:
        return Eigensolver.DENSE
    small = columns < problem.size
    return (
        Eigensolver.DUAL
        if small and EXPECTED_VECTORS * problem.size * itemsize > memory * BASIS_SHARE
        else Eigensolver.LANCZOS
    )


def gram_work(shapes: ProblemShapes, examples: int, scores: int, batch: int, whole: bool) -> float:
    """Multiplications of the Gram route, about: passes, inner products, matrices written, the small eigenproblem.

    Args:
        shapes: of the network.
        examples: N.
        scores: K, the scores per example.
        batch: examples at once.
        whole: whether all eigenvalues are wanted.
    """
    columns = examples * scores
    passes = 2 * (scores + 1) * examples * shapes.forward + -(-examples // batch) * 4 * PER_BATCH
    products = columns**2 * (shapes.explicit + shapes.cotangents) / 2 + examples**2 * shapes.inputs / 2
    entries = columns**2 * (shapes.layers + 2) * PER_ENTRY
    solver = EIGENSOLVER * columns**3 if whole or columns <= WHOLE_ROWS else 60 * columns**2 * 8
    return passes + products + entries + solver


def _dense_work(shapes: ProblemShapes, examples: int, scores: int, size: int, batch: int) -> float:
    passes = 2 * (scores + 1) * examples * shapes.forward
    passes += -(-examples // batch) * (4 * PER_BATCH + size**2 * PER_ENTRY)
    return passes + 2 * examples * scores * size**2 + EIGENSOLVER * size**3
