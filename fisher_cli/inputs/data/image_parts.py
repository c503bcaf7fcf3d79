"""The parts of an image file, counted: Pillow goes from one to the next in Python, however many they are."""

import re
import struct
from typing import Final

from PIL.JpegImagePlugin import MARKER

# Pillow knows formats that run programs (EPS) or unpack without bound (FITS); these are the ones that datasets use.
FORMATS: Final = ("JPEG", "PNG", "WEBP")
# Twice the largest image of ImageNet; some 300 MB while it is decoded.
MOST_PIXELS: Final = 40_000_000
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8\xff"
_CHUNK: Final = struct.Struct(">I4s")
_SEGMENT: Final = struct.Struct(">H")
# An image of 40 million pixels in pieces of 8 KB has a tenth of it.
_MOST_PARTS: Final = 200_000
_MOST_PROFILES: Final = 16  # each of them is unpacked; there should be one
_LONGEST_HEAD: Final = 32 * 2**20  # of a JPEG: colour profiles, previews, depth
_LONGEST_PADDING: Final = 2**20
_NEXT_MARKER: Final = re.compile(rb"[^\xff]*\xff+", re.DOTALL)
_START_OF_SCAN: Final = 0xDA
_NETPBM: Final = re.compile(rb"P[56](?:(?:\s|#[^\r\n]*[\r\n])+[0-9]+){3}\s", re.ASCII)
_LONGEST_NETPBM_HEAD: Final = 4096


def structure_fault(data: bytes) -> str | None:
    """Return in words why these bytes would keep Pillow busy for long, None where they would not.

    Args:
        data: of a PNG, JPEG or Netpbm image; of all others nothing is said.
    """
    if data.startswith(_PNG):
        return _png_fault(data)
    if data.startswith(_JPEG):
        return _jpeg_fault(data)
    if re.match(rb"P[0-7]\s", data):
        return (
            None if _NETPBM.match(data[:_LONGEST_NETPBM_HEAD]) else "a Netpbm image that is not of the kinds P5 or P6"
        )
    return None


def _png_fault(data: bytes) -> str | None:
    position, parts, profiles = len(_PNG), 0, 0
    while position + _CHUNK.size <= len(data):
        length, kind = _CHUNK.unpack_from(data, position)
        position += length + 12
        parts, profiles = parts + 1, profiles + (kind == b"iCCP")
        if parts > _MOST_PARTS:
            return f"a PNG of more than {_MOST_PARTS:,} chunks"
        if profiles > _MOST_PROFILES:
            return "a PNG with many colour profiles"
        if kind == b"IEND":
            break
    return None


def _jpeg_fault(data: bytes) -> str | None:
    """Go from marker to marker up to the picture itself, as Pillow does: what is no marker is skipped byte by byte."""
    position, parts, padding, head = 2, 0, 0, 0
    while parts <= _MOST_PARTS and padding <= _LONGEST_PADDING and head <= _LONGEST_HEAD:
        found = _NEXT_MARKER.match(data, position)
        padding += (len(data) if found is None else found.end() - 1) - position
        if found is None or found.end() >= len(data):
            break
        code, position, parts = data[found.end()], found.end() + 1, parts + 1
        known = MARKER.get(0xFF00 | code)
        if code == _START_OF_SCAN or (known is None and code != 0):
            break
        if known is not None and known[2] is not None and position + 2 <= len(data):
            length = max(2, *_SEGMENT.unpack_from(data, position))
            position, head = position + length, head + length
    if padding > _LONGEST_PADDING:
        return f"a JPEG with more than {_LONGEST_PADDING:,} bytes of padding"
    if head > _LONGEST_HEAD or parts > _MOST_PARTS:
        return f"a JPEG with more than {_LONGEST_HEAD:,} bytes or {_MOST_PARTS:,} parts before its picture"
    return None
