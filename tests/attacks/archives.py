"""Archives that two readers could understand differently, or that unpack to more than they are (A12 to A14)."""

import io
import struct
import warnings
import zipfile
from collections.abc import Iterator

import torch

from tests.attacks.assembly import archive, entries, pickled, tensor, text, weights_beside

Attack = tuple[str, bytes]


def saved() -> bytes:
    """What torch.save writes of a few weights."""
    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": torch.arange(16.0).reshape(4, 4)}, "epoch": 1}, buffer)
    return buffer.getvalue()


def archive_attacks() -> Iterator[Attack]:
    """Name and content of each file."""
    for what, content in (
        *_compressed(),
        *_named(),
        *_lies(),
        ("nested", _zipped({"archive/inner.pt": archive(weights_beside(b"N"))})),
        ("no pickle", _zipped({"archive/data/0": bytes(64), "archive/version": b"3"})),
        ("65,000 members", _zipped({"archive/data.pkl": b"N."} | {f"archive/data/{n}": b"" for n in range(65_000)})),
        ("before it", b"#!/bin/sh\n" + saved()),
        ("before it, like an archive", b"PK\x03\x04" + bytes(60) + saved()),
        ("another archive before it", archive(weights_beside(b"N")) + saved()),
        ("behind it", saved() + b"more"),
        ("another archive behind it", saved() + archive(weights_beside(b"N"))),
        ("its end twice", saved() + saved()[-22:]),
        ("blank", bytes(4096)),
        ("end alone", b"PK\x05\x06" + bytes(18)),
        ("start alone", b"PK\x03\x04" + bytes(100)),
    ):
        yield f"archive, {what}.pt", content


def _zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as written:
        for member, data in members.items():
            written.writestr(member, data)
    return buffer.getvalue()


def _compressed() -> Iterator[Attack]:
    large = 1 << 26
    weights = pickled(entries(text("w"), tensor(large // 4, (large // 4,), (1,))))
    members = {"archive/data.pkl": weights, "archive/data/0": bytes(large)}
    yield "a bomb", _zipped(members, zipfile.ZIP_DEFLATED)
    yield "compressed with bzip2", _zipped(members, zipfile.ZIP_BZIP2)
    yield "compressed with lzma", _zipped({"archive/data.pkl": weights, "archive/data/0": bytes(999)}, zipfile.ZIP_LZMA)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        written.writestr("archive/data.pkl", weights_beside(b"N"), zipfile.ZIP_DEFLATED)
        written.writestr("archive/data/0", bytes(64))
    yield "a compressed pickle", buffer.getvalue()


def _named() -> Iterator[Attack]:
    whole = {"data.pkl": weights_beside(b"N"), "data/0": bytes(64)}
    for what, extra in (
        ("a storage twice", "archive/data/0"),
        ("the pickle twice", "archive/data.pkl"),
        ("names that differ in case", "archive/DATA/0"),
        ("two roots", "other/data/0"),
        ("a member without root", "data.pkl"),
        ("a name that goes up", "archive/../../x"),
        ("an absolute name", "/archive/x"),
        ("a name with a backslash", "archive\\x"),
        ("a name with a control character", "archive/x\x1b[31m"),
        ("an empty part of a name", "archive//data/0"),
    ):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as written, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for member, data in whole.items():
                written.writestr(f"archive/{member}", data)
            written.writestr(zipfile.ZipInfo(extra), b"x" * 64)
        yield what, buffer.getvalue()
    zero = archive(weights_beside(b"N"), {"data/xx": b"1"})
    yield "a name with a zero", zero.replace(b"data/xx", b"data/\0x")


def _lies() -> Iterator[Attack]:
    whole = archive(weights_beside(b"N"))
    directory = whole.index(b"PK\x01\x02")
    member = whole.rindex(b"PK\x03\x04", 0, whole.index(b"archive/data/0"))
    entry = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"archive/data/0"))

    def changed(position: int, data: bytes) -> bytes:
        return whole[:position] + data + whole[position + len(data) :]

    yield "encrypted", changed(entry + 8, b"\x01")
    yield (
        "encrypted in both headers",
        changed(entry + 8, b"\x01")[: member + 6] + b"\x01" + changed(entry + 8, b"\x01")[member + 7 :],
    )
    yield "another name in front of the data", whole.replace(b"archive/data/0", b"archive/data/9", 1)
    yield "another size in front of the data", changed(member + 18, struct.pack("<2I", 65, 65))
    yield "another checksum in front of the data", changed(member + 14, b"\0\0\0\1")
    yield "a size beyond the file", changed(entry + 20, struct.pack("<2I", 1 << 30, 1 << 30))
    yield "another unpacked size", changed(entry + 24, struct.pack("<I", 1 << 20))
    yield "a size that needs 64 bits and has none", changed(entry + 20, b"\xff" * 8)
    yield "two members in one place", changed(entry + 42, struct.pack("<I", 0))
    yield "a place beyond the file", changed(entry + 42, struct.pack("<I", 1 << 30))
    yield "a wrong checksum", changed(whole.index(bytes(64)), b"\1")
    end = len(whole) - 22
    yield "fewer members than there are", changed(end + 8, struct.pack("<2H", 2, 2))
    yield "more members than there are", changed(end + 8, struct.pack("<2H", 9, 9))
    yield "a second disk", changed(end + 4, struct.pack("<2H", 1, 1))
    yield "a directory elsewhere", changed(end + 16, struct.pack("<I", directory - 46))
    yield "a larger directory", changed(end + 12, struct.pack("<I", end - directory + 46))
    yield "a comment", changed(end + 20, struct.pack("<H", 5)) + b"hello"
    yield "a gap between members", _gap(whole, member)
    written = saved()
    locator = written.rindex(b"PK\x06\x06")
    yield (
        "another count in the zip64 record",
        written[: locator + 24] + struct.pack("<2Q", 2, 2) + written[locator + 40 :],
    )
    yield "another place in the zip64 record", written[: locator + 48] + struct.pack("<Q", 7) + written[locator + 56 :]
    descriptor = written.rindex(b"PK\x07\x08")
    yield "another size behind the data", written[: descriptor + 8] + b"\1\0\0\0" + written[descriptor + 12 :]


def _gap(whole: bytes, member: int) -> bytes:
    """The archive with eight bytes before one member that no header accounts for."""
    moved = bytearray(whole[:member] + b"#!/bin/s" + whole[member:])
    position = moved.index(b"PK\x01\x02")
    (start,) = struct.unpack_from("<I", moved, len(moved) - 6)
    struct.pack_into("<I", moved, len(moved) - 6, start + 8)
    while moved[position : position + 4] == b"PK\x01\x02":
        (offset,) = struct.unpack_from("<I", moved, position + 42)
        struct.pack_into("<I", moved, position + 42, offset + 8 * (offset >= member))
        position += 46 + sum(struct.unpack_from("<3H", moved, position + 28))
    return bytes(moved)
