"""What a measurement does with matrices after its sweep: what it will take in memory and time, from a part of it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fisher_cli.curvature.comparison.null_distribution import null_distribution
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.linalg.krylov import Product
from fisher_cli.curvature.problem.problem import Data, Problem
from fisher_cli.curvature.products.fisher_products import Jacobian, ScoreFactor
from fisher_cli.curvature.spectra import score_gram
from fisher_cli.curvature.spectra.eigensystems import Matrix, matrices
from fisher_cli.curvature.spectra.solver_choice import (
    WHOLE_ROWS,
    Eigensolver,
    ProblemShapes,
    choose_eigensolver,
    fits,
    gram_work,
    vectors_fit,
)
from fisher_cli.curvature.torch_backend.machine_memory import growth
from fisher_cli.curvature.traces.traces import EXACT_OUTPUTS, sweep
from fisher_cli.run.forecast.memory_model import (
    DOUBLE,
    KEPT_GRAPHS,
    StepMemory,
    demand,
    density_demand,
    inner_products_demand,
    products_demand,
)
from fisher_cli.run.measurement import question_of
from fisher_cli.settings import Estimator, MatrixName, Settings

# A probe of the columns of a factor holds no more than this.
FACTOR_BYTES = 2**29
# Products with a matrix that are timed, after one that is not.
TIMED_PRODUCTS = 2


@dataclass(frozen=True)
class FirstExamples:
    """The first `count` of some examples, with the methods of `Data`.

    Attributes:
        data: all examples.
        count: how many of them.
    """

    data: Data
    count: int

    @property
    def labels(self) -> Tensor:
        """The labels of these examples, (count,) or (count, C)."""
        return self.data.labels[: self.count]

    def __len__(self) -> int:
        return self.count

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of examples start … stop − 1."""
        return self.data.batch(start, min(stop, self.count))


@dataclass
class MatrixProfile:
    """What follows the sweep of a measurement.

    Attributes:
        demands: the memory of each step.
        routes: (matrix, way to its eigenvalues).
        seconds: by stage, of all examples.
    """

    demands: list[StepMemory] = field(default_factory=list)
    routes: list[tuple[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class MatrixProfiler:
    """The matrices of all examples beside those of a few, on which the work is tried.

    Attributes:
        problem: of all examples.
        part: of the few.
        settings: what is asked.
        looks_back: whether the eigenvectors of the row before are there.
    """

    problem: Problem
    part: Problem
    settings: Settings
    looks_back: bool
    _graphs: int | None = None

    def foresee(self) -> MatrixProfile:
        """What the settings ask for after the sweep."""
        found = MatrixProfile()
        if self.settings.comparison is not None:
            self._comparison(found)
        elif self.settings.eigenvalues:
            self._eigenvalues(found)
        return found

    @property
    def _count(self) -> int:
        return min(self.settings.eigenvalues, self.problem.size)

    @property
    def _gradient(self) -> tuple[str, int]:
        """What stays of the sweep where spectra or comparisons are asked for."""
        asked = self.settings.spectrum is not None or self.settings.comparison is not None
        return "mean gradient", asked * self.problem.size * DOUBLE

    def _graphs_of_one(self) -> int:
        """Bytes of the graphs of one example."""
        if self._graphs is None:
            batch = self.part.slice(0, min(self.part.product_batch_size, self.part.examples))
            self._graphs = Jacobian(self.part).graph_bytes(batch) // len(batch)
        return self._graphs

    def _pairs(self) -> Iterator[tuple[str, Matrix, Matrix]]:
        """The name of a matrix, it of a few examples, and it of all."""
        few = matrices(self.part, engine=Engine(self.part))
        whole = matrices(self.problem, engine=Engine(self.problem))
        asked = self.settings.spectrum.matrix if self.settings.spectrum else MatrixName.BOTH
        for name, small, matrix in zip(("true", "empirical"), few, whole, strict=True):
            if asked in {MatrixName.BOTH, MatrixName(name)}:
                yield name, small, matrix

    def _eigenvalues(self, found: MatrixProfile) -> None:
        """Those of the matrices by the ways that they will go, and the densities of what they leave."""
        question = question_of(self.settings)
        # Eigenvectors stay for the row after, in a spectrum of both matrices, those of the row before until this one
        # is done.
        each = self._count * self.problem.size * self.problem.dtype.itemsize
        each = each if vectors_fit(self.problem, self._count) else 0
        earlier = (1 + question.full) * self.looks_back * each
        kept = [self._gradient, ("eigenvectors of the row before", earlier)]
        for name, small, matrix in self._pairs():
            whole = question.wants_all(min(matrix.problem.examples * matrix.scores, matrix.problem.size))
            route, columns, first = self._leading(name, small, matrix, whole, found)
            steps = [first]
            has_all = route is Eigensolver.DENSE or (
                route in {Eigensolver.GRAM, Eigensolver.LEADING} and (whole or columns <= WHOLE_ROWS)
            )
            if question.full and (question.whole is False or not has_all):
                density = density_demand(matrix, question, self._graphs_of_one())
                if density is not None:
                    steps.append(density)
                    found.seconds[f"eigenvalues_{name}"] += _product_seconds(
                        matrix, small, density.products, of_dual=route is Eigensolver.DUAL
                    )
            for step in steps:
                # Both matrices go by one Jacobian.
                beside = [one for one in kept if one[0] != KEPT_GRAPHS or not step.products]
                found.demands.append(replace(step, parts=(*step.parts, *beside)))
            kept += [(f"eigenvectors of the {name} Fisher", each)]
            kept += [one for step in steps[-1:] for one in step.parts if one[0] == KEPT_GRAPHS]

    def _leading(
        self, name: str, small: Matrix, matrix: Matrix, whole: bool, found: MatrixProfile
    ) -> tuple[Eigensolver, int, StepMemory]:
        """The way to the leading eigenvalues, the columns that it takes, and its demand."""
        route, columns = _route(matrix, small, self.settings, whole=whole)
        graphs = self._graphs_of_one() if route in {Eigensolver.LANCZOS, Eigensolver.DUAL} else 0
        step = demand(matrix, route, self._count, columns, graphs, whole=whole)
        found.routes.append((name, route.value))
        found.seconds[f"eigenvalues_{name}"] = _seconds(matrix, small, route, step, self._count, columns)
        return route, columns, step

    def _comparison(self, found: MatrixProfile) -> None:
        """Nulls, and both matrices by inner products or by products, as `curvature/comparison/` does it."""
        start = time.perf_counter()
        with growth(self.part.device) as grown:
            null_distribution(Engine(self.part), seed=self.settings.seed)
        scale = self.problem.examples / self.part.examples
        found.seconds["null_distribution"] = (time.perf_counter() - start) * scale
        share = min(self.problem.batch_size, self.problem.examples) / min(self.part.batch_size, self.part.examples)
        found.demands.append(StepMemory((self._gradient, ("a batch of nulls", int(grown() * share))), finds="nulls"))
        pairs = [*self._pairs()]
        _, small, true = pairs[0]
        if score_gram.is_affordable(true.engine):
            step = inner_products_demand(true)
            columns = true.problem.examples * true.scores
            found.routes += [(name, Eigensolver.GRAM.value) for name, _, _ in pairs]
            found.seconds["matrices"] = _seconds(true, small, Eigensolver.GRAM, step, self._count, columns)
            found.demands.append(replace(step, parts=(*step.parts, self._gradient)))
            return
        kept = [self._gradient]
        for name, small, matrix in pairs:
            _, _, step = self._leading(name, small, matrix, False, found)
            beside = [one for one in kept if one[0] != KEPT_GRAPHS or not step.products]
            found.demands.append(replace(step, parts=(*step.parts, *beside)))
            kept += [(f"eigenvectors of the {name} Fisher", self._count * self.problem.size * DOUBLE)]
            kept += [one for one in step.parts if one[0] == KEPT_GRAPHS]
        step = products_demand(self.problem, self._count, self._graphs_of_one())
        found.seconds["norms and directions"] = sum(
            _product_seconds(matrix, small, step.products) for _, small, matrix in pairs
        )
        found.demands.append(replace(step, parts=(*step.parts, self._gradient)))


def _route(matrix: Matrix, small: Matrix, settings: Settings, *, whole: bool) -> tuple[Eigensolver, int]:
    """The way to the eigenvalues of all examples, and the columns of the factor that it takes.

    Whether a few columns are enough is told by the share of them that are on the few examples.
    """
    problem, columns = matrix.problem, matrix.problem.examples * matrix.scores
    route = choose_eigensolver(matrix.engine, matrix.scores, min(settings.eigenvalues, problem.size), whole=whole)
    if route not in {Eigensolver.LANCZOS, Eigensolver.DUAL} or matrix.empirical or not _is_exact(problem, settings):
        return route, columns
    swept = sweep(small.problem, estimator="exact", verify=False)
    chosen = replace(small, columns=swept.columns).few_columns(settings.eigenvalue_tolerance)
    if chosen is not None:
        rows = -(-int(chosen.sum()) * problem.examples // small.problem.examples)
        if rows <= WHOLE_ROWS and fits(matrix.engine, matrix.scores, rows):
            return Eigensolver.LEADING, rows
    return route, columns


def _is_exact(problem: Problem, settings: Settings) -> bool:
    if settings.estimator is Estimator.AUTO:
        return problem.outputs <= EXACT_OUTPUTS
    return settings.estimator is Estimator.EXACT


def _product_seconds(matrix: Matrix, small: Matrix, products: int, *, of_dual: bool = False) -> float:
    """Seconds of so many products with a matrix or its dual, from some with that of a few examples."""
    part, jacobian = small.problem, Jacobian(small.problem)
    product: Product = replace(small, jacobian=lambda: jacobian).product
    size = part.size
    if of_dual:
        # Whose vectors are no longer than the run's own: there may be no memory for others.
        product, size = ScoreFactor(jacobian, small.scores_of, part.dtype), part.examples * small.scores
    vector = torch.ones(size, dtype=torch.float64, device=part.device)
    product(vector)
    start = time.perf_counter()
    for _ in range(TIMED_PRODUCTS):
        product(vector)
    each = (time.perf_counter() - start) / TIMED_PRODUCTS
    return each * products * matrix.problem.examples / part.examples


def _seconds(matrix: Matrix, small: Matrix, route: Eigensolver, found: StepMemory, count: int, columns: int) -> float:
    """Seconds from a part of the work: some products, or the factor of a few examples."""
    if found.products:
        return _product_seconds(matrix, small, found.products, of_dual=route is Eigensolver.DUAL)
    problem, part, shapes = matrix.problem, small.problem, ProblemShapes.of(small.engine)
    few = max(1, min(part.examples, FACTOR_BYTES // (2 * shapes.held(matrix.scores, 1, part.dtype.itemsize))))
    part = replace(part, data=FirstExamples(part.data, few), batch_size=min(part.batch_size, few))
    start = time.perf_counter()
    replace(small, engine=Engine(part)).leading(
        count, route=Eigensolver.DENSE if route is Eigensolver.DENSE else Eigensolver.GRAM
    )
    seconds = time.perf_counter() - start
    done = gram_work(shapes, few, matrix.scores, part.batch_size, whole=False)
    wanted = gram_work(shapes, max(1, columns // matrix.scores), matrix.scores, problem.batch_size, whole=False)
    return seconds * wanted / done
