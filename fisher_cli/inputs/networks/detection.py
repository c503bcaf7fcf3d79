"""Names and shapes of a checkpoint → the network that has exactly these; two that fit are never chosen between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint
from fisher_cli.inputs.networks.families import BUILT_IN, Family
from fisher_cli.inputs.networks.fitting import MOST_TRIED, by_prefix, dropped_notes, is_fit, state_key
from fisher_cli.inputs.networks.shapes import Shapes, hollow, shapes_of
from fisher_cli.inputs.networks.timm_models import TIMM
from fisher_cli.inputs.networks.torchvision_models import TORCHVISION
from fisher_cli.inputs.user_code import built
from fisher_cli.text import clipped

# How many networks that fit are named in a refusal.
_SHOWN: Final = 4
# Two networks whose outputs agree so far, in float32, compute the same.
_CLOSE: Final = 1e-5
# Defaults that need not be said to get the same network again.
_UNSAID: Final = frozenset({"shortcut_name", "head_name", "style", "bias", "width", "shortcut", "init_weights"})


@dataclass(frozen=True)
class Fit:
    """A known network that has the names and shapes of a checkpoint.

    Attributes:
        name: of the network.
        family: that it belongs to.
        arguments: with which it has these shapes.
        prefix: before the names in the checkpoint; "" for none.
        shapes: of the weights, by their names without the prefix.
        beside: names of networks that fit as well and compute the same.
    """

    name: str
    family: Family
    arguments: Mapping[str, Any]
    prefix: str
    shapes: Shapes = field(repr=False)
    beside: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """What agrees, and what was read from it."""
        words, _ = self.family.describe(self.name, dict(self.arguments))
        kind = f", {words}" if words else ""
        under = f" under {clipped(self.prefix)}" if self.prefix else ""
        same = f"; {' and '.join(self.beside)} would be the same network" if self.beside else ""
        return f"all {len(self.shapes)} names and shapes{under} are {self.name}'s{kind}; {_ends(self)}{same}"

    @property
    def unseen(self) -> tuple[str, ...]:
        """What no weight shows, as a note; none where the choice is not ours."""
        _, choices = self.family.describe(self.name, dict(self.arguments))
        return (f"weights do not show, and {self.name} assumes: {choices}",) if choices else ()

    def words(self, checkpoint: Checkpoint) -> str:
        """What to type to get this network."""
        said = [
            f" --model-arg {key}={value}"
            for key, value in self.arguments.items()
            if key not in _UNSAID | {"num_classes"}
        ]
        key = f" --state-key {clipped(state_key(checkpoint, self.prefix))}" if self.prefix else ""
        return f"--model {self.name}{''.join(said)}{key}"


def detect(checkpoint: Checkpoint) -> Fit | None:
    """Return the known network that has exactly the checkpoint's names and shapes; None if none has.

    Built-in networks come first, then torchvision's, then timm's where it is installed; no family is loaded
    while an earlier one fits. A prefix before all names is found, and what stands beside it is left out.

    Raises:
        ArchitectureError: several networks fit, or the outputs of the one that fits go into what is left out.
    """
    under = by_prefix(shapes_of(checkpoint.weights))
    for families in (BUILT_IN, (TORCHVISION,), (TIMM,)):
        guesses = [
            (prefix, name, family)
            for prefix, shapes in under.items()
            for family in families
            for name in family.guess(shapes)
        ]
        if len(guesses) > MOST_TRIED:
            msg = (
                f"{clipped(checkpoint.name)}: known networks may stand under {len(guesses)} prefixes; pass --state-key"
            )
            raise ArchitectureError(msg)
        found = ((*each, fits_named(each[1], each[2], under[each[0]])) for each in guesses)
        fits = [
            Fit(name, family, arguments, prefix, under[prefix])
            for prefix, name, family, arguments in found
            if arguments is not None
        ]
        if fits:
            fit = _only(fits, checkpoint)
            _refuse_continued(fit, under[""], checkpoint)
            return fit
    return None


def fits_named(name: str, family: Family, shapes: Shapes) -> dict[str, Any] | None:
    """Return the arguments with which the network of this name has these names and shapes; None if it has not."""
    arguments = family.read(name, shapes)
    return arguments if is_fit(_shapes(name, family, arguments), shapes) else None


def near_names(checkpoint: Checkpoint) -> list[str]:
    """Return known networks that have the checkpoint's names and not its shapes."""
    shapes = shapes_of(checkpoint.weights)
    return [
        name
        for family in (*BUILT_IN, TORCHVISION)
        for name in family.guess(shapes)
        if shapes.keys() <= _shapes(name, family, family.read(name, shapes)).keys()
    ]


def fit_notes(fit: Fit, shapes: Shapes) -> tuple[str, ...]:
    """Return what a row says about a network that was detected: why, what is not seen, what was left out."""
    return (fit.why, *fit.unseen, *dropped_notes(fit.prefix, shapes))


def _shapes(name: str, family: Family, arguments: Mapping[str, Any]) -> Shapes:
    """Return names and shapes of the network with these arguments, nothing if there is no such network."""
    try:
        network = hollow(lambda: built(lambda **given: family.build(name, **given), arguments, name))
    except ArchitectureError:
        return {}
    return shapes_of(network.state_dict())


def _only(fits: Sequence[Fit], checkpoint: Checkpoint) -> Fit:
    """Return the one fit, or the first of several under one prefix that compute the same.

    Raises:
        ArchitectureError: several fit that do not compute the same, or stand under several prefixes.
    """
    first, *others = fits
    expected = _outputs(first, checkpoint.weights) if others else None
    same = [
        each
        for each in others
        if each.prefix == first.prefix
        and expected is not None
        and _is_close(_outputs(each, checkpoint.weights), expected)
    ]
    if len(same) < len(others):
        shown = " or ".join(each.words(checkpoint) for each in fits[:_SHOWN])
        more = f" ({len(fits)} fit)" if len(fits) > _SHOWN else ""
        msg = f"{clipped(checkpoint.name)}: more than one network has these names and shapes; pass {shown}{more}"
        raise ArchitectureError(msg)
    return Fit(first.name, first.family, first.arguments, first.prefix, first.shapes, tuple(each.name for each in same))


def _outputs(fit: Fit, weights: Mapping[str, Tensor]) -> Tensor | None:
    """What the network computes for two random images with these weights; None if it cannot be tried."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = fit.family.build(fit.name, **fit.arguments).eval()
            network.load_state_dict({name: weights[fit.prefix + name] for name in fit.shapes}, strict=False)
            channels, *sides = getattr(network, "default_cfg", {}).get("input_size", (3, 224, 224))
            torch.manual_seed(0)
            outputs = network(torch.randn(2, fit.arguments.get("in_chans", channels), *sides))
            return outputs if isinstance(outputs, Tensor) else None
    except Exception:  # whatever a network's own code raises: what cannot be tried is not shown to be the same
        return None


def _is_close(outputs: Tensor | None, expected: Tensor) -> bool:
    return outputs is not None and outputs.shape == expected.shape and torch.allclose(outputs, expected, _CLOSE, _CLOSE)


def _refuse_continued(fit: Fit, shapes: Shapes, checkpoint: Checkpoint) -> None:
    """Refuse a network whose outputs go into a layer that would be left out: it is a part of another network.

    Raises:
        ArchitectureError: there is such a layer.
    """
    classes = fit.arguments.get("num_classes")
    for name, shape in shapes.items():
        if fit.prefix and not name.startswith(fit.prefix) and len(shape) == 2 and shape[1] == classes:
            msg = (
                f"{clipped(checkpoint.name)}: {fit.why}, and {clipped(name)} seems to take its outputs; "
                f"pass --model ./file.py:factory for the whole, or {fit.words(checkpoint)} for that part alone"
            )
            raise ArchitectureError(msg)


def _ends(fit: Fit) -> str:
    classes, channels = (
        fit.arguments.get("num_classes"),
        fit.arguments.get("in_channels") or fit.arguments.get("in_chans"),
    )
    if channels is None:
        first = next((shape for shape in fit.shapes.values() if len(shape) == 4), None)
        channels = first[1] if first else None
    seen = f", {channels} channel{'s' if channels != 1 else ''}" if channels else ""
    return f"{classes} classes{seen}"
