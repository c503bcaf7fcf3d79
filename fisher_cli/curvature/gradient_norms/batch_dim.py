"""Where a call keeps the examples of a batch, found by a test on the gradients themselves.

Pull back a direction v and the same direction with example b scaled by r_b: by linearity every entry of every
cotangent that belongs to example b is scaled by r_b. The one layout that explains the ratios is the layout; a call that
none explains mixes the examples, and its parameters go through per-example gradients.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.call_recorder import Call
from fisher_cli.curvature.torch_backend.backend_flags import network_is_in_tf32

# Largest accepted deviation from the ratios, relative to the largest entry of the example's cotangent; a wrong layout
# is off by the spread of the ratios, about a third.
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float32: 1e-3, torch.float64: 1e-7}
TF32_TOLERANCE = 0.05
# An example counts as if its largest entry were at least this share of the largest of all.
SMALLEST_EXAMPLE = 1e-5


@dataclass(frozen=True)
class BatchDim:
    """Where a call keeps the examples: in one dimension of its output, with T entries of each.

    Attributes:
        dimension: of the output.
        times: T; B·T is the size of that dimension.
        minor: whether the order is t·B + b; else it is b·T + t.
    """

    dimension: int
    times: int
    minor: bool = False

    def examples_first(self, tensor: Tensor, skip: int = 0) -> Tensor:
        """The tensor with the examples in dimension `skip`, the T entries of each side by side: (…, B·T, …).

        Args:
            tensor: in this layout, behind `skip` other dimensions.
            skip: how many dimensions come before the layout's, such as 1 for directions.
        """
        tensor = tensor.movedim(skip + self.dimension, skip)
        if self.minor:
            shape = tensor.shape
            apart = tensor.reshape(*shape[:skip], self.times, -1, *shape[skip + 1 :])
            tensor = apart.transpose(skip, skip + 1).flatten(skip, skip + 1)
        return tensor

    def spread(self, ratios: Tensor, dimensions: int) -> Tensor:
        """The number of each example, shaped to multiply a tensor of this layout.

        Args:
            ratios: one number per example, (B,).
            dimensions: how many the tensor has.
        """
        values = ratios.repeat(self.times) if self.minor else ratios.repeat_interleave(self.times)
        shape = [1] * dimensions
        shape[self.dimension] = -1
        return values.reshape(shape)


def ratios_for(examples: int, like: Tensor) -> Tensor:
    """A random factor in [1, 2] for every example, the same ones every time."""
    generator = torch.Generator().manual_seed(examples)
    return (1 + torch.rand(examples, generator=generator, dtype=torch.float64)).to(like)


def _candidates(call: Call, examples: int) -> Iterator[BatchDim]:
    shape = call.output_shape
    if len(shape) < 2:
        return
    if shape[0] % examples == 0 and shape[0]:
        times = shape[0] // examples
        if times == 1 or call.rule.folds:
            yield BatchDim(0, times)
            if times > 1 and examples > 1:
                yield BatchDim(0, times, minor=True)
    if call.rule.batch_anywhere:
        for dimension in range(1, len(shape) - 1):
            if shape[dimension] == examples:
                yield BatchDim(dimension, 1)


def only_batch_dim(call: Call) -> BatchDim | None:
    """The layout of a batch of one example, which needs no test; None where the call has no examples to tell apart."""
    return next(_candidates(call, 1), None)


def find_batch_dim(call: Call, cotangent: Tensor, scaled: Tensor, ratios: Tensor) -> tuple[BatchDim | None, bool]:
    """The layout under which `scaled` is `cotangent` with every example multiplied by its ratio.

    Args:
        call: whose output the cotangents belong to.
        cotangent: Jᵀ v, in the shape of the output.
        scaled: the same of v with example b multiplied by r_b.
        ratios: r, (B,).

    Returns:
        The layout, None where none fits; and whether the cotangent tells it from the others. A cotangent of zeros fits
        every layout, and one that is zero nearly everywhere may fit several: all take the same from this batch, and say
        nothing about another one.
    """
    candidates = list(_candidates(call, len(ratios)))
    if not bool(cotangent.any()):
        return next(iter(candidates), None), False
    fitting = [layout for layout in candidates if _fits(layout, cotangent, scaled, ratios)]
    return next(iter(fitting), None), len(fitting) < 2


def _fits(layout: BatchDim, cotangent: Tensor, scaled: Tensor, ratios: Tensor) -> bool:
    """Whether every entry is multiplied by its example's ratio, to the accuracy that this example's entries have."""
    tolerance = TF32_TOLERANCE if network_is_in_tf32() else TOLERANCE[cotangent.dtype]
    difference = (scaled - cotangent * layout.spread(ratios, cotangent.dim())).abs()
    sizes = layout.examples_first(cotangent.abs()).reshape(len(ratios), -1).amax(1)
    limits = tolerance * sizes.clamp_min(SMALLEST_EXAMPLE * float(sizes.max()))
    return bool((layout.examples_first(difference).reshape(len(ratios), -1).amax(1) <= limits).all())
