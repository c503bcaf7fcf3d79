"""The rules of convolutions: dW = Σ_l δ_l ⊗ patch_l, per group, in one to three dimensions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from fisher_cli.curvature.gradient_norms.grad_factors import ExplicitGradients, Given, OuterProducts
from fisher_cli.curvature.gradient_norms.rules.registry import rule


def patches(
    inputs: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], grid: Sequence[int]
) -> Tensor:
    """The receptive field of every position of the output grid, (B, C, ∏ kernel, ∏ grid).

    Args:
        inputs: padded, (B, C, …).
        kernel: its size, per spatial dimension.
        stride: per spatial dimension.
        dilation: per spatial dimension.
        grid: the size of the output, per spatial dimension.
    """
    examples, channels, *_ = inputs.shape
    inputs = inputs.contiguous()
    batch_stride, channel_stride, *spatial = inputs.stride()
    view = inputs.as_strided(
        (examples, channels, *kernel, *grid),
        (
            batch_stride,
            channel_stride,
            *(s * d for s, d in zip(spatial, dilation, strict=True)),
            *(s * d for s, d in zip(spatial, stride, strict=True)),
        ),
    )
    return view.reshape(examples, channels, math.prod(kernel), math.prod(grid))


def _each(value: int | Sequence[int], dimensions: int) -> list[int]:
    """A number for every spatial dimension."""
    if isinstance(value, int):
        return [value] * dimensions
    values = list(value)
    return values * dimensions if len(values) == 1 else values


def _padding(padding: str | int | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Padding before and after every spatial dimension, the last first, as `functional.pad` wants it."""
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        pairs = [(total // 2, total - total // 2) for total in totals]
    elif isinstance(padding, str):
        pairs = [(0, 0)] * len(kernel)
    else:
        pairs = [(amount, amount) for amount in _each(padding, len(kernel))]
    return [amount for pair in reversed(pairs) for amount in pair]


def _is_batched(arguments: Mapping[str, Any]) -> bool:
    """Whether the input is a batch: a single image has no dimension for examples."""
    return bool(arguments["output_dimensions"] == arguments["weight"].dim())


@rule(*(f"torch.nn.functional.conv{d}d" for d in (1, 2, 3)), parameters=("weight", "bias"), exact=_is_batched)
def convolution(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dW = Σ_l δ_l ⊗ patch_l per group and db = Σ_l δ_l over the positions l of the output.

    Args:
        arguments: those of the call.
        inputs: (B, C_in, …).
        cotangents: δ, (K, B, C_out, …).
    """
    directions, examples, channels, *grid = cotangents.shape
    groups, kernel = arguments["groups"], arguments["weight"].shape[2:]
    stride, dilation = _each(arguments["stride"], len(kernel)), _each(arguments["dilation"], len(kernel))
    pad = _padding(arguments["padding"], kernel, dilation)
    padded = functional.pad(inputs, pad) if any(pad) else inputs
    a = patches(padded, kernel, stride, dilation, grid).reshape(examples, groups, -1, math.prod(grid))
    delta = cotangents.reshape(directions, examples, groups, channels // groups, -1)
    parts: dict[str, Given] = {"weight": OuterProducts(a, delta)}
    if arguments["bias"] is not None:
        parts["bias"] = ExplicitGradients(delta.sum(4).flatten(2))
    return parts


@rule(*(f"torch.nn.functional.conv_transpose{d}d" for d in (1, 2, 3)), parameters=("weight", "bias"), exact=_is_batched)
def transposed_convolution(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """dW = Σ_l input_l ⊗ patch_l(δ) per group and db = Σ δ: a convolution with inputs and cotangents exchanged.

    An input pixel spreads over the patch of outputs that it reaches.

    Args:
        arguments: those of the call.
        inputs: (B, C_in, …).
        cotangents: δ, (K, B, C_out, …).
    """
    directions, examples, channels, *out = cotangents.shape
    groups, grid, kernel = arguments["groups"], inputs.shape[2:], arguments["weight"].shape[2:]
    stride, dilation = _each(arguments["stride"], len(kernel)), _each(arguments["dilation"], len(kernel))
    pad: list[int] = []
    for index, amount in reversed(list(enumerate(_each(arguments["padding"], len(kernel))))):
        # The outputs that pixels reach span (size − 1)·stride + dilation·(kernel − 1) + 1; what padding cut off
        # is zero, and what output_padding added beyond it is reached by none.
        reach = (grid[index] - 1) * stride[index] + dilation[index] * (kernel[index] - 1) + 1
        pad += [amount, reach - out[index] - amount]
    spread = functional.pad(cotangents.reshape(directions * examples, channels, *out), pad)
    columns = patches(spread, kernel, stride, dilation, grid)
    delta = columns.reshape(directions, examples, groups, -1, math.prod(grid))
    a = inputs.reshape(examples, groups, -1, math.prod(grid))
    summed = cotangents.reshape(directions, examples, channels, -1).sum(3)
    return {"weight": OuterProducts(a, delta, transposed=True), "bias": ExplicitGradients(summed)}
