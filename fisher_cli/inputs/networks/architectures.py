"""A name, an import string, or names and shapes alone → the network.

Code is imported only when the user's own words name it (`--model`); a checkpoint can at most ask for
a name of a closed list, and gets that only if its weights fit.
"""

import ast
import contextlib
import copy
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from torch import nn

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint
from fisher_cli.inputs.networks.detection import Fit, detect, fit_notes, near_names
from fisher_cli.inputs.networks.families import BUILT_IN, Family
from fisher_cli.inputs.networks.fitting import dropped_notes, find_prefix
from fisher_cli.inputs.networks.huggingface_models import huggingface_model, is_huggingface, why_not
from fisher_cli.inputs.networks.shapes import (
    BeyondFileError,
    Shapes,
    can_be_of,
    hollow,
    refuse_larger,
    shapes_of,
    without_counters,
)
from fisher_cli.inputs.networks.timm_models import PREFIX, TIMM, is_indexed, is_installed
from fisher_cli.inputs.networks.torchvision_models import TORCHVISION
from fisher_cli.inputs.user_code import Factory, built, import_factory, parsed_arguments
from fisher_cli.storage.regular_files import read_regular
from fisher_cli.text import clipped

_DOWNLOADS: Final = frozenset(
    {
        "weights",
        "weights_backbone",
        "pretrained",
        "pretrained_backbone",
        "progress",
        "pretrained_cfg",
        "checkpoint_path",
    }
)
_NO_ARGUMENTS: Final[Mapping[str, str]] = MappingProxyType({})
_LISTS: Final = "fisher models lists the names"
# Of a file with functions: its kinds that build a network, and its bytes.
_MAKERS: Final = (ast.FunctionDef, ast.ClassDef)
_LONGEST_CODE: Final = 2**20
_ASK: Final = "pass --model NAME or --model ./file.py:factory"


@dataclass(frozen=True)
class Architecture:
    """A network that can be built.

    Attributes:
        name: for the report.
        source: who named it: `--model`, `checkpoint` or `detected`.
        build: makes the network with weights of its own, which are to be replaced; ArchitectureError where that fails.
        notes: remarks for the row of the checkpoint: why this network, what no weight shows, what was left out.
    """

    name: str
    source: str
    build: Callable[[], nn.Module]
    notes: tuple[str, ...] = ()


def known_models() -> list[str]:
    """List the names that need no code of the user: the built-in networks and torchvision's classifiers."""
    return [name for family in (*BUILT_IN, TORCHVISION) for name in family.names()]


def find_factory(model: str | None, arguments: Mapping[str, str] = _NO_ARGUMENTS) -> Architecture | None:
    """Find the network of the user's own function, which is imported here and not called.

    Args:
        model: what `--model` says; None for nothing.
        arguments: of the function; texts that are JSON are read as that.

    Returns:
        None if a checkpoint must say more: without `model`, and with a known name.

    Raises:
        ArchitectureError: The function cannot be imported, or `model` is the name of no known network.
    """
    if model is None:
        return None
    if ":" in model and not model.startswith(PREFIX):
        return _imported(model, parsed_arguments(arguments))
    _family(model)
    return None


def find_architecture(
    checkpoint: Checkpoint, *, model: str | None = None, arguments: Mapping[str, str] = _NO_ARGUMENTS
) -> Architecture:
    """Return the network that `model` names, else the one that the checkpoint names, else the one that fits.

    What a checkpoint names is taken only if its names and shapes are this network's.

    Args:
        checkpoint: Its weights tell the number of classes of a known model, and more.
        model: A known model in any case, `timm:name`, `package.module:factory`, or `./file.py:factory`.
        arguments: For the factory; values are JSON where they can be read as that, else text.

    Raises:
        ArchitectureError: No name and nothing that fits, or too much; an unknown name; or a factory that cannot be
            imported or built from.
    """
    parsed = parsed_arguments(arguments)
    if model is not None and ":" in model and not model.startswith(PREFIX):
        return _imported(model, parsed)
    refused = _DOWNLOADS.intersection(parsed)
    if refused:
        msg = f"--model-arg {min(refused)}: the weights come from the checkpoint; leave this argument out"
        raise ArchitectureError(msg)
    if model is not None:
        return _named(model.lower(), "--model", parsed, checkpoint)
    return _huggingface(checkpoint) or _hinted(checkpoint, parsed) or _detected(checkpoint, parsed)


def _huggingface(checkpoint: Checkpoint) -> Architecture | None:
    """Return the image classifier of transformers that the folder's configuration describes, None if it is none."""
    found = huggingface_model(checkpoint)
    if found is None:
        return None
    name, build = found
    return Architecture(name, "checkpoint", build, (f"{name}, built from the keys of config.json that describe it",))


def _hinted(checkpoint: Checkpoint, arguments: Mapping[str, object]) -> Architecture | None:
    """Return the network that the checkpoint names, None if it names none or none of these weights."""
    hint = (checkpoint.architecture or "").lower()
    shapes = shapes_of(checkpoint.weights)
    own = {key: value for key, value in checkpoint.architecture_arguments.items() if key not in _DOWNLOADS}
    if not all(can_be_of(key, value, shapes) for key, value in own.items()):
        return None
    for family in (*BUILT_IN, TORCHVISION, TIMM) if hint else ():
        name = f"{PREFIX}{hint}" if family is TIMM else hint
        if not (is_indexed(name) if family is TIMM else family.knows(name)):
            continue
        try:
            found = _named(name, "checkpoint", {**own, **arguments}, checkpoint, family)
            expected = shapes_of(hollow(found.build, shapes).state_dict())
        except ArchitectureError:
            continue
        prefix = find_prefix(expected, shapes, checkpoint, without_counters(expected)[:1])
        inner = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
        if arguments or all(expected.get(key) == shape for key, shape in inner.items()):
            return found
    return None


def _detected(checkpoint: Checkpoint, arguments: Mapping[str, object]) -> Architecture:
    where, hint = clipped(checkpoint.name), checkpoint.architecture
    fit = detect(checkpoint)
    if fit is not None:
        shapes = shapes_of(checkpoint.weights)
        complete = {**fit.arguments, **arguments}
        return Architecture(
            fit.name,
            "detected",
            _build(fit.family, fit.name, complete),
            (*fit_notes(fit, shapes), *_disbelieved(fit, hint)),
        )
    if hint is not None and hint.lower() in known_models():
        return _named(hint.lower(), "checkpoint", dict(arguments), checkpoint)  # loading says what does not fit
    if hint is not None and is_installed() and TIMM.knows(f"{PREFIX}{hint}"):
        return _named(f"{PREFIX}{hint}", "checkpoint", dict(arguments), checkpoint)
    if hint is not None:
        raise ArchitectureError(_unknown_hint(hint, where))
    if is_huggingface(checkpoint):
        raise ArchitectureError(why_not(checkpoint))
    near = near_names(checkpoint)
    almost = f"; the names are those of {' and '.join(near)}, the shapes are not" if near else ""
    count = len(checkpoint.weights)
    msg = (
        f"{where}: does not say what network it is, and no known network has its {count} names and shapes{almost}; "
        f"{_ASK} ({_LISTS}, fisher inspect --tensors those of the file)"
    )
    raise ArchitectureError(msg)


def _disbelieved(fit: Fit, hint: str | None) -> tuple[str, ...]:
    if hint is None or f"{fit.name}-".startswith(f"{hint.lower()}-"):
        return ()
    return (f"the file calls its network {clipped(hint)}, which was not followed: names and shapes decide",)


def _named(
    name: str, source: str, arguments: Mapping[str, object], checkpoint: Checkpoint, family: Family | None = None
) -> Architecture:
    family = family or _family(name)
    shapes = shapes_of(checkpoint.weights)

    def complete(inner: Shapes) -> dict[str, Any]:
        return {**family.read(name, inner), **arguments}

    def expected(inner: Shapes) -> Shapes:
        # Without storage: what a file asks for is held against its shapes before memory is taken.
        if source == "--model":
            return shapes_of(hollow(_build(family, name, complete(inner))).state_dict())
        try:
            network = hollow(_build(family, name, complete(inner)), shapes)
            refuse_larger(network, shapes)
        except BeyondFileError as error:
            msg = f"{clipped(checkpoint.name)}: calls its network {clipped(name)}, but {error}; {_ASK}"
            raise ArchitectureError(msg) from error
        return shapes_of(network.state_dict())

    # What is missing where names do not fit is told when the weights are loaded.
    least = without_counters(expected({}))[:1]
    prefix = find_prefix(expected, shapes, checkpoint, least)
    inner = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    return Architecture(name, source, _build(family, name, complete(inner)), dropped_notes(prefix, shapes))


def _build(family: Family, name: str, arguments: Mapping[str, object]) -> Callable[[], nn.Module]:
    factory: Factory = partial(family.build, name)
    return partial(built, factory, arguments, name)


def _family(model: str) -> Family:
    """Return the family that knows this name.

    Raises:
        ArchitectureError: none does.
    """
    name = model.lower()
    families = (TIMM,) if name.startswith(PREFIX) else (*BUILT_IN, TORCHVISION)
    for family in families:
        if family.knows(name):
            return family
    names = list(TIMM.names()) if name.startswith(PREFIX) else known_models()
    near = difflib.get_close_matches(name, names, n=3)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    remedy = _function_of(model) if "." in model else _LISTS
    msg = f"--model {clipped(model)}: unknown; {guess}{remedy}"
    raise ArchitectureError(msg)


def _function_of(model: str) -> str:
    """Which function to name; those of a file are read and not run."""
    place = model if model.startswith((".", "/")) or not model.endswith(".py") else f"./{model}"
    names: list[str] = []
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        names = [
            each.name
            for each in ast.parse(read_regular(Path(place), longest=_LONGEST_CODE)).body
            if isinstance(each, _MAKERS)
        ]
    shown = clipped(place)
    if not names:
        return f"name the function that builds the network, as in --model {shown}:make"
    return f"name the function in it that builds the network: --model {shown}:{clipped(names[-1])}"


def _imported(model: str, arguments: Mapping[str, object]) -> Architecture:
    name, factory = import_factory(model)
    return Architecture(name, "--model", partial(built, factory, dict(arguments), name))


def network_given(model: nn.Module | Factory, arguments: Mapping[str, object] = _NO_ARGUMENTS) -> Architecture:
    """The network of a caller in Python: a copy of a module, which stays as it is, or what a function makes.

    Args:
        model: a module of the kind, whatever its weights, or a function.
        arguments: of the function.
    """
    if isinstance(model, nn.Module):
        return Architecture(type(model).__name__, "--model", partial(copy.deepcopy, model))
    name = f"{model.__module__}:{getattr(model, '__qualname__', type(model).__name__)}"
    return Architecture(name, "--model", partial(built, model, dict(arguments), name))


def _unknown_hint(name: str, where: str) -> str:
    shown = clipped(name)
    if any(mark in name for mark in ":/\\") or name.endswith(".py"):
        return (
            f"{where}: asks for the code {shown}, which is never imported on a checkpoint's word; "
            f"if you trust it: --model {shown}"
        )
    near = difflib.get_close_matches(name.lower(), known_models(), n=3)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{where}: names an unknown network, {shown}; {guess}{_ASK} ({_LISTS})"
