"""The ways in which torch writes files, and whether two contents are the same."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from fisher_cli.inputs.formats.containers import Payload, decode

# How files are written: today's archive and the stream of before 1.6, in the default protocol and those of Python 3.
WAYS: list[dict[str, Any]] = [
    {"pickle_protocol": protocol, "_use_new_zipfile_serialization": is_zip}
    for protocol, is_zip in ((2, True), (2, False), (3, True), (4, True), (5, True), (5, False))
]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(str(value) for value in way.values()))


def saved(path: Path, content: object, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, **options)
    return path


def as_bytes(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def read(content: object, **options: Any) -> Payload:
    """What is read of a file that torch has written."""
    return decode(as_bytes(content, **options), Path("a.pt"))


def same(ours: object, theirs: object) -> bool:
    """Whether two contents are equal, tensors bit by bit and in shape, strides, type and layout."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, torch.Tensor)
        if theirs.layout is not torch.strided:
            return ours.layout == theirs.layout and torch.equal(ours.to_dense(), theirs.to_dense())
        kinds = (ours.dtype, ours.shape, ours.stride(), ours.device) == (
            *(theirs.dtype, theirs.shape, theirs.stride(), theirs.device),
        )
        raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (ours, theirs) if not t.is_meta]
        return kinds and (not raw or torch.equal(*raw))
    if isinstance(theirs, dict):
        assert isinstance(ours, dict)
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list | tuple):
        assert isinstance(ours, type(theirs))
        return len(ours) == len(theirs) and all(same(a, b) for a, b in zip(ours, theirs, strict=True))
    return ours == theirs
