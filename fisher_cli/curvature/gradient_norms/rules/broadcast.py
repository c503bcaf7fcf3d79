"""The rules of bare parameters, added, multiplied or spread over a batch: positions, layer scales, class tokens."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fisher_cli.curvature.gradient_norms.grad_factors import ExplicitGradients, Given


def _reduced(parameter: Tensor, gradient: Tensor) -> dict[str, Given]:
    """Sum a gradient (K, B, …) over what the parameter was broadcast to, the examples apart."""
    leading = gradient.dim() - 1 - parameter.dim()  # output dimensions that the parameter lacks, the batch among them
    shape = (1,) * leading + tuple(parameter.shape)
    for dimension, size in enumerate(shape):
        if dimension > 0 and size == 1 and gradient.shape[dimension + 1] != 1:
            gradient = gradient.sum(dimension + 1, keepdim=True)
    return {"parameter": ExplicitGradients(gradient.reshape(*gradient.shape[:2], -1))}


def added(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """A parameter added to or spread over the output: its gradient is the cotangent, summed."""
    del inputs
    return _reduced(arguments["parameter"], cotangents)


def multiplied(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """A parameter multiplied with `inputs`: its gradient is cotangent ∘ inputs, summed."""
    return _reduced(arguments["parameter"], cotangents * inputs)


def is_spread(arguments: Mapping[str, Any]) -> bool:
    """Whether the parameter has no extent along the batch, the output's first dimension."""
    parameter, output_dimensions = arguments["parameter"], arguments["output_dimensions"]
    return parameter.dim() < output_dimensions or (parameter.dim() == output_dimensions and len(parameter) == 1)
