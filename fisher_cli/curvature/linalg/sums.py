"""Sums over the values of large tensors, in float64 and piece by piece: no copy of a whole one is made."""

import torch
from torch import Tensor

# Values converted to float64 at once: a copy of a large gradient in that precision would be twice its size.
PIECE = 2**20
# Values added to a total at once: what is converted stays in the caches.
ADDED_AT_ONCE = 2**16


def dot(one: Tensor, other: Tensor) -> Tensor:
    """⟨u, v⟩ of two tensors of one shape and any precision, a float64 scalar on their device."""
    pairs = zip(torch.split(one.reshape(-1), PIECE), torch.split(other.reshape(-1), PIECE), strict=True)
    found = [torch.dot(u.double(), v.double()) for u, v in pairs]
    return found[0] if len(found) == 1 else torch.stack(found).sum()


def squared_norm(values: Tensor) -> Tensor:
    """‖v‖² of a tensor of any shape and precision, a float64 scalar on its device."""
    return dot(values, values)


def add_to(total: Tensor, part: Tensor, scale: float = 1.0) -> None:
    """Add scale · part to a float64 total of the same shape in place.

    Args:
        total: contiguous, changed in place.
        part: of any precision; a few of its values at a time are converted.
        scale: the factor of the part.
    """
    flat, values = total.view(-1), part.reshape(-1)
    for low in range(0, len(flat), ADDED_AT_ONCE):
        flat[low : low + ADDED_AT_ONCE].add_(values[low : low + ADDED_AT_ONCE], alpha=scale)
