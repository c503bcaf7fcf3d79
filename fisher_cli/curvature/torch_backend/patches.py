"""The functions of torch that are others for a time: one table of them, and one context that puts them there and back.

A set of patches says for each place (a module or class, and a name in it) what makes the replacement of the function
that lies there. Sets that are entered together go around each other in the order of their layers, however they are
listed: first the kernels, then what is differentiated otherwise, and around both what watches the calls.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from operator import attrgetter
from types import MethodType
from typing import Any, Final

from torch.nn import functional

from fisher_cli.curvature.torch_backend import attention, convolutions, differentiable_kernels, transposable_layers

Make = Callable[[Callable[..., Any]], Any]
"""The function that lies in a place → what is to lie there."""
Place = tuple[Any, str]
"""A module or class, and a name in it."""


class Layer(IntEnum):
    """What goes around what, the innermost first."""

    KERNEL = 0
    DERIVATIVE = 1
    RECORDER = 2


@dataclass(frozen=True)
class Patches:
    """Replacements by place."""

    layer: Layer
    makers: Mapping[Place, Make]


def _convolutions_by(convolve: convolutions.Convolve) -> dict[Place, Make]:
    return {(functional, f"conv{d}d"): convolutions.convolution_by(convolve, d) for d in (1, 2, 3)}


# The projection is torch's own name for what nn.MultiheadAttention projects its inputs with, where there is one.
_KERNELS: Final[dict[str, Make]] = {
    "batch_norm": differentiable_kernels.batch_norm,
    "_in_projection_packed": differentiable_kernels.in_projection,
}
# Kernels that every kind of derivative exists for.
KERNELS: Final = Patches(
    Layer.KERNEL,
    {(functional, name): make for name, make in _KERNELS.items() if hasattr(functional, name)},
)
# Layers whose backward pass knows its own transpose, for J v.
TRANSPOSABLE_LAYERS: Final = Patches(
    Layer.DERIVATIVE,
    {
        **_convolutions_by(transposable_layers.convolve),
        (functional, "batch_norm"): transposable_layers.batch_norm,
    },
)
# Attention whose backward pass takes all directions at once, for CPUs.
ATTENTION_OF_ALL_DIRECTIONS: Final = Patches(
    Layer.DERIVATIVE, {(functional, "scaled_dot_product_attention"): attention.of_all_directions}
)
# The same of convolutions, for GPUs.
CONVOLUTIONS_OF_ALL_DIRECTIONS: Final = Patches(Layer.DERIVATIVE, _convolutions_by(convolutions.convolve))

_ABSENT: Final = object()


@lru_cache(maxsize=1024)
def _replacement(make: Make, original: Callable[..., Any]) -> Any:
    return make(original)


class patched:
    """A context in which the functions are others; all are given back, whatever happens.

    Args:
        sets: Of one place the set of the higher layer goes around that of the lower, and an inner context around an
            outer one.
    """

    def __init__(self, *sets: Patches) -> None:
        self._sets = sorted(sets, key=attrgetter("layer"))
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        try:
            for each in self._sets:
                for (owner, name), make in each.makers.items():
                    original = getattr(owner, name)
                    self._before.append((owner, name, vars(owner).get(name, _ABSENT)))
                    made = _replacement(make, original)
                    setattr(owner, name, staticmethod(made) if isinstance(original, MethodType) else made)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        while self._before:
            owner, name, value = self._before.pop()
            if value is _ABSENT:  # inherited, or looked up elsewhere
                delattr(owner, name)
            else:
                setattr(owner, name, value)
