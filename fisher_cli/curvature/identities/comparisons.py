"""Where two sides that are made of many numbers differ most."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fisher_cli.curvature.identities.autograd_reference import Change, norm

# A tensor's own norm counts as its scale only above this share of all tensors' together.
SMALL_SHARE = 1e-3


@dataclass(frozen=True)
class Worst:
    """Where two sides differ most: the values there, their relative difference, and the tensor's name."""

    ours: float
    theirs: float
    error: float
    name: str


def worst_of_numbers(names: Sequence[str], ours: Tensor, theirs: Tensor) -> Worst:
    """One number per name: differences relative to the larger of the number and a thousandth of all together."""
    scale = theirs.abs().clamp_min(SMALL_SHARE * float(theirs.abs().sum())).clamp_min(1e-300)
    errors = _nan_is_infinite((ours - theirs).abs() / scale)
    at = int(errors.argmax())
    return Worst(float(ours[at]), float(theirs[at]), float(errors[at]), names[at])


def worst_of_vectors(ours: Sequence[Change], theirs: Sequence[Change]) -> Worst:
    """‖a − b‖ by tensor, relative to the larger of the tensor's norm and a thousandth of the whole vector's."""
    found = Worst(0.0, 0.0, -1.0, "")
    for one, other in zip(ours, theirs, strict=True):
        whole = norm(other)
        for name in other:
            a, b = one[name].double(), other[name].double()
            length = float(b.norm())
            error = float((a - b).norm()) / max(length, SMALL_SHARE * whole, 1e-300)
            if not error <= found.error:
                found = Worst(float(a.norm()), length, error if math.isfinite(error) else math.inf, name)
    return found


def _nan_is_infinite(errors: Tensor) -> Tensor:
    return torch.nan_to_num(errors, nan=math.inf, posinf=math.inf)
