"""Modules that a caller made, as the rows of a run: in turn, under names of their own, known again by what they are."""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fisher_cli.curvature.kl.divergence import all_outputs
from fisher_cli.curvature.problem.problem import Data, TensorData
from fisher_cli.curvature.torch_backend.network_state import restored
from fisher_cli.errors import UsageError
from fisher_cli.inputs.checkpoints.timeline import ORDER, StatedPoint, TrainingPoint, moment
from fisher_cli.run.measurement import POSED_EXAMPLES, MeasurementContext, posed
from fisher_cli.settings import Settings
from fisher_cli.text import digest


@dataclass(frozen=True)
class GivenModule:
    """A module that a caller made, as a row of a run.

    Attributes:
        name: of its row.
        module: the network.
        sha256: what it is known by again, where rows are kept in a journal; else None.
        is_reused: whether it may be given other weights when the next one is asked for.
        step: as its name tells it; None where nothing does.
        epoch: likewise.
        run: "": modules are of one run without a name.
    """

    name: str
    module: nn.Module
    sha256: str | None = None
    is_reused: bool = False
    step: int | None = None
    epoch: float | None = None
    run: str = ""

    def lasting(self) -> "GivenModule":
        """The same with weights that stay: a copy of a module that is reused."""
        return replace(self, module=copy.deepcopy(self.module)) if self.is_reused else self


def given_modules(modules: Iterable[object], *, are_reused: bool, names: Sequence[str] = ()) -> Iterator[GivenModule]:
    """The modules in turn; each is asked for when the one before is done.

    Args:
        modules: a list, or a generator that makes one when it is asked.
        are_reused: whether one may be given other weights when the next is asked for.
        names: of the modules, whose numbers tell the place in training; none where nobody named them.

    Yields:
        One of them, named by its place where nobody named it.

    Raises:
        UsageError: something else comes.
    """
    for index, module in enumerate(modules):
        if not isinstance(module, nn.Module):
            msg = f"after {index} modules came {type(module).__name__}: a generator of modules must yield nothing else"
            raise UsageError(msg)
        point = moment(StatedPoint(), names[index]) if names else TrainingPoint(None, None, ORDER)
        name = names[index] if names else f"module-{index}"
        yield GivenModule(name, module, is_reused=are_reused, step=point.step, epoch=point.epoch)


def in_order(named: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Modules by their names in order of training where the names' numbers tell it, else as they stand."""
    points = {name: moment(StatedPoint(), name) for name in named}
    for axis in ("step", "epoch"):
        if all(getattr(point, axis) is not None for point in points.values()):
            return {name: named[name] for name in sorted(named, key=lambda name: getattr(points[name], axis))}
    return dict(named)


def content_hash(module: nn.Module, data: Data, settings: Settings, device: torch.device) -> str:
    """SHA-256 of a module's kind, tensors and outputs on the first examples, two at most, as `sha256:<hex>`.

    Numbers and functions that are no tensors, and the code of `forward`, are told from the outputs.

    Args:
        module: it is left as it was.
        data: the examples.
        settings: what is asked.
        device: where the outputs are computed.
    """
    total = hashlib.sha256(f"{type(module).__module__}.{type(module).__qualname__}\n{module!r}".encode())
    tensors = [*module.named_parameters(), *module.named_buffers()]
    with restored(module):
        first = TensorData(*data.batch(0, min(POSED_EXAMPLES, len(data))))
        outputs = all_outputs(posed(module, first, settings, MeasurementContext(device=device)))
    _add(total, [*tensors, ("outputs", outputs)])
    return digest(total)


def examples_hash(examples: TensorData) -> str:
    """SHA-256 of the examples that a caller gave, inputs and labels, as `sha256:<hex>`."""
    total = hashlib.sha256()
    _add(total, [("inputs", examples.inputs), ("labels", examples.labels)])
    return digest(total)


def _add(total: "hashlib._Hash", tensors: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in tensors:
        total.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype} {tensor.requires_grad}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
