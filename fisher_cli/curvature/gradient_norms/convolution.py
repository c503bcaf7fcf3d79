"""The rules of convolutions: dW = Σ_l δ_l ⊗ patch_l, per group, in one to three dimensions."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from fisher_cli.curvature.gradient_norms import outer_products

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def patches(
    inputs: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], grid: Sequence[int]
) -> Tensor:
    """The receptive field of every position of the output grid: (B, C, ∏ kernel, ∏ grid) of padded inputs (B, C, …)."""
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


def _padded(module: Convolution, inputs: Tensor) -> Tensor:
    """Inputs as the convolution sees them; `padding="same"` and the padding modes included."""
    amounts = module._reversed_padding_repeated_twice
    if not any(amounts):
        return inputs
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(inputs, amounts, mode=mode)


def convolution(module: Convolution, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dW‖² and ‖db‖², (K, B), of inputs (B, C_in, …) and cotangents (K, B, C_out, …)."""
    directions, examples, channels, *grid = cotangents.shape
    groups = module.groups
    columns = patches(_padded(module, inputs), module.kernel_size, module.stride, module.dilation, grid)
    a = columns.reshape(examples, groups, -1, math.prod(grid))
    delta = cotangents.reshape(directions, examples, groups, channels // groups, -1)
    norms = {"weight": outer_products.squared_norms(a, delta)}
    if module.bias is not None:
        norms["bias"] = delta.sum(4).double().square().sum((2, 3))
    return norms


def transposed_convolution(module: TransposedConvolution, inputs: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """‖dW‖² and ‖db‖², (K, B): a convolution with the parts of inputs and cotangents exchanged.

    An input pixel spreads over the patch of outputs it reaches, so dW = Σ_l input_l ⊗ patch_l(δ).
    """
    directions, examples, channels, *_ = cotangents.shape
    groups, grid = module.groups, inputs.shape[2:]
    pad: list[int] = []
    for amount, size, out, kernel, stride, dilation in reversed(
        list(
            zip(
                module.padding,
                grid,
                cotangents.shape[3:],
                module.kernel_size,
                module.stride,
                module.dilation,
                strict=True,
            )
        )
    ):
        # The outputs that pixels reach span (size − 1)·stride + dilation·(kernel − 1) + 1; what padding cut off
        # is zero, and what output_padding added beyond it is reached by none.
        reach = (size - 1) * stride + dilation * (kernel - 1) + 1
        pad += [int(amount), reach - out - int(amount)]
    spread = functional.pad(cotangents.reshape(directions * examples, channels, *cotangents.shape[3:]), pad)
    columns = patches(spread, module.kernel_size, module.stride, module.dilation, grid)
    positions = math.prod(grid)
    delta = columns.reshape(directions, examples, groups, -1, positions)
    a = inputs.reshape(examples, groups, -1, positions)
    norms = {"weight": outer_products.squared_norms(a, delta)}
    if module.bias is not None:
        norms["bias"] = cotangents.reshape(directions, examples, channels, -1).sum(3).double().square().sum(2)
    return norms
