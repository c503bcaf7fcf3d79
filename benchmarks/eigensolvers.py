"""Ways to the largest eigenvalues of F and F̂: ours by each route, and other packages'.

Every function takes a network in evaluation mode, inputs, labels, a batch size and how many eigenvalues, and does all
of its work, set-up included. The peers run with torch's plain attention kernel, without which most have no
derivative of an attention layer. PyHessian knows the Hessian alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.harness import NotApplicableError, package
from fisher_cli.curvature.problem.batching import memory_bytes, values_per_example
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.spectra.eigensystems import matrices
from fisher_cli.curvature.spectra.solver_choice import Eigensolver, fits
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels

TOLERANCE = 1e-3
# ARPACK restarts; its own default is ten times the number of parameters.
RESTARTS = 100
# The steps up to which hessian-eigenthings reorthogonalises by default; it does not restart.
STEPS = 50
# Values that a product holds per output value of a layer, about, and the share of the memory it may take.
HELD, SHARE = 20, 1 / 4

TRUE, EMPIRICAL, HESSIAN = "F", "F̂", "Hessian"


@dataclass(frozen=True)
class Found:
    """Eigenvalues in descending order, products used (None where there are none to count), and by which route."""

    values: Sequence[float]
    products: int | None = None
    route: str = ""


@dataclass(frozen=True)
class Solver:
    """A row of the table: which matrix, by what; `at_once` is that of all examples in one batch."""

    name: str
    matrix: str
    run: Callable[[nn.Module, Tensor, Tensor, int, int], Found]
    distribution: str | None = None
    at_once: bool = False


def forward_pass(model: nn.Module, inputs: Tensor, _: Tensor, batch: int, count: int) -> Found:  # noqa: ARG001
    """The unit of cost."""
    with torch.no_grad():
        for part in torch.split(inputs, batch):
            model(part)
    return Found([])


def _ours(matrix: str, route: Eigensolver | None) -> Callable[[nn.Module, Tensor, Tensor, int, int], Found]:
    def run(model: nn.Module, inputs: Tensor, labels: Tensor, _: int, count: int) -> Found:
        problem = pose(model, TensorData(inputs, labels))
        chosen = matrices(problem)[matrix == EMPIRICAL]
        if route is Eigensolver.GRAM and not fits(chosen.engine, chosen.scores, problem.examples * chosen.scores):
            msg = f"{problem.examples * chosen.scores} score gradients do not fit into memory"
            raise NotApplicableError(msg)
        found = chosen.leading(count, tolerance=TOLERANCE, route=route)
        return Found(found.values.tolist(), found.products or None, found.route.value)

    return run


class _Counted:
    """A product, and how often it was taken."""

    def __init__(self, product: Callable[[Any], Any]) -> None:
        self.product, self.taken = product, 0

    def __call__(self, *arguments: Any) -> Any:
        self.taken += 1
        return self.product(*arguments)


def _batches(inputs: Tensor, labels: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(torch.split(inputs, batch), torch.split(labels, batch), strict=True))


def _curvlinops(operator: str) -> Callable[[nn.Module, Tensor, Tensor, int, int], Found]:
    def run(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int, count: int) -> Found:
        """ARPACK on the operator of the mean cross-entropy, start vector seeded."""
        linalg, numpy = package("scipy.sparse.linalg"), package("numpy")
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        make = getattr(package("curvlinops"), operator)
        data = _batches(inputs, labels, batch)
        with reproducible_kernels():
            matrix = make(model, nn.CrossEntropyLoss(), parameters, data, check_deterministic=False)
            product = _Counted(matrix.to_scipy(dtype=numpy.float32).matvec)
            counted = linalg.LinearOperator(matrix.shape, matvec=product, dtype=numpy.float32)
            start = numpy.random.default_rng(0).standard_normal(matrix.shape[0]).astype(numpy.float32)
            values = linalg.eigsh(
                counted, k=count, which="LA", tol=TOLERANCE, v0=start, maxiter=RESTARTS, return_eigenvectors=False
            )
        return Found(sorted(map(float, values), reverse=True), product.taken)

    return run


def _hessian_eigenthings(matrix: str) -> Callable[[nn.Module, Tensor, Tensor, int, int], Found]:
    def run(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int, count: int) -> Found:
        """Its Lanczos, as many steps as it reorthogonalises by default.

        Its products are detached: they would keep the graphs of all steps, gigabytes for a small network.
        """
        library, loss, data = package("hessian_eigenthings"), nn.CrossEntropyLoss(), _batches(inputs, labels, batch)
        with reproducible_kernels():
            if matrix == EMPIRICAL:
                operator = library.EmpiricalFisherOperator(model, data, library.supervised_per_sample_loss(loss))
            else:
                outer = library.supervised_loss_of_output(loss)
                operator = library.GGNOperator(model, data, library.supervised_forward, outer)
            steps = min(STEPS, operator.size)
            detached = library.LambdaOperator(lambda vector: operator.matvec(vector).detach(), operator.size)
            found = library.lanczos(detached, k=count, max_iter=steps, tol=TOLERANCE, which="LA", seed=0)
        return Found(found.eigenvalues.tolist(), found.iterations)

    return run


def _pyhessian(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int, count: int) -> Found:
    """Its power iteration on the Hessian of the loss, with at most 100 products each, its default."""
    module, data = package("pyhessian.hessian"), _batches(inputs, labels, batch)
    given = {"data": data[0]} if len(data) == 1 else {"dataloader": data}
    of_data = _Counted(module.hessian_vector_product)
    torch.manual_seed(0)
    with reproducible_kernels(), mock.patch.object(module, "hessian_vector_product", of_data):
        computation = module.hessian(model, nn.CrossEntropyLoss(), cuda=False, **given)
        of_batches = computation.dataloader_hv_product = _Counted(computation.dataloader_hv_product)
        values, _ = computation.eigenvalues(tol=TOLERANCE, top_n=count)
    return Found(sorted(values, reverse=True), of_data.taken + of_batches.taken)


def fits_at_once(model: nn.Module, inputs: Tensor) -> bool:
    """Whether products with all examples in one batch stay within a share of the memory, by a rough count."""
    values = values_per_example(model, inputs[:1]) * len(inputs)
    return values * HELD * inputs.element_size() <= memory_bytes(inputs.device) * SHARE


FORWARD = Solver("forward pass", "", forward_pass)


def _solvers(matrix: str, operator: str) -> list[Solver]:
    curvlinops, eigenthings = _curvlinops(operator), _hessian_eigenthings(matrix)
    return [
        Solver("fisher", matrix, _ours(matrix, None), "fisher-cli"),
        *(
            Solver(f"fisher, route={route.value}", matrix, _ours(matrix, route), "fisher-cli")
            for route in (Eigensolver.LANCZOS, Eigensolver.GRAM, Eigensolver.DUAL)
        ),
        Solver(f"curvlinops {operator} + eigsh", matrix, curvlinops, "curvlinops-for-pytorch"),
        Solver(f"curvlinops {operator} + eigsh, one batch", matrix, curvlinops, "curvlinops-for-pytorch", at_once=True),
        Solver("hessian-eigenthings Lanczos", matrix, eigenthings, "hessian-eigenthings"),
        Solver("hessian-eigenthings Lanczos, one batch", matrix, eigenthings, "hessian-eigenthings", at_once=True),
    ]


SOLVERS = (
    FORWARD,
    *_solvers(TRUE, "GGNLinearOperator"),
    *_solvers(EMPIRICAL, "EFLinearOperator"),
    Solver("PyHessian power iteration", HESSIAN, _pyhessian, "PyHessian"),
    Solver("PyHessian power iteration, one batch", HESSIAN, _pyhessian, "PyHessian", at_once=True),
)
LARGE_SOLVERS = tuple(
    solver
    for solver in SOLVERS
    if solver is FORWARD
    or (solver.matrix == TRUE and solver.name in {"fisher", f"fisher, route={Eigensolver.DUAL.value}"})
)
