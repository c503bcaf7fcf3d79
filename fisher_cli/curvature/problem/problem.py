"""The question every estimator answers: a network in evaluation mode, a likelihood, examples, parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from fisher_cli.curvature.linalg.sums import add_to
from fisher_cli.curvature.problem.batching import automatic_batch_size, network_bytes, values_per_example
from fisher_cli.curvature.problem.likelihoods import Likelihood, likelihood_named
from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.curvature.torch_backend.activation_checkpointing import ActivationCheckpointing, Block, checkpointed
from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels
from fisher_cli.curvature.torch_backend.evaluation import evaluated, refuse_random_numbers
from fisher_cli.curvature.torch_backend.malloc import is_large, manage_freed_memory, trim
from fisher_cli.curvature.torch_backend.network_state import NetworkState
from fisher_cli.curvature.torch_backend.out_of_memory import raise_if_out_of_memory
from fisher_cli.curvature.torch_backend.precision import (
    ROUNDING,
    copy_in_precision,
    differs_by_more_than_rounding,
    dtypes_of,
    in_precision,
)
from fisher_cli.curvature.torch_backend.prefetch import pinned, prefetched
from fisher_cli.curvature.torch_backend.random_state import RandomState
from fisher_cli.curvature.torch_backend.vjp import gradients_in_turn
from fisher_cli.errors import ArchitectureError, CoupledExamplesError, DataError, NumericalError


class Data(Protocol):
    """A fixed sequence of N examples that can be read in slices, always the same."""

    @property
    def labels(self) -> Tensor:
        """All labels: class numbers (N,), or numbers (N,) or (N, C)."""

    def __len__(self) -> int:
        """N."""

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs (B, …) and labels (B,) or (B, C) of examples start … stop − 1, on any device."""


@dataclass(frozen=True)
class TensorData:
    """Examples held as two tensors.

    Attributes:
        inputs: (N, …), as the network takes them.
        labels: (N,) or (N, C).
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of examples start … stop − 1."""
        return self.inputs[start:stop], self.labels[start:stop]


@dataclass(frozen=True)
class Batch:
    """Examples start … start + B − 1 on the network's device.

    Attributes:
        inputs: (B, …), in the network's precision where they are floating-point.
        labels: (B,) or (B, C), int64 where they are whole numbers.
        start: the number of the first example, from 0.
    """

    inputs: Tensor
    labels: Tensor
    start: int

    def __len__(self) -> int:
        return len(self.inputs)


@dataclass(frozen=True)
class Problem:
    """A network q(y | x, θ), N examples and the parameters θ with respect to which all derivatives are taken.

    Make one with `pose`.

    Attributes:
        model: the network, in evaluation mode.
        likelihood: q of the outputs.
        data: the examples.
        parameters: θ by name; each analysed tensor once, under its first name.
        batch_size: how many examples go through the network at once with many directions.
        outputs: C.
        product_batch_size: how many do with one direction.
        state: what the network holds besides its parameters, the same before every forward pass.
        keep_graphs: whether products may keep their graphs.
        process_group: the ranks, which share the batches.
        blocks: modules whose activations are not kept but computed anew in the backward pass.
        may_draw: whether a forward pass may draw random numbers without an error, for callers that report it.
    """

    model: nn.Module
    likelihood: Likelihood
    data: Data
    parameters: Mapping[str, nn.Parameter]
    batch_size: int
    outputs: int
    product_batch_size: int
    state: NetworkState
    keep_graphs: bool = True
    process_group: ProcessGroup = ALONE
    blocks: tuple[Block, ...] = ()
    may_draw: bool = False

    @property
    def examples(self) -> int:
        """N."""
        return len(self.data)

    @property
    def size(self) -> int:
        """P, the number of analysed parameters."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(iter(self.parameters.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """The network's precision: that of the first analysed parameter."""
        return next(iter(self.parameters.values())).dtype

    @property
    def is_large(self) -> bool:
        """Whether the parameters make a large network: each set of gradients fills memory that batches cannot have."""
        return is_large(network_bytes(self.model))

    def give_back_memory(self) -> None:
        """Give the memory that earlier stages freed back to the system, for a large network only."""
        if self.is_large:
            trim()

    def slice(self, start: int, stop: int) -> Batch:
        """Examples start … stop − 1 as a batch."""
        return self._batch(*self.data.batch(start, stop), start)

    def _ready(self, bounds: tuple[int, int]) -> tuple[int, Tensor, Tensor]:
        """The first example's number, inputs and labels where a GPU fetches them without waiting."""
        inputs, labels = self.data.batch(*bounds)
        return bounds[0], pinned(inputs), pinned(labels)

    def _batch(self, inputs: Tensor, labels: Tensor, start: int) -> Batch:
        """Inputs and labels on the network's device."""
        labels = labels.to(self.device, non_blocking=True)
        if not labels.is_floating_point():
            labels = labels.long()
        return Batch(_on(inputs, next(iter(self.parameters.values()))), labels, start)

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """This rank's share of the examples in order; the last batch may be smaller.

        Ranks share whole batches: every example is computed among the same others as with a single rank, bit by bit.

        Args:
            size: examples at a time; None for `batch_size`.

        Yields:
            The batches, each on the network's device.
        """
        size = size or self.batch_size
        bounds = [
            (index * size, min((index + 1) * size, self.examples))
            for index in self.process_group.share(-(-self.examples // size))
        ]
        if self.device.type == "cpu":
            for start, stop in bounds:
                yield self.slice(start, stop)
        else:
            for start, inputs, labels in prefetched(self._ready, bounds):
                yield self._batch(inputs, labels, start)

    def forward(self, inputs: Tensor) -> Tensor:
        """The network's outputs z, (B, C), on a copy of the inputs: a network may work on them in place.

        What the forward pass leaves in buffers and attributes is put back.

        Args:
            inputs: (B, …), on the network's device and in its precision.

        Returns:
            z with its graph where gradients are on, in the network's precision, at least float32.

        Raises:
            ArchitectureError: the network returned no logits.
            CoupledExamplesError: the forward pass draws random numbers, or normalises by the statistics of the batch.
        """
        before = RandomState.now(self.device)
        self.state.restore()
        try:
            raw = evaluated(self.model, inputs)
        finally:
            self.state.restore()
        if before.has_moved() and not self.may_draw:
            refuse_random_numbers(self.model, inputs)
        return as_outputs(raw, len(inputs))

    def double(self) -> "Problem":
        """The same problem with a copy of the network in float64; batch sizes stay.

        Raises:
            RuntimeError: the network cannot be copied.
        """
        model = copy_in_precision(self.model, torch.float64)
        copies = dict(zip(map(id, self.model.parameters()), model.parameters(), strict=True))
        parameters = {name: copies[id(parameter)] for name, parameter in self.parameters.items()}
        return replace(self, model=model, parameters=parameters, state=NetworkState(model))

    def tracked_outputs(self, inputs: Tensor) -> Tensor:
        """The outputs z (B, C) with their graph, whose `blocks` save nothing but what they are given.

        Args:
            inputs: (B, …), on the network's device and in its precision.
        """
        while True:
            memory = ActivationCheckpointing(lambda _keep: reproducible_kernels())
            with reproducible_kernels(), checkpointed(self.model, self.blocks, memory):
                outputs = self.forward(inputs)
            if memory.is_sound():
                return outputs

    def pull_back(self, outputs: Tensor, cotangents: Tensor) -> Tensor:
        """Σ_n J_nᵀ u_n for cotangents u (B, C), flat (P,) in float64; consumes the graph of the outputs."""
        total = {
            name: torch.zeros_like(parameter, dtype=torch.float64, requires_grad=False)
            for name, parameter in self.parameters.items()
        }
        self.add_pulled_back(outputs, cotangents, total)
        return torch.cat([part.reshape(-1) for part in total.values()])

    def add_pulled_back(
        self, outputs: Tensor, cotangents: Tensor, total: Mapping[str, Tensor], *, keep: bool = False
    ) -> None:
        """Add Σ_n J_nᵀ u_n to a total by parameter.

        The cotangents are scaled to a largest entry of one on the way, so that tiny ones do not underflow.

        Args:
            outputs: (B, C), with their graph.
            cotangents: u, (B, C).
            total: by parameter, in its shape and in float64; changed in place.
            keep: whether the graph of the outputs is kept for another backward pass.
        """
        scale = float(cotangents.abs().amax()) or 1.0
        scaled = (cotangents.double() / scale).to(outputs.dtype)

        def add(name: str, part: Tensor) -> None:
            add_to(total[name], part, scale)

        with reproducible_kernels():
            gradients_in_turn(outputs, self.parameters, scaled, add, keep=keep)


def upcast(values: Tensor) -> Tensor:
    """Values of bfloat16 and float16 as float32, all others as they are."""
    return values.float() if values.dtype in {torch.bfloat16, torch.float16} else values


def as_outputs(raw: object, examples: int) -> Tensor:
    """What a network returned, as outputs (B, C): (B, C), (B, C, 1, 1), (B,) for a single output, `.logits` of these.

    Those of a network in bfloat16 or float16 become float32 here: the likelihood knows no less.

    Args:
        raw: a tensor, or what holds it as the attribute or the key `logits`.
        examples: B.

    Raises:
        ArchitectureError: it is nothing of the kind.
    """
    logits = getattr(raw, "logits", raw)
    if isinstance(logits, Mapping):
        logits = logits.get("logits")
    if isinstance(logits, Tensor):
        logits = upcast(logits)
    if isinstance(logits, Tensor) and examples == 1 and logits.dim() <= 1:
        return logits.reshape(1, -1)  # `.squeeze()` removes the batch's dimension too when it is one
    if isinstance(logits, Tensor) and logits.dim() == 1 and len(logits) == examples:
        return logits.unsqueeze(1)
    if isinstance(logits, Tensor) and logits.dim() == 4 and logits.shape[2:] == (1, 1):
        logits = logits.flatten(1)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != examples:
        shape = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(raw).__name__
        msg = f"the network returned {shape} for {examples} examples; logits of shape (examples, classes) are needed"
        raise ArchitectureError(msg)
    return logits


def _refuse_parameters(parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse what has no values yet, and what is not real.

    Raises:
        ArchitectureError: a parameter is one or the other.
    """
    for name, parameter in parameters.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            msg = f"parameter {name} has no values yet: a lazy layer was never run; load weights into an ordinary one"
            raise ArchitectureError(msg)
        if parameter.is_complex():
            msg = f"parameter {name} is complex, and the Fisher of complex parameters is not defined here: --exclude it"
            raise ArchitectureError(msg)


def _use_plain_gradients(model: nn.Module) -> None:
    """Switch off what makes an embedding return something else than its gradient; the outputs stay the same."""
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.scale_grad_by_freq = module.sparse = False


def _refuse_coupling(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if module.training:
            msg = f"{name or 'the network'} stays in training mode after .eval(): its outputs may depend on the batch"
            raise CoupledExamplesError(msg)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            msg = (
                f"{name or 'the network'} is a batch norm without running statistics: its output for one example "
                "depends on the others, and the Fisher of an example is not defined; give it running statistics"
            )
            raise CoupledExamplesError(msg)


def _on(inputs: Tensor, like: Tensor) -> Tensor:
    """Inputs on a parameter's device, in its precision when they are floating-point."""
    there = inputs.to(like.device, non_blocking=True)
    return there.to(like.dtype) if inputs.is_floating_point() else there


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            msg = (
                f"{name or 'the network'} is compiled by torch.jit, and its layers cannot be watched: give the module "
                "that it was made from, with its weights"
            )
            raise ArchitectureError(msg)


def _sizes(inputs: Tensor) -> str:
    """What else to try where inputs may be images: another size, or one channel."""
    if inputs.ndim != 4:
        return ""
    channels = ", or one channel with --grayscale" if inputs.shape[1] == 3 else ""
    return f", or give images another size with --resize HxW{channels}"


def _probe(model: nn.Module, inputs: Tensor, like: Tensor, *, may_draw: bool) -> Tensor:
    """The outputs (B, C) for the first examples, with an explanation of each error.

    Raises:
        CoupledExamplesError: the forward pass draws random numbers.
        DataError: the network does not take inputs of this shape.
        NumericalError: the outputs are NaN or infinite.
    """
    inputs, before = _on(inputs, like), RandomState.now(like.device)
    try:
        with reproducible_kernels(), torch.no_grad():
            raw = evaluated(model, inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise_if_out_of_memory(error)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        msg = (
            f"the network does not accept inputs of shape {tuple(inputs.shape[1:])} ({reason}): "
            f"check --model and --data{_sizes(inputs)}"
        )
        raise DataError(msg) from error
    if before.has_moved() and not may_draw:
        refuse_random_numbers(model, inputs)
    outputs = as_outputs(raw, len(inputs))
    if not bool(outputs.isfinite().all()):
        msg = "the network's outputs are NaN or infinite on the first examples"
        raise NumericalError(msg)
    return outputs


def _outputs_as_given(model: nn.Module, inputs: Tensor, like: Tensor) -> Tensor | None:
    """The outputs in the precision that the network came in; None where it has none of its own, or draws them."""
    inputs, before = _on(inputs, like), RandomState.now(like.device)
    try:
        with torch.no_grad():
            outputs = as_outputs(model(inputs.clone()), len(inputs))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ArchitectureError) as error:
        raise_if_out_of_memory(error)  # all else is said of the network in the precision that it is analysed in
        return None
    return None if before.has_moved() else outputs


def _refuse_another_function(given: Tensor | None, outputs: Tensor, dtypes: set[torch.dtype]) -> None:
    """Hold the outputs of a network in another precision against those that it had as it came.

    Raises:
        NumericalError: they differ by more than rounding.
    """
    coarsest = max(dtypes, key=lambda dtype: ROUNDING[dtype])
    if given is None or not differs_by_more_than_rounding(given, outputs, coarsest):
        return
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
    msg = (
        f"the network's outputs in {names} differ by more than rounding: its forward pass depends on the precision, "
        "and the numbers would be those of another network; choose the one that it was trained in with --dtype"
    )
    raise NumericalError(msg)


@torch.inference_mode(mode=False)
def _with_gradients(model: nn.Module, parameters: Mapping[str, nn.Parameter] | None) -> dict[str, nn.Parameter]:
    chosen = dict(model.named_parameters()) if parameters is None else dict(parameters)
    chosen = {name: parameter for name, parameter in chosen.items() if parameter.requires_grad}
    if not chosen:
        msg = "there are no parameters to analyse: check --include and --exclude"
        raise ArchitectureError(msg)
    _refuse_parameters(chosen)
    return chosen


def _batch_sizes(model: nn.Module, data: Data, like: Tensor, outputs: int) -> list[int]:
    """How many examples at once with all directions, and with one: by the automatic rule."""
    values = values_per_example(model, _on(data.batch(0, 1)[0], like))
    return [automatic_batch_size(values, like, directions, len(data)) for directions in (outputs, 1)]


def pose(
    model: nn.Module,
    data: Data,
    *,
    likelihood: str = "auto",
    parameters: Mapping[str, nn.Parameter] | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    process_group: ProcessGroup = ALONE,
    may_draw: bool = False,
) -> Problem:
    """The problem of a network on examples, moved to the device, in evaluation mode and checked.

    The network is changed in place: mode, device, dtype; `restored` undoes it.

    Args:
        model: the network, changed in place.
        data: the N examples.
        likelihood: `softmax`, `sigmoid`, `gaussian`, or `auto`: sigmoid for one output, else softmax.
        parameters: those to analyse, by name; None for all. Those that require no gradients are left out.
        batch_size: examples at once; None for the automatic rule. Of several ranks the smallest counts.
        device: where to evaluate; None for where the first analysed parameter is.
        dtype: the network's precision; None for float64 where the first analysed parameter is in float64, else float32.
        process_group: the ranks that share the examples; `pose` is collective.
        may_draw: whether a forward pass may draw random numbers without an error, for callers that report it.

    Raises:
        DataError: there are no examples, or their labels or shapes do not fit the network.
        ArchitectureError: the network has no parameters to analyse, complex ones or ones without values, returns no
            logits, or is compiled by torch.jit.
        CoupledExamplesError: the forward pass draws random numbers, or an example's outputs depend on the batch: a
            module stays in training mode, or a batch norm has no running statistics.
        NumericalError: outputs are NaN or infinite, or those of another function in another precision.
    """
    if len(data) == 0:
        msg = "there are no examples"
        raise DataError(msg)
    _refuse_compiled(model)
    chosen = _with_gradients(model, parameters)
    model.eval()
    first = next(iter(chosen.values()))
    precision = torch.float64 if dtype is None and first.dtype is torch.float64 else dtype or torch.float32
    _use_plain_gradients(model)
    _refuse_coupling(model)
    inputs, _ = data.batch(0, min(2, len(data)))
    state, given, dtypes = NetworkState(model), None, dtypes_of(model) | {precision}
    if len(dtypes) > 1:
        given = _outputs_as_given(model, inputs, first)
        state.restore()
    in_precision(model, precision, torch.device(device or first.device))
    manage_freed_memory(large=is_large(network_bytes(model)))
    state = NetworkState(model)
    outputs = _probe(model, inputs, first, may_draw=may_draw)
    _refuse_another_function(given, outputs, dtypes)
    kind = likelihood_named(likelihood, outputs.shape[1])
    if len(data.labels) != len(data):
        msg = f"there are {len(data)} examples and {len(data.labels)} labels"
        raise DataError(msg)
    kind.check_labels(outputs.shape[1], data.labels)
    sizes = _batch_sizes(model, data, first, outputs.shape[1]) if batch_size is None else [batch_size, batch_size]
    state.restore()
    batch_size, product_batch_size = map(min, zip(*process_group.exchange(sizes), strict=True))
    return Problem(
        model,
        kind,
        data,
        chosen,
        batch_size,
        outputs.shape[1],
        product_batch_size,
        state,
        process_group=process_group,
        may_draw=may_draw,
    )
