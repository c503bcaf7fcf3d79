"""What rounding may be on a network: how much moving the parameters' last places changes outputs and gradients."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fisher_cli.curvature.identities.autograd_reference import AutogradReference, Change, norm
from fisher_cli.curvature.torch_backend.finite_differences import moved

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


# Moves of the last places, and how much more than what they change rounding may be.
MOVES, ROUNDINGS = 2, 30


@dataclass(frozen=True)
class MeasuredRounding:
    """Of some examples; `asked` is the unit of rounding of the precision that was asked for."""

    plain: AutogradReference
    asked: float

    @cached_property
    def unit(self) -> float:
        """The unit of rounding of the coarsest numbers that an evaluation makes."""
        return max(self.plain.watched.unit, self.asked)

    @property
    def is_coarse(self) -> bool:
        """Whether a part of the network is evaluated in less than float64, and less than was asked for."""
        return self.plain.watched.unit > max(self.asked, torch.finfo(torch.float64).eps)

    @cached_property
    def of_gradients(self) -> float:
        """Of Jᵀu for a random u, relative, by the worst tensor.

        The median over the examples, as a unit of the network may be exactly at a kink for one of them.
        """
        found = []
        for n in range(len(self.plain)):
            one = self.plain.at(torch.tensor([n]))
            here = self._pulled_back(one)
            errors = []
            for change in self._last_places():
                with moved(one.parameters, change):
                    errors.append(worst_of_vectors([self._pulled_back(one)], [here]).error)
            found.append(max(errors))
        return ROUNDINGS * statistics.median(found)

    def _pulled_back(self, one: AutogradReference) -> dict[str, Tensor]:
        z = one.outputs()
        if not z.requires_grad:
            return {name: torch.zeros_like(parameter) for name, parameter in one.parameters.items()}
        generator = torch.Generator().manual_seed(3)
        return one.gradients(z, torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z))

    @cached_property
    def change_of_outputs(self) -> float:
        """The most that an output changes with the last places."""
        z = self.plain.outputs().detach()
        return max(float((self.plain.outputs_at(change) - z).abs().max()) for change in self._last_places())

    @cached_property
    def of_outputs(self) -> float:
        """Of the outputs, relative to the largest."""
        largest = float(self.plain.outputs().detach().abs().max())
        return ROUNDINGS * self.change_of_outputs / max(largest, 1e-300)

    def _last_places(self) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(4)
        return [
            {
                name: self.unit * parameter.detach() * torch.randn(parameter.shape, generator=generator).to(parameter)
                for name, parameter in self.plain.parameters.items()
            }
            for _ in range(MOVES)
        ]
