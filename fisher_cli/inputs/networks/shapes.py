"""Networks without storage: their names and shapes at once and without memory, whatever their size."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Shapes = Mapping[str, tuple[int, ...]]

COUNTER: Final = "num_batches_tracked"  # batch norm has it since torch 0.4.1, and evaluation ignores it


class _Hollow(TorchFunctionMode):
    """Puts what holds weights on the meta device, and leaves the numbers that a network is planned with.

    `with torch.device("meta")` would move those too, and RegNets read theirs while they are built.
    """

    _HOLDERS: Final = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in self._HOLDERS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def hollow(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network with all large tensors on the meta device, which has shapes and no storage.

    Args:
        build: makes the network; tensors that it puts on a device by name stay there.
    """
    with _Hollow():
        return build()


def shapes_of(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def without_counters(names: Mapping[str, Any]) -> list[str]:
    """Return the names that a checkpoint must have: all but batch norm's counters."""
    return [name for name in names if name.rpartition(".")[2] != COUNTER]


def rows(shapes: Shapes, *names: str) -> int | None:
    """Return the first size of the first of these tensors that there is."""
    return next((shapes[name][0] for name in names if shapes.get(name)), None)


def columns(shapes: Shapes, *names: str) -> int | None:
    """Return the second size of the first of these tensors that there is."""
    return next((shapes[name][1] for name in names if len(shapes.get(name, ())) > 1), None)


def blocks(shapes: Shapes, stage: str) -> int:
    """Return how many submodules numbered from 0 the stage has."""
    numbers = {
        part
        for name in shapes
        if name.startswith(f"{stage}.")
        for part in [name.removeprefix(f"{stage}.").partition(".")[0]]
        if part.isascii() and part.isdigit() and len(part) < 6
    }
    return len(numbers)
