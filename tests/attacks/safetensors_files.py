"""Safetensors files that break one rule each (A16)."""

import json
import struct
from collections.abc import Iterator

Attack = tuple[str, bytes]


def written(header: bytes, data: bytes = bytes(64), length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def safetensors_attacks() -> Iterator[Attack]:
    """Name and content of each file."""

    def of(**tensors: object) -> bytes:
        return written(json.dumps(tensors).encode())

    def entry(begin: int, end: int, shape: list[int], dtype: object = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    whole = entry(0, 64, [4, 4])
    text = json.dumps({"w": whole}).encode()
    for what, content in {
        "a header of no bytes": written(b"{" + text[1:], length=0),
        "a header beyond the file": written(text, length=len(text) + 65),
        "a header of 2⁶³ bytes": written(text, length=1 << 63),
        "a header of 20 MB": written(b"{" + b" " * 20_000_000 + text[1:]),
        "spaces alone": written(b"{" + b" " * 1000),
        "a key twice": written(b'{"w":' + json.dumps(whole).encode() + b',"w":' + json.dumps(whole).encode() + b"}"),
        "a shape twice": written(text.replace(b'"dtype"', b'"shape": [16], "dtype"')),
        "overlap": of(a=entry(0, 40, [10]), b=entry(36, 64, [7])),
        "the same bytes twice": of(a=whole, b=whole),
        "a gap": of(a=entry(0, 28, [7]), b=entry(32, 64, [8])),
        "a gap at its start": of(a=entry(4, 64, [15])),
        "a tail": of(a=entry(0, 60, [15])),
        "data beyond its end": of(a=entry(0, 128, [32])),
        "a place backwards": of(a=entry(64, 0, [16])),
        "a shape beyond 2⁶⁴": of(a=entry(0, 64, [2, (1 << 64) - 2])),
        "a shape whose product is 16 in 64 bits": of(a=entry(0, 64, [1 << 32, 1 << 32, 16])),
        "another shape": of(a=entry(0, 64, [4, 5])),
        "a negative shape": of(a=entry(0, 64, [-4, -4])),
        "a shape of fractions": of(a=entry(0, 64, [4.0, 4])),
        "a shape of truth values": of(a=entry(0, 64, [True, 16])),
        "100 dimensions": of(a=entry(0, 64, [1] * 100 + [16])),
        "an unknown type": of(a=entry(0, 64, [16], "Q32")),
        "a type of four bits": of(a=entry(0, 64, [128], "F4")),
        "eight-bit floats": of(a=entry(0, 64, [64], "F8_E4M3")),
        "a type that is no text": of(a=entry(0, 64, [16], 7)),
        "metadata that are no text": of(w=whole, __metadata__={"step": 7}),
        "metadata that are a list": of(w=whole, __metadata__=[]),
        "another member": of(w=whole | {"code": "x"}),
        "no place": of(w={"dtype": "F32", "shape": [16]}),
        "a list": written(b'{"w": [1, 2]}'),
        "not UTF-8": written(text.replace(b"w", b"\xff")),
        "not JSON": written(b"{w: 1}"),
        "200,000 brackets": written(b'{"w":' + b"[" * 200_000),
        "a number of 5,000 digits": written(text.replace(b"16", b"1" * 5000).replace(b"4", b"9" * 5000)),
        "not a number": written(text.replace(b"64]", b"NaN]")),
        "200,000 tensors": of(**{str(index): entry(0, 0, [0]) for index in range(200_000)}),
    }.items():
        yield f"{what}.safetensors", content
