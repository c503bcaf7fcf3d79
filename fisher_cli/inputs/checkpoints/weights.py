"""Tensors as they were saved → weights under clean names, in types that networks compute in."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError, NoWeightsError
from fisher_cli.inputs.formats.storages import LARGEST_EXPANDED
from fisher_cli.text import clipped

# torch.compile, FSDP and activation checkpointing; nobody else uses these names.
_PRIVATE_WRAPPERS: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_PARALLEL_WRAPPER: Final = "module"  # DataParallel, DistributedDataParallel, AveragedModel
_AVERAGED: Final = "n_averaged"
_HALF: Final = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
_INTEGERS: Final = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
_USABLE: Final = frozenset({torch.float32, torch.float64, torch.bool, *_INTEGERS})
# What tools for quantized networks store beside integers: GPTQ and AWQ, bitsandbytes, torch.
_OF_QUANTIZED: Final = ("qweight", "qzeros", "SCB", "absmax", "quant_map", "_packed_params", "zero_point")
_WEIGHT: Final = "weight"
_PARAMETRIZED: Final = "parametrizations"
_SHOWN: Final = 8
_LARGEST_COPIES: Final = 4  # times what is stored; float16 to float32 takes two
# Times what is stored: names may share tensors, as layers that are used again do, and each is looked through.
_MOST_SHARED: Final = 32
_LOOKED_THROUGH: Final = 1 << 30  # bytes, which take no time


def clean_names(names: Sequence[str]) -> list[str]:
    """Return the names without the parts that wrappers put into them, in the same order.

    `_orig_mod`, `_fsdp_wrapped_module` and `_checkpoint_wrapped_module` go wherever they stand. `module` goes
    only where it is the single child of its parent, as in a DataParallel: all names that share the
    parts before it have it next. A submodule called `module` that has siblings thus keeps its name.
    """
    split = [[part for part in name.split(".") if part not in _PRIVATE_WRAPPERS] for name in names]
    kept: list[list[str]] = [[] for _ in split]
    # Names that share the parts kept so far have one number, their parent's; every part is looked at once.
    parents, depth = dict.fromkeys(range(len(split)), 0), 0
    while parents := {index: parent for index, parent in parents.items() if len(split[index]) > depth}:
        others: set[int] = set()
        for index, parent in parents.items():
            if split[index][depth] != _PARALLEL_WRAPPER or len(split[index]) == depth + 1:
                others.add(parent)
        numbers: dict[tuple[int, str], int] = {}
        for index, parent in parents.items():
            if parent in others:
                part = split[index][depth]
                kept[index].append(part)
                parents[index] = numbers.setdefault((parent, part), len(numbers))
            else:
                parents[index] = numbers.setdefault((parent, ""), len(numbers))
        depth += 1
    return [".".join(parts) for parts in kept]


def clean_weights(
    found: Mapping[object, object], prefix: str, where: str
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Return the tensors under clean names in types that networks compute in, their stored types, and notes.

    float16 and bfloat16 become float32, and expanded tensors their own. Entries that are no tensors and the counters
    of averaging are left out, with a note.

    Raises:
        CheckpointError: Two names are the same without wrappers, a tensor is of a type not supported, or all of them
            together are far larger than what is stored.
        NoWeightsError: No name begins with the prefix.
    """
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    averaged = [key for key, value in tensors.items() if is_averaging_counter(key, value)]
    kept = [key for key in tensors if key not in averaged]
    names = clean_names(kept)
    notes = _notes(found, tensors, averaged, kept, names)
    weights = dict(zip(names, (tensors[key] for key in kept), strict=True))
    if len(weights) < len(names):
        (twice, _), *_ = Counter(names).most_common(1)
        msg = f"{where}: holds {clipped(twice)} twice, with and without a wrapper; choose with --state-key"
        raise CheckpointError(msg)
    if prefix:
        weights = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
        notes.append(f"only names beginning with {clipped(prefix)} used")
    if not weights:
        msg = f"{where}: no weights' names begin with {clipped(prefix)}; they are {listed(names)}"
        raise NoWeightsError(msg)
    _check_work(weights, where)
    copies = _Copies(weights)
    usable = {name: _usable(name, tensor, where, copies) for name, tensor in weights.items()}
    for half, word in _HALF.items():
        count = sum(tensor.dtype is half for tensor in weights.values())
        if count:
            notes.append(f"{count} {word} tensor{'s' if count > 1 else ''} read as float32")
    return usable, {name: _type(tensor) for name, tensor in weights.items()}, notes


def kept_in_parts(names: Sequence[str]) -> str:
    """Return what to do about weights that are saved as the parts they are computed from; "" where there are none.

    Pruning saves `weight_orig` and `weight_mask`; weight norm `weight_g` and `weight_v`; every newer
    parametrization `parametrizations.weight.original…`.
    """
    there = set(names)

    def pair(first: str, second: str) -> bool:
        return any(n.endswith(first) and f"{n.removesuffix(first)}{second}" in there for n in names)

    if pair("_orig", "_mask"):
        return "it is pruned: call torch.nn.utils.prune.remove on each pruned tensor and save again"
    old, new = pair("_g", "_v"), any(_PARAMETRIZED in n.split(".") for n in names)
    if not (old or new):
        return ""
    call = "torch.nn.utils.remove_weight_norm" if old else "torch.nn.utils.parametrize.remove_parametrizations"
    kind = "weight norm" if old else "a parametrization"
    return f"it is saved with {kind}: give --model a network that has it too, or call {call} and save again"


def is_averaging_counter(name: object, value: object) -> bool:
    """Return whether this is the counter that AveragedModel keeps beside the averaged weights."""
    return (
        isinstance(name, str) and name.rpartition(".")[2] == _AVERAGED and isinstance(value, Tensor) and value.ndim == 0
    )


def nonfinite_names(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that contain NaN or infinity."""
    return [
        name
        for name, tensor in weights.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


def listed(names: Sequence[object]) -> str:
    """The names in one line, cut after eight of them; for messages."""
    shown = ", ".join(clipped(name, 80) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, … and {len(names) - _SHOWN} more"


def _notes(
    found: Mapping[object, object],
    tensors: Mapping[str, Tensor],
    averaged: Sequence[str],
    kept: Sequence[str],
    names: Sequence[str],
) -> list[str]:
    notes = []
    wrappers = {*_PRIVATE_WRAPPERS, _PARALLEL_WRAPPER}
    removed = {
        part
        for key, name in zip(kept, names, strict=True)
        for part in wrappers.intersection(key.split("."))
        if key.split(".").count(part) > name.split(".").count(part)
    }
    notes += [f"wrapper {part}. removed from names" for part in sorted(removed)]
    notes += [f"{clipped(key)} dropped: these weights are averages" for key in averaged]
    others = [key for key in found if key not in tensors]
    if others:
        notes.append(f"left out, being no tensors: {listed(others)}")
    return notes


def stored_bytes(weights: Mapping[str, Tensor]) -> int:
    """Return the bytes that the tensors are on, each once."""
    stored = {
        storage.data_ptr(): storage.nbytes()
        for storage in (tensor.untyped_storage() for tensor in weights.values() if _is_dense(tensor))
    }
    return sum(stored.values())


def _check_work(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors whose numbers, counted under every name, are far more than what is stored.

    Raises:
        CheckpointError: They are.
    """
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values() if _is_dense(tensor))
    if total > _MOST_SHARED * stored_bytes(weights) + _LOOKED_THROUGH:
        msg = f"{where}: its {len(weights)} tensors share too few bytes; save each tensor as .clone() of itself"
        raise CheckpointError(msg)


class _Copies:
    """Dense copies of tensors: one for several names of the same, and together bounded by what is stored."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._left = _LARGEST_COPIES * stored_bytes(weights) + LARGEST_EXPANDED
        self._made: dict[object, Tensor] = {}

    def of(self, tensor: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return a copy of this type in memory of its own, or None where that would be too much."""
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, dtype
        if place not in self._made:
            self._left -= tensor.numel() * dtype.itemsize
            if self._left < 0:
                return None
            dense = tensor.detach().to(dtype)
            self._made[place] = dense.contiguous() if _is_expanded(dense) else dense
        return self._made[place]


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)


def _is_expanded(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _usable(name: str, tensor: Tensor, where: str, copies: _Copies) -> Tensor:
    """Return the tensor as plain float32, float64, integers or truth values.

    Raises:
        CheckpointError: It is of another type or layout, or too large beside what is stored.
    """
    kind = _type(tensor)
    remedy = "save it as a dense float32 tensor"
    last = name.rpartition(".")[2]
    if last in _OF_QUANTIZED or (last == _WEIGHT and tensor.dtype in _INTEGERS):
        kind, remedy = f"{kind}, part of a quantized network", "name a checkpoint from before it was quantized"
    elif not _is_dense(tensor):
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        kind = "quantized" if tensor.is_quantized else "without data" if tensor.is_meta else layout
        remedy = "dequantize it: tensor.dequantize()" if tensor.is_quantized else remedy
    elif tensor.dtype in _HALF or (tensor.dtype in _USABLE and _is_expanded(tensor)):
        copy = copies.of(tensor, torch.float32 if tensor.dtype in _HALF else tensor.dtype)
        if copy is not None:
            return copy
        kind = "expanded, far larger than what is stored"
    elif tensor.dtype in _USABLE:
        return tensor.detach()
    msg = f"{where}: {clipped(name)} is {kind}, which is not supported; {remedy}"
    raise CheckpointError(msg)
