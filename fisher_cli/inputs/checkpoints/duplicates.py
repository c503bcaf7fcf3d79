"""`last`, `best` and their like → left out where they are a further copy of a checkpoint that is there already."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fisher_cli import text
from fisher_cli.inputs.checkpoints.timeline import is_alias


class PossibleCopy(Protocol):
    """What must be known of a checkpoint to find its copies: its name, and marks that copies share."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def identity(self) -> frozenset[str]: ...  # noqa: D102


_Copy = TypeVar("_Copy", bound=PossibleCopy)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return SHA-256 over names, types, shapes and numbers of all weights, in the order of their names."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode("utf-8", "backslashreplace"))
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return text.digest(found)


def perhaps_copies(files: Sequence[PossibleCopy]) -> frozenset[str]:
    """Return the names that are given to copies; also the folder around a trainer's folders holds the final one."""
    parts = [file.name.split("/") for file in files]
    around = {"/".join(each[:length]) for each in parts for length in range(1, len(each))}
    return frozenset(file.name for file in files if is_alias(file.name) or file.name in around)


def copies(files: Sequence[_Copy], digest: Callable[[_Copy], str | None]) -> dict[str, list[_Copy]]:
    """Return the name of a checkpoint → its copies under names such as `last`.

    Two of them are suspected where they share a mark, and taken for copies where `digest` gives the same hash of
    their weights; it is asked for suspects only, and gives None where they cannot be read. A `last` that is the
    only one with its weights is no copy.
    """
    found: dict[str, list[_Copy]] = {}
    names = perhaps_copies(files)
    aliases = sorted((file for file in files if file.name in names), key=lambda file: file.name)
    kept = [file for file in files if file.name not in names]
    for alias in aliases:
        suspects = [file for file in kept if file.identity & alias.identity]
        own = digest(alias) if suspects else None
        original = next((file for file in suspects if own is not None and digest(file) == own), None)
        if original is None:
            kept.append(alias)
        else:
            found.setdefault(original.name, []).append(alias)
    return found
