"""A few batches of the real thing: what one measurement takes in memory and time, extrapolated to all examples."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fisher_cli import machine
from fisher_cli.curvature.allocation import trim
from fisher_cli.curvature.batching import CPU_BYTES
from fisher_cli.curvature.demands import KEPT_GRAPHS, Demand, demand
from fisher_cli.curvature.eigensystems import Matrix, matrices
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem import Data, Problem
from fisher_cli.curvature.products import Jacobian
from fisher_cli.curvature.routes import WHOLE_ROWS, Route, Shapes, choose, fits, gram_work, vectors_fit
from fisher_cli.curvature.scores import exact
from fisher_cli.curvature.traces import EXACT_OUTPUTS, sweep
from fisher_cli.measurement import measure, posed
from fisher_cli.results import Measurement
from fisher_cli.run import Run
from fisher_cli.settings import Estimator, Settings
from fisher_cli.trail import Trail

# What a measurement keeps of one example besides its outputs: some sixteen numbers as Python objects.
EXAMPLE_BYTES = 600
# Stages of a measurement whose seconds do not grow with the examples; those of batches of the sweep; the others go
# by the batches of products.
CONSTANT, BY_BATCH = {"load", "pose", "check", "ledger", "rounding"}, {"traces", "gradient"}
# A probe of the columns of a factor holds no more than this.
FACTOR_BYTES = 2**29
# Products with a matrix that are timed, after one that is not.
TIMED_PRODUCTS = 2


@dataclass(frozen=True)
class First:
    """The first `count` of some examples."""

    data: Data
    count: int

    @property
    def labels(self) -> Tensor:
        """(count,) or (count, C)."""
        return self.data.labels[: self.count]

    def __len__(self) -> int:
        return self.count

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of examples start … stop − 1."""
        return self.data.batch(start, min(stop, self.count))


@dataclass
class Probed:
    """What was seen: a measurement without eigenvalues on a few examples, and what eigenvalues of all would take.

    `problem` is that of all examples, `examples` how many were measured, at the batch size `batch`. `base` is what was
    resident before, `peak` the most during the measurement, `held` what is held when eigenvalues begin; `slope` is
    what one more example in a batch takes, where that was needed. `seconds` are by stage, of all examples.
    """

    problem: Problem
    measurement: Measurement
    architecture: str
    examples: int
    batch: int
    base: int
    peak: int
    held: int
    slope: float = 0.0
    demands: list[Demand] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def _batch_parts(self) -> tuple[tuple[str, int], ...]:
        problem = self.problem
        more = (problem.examples - self.examples) * (3 * problem.outputs * problem.dtype.itemsize + EXAMPLE_BYTES)
        larger = int(self.slope * (min(problem.batch_size, problem.examples) - self.batch))
        return (
            ("Python, torch, the data, and files being read", self.base),
            ("weights, gradient, check and batches, measured", self.peak - self.base),
            (f"batches of more than {self.batch}", larger),
            ("outputs and terms of the other examples", more),
        )

    @property
    def _eigenvalue_parts(self) -> tuple[tuple[str, int], ...]:
        """What the batches of the sweep have freed lies in pieces between what is held, and is not used again."""
        if not self.demands:
            return ()
        gives_back = self.problem.device.type == "cuda" or self.problem.is_large
        in_pieces = 0 if gives_back else min(max(0, self.peak - self.held), CPU_BYTES)
        largest = max(self.demands, key=lambda each: each.bytes)
        return ("held when eigenvalues begin, measured", self.held), ("freed in pieces", in_pieces), *largest.parts

    @property
    def batches_peak(self) -> int:
        """The peak without eigenvalues, of all examples at the batch size that was asked for."""
        return sum(size for _, size in self._batch_parts)

    @property
    def eigenvalues_peak(self) -> int:
        """The peak while eigenvalues are found, 0 where none are asked for."""
        return sum(size for _, size in self._eigenvalue_parts)

    @property
    def fullest(self) -> str:
        """When memory is fullest."""
        return "eigenvalues" if self.eigenvalues_peak > self.batches_peak else "traces"

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """What is there then, by what it is for."""
        found = self._eigenvalue_parts if self.eigenvalues_peak > self.batches_peak else self._batch_parts
        return tuple((name, size) for name, size in found if size)


def probe(run: Run, places: tuple[int, ...], batch_size: int | None) -> Probed:
    """Measure the checkpoints at these places, one after the other, on a few examples.

    With two of them the second is held against the first, as in a run. Every part of a measurement but the eigenvalues
    is done as it will be; of these a small share is.
    """
    settings, base = run.analysis.settings, _peak(run.device)
    small = replace(settings, eigenvalues=0)
    trail = Trail() if len(places) > 1 else None
    for place in places:
        if trail is not None:
            trail.advance()
        start = time.perf_counter()
        name, module = _network(run, place)
        loading = time.perf_counter() - start
        classes = run.examples.classes
        automatic = posed(module, run.data, settings, None, run.device, classes)
        problem = (
            automatic if batch_size is None else posed(module, run.data, settings, batch_size, run.device, classes)
        )
        batch = min(problem.batch_size, automatic.batch_size)
        at_once = min(problem.product_batch_size, automatic.product_batch_size)
        count = min(problem.examples, max(2 * batch, at_once))
        few = First(run.data, count)
        found = measure(
            module, few, small, batch_size=batch_size and batch, device=run.device, classes=classes, trail=trail
        )
    batch = found.batch_size or batch  # less where memory ran out
    _as_table(found, settings)
    peak = _peak(run.device)
    held = _held(problem, trail)
    probed = Probed(problem, found, name, count, batch, base, peak, held)
    probed.seconds = _scaled({"load": loading, **dict(found.timings)}, probed, at_once)
    part = replace(problem, data=few, batch_size=batch, product_batch_size=at_once)
    if batch < min(problem.batch_size, problem.examples):
        probed.slope = _slope(part, batch)
    if settings.eigenvalues:
        _eigenvalues(probed, part, settings, looks_back=trail is not None)
    return probed


def _network(run: Run, place: int) -> tuple[str, nn.Module]:
    """The name of a file's network, and it with its weights; those that were read are let go, as in a run."""
    _, architecture, module = run.network(run.files[place])
    return architecture.name, module


def _as_table(found: Measurement, settings: Settings) -> None:
    """Make the row of it, which nobody reads: what that needs is part of what a run takes."""
    from fisher_cli.tables import main_table

    main_table([found], settings.eigenvalues)


def _held(problem: Problem, trail: Trail | None) -> int:
    """What is resident when eigenvalues begin: what is now, less the footprint that this row leaves in the end."""
    trim()
    device = problem.device
    tensors = sum(each.numel() * each.element_size() for each in problem.model.state_dict().values())
    return _resident(device) - (tensors if trail is not None and device.type == "cpu" else 0)


def _scaled(timings: dict[str, float], probed: Probed, at_once: int) -> dict[str, float]:
    """Seconds of all examples from those of a few, by the batches that they take."""
    problem = probed.problem

    def ratio(size: int, small: int) -> float:
        return -(-problem.examples // size) * size / (-(-probed.examples // small) * small)

    by_batch = ratio(min(problem.batch_size, problem.examples), probed.batch)
    by_product = ratio(min(problem.product_batch_size, problem.examples), at_once)
    return {
        stage: seconds * (1 if stage in CONSTANT else by_batch if stage in BY_BATCH else by_product)
        for stage, seconds in timings.items()
    }


def _peak(device: torch.device) -> int:
    """The most that there was so far: on the GPU, or of this process."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else machine.peak_memory()


def _resident(device: torch.device) -> int:
    """What there is now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else machine.resident_memory()


@contextmanager
def _growth(device: torch.device) -> Iterator[Callable[[], int]]:
    """Bytes that were added at the fullest moment within, as a function to ask when it is over.

    Yields:
        That function.
    """
    trim()
    before = _resident(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
    elif machine.begin_peak():
        yield lambda: machine.peak_memory() - before
    else:
        yield lambda: 0


def _slope(problem: Problem, batch: int) -> float:
    """Bytes that one more example in a batch takes in a sweep, from a batch and from half of it."""
    halves = {size: _of_batch(problem, size) for size in {max(1, batch // 2), batch}}
    smaller, larger = min(halves), max(halves)
    if smaller == larger:
        return halves[larger] / larger
    return max(0.0, (halves[larger] - halves[smaller]) / (larger - smaller))


def _of_batch(problem: Problem, size: int) -> int:
    engine, batch = Engine(problem), problem.slice(0, size)
    with _growth(problem.device) as growth:
        evaluated = engine.evaluate(batch)
        scores = exact(problem.likelihood, evaluated.outputs.detach(), batch.labels)
        evaluated.measure(scores.directions, scores.observed, lambda _name, _sum: None)
        return growth()


# --- eigenvalues


def _eigenvalues(probed: Probed, part: Problem, settings: Settings, *, looks_back: bool) -> None:
    """What those of both matrices will take, and how long, by the ways that they will go."""
    engine, count = Engine(probed.problem), min(settings.eigenvalues, probed.problem.size)
    few, whole = matrices(part, engine=Engine(part)), matrices(probed.problem, engine=engine)
    # The true Fisher's eigenvectors stay for the row after, those of the row before until this one is done.
    each = count * part.size * part.dtype.itemsize if vectors_fit(part, count) else 0
    before, kept = ("eigenvectors of the row before", looks_back * each), list[tuple[str, int]]()
    graphs = 0
    for small, matrix in zip(few, whole, strict=True):
        route, columns = _route(matrix, small, settings)
        if route in {Route.LANCZOS, Route.DUAL} and not graphs:
            batch = part.slice(0, min(part.product_batch_size, part.examples))
            graphs = Jacobian(part).graph_bytes(batch) // len(batch)
        found = demand(matrix, route, count, columns, graphs)
        # Both matrices go by one Jacobian.
        beside = [one for one in kept if one[0] != KEPT_GRAPHS or not found.products]
        found = replace(found, parts=(*found.parts, before, *beside))
        kept += [("eigenvectors of the true Fisher", each), *(one for one in found.parts if one[0] == KEPT_GRAPHS)]
        probed.demands.append(found)
        name = "eigenvalues_empirical" if matrix.empirical else "eigenvalues_true"
        probed.seconds[name] = _seconds(matrix, small, found, count, columns)


def _route(matrix: Matrix, small: Matrix, settings: Settings) -> tuple[Route, int]:
    """The way to the eigenvalues of all examples, and the columns of the factor that it takes.

    Whether a few columns are enough is told by the share of them that are on the few examples.
    """
    problem, columns = matrix.problem, matrix.problem.examples * matrix.scores
    route = choose(matrix.engine, matrix.scores, min(settings.eigenvalues, problem.size))
    if route not in {Route.LANCZOS, Route.DUAL} or matrix.empirical or not _is_exact(problem, settings):
        return route, columns
    swept = sweep(small.problem, estimator="exact", verify=False)
    chosen = replace(small, columns=swept.columns).few_columns(settings.eigenvalue_tolerance)
    if chosen is not None:
        rows = -(-int(chosen.sum()) * problem.examples // small.problem.examples)
        if rows <= WHOLE_ROWS and fits(matrix.engine, matrix.scores, rows):
            return Route.LEADING, rows
    return route, columns


def _is_exact(problem: Problem, settings: Settings) -> bool:
    if settings.estimator is Estimator.AUTO:
        return problem.outputs <= EXACT_OUTPUTS
    return settings.estimator is Estimator.EXACT


def _seconds(matrix: Matrix, small: Matrix, found: Demand, count: int, columns: int) -> float:
    """Seconds from a part of the work: some products, or the factor of a few examples."""
    problem, part = matrix.problem, small.problem
    if found.products:
        jacobian = Jacobian(part)
        product = replace(small, jacobian=lambda: jacobian).product
        vector = torch.ones(part.size, dtype=torch.float64, device=part.device)
        product(vector)
        start = time.perf_counter()
        for _ in range(TIMED_PRODUCTS):
            product(vector)
        each = (time.perf_counter() - start) / TIMED_PRODUCTS
        return each * found.products * problem.examples / part.examples
    shapes = Shapes.of(small.engine)
    few = max(1, min(part.examples, FACTOR_BYTES // (2 * shapes.held(matrix.scores, 1, part.dtype.itemsize))))
    part = replace(part, data=First(part.data, few), batch_size=min(part.batch_size, few))
    start = time.perf_counter()
    replace(small, engine=Engine(part)).leading(count, route=Route.DENSE if found.route is Route.DENSE else Route.GRAM)
    seconds = time.perf_counter() - start
    done = gram_work(shapes, few, matrix.scores, part.batch_size, whole=False)
    wanted = gram_work(shapes, max(1, columns // matrix.scores), matrix.scores, problem.batch_size, whole=False)
    return seconds * wanted / done
