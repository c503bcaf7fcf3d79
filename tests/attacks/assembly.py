"""Pickles and torch archives put together byte by byte, since no writer would write what the attacks need."""

import io
import struct
import zipfile

PROTOCOL = b"\x80\x02"
STOP = b"."
MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def pickled(*parts: bytes, protocol: bytes = PROTOCOL) -> bytes:
    return protocol + b"".join(parts) + STOP


def entries(*pairs: bytes) -> bytes:
    """A dict of keys and values in turns."""
    return b"}(" + b"".join(pairs) + b"u"


def storage(count: int, key: str = "0", kind: str = "FloatStorage", location: str = "cpu") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text(location) + number(count) + b"tQ"


def tensor(
    count: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    offset: int = 0,
    key: str = "0",
    kind: str = "FloatStorage",
) -> bytes:
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage(count, key, kind),
        number(offset),
        numbers(size),
        numbers(stride),
        b"\x89",
        call(name("collections", "OrderedDict")),
    )


def archive(pickle: bytes, members: dict[str, bytes] | None = None, root: str = "archive") -> bytes:
    """A torch archive with this `data.pkl` and further members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        written.writestr(f"{root}/data.pkl", pickle)
        usual = {"byteorder": b"little", "data/0": bytes(64), "version": b"3\n"}
        for member, data in (usual | (members or {})).items():
            written.writestr(f"{root}/{member}", data)
    return buffer.getvalue()


def weights_beside(value: bytes) -> bytes:
    """A pickle of good weights (16 zeros) and, under another key, something else."""
    good = entries(text("w"), tensor(16, (4, 4), (4, 1)))
    return pickled(entries(text("state_dict"), good, text("other"), value))


def legacy(content: bytes, *stored: tuple[int, bytes], keys: list[str] | None = None, machine: bytes = b"") -> bytes:
    """A file of torch.save before 1.6: content, then storages "0", "1", … as count and bytes."""
    version = pickled(b"M\xe9\x03")
    machine = machine or pickled(entries(text("little_endian"), b"\x88"))
    names = [str(index) for index in range(len(stored))] if keys is None else keys
    listed = pickled(b"](" + b"".join(text(key) for key in names) + b"e")
    blocks = b"".join(struct.pack("<q", count) + data for count, data in stored)
    return MAGIC + version + machine + content + listed + blocks
