"""Ways to tr F = mean_n Σ_c p_nc ‖∇ log p_nc‖²: ours, plain autograd, torch.func, and other packages.

Every function takes a network in evaluation mode, inputs, labels and a batch size and does all of its work,
set-up included.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import NotApplicableError, package
from fisher_cli.curvature.gradient_norms.engine import Engine
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep

# The rows of per-example Jacobians that torch.func may hold at once, in bytes.
JACOBIAN_BYTES, GPU_JACOBIAN_BYTES = 512 * 2**20, 8 * 2**30
# Up to so many parameters the trace of an operator, which takes one product with each unit vector, is asked for.
UNIT_VECTORS = 10_000
UNIT_VECTORS_AT_ONCE = 64


@dataclass(frozen=True)
class Answer:
    """A trace; `error` is the standard error that an estimator itself states, None from an exact method."""

    trace: float
    error: float | None = None


@dataclass(frozen=True)
class Method:
    """A row of the table; `warm_up` is off where even two examples would take as long as all."""

    name: str
    run: Callable[[nn.Module, Tensor, Tensor, int], Answer]
    distribution: str | None = None
    warm_up: bool = True


def forward_pass(model: nn.Module, inputs: Tensor, _: Tensor, batch: int) -> Answer:
    """No trace at all: the unit of cost."""
    with torch.no_grad():
        for part in torch.split(inputs, batch):
            model(part)
    return Answer(float("nan"))


def _ours(estimator: str, *, verify: bool) -> Callable[[nn.Module, Tensor, Tensor, int], Answer]:
    def run(model: nn.Module, inputs: Tensor, labels: Tensor, _: int) -> Answer:
        true = sweep(pose(model, TensorData(inputs, labels)), estimator=estimator, verify=verify).trace.true
        if estimator == "exact":
            return Answer(true.value)
        return Answer(true.value, float("nan") if true.estimator_error is None else true.estimator_error)

    return run


def true_alone(model: nn.Module, inputs: Tensor, labels: Tensor, _: int) -> Answer:
    """The engine's norms and nothing else: no empirical Fisher, mean gradient, predictions, layers or errors."""
    problem = pose(model, TensorData(inputs, labels))
    engine, total = Engine(problem), 0.0
    for batch in problem.batches():
        evaluated = engine.evaluate(batch)
        root = problem.likelihood.root(evaluated.outputs.detach(), batch.labels)
        norms = torch.stack(list(evaluated.norms(root.directions).values())).sum(0)
        total += float((norms * root.weights).sum())
    return Answer(total / problem.examples)


def autograd_loop(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int) -> Answer:  # noqa: ARG001
    """One example and one class at a time."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = 0.0
    for example in inputs:
        log_p = torch.log_softmax(model(example.unsqueeze(0))[0], dim=0)
        for value in log_p:
            gradients = torch.autograd.grad(value, parameters, retain_graph=True)
            total += float(value.detach().exp()) * sum(float(gradient.square().sum()) for gradient in gradients)
    return Answer(total / len(inputs))


def torch_func(model: nn.Module, inputs: Tensor, _: Tensor, batch: int) -> Answer:
    """vmap over examples of the reverse-mode Jacobian of log p, in chunks that fit JACOBIAN_BYTES."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def log_p(values: dict[str, Tensor], example: Tensor) -> Tensor:
        return torch.log_softmax(torch.func.functional_call(model, values, (example.unsqueeze(0),))[0], dim=0)

    def term(example: Tensor) -> Tensor:
        rows, value = torch.func.jacrev(lambda values: (log_p(values, example),) * 2, has_aux=True)(parameters)
        norms = torch.stack([row.flatten(1).square().sum(1) for row in rows.values()]).sum(0)
        return torch.dot(value.exp(), norms)

    row_bytes = 4 * 10 * sum(p.numel() for p in parameters.values())
    held = JACOBIAN_BYTES if inputs.device.type == "cpu" else GPU_JACOBIAN_BYTES
    chunk = max(1, min(batch, held // row_bytes))
    return Answer(float(torch.func.vmap(term, chunk_size=chunk)(inputs).double().mean()))


def curvlinops(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int) -> Answer:
    """The GGN of the mean cross-entropy is F; its trace from products with all unit vectors."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = sum(parameter.numel() for parameter in parameters)
    if size > UNIT_VECTORS:
        msg = f"P = {size:,} unit vectors"
        raise NotApplicableError(msg)
    data = list(zip(torch.split(inputs, batch), torch.split(labels, batch), strict=True))
    operator = package("curvlinops").GGNLinearOperator(
        model, nn.CrossEntropyLoss(), parameters, data, check_deterministic=False
    )
    total = 0.0
    for start in range(0, size, UNIT_VECTORS_AT_ONCE):
        columns = torch.arange(start, min(start + UNIT_VECTORS_AT_ONCE, size), device=inputs.device)
        units = torch.zeros(size, len(columns), device=inputs.device)
        units[columns, columns - start] = 1
        total += float((operator @ units)[columns, columns - start].double().sum())
    return Answer(total)


def nngeometry(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int) -> Answer:
    """The diagonal of F from a square root of the Fisher of the logits, C − 1 backward passes per batch."""
    fim, diagonal = package("nngeometry.metrics").FIM, package("nngeometry.object").PMatDiag
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=batch)
    return Answer(float(fim(model, loader, diagonal, variant="classif_logits", device=inputs.device).trace()))


def backpack(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int) -> Answer:
    """The exact diagonal of the GGN; networks that are no chains of modules go through its converter."""
    library = package("backpack")
    exact_diagonal = package("backpack.extensions").DiagGGNExact
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # its documentation asks for that
    model = library.extend(model, use_converter=not isinstance(model, nn.Sequential)).eval()
    loss = library.extend(nn.CrossEntropyLoss())
    total = 0.0
    for x, y in zip(torch.split(inputs, batch), torch.split(labels, batch), strict=True):
        model.zero_grad()
        with library.backpack(exact_diagonal()):
            loss(model(x), y).backward()
        total += len(x) * sum(float(vars(p)["diag_ggn_exact"].sum()) for p in model.parameters())
    return Answer(total / len(inputs))


def asdfghjkl(model: nn.Module, inputs: Tensor, _: Tensor, batch: int) -> Answer:
    """The exact diagonal of F, C backward passes per batch, accumulated over the batches."""
    asdl = package("asdl")
    config = asdl.FisherConfig(
        asdl.FISHER_EXACT, [asdl.SHAPE_DIAG], loss_type=asdl.LOSS_CROSS_ENTROPY, data_size=len(inputs)
    )
    maker = asdl.get_fisher_maker(model, config)
    for number, x in enumerate(torch.split(inputs, batch)):
        maker.setup_model_call(model, x)
        maker.forward_and_backward(accumulate=number > 0)
    return Answer(sum(float(part.sum()) for part in _diagonals(model)))


def _diagonals(model: nn.Module) -> Iterator[Tensor]:
    for module in model.modules():
        matrix = getattr(module, "fisher", None)
        if matrix is not None and matrix.diag is not None:
            yield from matrix.diag.data


FORWARD = Method("forward pass", forward_pass)
METHODS = (
    FORWARD,
    Method("fisher exact", _ours("exact", verify=False), "fisher-cli"),
    Method("fisher exact, true trace alone", true_alone, "fisher-cli"),
    Method("fisher exact, verified", _ours("exact", verify=True), "fisher-cli"),
    Method("fisher deflated", _ours("deflated", verify=False), "fisher-cli"),
    Method("autograd loop", autograd_loop, "torch"),
    Method("torch.func", torch_func, "torch"),
    Method("curvlinops", curvlinops, "curvlinops-for-pytorch", warm_up=False),
    Method("nngeometry", nngeometry, "nngeometry"),
    Method("BackPACK", backpack, "backpack-for-pytorch"),
    Method("asdfghjkl", asdfghjkl, "asdfghjkl"),
)
