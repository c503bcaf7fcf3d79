"""Checkpoints on disk and what they give, in one line each: what the tests of the readers share."""

from pathlib import Path

import pytest
import torch

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import (
    Checkpoint,
    CheckpointFile,
    ReadOptions,
    find_checkpoints,
    load_checkpoint,
)

WEIGHTS = {"0.weight": torch.arange(1.0, 7.0).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0])}


def load(path: Path, **options: str | bool) -> Checkpoint:
    """The one checkpoint at the path, which must be usable."""
    reading = ReadOptions(**options)
    return load_checkpoint(find_checkpoints([path], reading)[0], reading)


def refusal(path: Path, kind: type[CheckpointError] = CheckpointError, **options: str | bool) -> str:
    """The message for one file, which is a row with an error, of the kind expected, in one clean line."""
    reading = ReadOptions(**options)
    [file] = find_checkpoints([path], reading)
    assert type(file.error) is kind, file.error
    with pytest.raises(kind):
        load_checkpoint(file, reading)
    return checked(str(file.error), path)


def checked(message: str, path: Path) -> str:
    assert message.isprintable(), message
    assert path.name in message
    assert "weights_only" not in message
    assert ";" in message, "the line must end in what to do next"
    return message


def names(files: list[CheckpointFile]) -> list[str]:
    return [file.name for file in files]
