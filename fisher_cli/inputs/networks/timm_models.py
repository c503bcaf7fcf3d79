"""timm's classifiers where timm is installed: by `timm:NAME`, or by the names of their weights."""

import contextlib
import gzip
import importlib.util
import re
from functools import cache, partial
from importlib import resources
from types import ModuleType
from typing import Any, Final

from torch import nn

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.networks.families import Family, find_end_layers
from fisher_cli.inputs.networks.shapes import Shapes, hollow
from fisher_cli.inputs.networks.torchvision_models import fingerprint

PREFIX: Final = "timm:"
# One line per fingerprint, followed by the names that have it; nothing of timm is loaded to look one up.
_INDEX: Final = "timm_index.txt.gz"
_NAME: Final = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?", re.ASCII)  # no hub, no folder


@cache
def timm_names() -> tuple[str, ...]:
    """Return timm's names with `timm:` before them, none where timm is not installed."""
    if not is_installed():
        return ()
    return tuple(f"{PREFIX}{name}" for name in _timm().list_models())


def is_installed() -> bool:
    """Return whether timm can be imported, without importing it."""
    return importlib.util.find_spec("timm") is not None


def knows_timm(name: str) -> bool:
    """Return whether timm has a network of this name; loads timm.

    Raises:
        ArchitectureError: timm is not installed.
    """
    bare = name.removeprefix(PREFIX)
    if not is_installed():
        msg = f"--model {name}: timm is not installed; pip install 'fisher-cli[timm]'"
        raise ArchitectureError(msg)
    return _NAME.fullmatch(bare) is not None and bool(_timm().is_model(bare))


def timm_model(name: str, num_classes: int | None = None, in_chans: int = 3, **arguments: Any) -> nn.Module:
    """Return timm's network of this name, never with weights.

    Args:
        name: with or without `timm:`.
        num_classes: outputs of the last layer; None for those of the name's own weights.
        in_chans: channels of the images.
        **arguments: for timm's own function, such as img_size.

    Raises:
        ValueError: no such name.
    """
    bare = name.removeprefix(PREFIX)
    if not knows_timm(bare):
        msg = f"{name}: timm has no network of this name"
        raise ValueError(msg)
    given = arguments if num_classes is None else {**arguments, "num_classes": num_classes}
    network: nn.Module = _timm().create_model(bare, pretrained=False, in_chans=in_chans, **given)
    return network


def read_timm(name: str, shapes: Shapes) -> dict[str, Any]:
    """Return the numbers of classes and channels that the shapes tell."""
    arguments: dict[str, Any] = {}
    ends = find_end_layers(lambda classes: timm_model(name, num_classes=classes))
    if ends.head is not None and ends.head in shapes:
        arguments["num_classes"] = shapes[ends.head][0]
    first = shapes.get(ends.first or "", ())
    if len(first) == len(ends.first_shape) == 4 and first[1] != ends.first_shape[1]:
        arguments["in_chans"] = first[1]
    return arguments


def guess_timm(shapes: Shapes) -> list[str]:
    """Return the indexed names whose networks have exactly these parameter names; none without timm."""
    found = _index().get(fingerprint(shapes), ())
    if not found or not is_installed():
        return []
    return [f"{PREFIX}{name}" for name in found if _timm().is_model(name)]


def make_index() -> str:
    """Return the text of the index for the installed timm: minutes, all networks built without storage.

    Names whose network cannot be built so are left out; `timm:NAME` knows them all the same.
    """
    index: dict[str, list[str]] = {}
    for name in timm_names():
        with contextlib.suppress(Exception):  # whatever the network's own code raises without real tensors
            found = fingerprint(hollow(partial(timm_model, name, num_classes=10)).state_dict())
            index.setdefault(found, []).append(name.removeprefix(PREFIX))
    return "".join(f"{found} {' '.join(names)}\n" for found, names in sorted(index.items()))


@cache
def is_indexed(name: str) -> bool:
    """Return whether the index has this name, with or without a tag; nothing is loaded."""
    bare = name.removeprefix(PREFIX).partition(".")[0]
    return is_installed() and any(bare in names for names in _index().values())


TIMM: Final = Family(
    names=timm_names,
    knows=knows_timm,
    build=timm_model,
    read=read_timm,
    guess=guess_timm,
    describe=lambda name, arguments: ("", ""),  # noqa: ARG005 - the name says it, and who named it knows
)


@cache
def _index() -> dict[str, tuple[str, ...]]:
    text = gzip.decompress((resources.files("fisher_cli.inputs.networks") / _INDEX).read_bytes()).decode()
    lines = [line.split() for line in text.splitlines()]
    return {found: tuple(names) for found, *names in lines}


def _timm() -> ModuleType:
    import timm  # here: it takes seconds

    return timm
