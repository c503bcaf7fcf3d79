"""Seeded damage to good files: single bits, bytes, opcodes, and the numbers in zip headers."""

import io
import random
import struct
from argparse import Namespace
from pathlib import PurePosixPath

import numpy as np
import safetensors.torch
import torch
from torch import nn

_OPCODES = bytes(range(0x28, 0x7E)) + bytes(range(0x80, 0x99))
_SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08")
_ODD = (0, 1, 2, 7, 22, 46, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def originals() -> dict[str, bytes]:
    """Good files of every container and pickle protocol, with weights, stand-ins, and sparse and half precision."""
    weights = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0])}
    content = {
        "state_dict": weights,
        "tied": weights["0.weight"],
        "half": torch.ones(3, dtype=torch.bfloat16),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "sparse": torch.eye(2).to_sparse()}}},
        "args": Namespace(rate=0.1, folder=PurePosixPath("a/b"), best=np.float32(0.5)),
        "network": nn.Sequential(nn.Linear(2, 1)),
        "epoch": 3,
    }

    def saved(**options: object) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        return buffer.getvalue()

    return {
        "zip": saved(),
        "zip of protocol 4": saved(pickle_protocol=4),
        "legacy": saved(_use_new_zipfile_serialization=False),
        "safetensors": safetensors.torch.save(weights, metadata={"step": "3"}),
    }


def flipped(data: bytes, draw: random.Random) -> bytes:
    """The data with one bit changed."""
    changed = bytearray(data)
    changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The data with up to three changes, most of them where parsers look."""
    for _ in range(draw.randint(1, 3)):
        data = draw.choice((flipped, _overwritten, _cut, _spliced, _opcodes, _opcodes, _fields, _fields))(data, draw)
    return data


def _overwritten(data: bytes, draw: random.Random) -> bytes:
    position, size = draw.randrange(len(data)), draw.choice((1, 2, 4, 8))
    return data[:position] + draw.randbytes(size) + data[position + size :]


def _cut(data: bytes, draw: random.Random) -> bytes:
    position, size = draw.randrange(len(data)), draw.choice((1, 2, 16, 200))
    return data[:position] + data[position + size :] or b"\0"


def _spliced(data: bytes, draw: random.Random) -> bytes:
    start, position = draw.randrange(len(data)), draw.randrange(len(data))
    return data[:position] + data[start : start + draw.randint(1, 64)] + data[position:]


def _opcodes(data: bytes, draw: random.Random) -> bytes:
    """Changed, new or repeated operations within the first pickle; in safetensors within the header."""
    start = max(data.find(b"\x80\x02}"), data.find(b"\x80\x04\x95"), 8)
    position = draw.randrange(min(start, len(data) - 1), min(start + 1200, len(data)))
    new = bytes(draw.choice(_OPCODES) for _ in range(draw.randint(1, 3)))
    return data[:position] + new + data[position + draw.choice((0, len(new))) :]


def _fields(data: bytes, draw: random.Random) -> bytes:
    """A number in one of the headers of a zip archive, or the length of a safetensors header, made odd."""
    places = [i for signature in _SIGNATURES for i in _all(data, signature)] or [0]
    position = draw.choice(places) + draw.choice((0, 4, 6, 8, 10, 14, 18, 22, 24, 26, 28, 30, 32, 42, 48))
    width, value = draw.choice(("<H", "<I")), draw.choice((*_ODD, len(data), draw.getrandbits(16)))
    new = struct.pack(width, value & (0xFFFF if width == "<H" else 0xFFFFFFFF))
    return data[:position] + new + data[position + len(new) :]


def _all(data: bytes, part: bytes) -> list[int]:
    found, position = [], data.find(part)
    while position >= 0:
        found.append(position)
        position = data.find(part, position + 1)
    return found
