"""The rules of bare parameters, added, multiplied or spread over a batch: positions, layer scales, class tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fisher_cli.curvature.gradient_norms.grad_factors import ExplicitGradients, Given
from fisher_cli.curvature.gradient_norms.rules.registry import rule


def _is_spread(value: object, output: object) -> bool:
    """Whether a tensor has no extent along the batch, the output's first dimension."""
    if not isinstance(value, Tensor) or not isinstance(output, Tensor):
        return False
    return value.dim() < output.dim() or (value.dim() == output.dim() > 0 and len(value) == 1)


def _addends(
    args: Sequence[Any], kwargs: Mapping[str, Any], output: object
) -> Iterator[tuple[dict[str, Any], Tensor | None]]:
    if len(args) == 2 and not kwargs:
        yield from (({"parameter": each}, None) for each in args if _is_spread(each, output))


def _factors(
    args: Sequence[Any], kwargs: Mapping[str, Any], output: object
) -> Iterator[tuple[dict[str, Any], Tensor | None]]:
    """Each with the other factor, which has an entry per output."""
    if len(args) == 2 and not kwargs and isinstance(output, Tensor):
        for each, other in (args, args[::-1]):
            if _is_spread(each, output) and isinstance(other, Tensor) and other.shape == output.shape:
                yield {"parameter": each}, other


def _expanded(
    args: Sequence[Any], _: Mapping[str, Any], output: object
) -> Iterator[tuple[dict[str, Any], Tensor | None]]:
    if args[0].is_leaf and _is_spread(args[0], output):
        yield {"parameter": args[0]}, None


def _reduced(parameter: Tensor, gradient: Tensor) -> dict[str, Given]:
    """Sum a gradient (K, B, …) over what the parameter was broadcast to, the examples apart."""
    leading = gradient.dim() - 1 - parameter.dim()  # output dimensions that the parameter lacks, the batch among them
    shape = (1,) * leading + tuple(parameter.shape)
    for dimension, size in enumerate(shape):
        if dimension > 0 and size == 1 and gradient.shape[dimension + 1] != 1:
            gradient = gradient.sum(dimension + 1, keepdim=True)
    return {"parameter": ExplicitGradients(gradient.reshape(*gradient.shape[:2], -1))}


@rule(torch.Tensor.expand, parameters=("parameter",), operands=_expanded, folds=False)
@rule(
    *(torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__),
    *(torch.Tensor.add_, torch.Tensor.__iadd__),
    parameters=("parameter",),
    operands=_addends,
    folds=False,
)
def added(arguments: Mapping[str, Any], inputs: None, cotangents: Tensor) -> dict[str, Given]:
    """A parameter added to or spread over the output: its gradient is the cotangent, summed."""
    del inputs
    return _reduced(arguments["parameter"], cotangents)


@rule(
    torch.Tensor.mul_, torch.Tensor.__imul__, parameters=("parameter",), operands=_factors, in_place=True, folds=False
)
@rule(
    *(torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__),
    parameters=("parameter",),
    operands=_factors,
    folds=False,
)
def multiplied(arguments: Mapping[str, Any], inputs: Tensor, cotangents: Tensor) -> dict[str, Given]:
    """A parameter multiplied with `inputs`: its gradient is cotangent ∘ inputs, summed."""
    return _reduced(arguments["parameter"], cotangents * inputs)
