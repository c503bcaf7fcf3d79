"""The zip archives that torch.save writes: a map of their members that every reader agrees on, or a refusal.

Readers of zip files differ where an archive is not plain: which of two members of one name they take, whether
bytes before or after the archive count, whose sizes they believe. So the layout is checked byte by byte: local
headers in a row from the first byte on, the directory right behind them, its end record the file's last bytes.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Final, NamedTuple, cast

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError
from fisher_cli.inputs.formats.files import COPY_AGAIN, FileBytes
from fisher_cli.text import clipped

ZIP_SIGNATURES: Final = (b"PK\x03\x04", b"PK\x05\x06")
_HEADER: Final = struct.Struct("<4s5H3I2H")
_END: Final = struct.Struct("<4s4H2IH")
_DESCRIPTORS: Final = (struct.Struct("<4s3I"), struct.Struct("<4sI2Q"))
_DESCRIPTOR_SIGNATURE: Final = b"PK\x07\x08"
_ZIP64_END: Final = struct.Struct("<4sQ2H2I4Q")
_ZIP64_LOCATOR: Final = struct.Struct("<4sIQI")
_HAS_DESCRIPTOR: Final = 0x8
_KNOWN_FLAGS: Final = _HAS_DESCRIPTOR | 0x800  # UTF-8 names
_MOST_MEMBERS: Final = 60_000
_RESAVE: Final = "use the original file, or load and save it again with torch"


class Archive(NamedTuple):
    """The members of a zip archive of torch below its one root folder.

    Attributes:
        members: name → (start, end) within the bytes of the file.
        has_checksums: False for a file written with `torch.serialization.set_crc32_options(False)`.
    """

    members: dict[str, tuple[int, int]]
    has_checksums: bool


def open_archive(data: FileBytes) -> Archive:
    """Return the map of a torch archive, after its layout, names and checksums were checked.

    Raises:
        CheckpointError: It is damaged, or not as torch.save writes it.
        UnsafeCheckpointError: It holds code beside weights.
    """
    entries = _directory(data)
    members = [entry for entry in entries if not entry.is_dir()]
    _check_kind([entry.filename for entry in members])
    _check_names([entry.filename for entry in entries])
    for entry in entries:
        if entry.filename != entry.orig_filename:  # cut at a zero, for one reader and not for the other
            raise CheckpointError(_strange(f"a member is called {clipped(entry.orig_filename, 80)}"))
        if entry.volume != 0:
            raise CheckpointError(_strange(f"{clipped(entry.filename, 80)} is on another disk"))
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & ~_KNOWN_FLAGS:
            msg = f"not as torch.save writes it: {clipped(entry.filename)} is compressed or encrypted; {_RESAVE}"
            raise CheckpointError(msg)
    ranges = dict(_ranges(data, entries))
    # Without checksums torch writes zero for every member; damage cannot do that to all of them.
    has_checksums = any(entry.CRC for entry in entries)
    if has_checksums:
        _check_sums(data, members, ranges)
    inside = {entry.filename.partition("/")[2]: ranges[entry.filename] for entry in members}
    return Archive(inside, has_checksums)


def _directory(data: FileBytes) -> list[zipfile.ZipInfo]:
    if len(data) < _END.size:
        raise CheckpointError(_damaged("its end is missing"))
    signature, disk, first_disk, here, total, _, _, comment = _END.unpack(data[-_END.size :])
    if signature != b"PK\x05\x06":
        if data.rfind(b"PK\x05\x06") > 0:
            raise CheckpointError(_strange("something was added to its end"))
        raise CheckpointError(_damaged("its end is missing"))
    if disk or first_disk or comment or here != total:
        raise CheckpointError(_strange("its end record is odd"))
    if total > _MOST_MEMBERS:
        raise CheckpointError(_strange(f"it claims {total} members"))
    try:
        with zipfile.ZipFile(_as_file(data)) as archive:
            entries = archive.infolist()
            start = archive.start_dir
    except Exception as error:  # malformed archives raise half a dozen types
        raise CheckpointError(_damaged("its directory cannot be read")) from error
    if len(entries) != total or not entries:
        raise CheckpointError(_damaged("its directory is incomplete"))
    _check_tail(data, start, total)
    return entries


def _as_file(data: FileBytes) -> IO[bytes]:
    """The bytes as a file; a memory map is one already, and copying it would take as much again."""
    return io.BytesIO(data) if isinstance(data, bytes) else cast(IO[bytes], data)


def _check_tail(data: FileBytes, start: int, total: int) -> None:
    """Check that the directory is followed by nothing but its own end records, and that these tell the truth.

    Raises:
        CheckpointError: Something else stands there.
    """
    position = start
    while data[position : position + 4] == b"PK\x01\x02":
        lengths = struct.unpack_from("<3H", data, position + 28)
        position += 46 + sum(lengths)
    size = position - start
    if data[position : position + 4] == b"PK\x06\x06":
        _, record_size, _, _, *told = _ZIP64_END.unpack_from(data, position)
        locator = _ZIP64_LOCATOR.unpack_from(data, position + _ZIP64_END.size)
        true = [0, 0, total, total, size, start]
        if record_size != _ZIP64_END.size - 12 or told != true or locator != (b"PK\x06\x07", 0, position, 1):
            raise CheckpointError(_strange("its end record is odd"))
        position += _ZIP64_END.size + _ZIP64_LOCATOR.size
    if position != len(data) - _END.size:
        raise CheckpointError(_strange("something was added behind its directory"))
    told_size, told_start = struct.unpack_from("<2I", data, position + 12)
    if told_size not in {size, 0xFFFFFFFF} or told_start not in {start, 0xFFFFFFFF}:
        raise CheckpointError(_strange("its end record is odd"))


def _check_kind(names: list[str]) -> None:
    inside = {name.partition("/")[2] for name in names}
    if any(name.startswith("code/") or name == "constants.pkl" for name in inside):
        msg = (
            "a TorchScript archive, which holds code; convert it where you trust it: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        )
        raise UnsafeCheckpointError(msg)
    if "archive_format" in inside or any(name.startswith("models/") for name in inside):
        msg = (
            "a torch.export archive, which holds a program; convert it where you trust it: "
            "torch.save(torch.export.load(FILE).state_dict, 'weights.pt')"
        )
        raise UnsafeCheckpointError(msg)
    if "data.pkl" not in inside:
        msg = "a zip archive that torch.save did not write; name a file written by torch.save(model.state_dict(), …)"
        raise CheckpointError(msg)


def _check_names(names: list[str]) -> None:
    seen = set()
    for name in names:
        parts = name.removesuffix("/").split("/")
        if "\\" in name or "\0" in name or not name.isprintable() or not {"", ".", ".."}.isdisjoint(parts):
            raise CheckpointError(_strange(f"a member is called {clipped(name, 80)}"))
        if name.casefold() in seen:  # torch's reader ignores case
            raise CheckpointError(_strange(f"{clipped(name, 80)} occurs twice"))
        seen.add(name.casefold())
    if len({name.partition("/")[0] for name in names}) > 1:
        raise CheckpointError(_strange("it has more than one root folder"))


def _ranges(data: FileBytes, entries: list[zipfile.ZipInfo]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each member's place, after its local header was compared with the directory.

    Raises:
        CheckpointError: They differ, members overlap, or bytes lie between them.
    """
    position = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        name = clipped(entry.filename, 80)
        if entry.header_offset != position:
            raise CheckpointError(_strange(f"something was added to it before {name}"))
        try:
            signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _HEADER.unpack_from(
                data, position
            )
        except struct.error as error:
            raise CheckpointError(_damaged(f"{name} is cut")) from error
        start = position + _HEADER.size + name_length + extra_length
        end = start + entry.file_size
        written = data[position + _HEADER.size : position + _HEADER.size + name_length]
        if signature != b"PK\x03\x04" or end > len(data) or entry.compress_size != entry.file_size:
            raise CheckpointError(_damaged(f"{name} is cut"))
        if (flags, method) != (entry.flag_bits, entry.compress_type) or written not in _encodings(entry.orig_filename):
            raise CheckpointError(_damaged(f"{name} has two different headers"))
        if flags & _HAS_DESCRIPTOR:
            end_of_entry = _behind_descriptor(data, end, entry)
        else:
            end_of_entry = end
            # Zip64 sizes stand in the extra field instead.
            if crc != entry.CRC or not {packed, size} <= {entry.file_size, 0xFFFFFFFF}:
                raise CheckpointError(_damaged(f"{name} has two different headers"))
        yield entry.filename, (start, end)
        position = end_of_entry
    if data[position : position + 4] != b"PK\x01\x02":
        raise CheckpointError(_strange("something was added before its directory"))


def _encodings(name: str) -> set[bytes]:
    return {name.encode(codec, "replace") for codec in ("utf-8", "cp437")}


def _behind_descriptor(data: FileBytes, end: int, entry: zipfile.ZipInfo) -> int:
    for layout in _DESCRIPTORS:
        found = data[end : end + layout.size]
        if found == layout.pack(_DESCRIPTOR_SIGNATURE, entry.CRC, entry.file_size, entry.file_size):
            return end + layout.size
        if entry.file_size > 0xFFFFFFFF:
            continue
    raise CheckpointError(_damaged(f"{clipped(entry.filename, 80)} has two different sizes"))


def _check_sums(data: FileBytes, members: list[zipfile.ZipInfo], ranges: dict[str, tuple[int, int]]) -> None:
    view = memoryview(data)
    for entry in members:
        start, end = ranges[entry.filename]
        if zlib.crc32(view[start:end]) != entry.CRC:
            msg = f"damaged: {clipped(entry.filename, 80)} does not fit its checksum; {COPY_AGAIN}"
            raise CheckpointError(msg)


def _damaged(reason: str) -> str:
    return f"a zip archive that is truncated or damaged ({reason}); {COPY_AGAIN}"


def _strange(reason: str) -> str:
    return f"not as torch.save writes it: {reason}; {COPY_AGAIN}"
