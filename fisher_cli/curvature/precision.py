"""A network in another precision, the same function: complex numbers stay complex."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64, torch.float16: torch.complex32}


def in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network itself, floating-point parameters and buffers in `dtype`, complex ones in that precision's type.

    What is neither stays as it is. `Module.to` would cast complex numbers to real ones and lose their imaginary parts.
    """

    def converted(values: Tensor) -> Tensor:
        if values.is_complex():
            return values.to(_COMPLEX.get(dtype, torch.complex64))
        return values.to(dtype) if values.is_floating_point() else values

    model._apply(converted)  # type: ignore[no-untyped-call]  # torch's own is untyped
    return model


@contextmanager
def new_tensors_in(dtype: torch.dtype) -> Iterator[None]:
    """Let `torch.zeros` and the like, which a forward pass may call without a type, make numbers of this precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
