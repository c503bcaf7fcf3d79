"""Checkpoints made of weights alone, and the one line that an error is."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import Tensor

from fisher_cli.errors import ArchitectureError
from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint
from fisher_cli.results import WeightsKind


def checkpoint(weights: Mapping[str, Tensor], arch: str | None = None, **arguments: object) -> Checkpoint:
    return Checkpoint(
        name="run/a.pt",
        path=Path("run/a.pt"),
        sha256="sha256:00",
        format="torch zip",
        state_key="state_dict",
        weights=dict(weights),
        weights_kind=WeightsKind.RAW,
        step=None,
        epoch=None,
        architecture=arch,
        architecture_arguments=arguments,
        notes=(),
    )


def message(action: Callable[[], object]) -> str:
    """The text of the ArchitectureError that the action raises, in one clean line with a remedy."""
    with pytest.raises(ArchitectureError) as caught:
        action()
    text = str(caught.value)
    assert text.isprintable()
    assert ";" in text
    return text
