"""Pruned checkpoints: `weight_orig` and `weight_mask` → the weights themselves, and a network that keeps its masks.

That layout is torch.nn.utils.prune's. Where a mask is zero the weight is no parameter: F is restricted to the others.
"""

from collections.abc import Collection, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.weights import stored_bytes
from fisher_cli.inputs.formats.storages import LARGEST_EXPANDED

_ORIGINAL, _MASK = "_orig", "_mask"
# From this share of zeros on a network is worth a remark; training alone hardly makes a weight exactly zero.
_REMARKABLE: Final = 0.01
_LARGEST_PRODUCTS: Final = 2  # times what is stored, which has both weights and masks


class Masked(nn.Module):
    """w ↦ m ∘ w for a mask m of zeros and ones."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weights with those outside of the mask zero."""
        mask: Tensor = self.mask  # type: ignore[assignment]
        return weight * mask


def without_masks(weights: Mapping[str, Tensor], where: str = "") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Each `name_orig` with a `name_mask` of its shape → `name`, their product, and the masks (bool) by `name`.

    Other tensors stay as they are.

    Raises:
        CheckpointError: The products would take far more than what is stored: names share one expanded tensor.
    """
    pairs = [(name, weights.get(name.removesuffix(_MASK) + _ORIGINAL)) for name in weights if name.endswith(_MASK)]
    made = sum(whole.numel() * (whole.element_size() + 1) for name, whole in pairs if whole is not None)
    if made > _LARGEST_PRODUCTS * stored_bytes(weights) + LARGEST_EXPANDED:
        msg = f"{where}: its masks make far more numbers than it stores; save each tensor as .clone() of itself"
        raise CheckpointError(msg)
    masks = {
        name.removesuffix(_MASK): mask.bool()
        for name, mask in weights.items()
        if name.endswith(_MASK) and _fits(weights.get(name.removesuffix(_MASK) + _ORIGINAL), mask)
    }
    dense: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        stem = name.removesuffix(_ORIGINAL)
        if name != stem and stem in masks:
            dense[stem] = tensor.where(masks[stem], torch.zeros_like(tensor))
        elif name.removesuffix(_MASK) not in masks or not name.endswith(_MASK):
            dense[name] = tensor
    return dense, masks


def as_expected(
    weights: Mapping[str, Tensor], masks: Mapping[str, Tensor], expected: Collection[str]
) -> Mapping[str, Tensor]:
    """The weights as a network wants them: one that prunes by itself has `name_orig` and `name_mask` for `name`.

    Args:
        weights: by name, zero where a mask is.
        masks: bool tensors by the names of some of the weights.
        expected: the names that the network has.
    """
    given = dict(weights)
    for name, mask in masks.items():
        if name not in expected and any(other.endswith(name + _ORIGINAL) for other in expected):
            given |= {name + _ORIGINAL: given.pop(name), name + _MASK: mask.to(weights[name].dtype)}
    return given


def _fits(original: Tensor | None, mask: Tensor) -> bool:
    return original is not None and original.shape == mask.shape and bool(((mask == 0) | (mask == 1)).all())


def mask_note(masks: Mapping[str, Tensor]) -> str:
    """What the masks leave out, in words; "" without any."""
    if not masks:
        return ""
    total, left_out = sum(mask.numel() for mask in masks.values()), sum(int((~mask).sum()) for mask in masks.values())
    tensors = f"{len(masks)} tensor{'s' if len(masks) > 1 else ''}"
    return f"pruned: masks of {tensors} leave out {left_out:,} of {total:,} weights, here and in every number"


def zeros_note(weights: Mapping[str, Tensor]) -> str:
    """A remark on exact zeros that no mask explains, in tensors of two dimensions and more that are not all zero."""
    counted = [each for each in weights.values() if each.is_floating_point() and each.ndim > 1 and bool(each.any())]
    total, zeros = sum(each.numel() for each in counted), sum(int((each == 0).sum()) for each in counted)
    if not total or zeros < _REMARKABLE * total:
        return ""
    return f"{zeros / total:.1%} of the weights are exactly zero and no mask says that they are pruned: they count"


def apply_masks(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Make the network compute with m ∘ w in place of each w that has a mask: its gradients vanish outside of it.

    Args:
        module: changed in place; `remove_masks` takes this back.
        masks: tensors of zeros and ones, or truth values, by the names of its parameters and of their shapes.
    """
    for name, mask in masks.items():
        path, _, own = name.rpartition(".")
        holder = module.get_submodule(path)
        like = getattr(holder, own)
        parametrize.register_parametrization(holder, own, Masked(mask.to(like.device, like.dtype)), unsafe=True)


def remove_masks(module: nn.Module) -> None:
    """Give the network its plain parameters back, as they were before `apply_masks`."""
    for holder in list(module.modules()):
        found = getattr(holder, "parametrizations", None)
        if isinstance(found, nn.ModuleDict):
            for own in [own for own, chain in found.items() if isinstance(chain[0], Masked)]:  # type: ignore[index]
                parametrize.remove_parametrizations(holder, own, leave_parametrized=False)


def plain_name(name: str) -> str:
    """A parameter's name as it is without masks: `0.parametrizations.weight.original` is `0.weight`.

    Other names are unchanged.
    """
    return name.removesuffix(".original").replace("parametrizations.", "") if name.endswith(".original") else name
