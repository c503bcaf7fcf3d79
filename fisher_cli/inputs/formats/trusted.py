"""torch's own loader, which runs what a file says: only for files whose user asked for it with --trust-pickle."""

import argparse
import enum
import io
import pathlib
import types
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import nn

from fisher_cli.errors import UnsafeCheckpointError
from fisher_cli.text import clipped

_DEEPEST: Final = 20  # levels searched for networks and namespaces


def load_trusting(data: bytes) -> object:
    """Return what a torch file holds by importing and running what it names; networks as their state dicts.

    Raises:
        UnsafeCheckpointError: That failed, most often because a class is not importable here.
    """
    try:
        return plain_objects(torch.load(io.BytesIO(data), map_location="cpu", weights_only=False))
    except Exception as error:  # anything may go wrong in code that a file brings along
        msg = (
            f"trusted, and still not readable ({type(error).__name__}: {clipped(error, 120)}); if a module is "
            "missing, name its folder in PYTHONPATH, or save only the weights where it was made"
        )
        raise UnsafeCheckpointError(msg) from error


def plain_objects(value: object, depth: int = 0) -> object:
    """Return networks as state dicts, namespaces as dicts, NumPy's numbers, paths and enumerations as plain values."""
    if isinstance(value, nn.Module):
        return value.state_dict()
    if depth > _DEEPEST:
        return value
    if isinstance(value, enum.Enum):
        return value.value if isinstance(value.value, str | int | float) else value.name
    if isinstance(value, argparse.Namespace | types.SimpleNamespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: plain_objects(entry, depth + 1) for key, entry in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(plain_objects(entry, depth + 1) for entry in value)  # type: ignore[call-arg, attr-defined]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, pathlib.PurePath) else value
