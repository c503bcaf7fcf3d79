"""Weights under names → a network: under which prefix they stand, whether they fit, and into it, all or none."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint
from fisher_cli.inputs.checkpoints.pruning import as_expected
from fisher_cli.inputs.checkpoints.weights import clean_names, kept_in_parts, listed
from fisher_cli.inputs.networks.shapes import COUNTER, Shapes, shapes_of, without_counters
from fisher_cli.text import clipped

MOST_TRIED: Final = 256  # networks that are built, without storage, to find the one of a file
_COMPARED: Final = 1000  # names of a file that these are compared with
_NEAREST: Final = 3  # missing names for which the nearest one is said
_DEEPEST_PREFIX: Final = 6  # of the parts before a network's own names: an attribute of a module of a trainer


def by_prefix(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return what stands under each prefix that ends with a dot, and under "", with names that begin after it."""
    found: dict[str, dict[str, tuple[int, ...]]] = {"": dict(shapes)}
    for name, shape in shapes.items():
        parts = name.split(".")
        for depth in range(1, min(len(parts), _DEEPEST_PREFIX + 1)):
            prefix = ".".join(parts[:depth]) + "."
            found.setdefault(prefix, {})[name.removeprefix(prefix)] = shape
    return found


def find_prefix(
    expected: Shapes | Callable[[Shapes], Shapes], shapes: Shapes, checkpoint: Checkpoint, least: Iterable[str]
) -> str:
    """Return the prefix under which all names of the network are, "" where they are without or nowhere.

    Args:
        expected: the network's names and shapes, or what tells them, given those under a prefix.
        shapes: the file's.
        checkpoint: for the error's text.
        least: some names that the network has whatever `expected` is given.

    Raises:
        ArchitectureError: it fits under several prefixes equally.
    """
    anchors, fitting = list(least), []

    def wanted(inner: Shapes) -> Shapes:
        return expected(inner) if callable(expected) else expected

    if all(name in shapes for name in anchors) and _has_all(wanted(shapes), shapes):
        return ""
    under = {prefix: inner for prefix, inner in by_prefix(shapes).items() if all(name in inner for name in anchors)}
    if len(under) > MOST_TRIED:
        msg = f"{clipped(checkpoint.name)}: this network may stand under {len(under)} prefixes; pass --state-key"
        raise ArchitectureError(msg)
    for prefix, inner in under.items():
        if _has_all(own := wanted(inner), inner):
            fitting.append((prefix, is_fit(own, inner)))
    exact = [prefix for prefix, is_exact in fitting if is_exact] or [prefix for prefix, _ in fitting]
    if len(exact) > 1:
        keys = " or ".join(f"--state-key {clipped(state_key(checkpoint, prefix))}" for prefix in exact[:3])
        more = f" ({len(exact)} fit)" if len(exact) > 3 else ""
        msg = f"{clipped(checkpoint.name)}: holds weights of this network more than once; pass {keys}{more}"
        raise ArchitectureError(msg)
    return exact[0] if exact else ""


def is_fit(expected: Shapes, shapes: Shapes) -> bool:
    """Return whether names and shapes agree entirely; only batch norm's counters may be missing."""
    return all(expected.get(name) == shape for name, shape in shapes.items()) and _has_all(expected, shapes)


def state_key(checkpoint: Checkpoint, prefix: str) -> str:
    """Return what --state-key must be to select the names under a prefix."""
    return ".".join(part for part in (checkpoint.state_key, prefix.removesuffix(".")) if part)


def dropped_notes(prefix: str, shapes: Shapes) -> tuple[str, ...]:
    """Return what is to be said about the names that a prefix leaves out: nothing where there is no prefix."""
    if not prefix:
        return ()
    others = [name for name in shapes if not name.startswith(prefix)]
    left = f"; not used: {listed(others)}" if others else ""
    return (f"the network's names stand under {clipped(prefix)}{left}",)


def network_notes(module: nn.Module, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return what of the checkpoint a network that is already built leaves out.

    Raises:
        ArchitectureError: it fits under several prefixes.
    """
    return dropped_notes(_prefix(_own(module), checkpoint), shapes_of(checkpoint.weights))


def load_weights(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's weights into the network, in the network's precision.

    Names, shapes and kinds (floating, integer) must agree entirely; only
    `num_batches_tracked` may be missing. Wrappers within the network itself do not matter, nor does a
    prefix before all of its names; what stands beside that prefix is left out.

    Raises:
        ArchitectureError: They do not agree, or the network has no storage to copy into.
    """
    where = clipped(checkpoint.name)
    expected = _own(module)
    unready = [name for name, value in expected.items() if is_lazy(value) or value.is_meta]
    if unready:
        msg = f"the network's {listed(unready)} have no storage; let the factory build them whole, on the CPU"
        raise ArchitectureError(msg)
    prefix = _prefix(expected, checkpoint)
    given = as_expected(_under(prefix, checkpoint.weights), _under(prefix, checkpoint.masks), expected)
    names = _matching_names(expected, given)
    problems = _disagreements({name: expected[own] for name, own in names.items()}, given)
    if problems:
        msg = f"{where}: weights do not fit the network: {'; '.join(problems)}; {_remedy(checkpoint)}"
        raise ArchitectureError(msg)
    weights = {own: given[name] for name, own in names.items() if name in given}
    try:
        # Not strict: what is missing has been decided above. Copies in place, so requires_grad stays.
        module.load_state_dict(weights, strict=False)
    except Exception as error:
        msg = f"{where}: the network refuses the weights ({clipped(error)}); check --model"
        raise ArchitectureError(msg) from error


def own_masks(module: nn.Module, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the masks of a pruned checkpoint under the network's own names; none for a network that prunes itself."""
    if not checkpoint.masks:
        return {}
    expected = _own(module)
    own = dict(zip(clean_names(list(expected)), expected, strict=True)) | {name: name for name in expected}
    masks = _under(_prefix(expected, checkpoint), checkpoint.masks)
    return {own[name]: mask for name, mask in masks.items() if name in own}


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _prefix(expected: Mapping[str, Tensor], checkpoint: Checkpoint) -> str:
    if any(is_lazy(value) for value in expected.values()):
        return ""  # it has no shape yet
    own = shapes_of(expected)
    clean = dict(zip(clean_names(list(own)), own.values(), strict=True))
    shapes = shapes_of(checkpoint.weights)
    if all(name in shapes for name in without_counters(own)):
        return ""
    return find_prefix(clean, shapes, checkpoint, without_counters(clean)[:1])


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _has_all(expected: Shapes, shapes: Shapes) -> bool:
    return bool(expected) and all(name in shapes for name in without_counters(expected))


def _matching_names(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return name in the checkpoint → name in the network."""
    if all(name in weights for name in expected):
        return {name: name for name in expected}
    clean = clean_names(list(expected))
    if len(set(clean)) < len(clean):
        return {name: name for name in expected}
    return dict(zip(clean, expected, strict=True))


def _disagreements(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    missing = [name for name in expected if name not in weights and name.rpartition(".")[2] != COUNTER]
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
    found = {
        "missing": [f"{name} {_shape(expected[name])}" for name in missing],
        "unexpected": [f"{name} {_shape(weights[name])}" for name in unexpected],
        "shapes differ": shapes,
        "types differ": kinds,
    }
    nearest = _nearest({name: expected[name] for name in missing}, {name: weights[name] for name in unexpected})
    return [f"{len(names)} {what}: {listed(names)}" for what, names in found.items() if names] + nearest


def _nearest(missing: Mapping[str, Tensor], unexpected: Mapping[str, Tensor]) -> list[str]:
    """Return in a line which unexpected names are nearest to the first missing ones, of the same shape if any are."""
    pairs, others = [], dict(islice(unexpected.items(), _COMPARED))
    for name, tensor in islice(missing.items(), _NEAREST):
        same = [other for other, value in others.items() if value.shape == tensor.shape]
        if near := difflib.get_close_matches(name, same or others, n=1, cutoff=0.3 if same else 0.6):
            pairs.append(f"{clipped(near[0], 80)} for {clipped(name, 80)}")
    return [f"nearest names in the file: {', '.join(pairs)}"] if pairs else []


def _remedy(checkpoint: Checkpoint) -> str:
    return kept_in_parts(list(checkpoint.weights)) or "check --model and --model-arg"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(str(size) for size in tensor.shape)})"


def _type(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")
