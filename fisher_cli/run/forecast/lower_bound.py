"""A network without memory: what it must take at least, before anything of its size is allocated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem.batching import OVERHEAD, values_per_example
from fisher_cli.curvature.torch_backend.malloc import is_large
from fisher_cli.errors import FisherError
from fisher_cli.inputs.checkpoints.discovery import find_candidates
from fisher_cli.inputs.networks.shapes import hollow
from fisher_cli.run.parameters import select_parameters
from fisher_cli.settings import Precision, Settings

SINGLE, DOUBLE = 4, 8


@dataclass(frozen=True)
class LowerBound:
    """Sizes of a network that were found without memory for it, on torch's meta device.

    Attributes:
        tensors: how many values its parameters and buffers have.
        analysed: how many values the analysed parameters have.
        precision: of the measurement.
        values: how many values a forward pass of one example keeps; None where a pass without memory cannot tell.
        outputs: C; None likewise.
    """

    tensors: int
    analysed: int
    precision: Precision
    values: int | None = None
    outputs: int | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of a value in the precision of the measurement."""
        return _type(self.precision).itemsize

    @property
    def bytes(self) -> int:
        """The least that there is at once: when weights are loaded, or of one example with the float64 mean gradient.

        The network is built in float32, and has its weights beside it until they are copied.
        """
        return max(self._loading, self._alone + DOUBLE * self.analysed)

    @property
    def _loading(self) -> int:
        return self.tensors * (SINGLE + min(SINGLE, self.itemsize))

    @property
    def _alone(self) -> int:
        """Without the mean gradient."""
        return self.itemsize * self.tensors + self.batch(1)

    def ranks(self, room: int) -> int | None:
        """How few ranks, with so many bytes each, hold the network when they share out the mean gradient.

        Args:
            room: bytes that each rank has.

        Returns:
            None if no number does, and for a network that is not large: its mean gradient is not shared out.
        """
        if not is_large(max(SINGLE, self.itemsize) * self.tensors) or max(self._loading, self._alone + 1) > room:
            return None
        return -(-DOUBLE * self.analysed // (room - self._alone))

    def batch(self, examples: int) -> int:
        """Bytes that so many examples at once take in a sweep, about, by the rule by which batches are chosen.

        0 where a forward pass without memory could not tell.
        """
        if self.values is None or self.outputs is None:
            return 0
        return examples * self.values * (1 + OVERHEAD) * self.itemsize


def _type(precision: Precision) -> torch.dtype:
    found: torch.dtype = getattr(torch, precision.storage)
    return found


def lower_bound(build: Callable[[], nn.Module], settings: Settings, inputs: Tensor | None = None) -> LowerBound | None:
    """The sizes of a network and of one example in it, without memory for either.

    What goes wrong without memory may be right with it, and is left to the measurement itself to be told.

    Args:
        build: makes the network.
        settings: what is asked: parameters and precision.
        inputs: (B, …), of which the first example is taken; None to look at the network alone.

    Returns:
        The sizes; None where the network cannot be built without memory.

    Raises:
        FisherError: the network is not there, or no parameter of it is analysed.
    """
    dtype = _type(settings.precision)
    try:
        model = hollow(build).to("meta").to(dtype).eval()
        analysed = sum(parameter.numel() for parameter in select_parameters(model, settings).values())
        tensors = sum(each.numel() for each in model.state_dict().values())
    except FisherError:
        raise
    except Exception:  # the user's own code may do anything
        return None
    found = LowerBound(tensors, analysed, settings.precision)
    if inputs is None:
        return found
    try:
        some = inputs[:1].to("meta", dtype if inputs.is_floating_point() else None)
        with torch.no_grad():
            raw = model(some.clone())
        outputs = getattr(raw, "logits", raw).shape[-1]
        return LowerBound(tensors, analysed, settings.precision, values_per_example(model, some), outputs)
    except Exception:  # likewise, such as a branch on a value that is not there
        return found


def largest_checkpoint(paths: Sequence[Path]) -> int:
    """Bytes of the largest file or folder among the checkpoints: a reader holds at least so many at once."""
    return max((_bytes_of(each.path) for each in find_candidates(paths)), default=0)


def _bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return max((each.stat().st_size for each in files if each.is_file()), default=0)
