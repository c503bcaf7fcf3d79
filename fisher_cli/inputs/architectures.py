"""A name or an import string → the network, and a checkpoint's weights into it, all of them or none.

Code is imported only when the user's own words name it (`--model`); a checkpoint can at most ask for
one of the built-in names.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.checkpoints import Checkpoint
from fisher_cli.inputs.containers import one_line
from fisher_cli.inputs.digits_networks import digits_cnn, digits_mlp
from fisher_cli.inputs.factories import Factory, built, import_factory
from fisher_cli.inputs.pruning import as_expected
from fisher_cli.inputs.weights import clean_names, listed

_BUILT_IN: Final[Mapping[str, Factory]] = {"digits-mlp": digits_mlp, "digits-cnn": digits_cnn}
_BUILT_IN_CLASSES: Final = 10
_IMAGENET_CLASSES: Final = 1000
# Heads that serve training only; a checkpoint of a network built without them has none of these names.
_AUXILIARY: Final = {"googlenet": "aux", "inception_v3": "AuxLogits."}
_DOWNLOADS: Final = frozenset({"weights", "weights_backbone", "pretrained", "pretrained_backbone", "progress"})
_NO_ARGUMENTS: Final[Mapping[str, str]] = MappingProxyType({})
_COUNTER: Final = "num_batches_tracked"  # batch norm has it since torch 0.4.1, and evaluation ignores it
_LISTS: Final = "fisher models lists the names"
_ASK: Final = "pass --model NAME or --model ./file.py:factory"


@dataclass(frozen=True)
class Architecture:
    """A network that can be built; `name` is for the report, `source` says who named it."""

    name: str
    source: str
    build: Callable[[], nn.Module]


def known_models() -> list[str]:
    """Return the names that need no code of the user: the built-in networks and torchvision's classifiers."""
    return [*_BUILT_IN, *torchvision.models.list_models(module=torchvision.models)]


def find_factory(model: str | None, arguments: Mapping[str, str] = _NO_ARGUMENTS) -> Architecture | None:
    """Return the network of the user's own function; None if a checkpoint must say more, as with known names.

    Raises:
        ArchitectureError: The function cannot be imported, or `model` is the name of no known network.
    """
    if model is None:
        return None
    if ":" in model:
        return _imported(model, {key: _parsed(value) for key, value in arguments.items()})
    _check_known(model)
    return None


def find_architecture(
    checkpoint: Checkpoint, *, model: str | None = None, arguments: Mapping[str, str] = _NO_ARGUMENTS
) -> Architecture:
    """Return the network that `model` names, else the one that the checkpoint names.

    Args:
        checkpoint: Its weights tell the number of classes of a known model.
        model: A known model in any case, `package.module:factory`, or `./file.py:factory`.
        arguments: For the factory; values are JSON where they can be read as that, else text.

    Raises:
        ArchitectureError: No name, an unknown name, or a factory that cannot be imported or built from.
    """
    where = one_line(checkpoint.name)
    parsed = {key: _parsed(value) for key, value in arguments.items()}
    refused = _DOWNLOADS.intersection(parsed)
    if model is not None and ":" in model:
        return _imported(model, parsed)
    if refused:
        msg = f"--model-arg {min(refused)}: the weights come from the checkpoint; leave this argument out"
        raise ArchitectureError(msg)
    if model is not None:
        return _known(model, "--model", parsed, checkpoint)
    name = checkpoint.architecture
    if name is None:
        msg = f"{where}: does not say what network it is; {_ASK} ({_LISTS})"
        raise ArchitectureError(msg)
    if name.lower() not in known_models():
        raise ArchitectureError(_unknown_hint(name, where))
    hints = {key: value for key, value in checkpoint.architecture_arguments.items() if key not in _DOWNLOADS}
    return _known(name, "checkpoint", {**hints, **parsed}, checkpoint)


def load_weights(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's weights into the network, in the network's precision.

    Names, shapes and kinds (floating, integer) must agree entirely; only
    `num_batches_tracked` may be missing. Wrappers within the network itself do not matter.

    Raises:
        ArchitectureError: They do not agree, or the network has no storage to copy into.
    """
    where = one_line(checkpoint.name)
    expected = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    unready = [name for name, value in expected.items() if is_lazy(value) or value.is_meta]
    if unready:
        msg = f"the network's {listed(unready)} have no storage; let the factory build them whole, on the CPU"
        raise ArchitectureError(msg)
    given = as_expected(checkpoint.weights, checkpoint.masks, expected)
    names = _matching_names(expected, given)
    problems = _disagreements({name: expected[own] for name, own in names.items()}, given)
    if problems:
        missing = [name for name in names if name not in given]
        remedy = _remedy(list(names), missing, checkpoint)
        msg = f"{where}: weights do not fit the network: {'; '.join(problems)}; {remedy}"
        raise ArchitectureError(msg)
    weights = {own: given[name] for name, own in names.items() if name in given}
    try:
        # Not strict: what is missing has been decided above. Copies in place, so requires_grad stays.
        module.load_state_dict(weights, strict=False)
    except Exception as error:
        msg = f"{where}: the network refuses the weights ({one_line(error)}); check --model"
        raise ArchitectureError(msg) from error


def own_masks(module: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The masks of a pruned checkpoint under the network's own names; none for a network that prunes by itself."""
    names = [name for name, value in module.state_dict().items() if isinstance(value, Tensor)]
    own = dict(zip(clean_names(names), names, strict=True)) | {name: name for name in names}
    return {own[name]: mask for name, mask in checkpoint.masks.items() if name in own}


def _known(model: str, source: str, arguments: Mapping[str, object], checkpoint: Checkpoint) -> Architecture:
    name = model.lower()
    _check_known(model)
    defaults: dict[str, object] = {}
    factory = _BUILT_IN.get(name) or partial(torchvision.models.get_model, name, weights=None)
    if name in _AUXILIARY:
        has_heads = any(key.startswith(_AUXILIARY[name]) for key in checkpoint.weights)
        # Their initialisation takes seconds, and the checkpoint overwrites it.
        defaults = {"aux_logits": has_heads, "init_weights": False}
    complete = {**defaults, **arguments}
    if "num_classes" not in complete:
        usual = _BUILT_IN_CLASSES if name in _BUILT_IN else _IMAGENET_CLASSES
        complete["num_classes"] = _classes(factory, complete, name, usual, checkpoint)
    return Architecture(name, source, partial(built, factory, complete, name))


def _check_known(model: str) -> None:
    names = known_models()
    if model.lower() not in names:
        near = difflib.get_close_matches(model.lower(), names, n=3)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        remedy = f"name its factory: {one_line(model)}:factory" if "." in model else _LISTS
        msg = f"--model {one_line(model)}: unknown; {guess}{remedy}"
        raise ArchitectureError(msg)


def _classes(factory: Factory, arguments: Mapping[str, object], name: str, usual: int, checkpoint: Checkpoint) -> int:
    """Return the rows of the checkpoint's last weight where the default network has one row per class."""
    try:
        with torch.device("meta"):
            network = built(factory, arguments, name)
    except ArchitectureError:  # some RegNets need real numbers while they are built
        network = built(factory, arguments, name)
    heads = [key for key, value in network.state_dict().items() if value.ndim > 1 and value.shape[0] == usual]
    head = checkpoint.weights.get(heads[-1]) if heads else None
    return usual if head is None or head.ndim < 2 else head.shape[0]


def _imported(model: str, arguments: Mapping[str, object]) -> Architecture:
    name, factory = import_factory(model)
    return Architecture(name, "--model", partial(built, factory, dict(arguments), name))


def _unknown_hint(name: str, where: str) -> str:
    shown = one_line(name)
    if any(mark in name for mark in ":/\\") or name.endswith(".py"):
        return (
            f"{where}: asks for the code {shown}, which is never imported on a checkpoint's word; "
            f"if you trust it: --model {shown}"
        )
    near = difflib.get_close_matches(name.lower(), known_models(), n=3)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{where}: names an unknown network, {shown}; {guess}{_ASK} ({_LISTS})"


def _matching_names(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return name in the checkpoint → name in the network."""
    if all(name in weights for name in expected):
        return {name: name for name in expected}
    clean = clean_names(list(expected))
    if len(set(clean)) < len(clean):
        return {name: name for name in expected}
    return dict(zip(clean, expected, strict=True))


def _disagreements(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in expected if name not in weights and name.rpartition(".")[2] != _COUNTER]
    unexpected = [name for name in weights if name not in expected]
    common = [name for name in expected if name in weights]
    shapes = [
        f"{name} {_shape(weights[name])} in the file and {_shape(expected[name])} in the network"
        for name in common
        if weights[name].shape != expected[name].shape
    ]
    kinds = [
        f"{name} {_type(weights[name])} in the file and {_type(expected[name])} in the network"
        for name in common
        if weights[name].is_floating_point() != expected[name].is_floating_point()
    ]
    found = {"missing": missing, "unexpected": unexpected, "shapes differ": shapes, "types differ": kinds}
    return [f"{len(names)} {what}: {listed(names)}" for what, names in found.items() if names]


def _remedy(names: list[str], missing: list[str], checkpoint: Checkpoint) -> str:
    there = checkpoint.weights
    if any(name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in there for name in there):
        return "its masks do not fit: call torch.nn.utils.prune.remove on each pruned tensor and save again"
    if missing:
        ends = [name.removesuffix(missing[0]) for name in there if name.endswith(f".{missing[0]}")]
        needed = [name for name in names if name.rpartition(".")[2] != _COUNTER]
        for prefix in ends:
            if all(prefix + name in there for name in needed):
                key = ".".join(part for part in (checkpoint.state_key, prefix[:-1]) if part)
                return f"its names begin with {one_line(prefix)}: pass --state-key {one_line(key)}"
    return "check --model and --model-arg"


def _parsed(value: str) -> object:
    try:
        return cast("object", json.loads(value))
    except (ValueError, RecursionError):
        return value


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(str(size) for size in tensor.shape)})"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
