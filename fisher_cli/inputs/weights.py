"""What was saved → named weights: which mapping holds them, the names without wrappers, the types in use."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from fisher_cli.errors import CheckpointError, NoWeightsError
from fisher_cli.inputs.containers import one_line
from fisher_cli.inputs.timeline import EPOCH_KEYS, STEP_KEYS

# In this order: torch examples and Lightning, the PyTorch tutorials, torchvision and nanoGPT, pytorch-cifar,
# DeepSpeed, plain loops.
WEIGHTS_KEYS: Final = ("state_dict", "model_state_dict", "model", "net", "module", "weights")
# torch.compile, FSDP and activation checkpointing; nobody else uses these names.
_PRIVATE_WRAPPERS: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_PARALLEL_WRAPPER: Final = "module"  # DataParallel, DistributedDataParallel, AveragedModel
_AVERAGED: Final = "n_averaged"
_HALF: Final = {torch.float16: "float16", torch.bfloat16: "bfloat16"}
_USABLE: Final = frozenset(
    {torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)
_DEEPEST: Final = 3  # of the levels searched for a hint; a payload may contain itself
_SHOWN: Final = 8


def find_weights(content: object, state_key: str | None, where: str) -> tuple[str, str, Mapping[object, object]]:
    """Return the key of the mapping that holds the weights, the prefix to select in it, and the mapping.

    `state_key` is dotted; parts of it that are no keys select the weights whose names begin with them
    (`state_dict.model` for names like `model.conv1.weight` in `state_dict`).

    Raises:
        NoWeightsError: Nothing there is a mapping of mostly tensors, or nothing is under `state_key`.
    """
    if not isinstance(content, dict):
        msg = f"{where}: holds a {type(content).__name__} and no named weights; save model.state_dict() instead"
        raise NoWeightsError(msg)
    if state_key is not None:
        return _weights_at(content, state_key, where)
    for key in WEIGHTS_KEYS:
        if _is_weights(content.get(key)):
            return key, "", content[key]
    if _is_weights(content):
        return "", "", _without_time(content)
    keys = list(_weights_keys(content))
    remedy = (
        f"choose one with --state-key {one_line(keys[0])}; weights are under {listed(keys)}"
        if keys
        else f"its keys are {listed(list(content)) or 'none'}; name a file that holds the model's weights"
    )
    msg = f"{where}: no weights found; {remedy}"
    raise NoWeightsError(msg)


def clean_names(names: Sequence[str]) -> list[str]:
    """Return the names without the parts that wrappers put into them, in the same order.

    `_orig_mod`, `_fsdp_wrapped_module` and `_checkpoint_wrapped_module` go wherever they stand. `module` goes
    only where it is the single child of its parent, as in a DataParallel: all names that share the
    parts before it have it next. A submodule called `module` that has siblings thus keeps its name.
    """
    split = [[part for part in name.split(".") if part not in _PRIVATE_WRAPPERS] for name in names]
    depth = 0
    while any(len(parts) > depth for parts in split):
        siblings: dict[tuple[str, ...], bool] = {}
        for parts in split:
            if len(parts) > depth:
                is_wrapped = parts[depth] == _PARALLEL_WRAPPER and len(parts) > depth + 1
                parent = tuple(parts[:depth])
                siblings[parent] = siblings.get(parent, True) and is_wrapped
        wrapped = {parent for parent, is_wrapped in siblings.items() if is_wrapped}
        for parts in split:
            if tuple(parts[:depth]) in wrapped and len(parts) > depth:
                del parts[depth]
        depth += not wrapped  # look again at the same depth: wrappers nest
    return [".".join(parts) for parts in split]


def clean_weights(found: Mapping[object, object], prefix: str, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors under clean names in types that networks compute in, and notes on what was changed.

    float16 and bfloat16 become float32. Entries that are no tensors and the counters of averaging are left
    out, with a note.

    Raises:
        CheckpointError: Two names are the same without wrappers, or a tensor is of a type not supported.
        NoWeightsError: No name begins with the prefix.
    """
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    averaged = [key for key, value in tensors.items() if is_averaging_counter(key, value)]
    kept = [key for key in tensors if key not in averaged]
    names = clean_names(kept)
    notes = _notes(found, tensors, averaged, kept, names)
    weights = dict(zip(names, (tensors[key] for key in kept), strict=True))
    if len(weights) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        msg = f"{where}: holds {one_line(twice)} twice, with and without a wrapper; choose with --state-key"
        raise CheckpointError(msg)
    if prefix:
        weights = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
        notes.append(f"only names beginning with {one_line(prefix)} used")
    if not weights:
        msg = f"{where}: no weights' names begin with {one_line(prefix)}; they are {listed(names)}"
        raise NoWeightsError(msg)
    usable = {name: _usable(name, tensor, where) for name, tensor in weights.items()}
    for half, word in _HALF.items():
        count = sum(tensor.dtype is half for tensor in weights.values())
        if count:
            notes.append(f"{count} {word} tensor{'s' if count > 1 else ''} read as float32")
    return usable, notes


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
    """Return the names in one line, cut after eight of them."""
    shown = ", ".join(one_line(name, 80) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, … and {len(names) - _SHOWN} more"


def _weights_at(content: dict[object, object], state_key: str, where: str) -> tuple[str, str, Mapping[object, object]]:
    parts = [part for part in state_key.split(".") if part]
    mapping, used = content, 0
    while used < len(parts) and isinstance(deeper := mapping.get(parts[used]), dict):
        mapping, used = deeper, used + 1
    prefix = ".".join([*parts[used:], ""]) if used < len(parts) else ""
    if _has_tensors(mapping, prefix):
        return ".".join(parts), prefix, _without_time(mapping) if mapping is content else mapping
    keys = ["''" if key == "" else key for key in _weights_keys(content)]
    there = f"weights are under {listed(keys)}" if keys else f"its keys are {listed(list(content)) or 'none'}"
    msg = f"{where}: no weights under --state-key {one_line(state_key)}; {there}"
    raise NoWeightsError(msg)


def _has_tensors(mapping: dict[object, object], prefix: str) -> bool:
    if not prefix:
        return any(isinstance(value, Tensor) for value in mapping.values())
    tensors = [key for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)]
    return any(name.startswith(prefix) for name in clean_names(tensors))


def _is_weights(value: object) -> bool:
    """Return whether this is a mapping of mostly tensors, one of them at least more than a single number."""
    if not isinstance(value, dict):
        return False
    tensors = [entry for key, entry in value.items() if isinstance(key, str) and isinstance(entry, Tensor)]
    return 2 * len(tensors) > len(value) and any(tensor.ndim > 0 for tensor in tensors)


def _weights_keys(content: dict[object, object]) -> Iterator[str]:
    level: list[tuple[str, dict[object, object]]] = [("", content)]
    for _ in range(_DEEPEST + 1):
        deeper: list[tuple[str, dict[object, object]]] = []
        for path, mapping in level:
            if _is_weights(mapping):
                yield path
            elif "param_groups" not in mapping:  # an optimizer's tensors are no weights
                deeper += [
                    (f"{path}.{key}" if path else key, value)
                    for key, value in mapping.items()
                    if isinstance(key, str) and isinstance(value, dict)
                ]
        level = deeper[:1000]


def _without_time(content: Mapping[object, object]) -> Mapping[object, object]:
    """Return the mapping without the step and epoch that some loops store as tensors beside the weights."""
    times = {*STEP_KEYS, *EPOCH_KEYS}
    return {
        key: value
        for key, value in content.items()
        if not (key in times and isinstance(value, Tensor) and value.ndim == 0)
    }


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
    notes += [f"{one_line(key)} dropped: these weights are averages" for key in averaged]
    others = [key for key in found if key not in tensors]
    if others:
        notes.append(f"left out, being no tensors: {listed(others)}")
    return notes


def _usable(name: str, tensor: Tensor, where: str) -> Tensor:
    """Return the tensor as plain float32, float64 or integers.

    Raises:
        CheckpointError: It is of another type or layout.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        kind = "quantized" if tensor.is_quantized else "without data" if tensor.is_meta else layout
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        kind = "expanded: larger than what is stored"
    elif tensor.dtype in _HALF:
        return tensor.detach().float()
    elif tensor.dtype in _USABLE:
        return tensor.detach()
    msg = f"{where}: {one_line(name)} is {kind}, which is not supported; save it as a dense float32 tensor"
    raise CheckpointError(msg)
