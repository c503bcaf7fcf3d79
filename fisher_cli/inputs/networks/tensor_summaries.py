"""The tensors of a checkpoint → one summary each: shape, type, values, and the layer that it looks like."""

import math
from typing import Final

from torch import Tensor

from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint
from fisher_cli.inputs.networks.layer_kinds import layer_kinds
from fisher_cli.inputs.networks.shapes import shapes_of
from fisher_cli.results import TensorSummary

_CHUNK: Final = 2**22  # values that are float64 at once


def tensor_summaries(checkpoint: Checkpoint) -> tuple[TensorSummary, ...]:
    """Return a summary of each tensor, in the order of the file; values are summed in float64."""
    kinds = layer_kinds(shapes_of(checkpoint.weights))
    return tuple(
        TensorSummary(
            name=name,
            shape=tuple(tensor.shape),
            dtype=checkpoint.types.get(name) or str(tensor.dtype).removeprefix("torch."),
            looks_like=kinds[name],
            **_values(tensor),
        )
        for name, tensor in checkpoint.weights.items()
    )


def _values(tensor: Tensor) -> dict[str, float | None]:
    """Return mean, standard deviation, extremes and share of zeros; None for what is not finite or of no values."""
    count, found = tensor.numel(), dict[str, float | None].fromkeys(("mean", "std", "minimum", "maximum", "zeros"))
    if not count:
        return found
    chunks = tensor.detach().reshape(-1).split(_CHUNK)  # type: ignore[no-untyped-call]
    found["zeros"] = sum(int((chunk == 0).sum()) for chunk in chunks) / count
    mean = sum(float(chunk.double().sum()) for chunk in chunks) / count
    if not math.isfinite(mean):
        return found
    squares = sum(float((chunk.double() - mean).square().sum()) for chunk in chunks)
    extremes = [chunk.double().aminmax() for chunk in chunks]
    return found | {
        "mean": mean,
        "std": math.sqrt(squares / count),
        "minimum": min(float(low) for low, _ in extremes),
        "maximum": max(float(high) for _, high in extremes),
    }
