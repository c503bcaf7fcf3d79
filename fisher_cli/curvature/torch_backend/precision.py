"""A network in another floating-point precision, and whether it is still the same function there."""

import copy

import torch
from torch import Tensor, nn

# Rounding of a deep network's outputs, relative to the largest: what two precisions may differ by.
ROUNDING = {torch.bfloat16: 0.2, torch.float16: 0.05, torch.float32: 1e-3, torch.float64: 1e-7}


def in_precision(model: nn.Module, dtype: torch.dtype, device: torch.device | None = None) -> nn.Module:
    """Convert floating-point tensors to `dtype` and complex ones to its complex type, in place.

    `nn.Module.to(dtype)` casts complex buffers and complex parameters to real ones, which loses their imaginary part.

    Args:
        model: the network; its parameters stay the same objects.
        dtype: bfloat16 and float16 have no complex type that networks can be evaluated with: complex64 is taken.
        device: where to move it; None leaves it where it is.

    Returns:
        The network itself.
    """
    complex_dtype = torch.complex128 if dtype is torch.float64 else torch.complex64

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(device, complex_dtype)
        return tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)

    model._apply(convert)  # type: ignore[no-untyped-call] # what `to` calls
    return model


def copy_in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a network in another precision; the network stays as it is.

    Modules may hold computed tensors as attributes (weight norm and pruning in their old form do), which
    `copy.deepcopy` refuses: they are copied without their graph.

    Args:
        model: the network.
        dtype: as for `in_precision`.

    Raises:
        RuntimeError: something else in it cannot be copied.
    """
    computed = [
        value
        for module in model.modules()
        for value in module.__dict__.values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    return in_precision(copy.deepcopy(model, {id(value): value.detach().clone() for value in computed}), dtype)


def dtypes_of(model: nn.Module) -> set[torch.dtype]:
    """The floating-point types of its parameters and buffers, complex ones by the type of their parts."""
    found = set[torch.dtype]()
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_complex():
            found.add(torch.float64 if tensor.dtype is torch.complex128 else torch.float32)
        elif tensor.is_floating_point():
            found.add(tensor.dtype)
    return found


def differs_by_more_than_rounding(before: Tensor, after: Tensor, coarsest: torch.dtype) -> bool:
    """Whether outputs in two precisions differ by more than rounding, max |z − z'| > ROUNDING · max |z'|.

    Entries that are not finite on one side are left out: where a low precision overflowed nothing can be compared.

    Args:
        before: z, (B, C).
        after: z', (B, C).
        coarsest: the lower one of the two precisions, a key of `ROUNDING`.
    """
    both = before.double(), after.double()
    comparable = both[0].isfinite() & both[1].isfinite()
    if not bool(comparable.any()):
        return False
    difference = float((both[0] - both[1])[comparable].abs().max())
    return difference > ROUNDING[coarsest] * float(both[1][comparable].abs().max())
