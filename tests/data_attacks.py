"""Files of data that are hostile, damaged or merely odd. Each maker writes below a folder and returns what to load."""

import io
import os
import pickle  # noqa: TID251  # written here, never to be read
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.attacks.code import Canary
from tests.data_files import random_images, save_image, write_mnist
from tests.torchvision_layouts import pcam

Maker = Callable[[Path], str]
PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 0, data: bytes | None = None) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    row = 1 + (width * depth * {0: 1, 2: 3}[colour] + 7) // 8
    data = zlib.compress(bytes(row * height), 9) if data is None else data
    return PNG + chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def image(name: str, content: Callable[[], bytes]) -> Maker:
    """The bytes as an image in a class folder."""

    def make(folder: Path) -> str:
        path = folder / "images" / "class" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content())
        return f"folder:{folder / 'images'}"

    return make


def saved(mode: str, format: str, size: tuple[int, int] = (8, 6), **options: object) -> Callable[[], bytes]:
    """An image of that mode as Pillow saves it."""

    def content() -> bytes:
        file = io.BytesIO()
        pixels = Image.fromarray(random_images(1, size[1], size[0], 3)[0])
        made = pixels.convert(mode) if mode not in {"I;16", "F"} else Image.new(mode, size, 40_000)
        made.save(file, format=format, **options)
        return file.getvalue()

    return content


def frames(format: str) -> Callable[[], bytes]:
    def content() -> bytes:
        file = io.BytesIO()
        first, second = (Image.fromarray(random_images(1, 6, 8, 3, seed=seed)[0]) for seed in (0, 1))
        first.save(file, format=format, save_all=True, append_images=[second])
        return file.getvalue()

    return content


def cut(content: Callable[[], bytes], share: float) -> Callable[[], bytes]:
    return lambda: content()[: int(len(content()) * share)]


def jpeg_header(side: int) -> bytes:
    data = bytearray(saved("RGB", "JPEG")())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


def webp_canvas() -> bytes:
    head = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_382).to_bytes(3, "little") * 2
    return b"RIFF" + struct.pack("<I", 4 + len(head)) + b"WEBP" + head


def many_texts() -> bytes:
    text = chunk(b"iTXt", b"k\0\0\0\0\0" + b"x" * 20)
    return png(8, 6, *[text] * 100_000, colour=2)


def text_bomb() -> bytes:
    packed = zlib.compress(bytes(2**27), 9)
    return png(8, 6, chunk(b"zTXt", b"k\0\0" + packed), chunk(b"iCCP", b"p\0\0" + packed), colour=2)


def special(kind: str, name: str) -> Maker:
    def make(folder: Path) -> str:
        in_folder = name.endswith(".png")
        path = folder / "images" / "class" / name if in_folder else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        elif kind == "folder":
            path.mkdir()
        elif kind == "sparse":
            with open(path, "wb") as file:
                file.write(b"index,label\n")
                file.truncate(1 << 40)
        else:
            path.symlink_to({"device": "/dev/zero", "loop": path, "nothing": folder / "gone"}[kind])
        return f"folder:{folder / 'images'}" if in_folder else str(path)

    return make


def npz(members: Callable[[], dict[str, bytes]], packing: int = zipfile.ZIP_STORED) -> Maker:
    def make(folder: Path) -> str:
        with zipfile.ZipFile(folder / "data.npz", "w", packing) as archive:
            for name, content in members().items():
                archive.writestr(name, content)
        return str(folder / "data.npz")

    return make


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape: object, dtype: str = "|u1", fortran: bool = False) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}, }}"
    text += " " * (64 - (len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


LABELS = {"labels.npy": npy(np.arange(4))}


def lying(shape: object, dtype: str = "|u1", body: int = 64, fortran: bool = False) -> Maker:
    return npz(lambda: {"images.npy": header(shape, dtype, fortran) + bytes(body), **LABELS})


def changed(make: Maker, change: Callable[[bytearray], bytearray]) -> Maker:
    """The file that another maker makes, changed."""

    def make_changed(folder: Path) -> str:
        path = Path(make(folder))
        path.write_bytes(change(bytearray(path.read_bytes())))
        return str(path)

    return make_changed


def flip(share: float) -> Callable[[bytearray], bytearray]:
    def change(data: bytearray) -> bytearray:
        data[int(len(data) * share)] ^= 4
        return data

    return change


def good_npz(folder: Path) -> str:
    np.savez(folder / "data.npz", images=random_images(4, 40, 40, 3), labels=np.arange(4))
    return str(folder / "data.npz")


def doubled(folder: Path) -> str:
    path = Path(good_npz(folder))
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own remark on the name
        archive.writestr("labels.npy", npy(np.zeros(4, dtype=np.int64)))
    return str(path)


def one_huge_example(folder: Path) -> str:
    with zipfile.ZipFile(folder / "data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w") as stream:
            stream.write(header((1, 2**14, 5 * 2**12)))
            for _ in range(5 * 2**26 // 2**20):
                stream.write(bytes(2**20))
        archive.writestr("labels.npy", npy(np.arange(1)))
    return str(folder / "data.npz")


def written(name: str, content: Callable[[Path], bytes]) -> Maker:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content(folder))
        return str(folder / name)

    return make


def torch_file(content: Callable[[Path], object]) -> Maker:
    def make(folder: Path) -> str:
        torch.save(content(folder), folder / "data.pt")
        return str(folder / "data.pt")

    return make


def parquet(columns: Callable[[], dict[str, object]], **options: object) -> Maker:
    def make(folder: Path) -> str:
        pq.write_table(pa.table(columns()), folder / "data.parquet", **options)
        return str(folder / "data.parquet")

    return make


def cells(count: int = 40) -> list[dict[str, object]]:
    return [{"bytes": saved("RGB", "PNG")(), "path": "a.png"}] * count


good_parquet = parquet(lambda: {"image": cells(), "label": list(range(40))}, write_page_checksum=True)


def repeated_value(folder: Path) -> str:
    """A value of 30 MB that is stored once and stands in 2,000 rows: 60 GB."""
    column = pa.DictionaryArray.from_arrays(np.zeros(2000, dtype=np.int32), pa.array([bytes(30_000_000)]))
    table = pa.table({"image": column, "label": list(range(2000))})
    options = {"dictionary_pagesize_limit": 2**26, "compression": "zstd", "store_schema": False}
    pq.write_table(table, folder / "data.parquet", **options)
    return str(folder / "data.parquet")


def lying_arrow(folder: Path) -> str:
    path, offsets = folder / "data.arrow", struct.pack("<3i", 0, 4, 11)
    table = pa.table({"image": pa.array([b"1234", b"5678901"]), "label": [0, 1]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    data = path.read_bytes()
    assert data.count(offsets) == 1
    path.write_bytes(data.replace(offsets, struct.pack("<3i", 0, 2**31 - 8, 2**31 - 4)))
    return f"hf:{path}"


def behind_a_hole(make: Maker) -> Maker:
    """The file that another maker makes, behind a tebibyte that was never written."""

    def make_sparse(folder: Path) -> str:
        path = Path(make(folder))
        content = path.read_bytes()
        with open(path, "wb") as file:
            file.seek(1 << 40)
            file.write(content)
        return str(path)

    return make_sparse


def raw_npz(content: Callable[[], bytes]) -> Maker:
    return written("data.npz", lambda _: content())


def long_directory() -> bytes:
    """An archive whose directory has as many bytes as a hundred thousand members need."""
    directory = 9 * 2**20
    return bytes(directory) + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, directory, 0, 0)


def endless_directory() -> bytes:
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 9, 9, 2**40, 0)
    return end + locator + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 9, 9, 2**32 - 1, 2**32 - 1, 0)


def many_members(folder: Path) -> str:
    with zipfile.ZipFile(folder / "data.npz", "w") as archive:
        for i in range(3000):
            archive.writestr(f"{i}.npy", b"")
    return str(folder / "data.npz")


def long_header(version: int = 2) -> bytes:
    """An array whose header says that it is 2 GiB long."""
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", 2**31) + bytes(64)


def packed_zeros(count: int, *, head: bytes | None = None) -> Callable[[], dict[str, bytes]]:
    """Labels that are packed to a thousandth, and as many inputs without a number."""
    return lambda: {
        "x.npy": header((count, 0), "<f4") if head is None else head,
        "y.npy": header((count,)) + bytes(count),
    }


def one_large_value(kind: str, packing: str, name: str = "data.arrow", size: int = 300_000_000) -> Maker:
    """A table with a value of so many bytes, which is packed to a few."""

    def make(folder: Path) -> str:
        table = pa.table({"image": pa.array([bytes(size), b"x"], pa.large_binary()), "label": [0, 1]})
        path = folder / name
        if kind == "parquet":
            pq.write_table(table, path, compression=packing, use_dictionary=False)
            return str(path)
        options = pa.ipc.IpcWriteOptions(compression=packing)
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, new(file, table.schema, options=options) as writer:
            writer.write_table(table)
        return f"hf:{path}"

    return make


def large_dictionary(folder: Path) -> str:
    column = pa.DictionaryArray.from_arrays(np.zeros(3, dtype=np.int32), pa.array([bytes(300_000_000)]))
    table = pa.table({"image": column, "label": [0, 1, 2]})
    options = {"dictionary_pagesize_limit": 2**30, "compression": "zstd", "store_schema": False}
    pq.write_table(table, folder / "data.parquet", **options)
    return str(folder / "data.parquet")


def page_header(head: bytes) -> Maker:
    """A table whose first page of images has another header."""

    def make(folder: Path) -> str:
        path = Path(parquet(lambda: {"image": [b"1234" * 500], "label": [0]}, use_dictionary=False)(folder))
        place = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
        data = bytearray(path.read_bytes())
        data[place : place + len(head)] = head
        path.write_bytes(data)
        return str(path)

    return make


def many_pages(folder: Path) -> str:
    """A table of more pages of a value each than are gone through."""
    table = pa.table({"image": pa.array([b"x"] * 120_000), "label": np.arange(120_000)})
    pq.write_table(table, folder / "data.parquet", data_page_size=1, write_batch_size=1, use_dictionary=False)
    return str(folder / "data.parquet")


def arrow_stream(folder: Path, rows: int = 2) -> str:
    path = folder / "data.arrow"
    table = pa.table({"image": pa.array([b"1234"] * rows), "label": list(range(rows))})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return f"hf:{path}"


def changed_arrow(change: Callable[[bytes], bytes]) -> Maker:
    def make(folder: Path) -> str:
        path = Path(arrow_stream(folder).removeprefix("hf:"))
        path.write_bytes(change(path.read_bytes()))
        return f"hf:{path}"

    return make


END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def with_message(head: bytes) -> Callable[[bytes], bytes]:
    """A stream with a further message in place of its end."""
    return lambda data: data.removesuffix(END_OF_STREAM) + b"\xff\xff\xff\xff" + head


def claimed_rows(data: bytes) -> bytes:
    """The message of two rows says that it has 2⁴⁰."""
    at = data.rindex(struct.pack("<q", 2), 0, data.rindex(b"1234"))
    for place in range(at, 0, -1):
        if data[place : place + 8] == struct.pack("<q", 2):
            at = place
    return data[:at] + struct.pack("<q", 2**40) + data[at + 8 :]


def saved_folder(folder: Path) -> str:
    """A folder of save_to_disk whose description is a pipe."""
    (folder / "saved").mkdir()
    os.mkfifo(folder / "saved" / "dataset_dict.json")
    (folder / "saved" / "state.json").symlink_to("/dev/zero")
    return f"hf:{folder / 'saved'}"


PADDED = b"\xff\xd8" + b"\xff" * 60_000_000
EMPTY_PART = chunk(b"prVt", b"")


def long_state(folder: Path) -> str:
    """A folder of save_to_disk whose description holds three million empty lists."""
    (folder / "saved").mkdir()
    (folder / "saved" / "state.json").write_bytes(b'{"a": [' + b"[]," * 3_000_000 + b"[]]}")
    return f"hf:{folder / 'saved'}"


def many_parts(kind: bytes, count: int = 3_000_000, data: bytes = b"") -> Callable[[], bytes]:
    return lambda: png(8, 6, chunk(kind, data) * count, colour=2)


def segments(marker: int, data: bytes, count: int) -> Callable[[], bytes]:
    """A JPEG with so many segments before its own."""
    part = bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    def content() -> bytes:
        whole = saved("RGB", "JPEG")()
        return whole[:2] + part * count + whole[2:]

    return content


def ppm_folder(folder: Path) -> str:
    save_image(folder / "images" / "class" / "a.ppm")
    return f"folder:{folder / 'images'}"


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n(canary) (w) file\nshowpage\n"
FITS = b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80)

# "Orientation: turned by a quarter", as cameras write it.
TURNED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0" + bytes(4)

# (name, maker, words that the refusal must hold)
REFUSED: dict[str, tuple[Maker, str]] = {
    "a PNG of 400 million pixels": (image("a.png", lambda: png(20_000, 20_000, depth=1)), "exceeds limit"),
    "a PNG that only claims 65500²": (image("a.png", lambda: png(65_500, 65_500, data=b"")), "a.png: "),
    "a JPEG that claims 65500²": (image("a.jpg", lambda: jpeg_header(65_500)), "a.jpg: "),
    "a JPEG that claims 9000²": (image("a.jpg", lambda: jpeg_header(9000)), "9000×9000 pixels, and at most 40,000,000"),
    "a WEBP that claims 16383²": (image("a.webp", webp_canvas), "a.webp: "),
    "an animated PNG": (image("a.png", frames("PNG")), "an animation"),
    "an animated WEBP": (image("a.webp", frames("WEBP")), "an animation"),
    "a GIF by another name": (image("a.png", frames("GIF")), "no JPEG, PNG or WEBP image"),
    "sixteen bits": (image("a.png", saved("I;16", "PNG")), "more than 8 bits"),
    "a TIFF of floats by another name": (image("a.jpg", saved("F", "TIFF")), "no JPEG, PNG or WEBP image"),
    "PostScript by another name": (image("a.jpg", lambda: EPS), "no JPEG, PNG or WEBP image"),
    "FITS by another name": (image("a.jpg", lambda: FITS.ljust(2880)), "no JPEG, PNG or WEBP image"),
    "SVG by another name": (image("a.png", lambda: b"<svg onload='x'/>"), "no JPEG, PNG or WEBP image"),
    "a truncated PNG": (image("a.png", cut(saved("RGB", "PNG", (90, 90)), 0.5)), "cannot be read as an image"),
    "a truncated JPEG": (image("a.jpg", cut(saved("RGB", "JPEG", (90, 90)), 0.7)), "cannot be read as an image"),
    "a truncated WEBP": (image("a.webp", cut(saved("RGB", "WEBP", (90, 90)), 0.5)), "a.webp: "),
    "an empty image": (image("a.png", lambda: b""), "the file is empty"),
    "a PNG with a text of 128 MB": (image("a.png", text_bomb), "cannot be read as an image"),
    "a Netpbm image": (ppm_folder, "convert it to PNG"),
    "a pipe among images": (special("pipe", "a.png"), "not a regular file"),
    "a device among images": (special("device", "a.png"), "not a regular file"),
    "a link to itself among images": (special("loop", "a.png"), "cannot be opened"),
    "a pipe of arrays": (special("pipe", "a.npz"), "not a regular file"),
    "a folder of arrays": (special("folder", "a.npz"), "not a regular file"),
    "a device of arrays": (special("device", "a.npz"), "not a regular file"),
    "a pipe of tensors": (special("pipe", "a.pt"), "not a regular file"),
    "a pipe of a table": (special("pipe", "a.parquet"), "not a regular file"),
    "an array of 2^36 numbers": (lying((2**36,)), "bytes, and has"),
    "an array of 4 × 2^60": (lying((4, 2**60), "<f8"), "bytes, and has"),
    "a shape that overflows": (lying((2**33, 2**33)), "bytes, and has"),
    "a negative shape": (lying((4, -4)), "is damaged"),
    "a shape that is a call": (lying("__import__('os').mkdir('canary')"), "is damaged"),
    "a header of many brackets": (lying("(" * 5000), "is damaged"),
    "an array of columns": (lying((4, 4, 4), fortran=True), "column by column"),
    "an array of objects": (npz(lambda: {"images.npy": npy(np.array([{}] * 4)), **LABELS}), "holds Python objects"),
    "an array without a header": (npz(lambda: {"images.npy": b"\x93NUM", **LABELS}), "is damaged"),
    "a compression of another kind": (
        npz(lambda: {"images.npy": npy(np.zeros(4)), **LABELS}, zipfile.ZIP_LZMA),
        "save it again",
    ),
    "an array twice": (doubled, "perhaps twice"),
    "one example of 320 MB": (one_huge_example, "is its first axis the examples?"),
    "a flipped bit in an array": (changed(good_npz, flip(0.5)), "is damaged"),
    "half an archive": (changed(good_npz, lambda data: data[: len(data) // 2]), "truncated"),
    "an archive that is a pickle": (
        written("a.npz", lambda folder: pickle.dumps(Canary(folder / "canary"))),
        "no file of numpy.savez",
    ),
    "a pickle of tensors": (written("a.pt", lambda folder: pickle.dumps(Canary(folder / "canary"), 2)), "a.pt: "),
    "tensors with a call": (
        torch_file(lambda folder: {"x": torch.ones(4), "y": Canary(folder / "canary")}),
        "data.pt: ",
    ),
    "a tensor of 2^40 from one number": (
        torch_file(lambda _: {"x": torch.ones(1).expand(4, 2**38), "y": torch.arange(4)}),
        "data.pt: ",
    ),
    "a table cut short": (changed(good_parquet, lambda data: data[:-30]), "no Parquet file, or a damaged one"),
    "a table without a beginning": (changed(good_parquet, lambda data: data[60:]), "data.parquet: "),
    "a flipped bit in a table": (changed(good_parquet, flip(0.1)), "data.parquet: "),
    "a value in every row": (repeated_value, "its content is no JPEG"),
    "offsets beyond the end": (lying_arrow, "data.arrow: "),
    "a label below zero": (
        npz(lambda: {"x.npy": npy(np.zeros((4, 2))), "y.npy": npy(np.arange(4) - 1)}),
        "the label -1",
    ),
    "60 MB of padding before a JPEG's marker": (image("a.jpg", lambda: PADDED), "bytes of padding"),
    "60 MB of zeros behind a JPEG's marker": (
        image("a.jpg", lambda: b"\xff\xd8\xff\xd8" + bytes(60_000_000)),
        "bytes of padding",
    ),
    "60 MB behind a JPEG's marker of no segment": (
        image("a.jpg", lambda: b"\xff\xd8\xff\xf0" + b"x" * 60_000_000),
        "bytes of padding",
    ),
    "60 MB of bytes in a JPEG that mean themselves": (
        image("a.jpg", lambda: b"\xff\xd8" + b"\xff\x00" * 30_000_000),
        "before its picture",
    ),
    "a JPEG of ten million restarts": (image("a.jpg", lambda: b"\xff\xd8" + b"\xff\xd0" * 10_000_000), "its picture"),
    "a JPEG of a million empty segments": (image("a.jpg", segments(0xE0, b"", 1_000_000)), "before its picture"),
    "a JPEG of a million comments": (image("a.jpg", segments(0xFE, b"x", 1_000_000)), "before its picture"),
    "a JPEG with 60 MB of notes": (image("a.jpg", segments(0xE1, b"Exif\0\0" + bytes(59_994), 1000)), "its picture"),
    "a JPEG with 60 MB of Photoshop's blocks": (
        image("a.jpg", segments(0xED, b"Photoshop 3.0\0" + (b"8BIM" + bytes(8)) * 5000, 1000)),
        "before its picture",
    ),
    "a PNG of three million chunks": (image("a.png", many_parts(b"prVt")), "more than 200,000 chunks"),
    "a PNG of three million empty pieces": (image("a.png", many_parts(b"IDAT")), "more than 200,000 chunks"),
    "a PNG of three million chunks behind its picture": (
        image("a.png", lambda: png(8, 6, colour=2)[:-12] + EMPTY_PART * 3_000_000),
        "more than 200,000 chunks",
    ),
    "a PNG with a thousand colour profiles of 1 MB": (
        image("a.png", many_parts(b"iCCP", 1000, b"p\0\0" + zlib.compress(bytes(2**20)))),
        "many colour profiles",
    ),
    "a Netpbm image with a comment of 60 MB": (image("a.png", lambda: b"P6\n#" + b"x" * 60_000_000), "P5 or P6"),
    "a Netpbm image in text": (image("a.png", lambda: b"P3\n9 9 255\n" + b"1 " * 243), "P5 or P6"),
    "a socket among images": (special("socket", "a.png"), "not a regular file but a socket"),
    "a link to nothing among images": (special("nothing", "a.png"), "there is no such file"),
    "a socket of arrays": (special("socket", "a.npz"), "not a regular file but a socket"),
    "a link to itself of arrays": (special("loop", "a.npz"), "cannot be opened"),
    "a device of a table": (special("device", "a.parquet"), "not a regular file but a device"),
    "a link to itself of a table": (special("loop", "a.parquet"), "cannot be opened"),
    "a sparse file of arrays": (special("sparse", "a.npz"), "were ever written"),
    "a sparse table": (special("sparse", "a.parquet"), "were ever written"),
    "a sparse image": (special("sparse", "a.png"), "at most 268435456 are read"),
    "arrays behind a hole": (behind_a_hole(good_npz), "were ever written"),
    "a table behind a hole": (behind_a_hole(good_parquet), "were ever written"),
    "a pipe and a device for a dataset's description": (saved_folder, "holds no Arrow and Parquet files"),
    "a description of three million lists": (long_state, "more than 2000000 entries"),
    "a name of 300 characters of arrays": (lambda folder: f"{folder}/{'a' * 300}.npz", "file name too long"),
    "a name of 300 characters of a table": (lambda folder: f"{folder}/{'a' * 300}.parquet", "file name too long"),
    "a name of 300 characters of tensors": (lambda folder: f"{folder}/{'a' * 300}.pt", "file name too long"),
    "a name of 5,000 characters of arrays": (lambda folder: f"{folder}/{'a/' * 2500}a.npz", "file name too long"),
    "a name of 300 characters of images": (lambda folder: f"folder:{folder}/{'a' * 300}", "there is no such folder"),
    "a name of 300 characters of a dataset": (lambda _: f"hf:{'a' * 300}", "not in the cache"),
    "a name of 100,000 characters": (lambda _: "a" * 100_000, "unknown dataset"),
    "a header of 2 GiB": (npz(lambda: {"images.npy": long_header(), **LABELS}), "a header of 2147483648 bytes"),
    "a header of a later version": (npz(lambda: {"images.npy": long_header(3), **LABELS}), "version 3.0"),
    "a header of 60,000 bytes": (lying("(" + "1, " * 19_000 + ")"), "a header of"),
    "a side of 4,000 digits": (lying(f"({'9' * 4000}, 2)"), "a shape that no array has"),
    "a shape of 2,000 axes": (lying((1,) * 2000), "a shape that no array has"),
    "a side of 2^63": (lying((2**63, 2)), "a shape that no array has"),
    "1.5 GiB of packed zeros": (npz(packed_zeros(3 * 2**29), zipfile.ZIP_DEFLATED), "y.npy unpacks"),
    "a hundred million packed labels": (
        npz(packed_zeros(10**8 + 1), zipfile.ZIP_DEFLATED),
        "claims 100000001 examples",
    ),
    "a directory of 9 MB": (raw_npz(long_directory), "a directory of more than"),
    "a directory of 2^40 bytes": (raw_npz(endless_directory), "no file of numpy.savez"),
    "three thousand arrays": (many_members, "3000 arrays"),
    "a label of 2^64 − 1": (
        npz(lambda: {"x.npy": npy(np.zeros((4, 2))), "y.npy": npy(np.full(4, 2**64 - 1, dtype=np.uint64))}),
        "the label 18446744073709551615",
    ),
    "a label of 2^63": (
        npz(lambda: {"x.npy": npy(np.zeros((4, 2))), "y.npy": npy(np.full(4, 2**63, dtype=np.uint64))}),
        "the label 9223372036854775808",
    ),
    "a label of −2^63": (
        npz(lambda: {"x.npy": npy(np.zeros((4, 2))), "y.npy": npy(np.full(4, -(2**63)))}),
        "the label -9223372036854775808",
    ),
    "a label of 2^40": (
        npz(lambda: {"x.npy": npy(np.zeros((4, 2))), "y.npy": npy(np.full(4, 2**40))}),
        "the label 1099511627776",
    ),
    "a label of 2^64 − 1 in a table": (
        parquet(lambda: {"image": cells(1), "label": np.array([2**64 - 1], dtype=np.uint64)}),
        "the label 18446744073709551615",
    ),
    "a value of 300 MB in a table": (one_large_value("parquet", "zstd", "data.parquet"), "values of 3000000"),
    "a value of 300 MB in a table, packed otherwise": (
        one_large_value("parquet", "gzip", "data.parquet"),
        "values of 3000000",
    ),
    "a value of 300 MB in a dictionary": (large_dictionary, "values of 3000000"),
    "a page that claims 2 GiB": (page_header(b"\x15\0\x15\xfe\xff\xff\xff\x0f\x15\x20\0"), "values of 2147483647"),
    "a page without sizes": (page_header(bytes(8)), "a page without sizes"),
    "a page of structures in structures": (page_header(b"\x1c" * 40), "nested too deeply"),
    "a page of a number without end": (page_header(b"\x15" + b"\xff" * 20), "a number without end"),
    "a page of an unknown type": (page_header(b"\x1b\x10"), "an unknown type"),
    "a page of a list of 2^60": (page_header(b"\x19\xf5" + b"\xff" * 8 + b"\x0f"), "a page without a header"),
    "a hundred and twenty thousand pages": (many_pages, "pages; write smaller row groups"),
    "a JPEG of padding in a table": (parquet(lambda: {"image": [PADDED], "label": [0]}), "bytes of padding"),
    "a value of 300 MB in a stream": (one_large_value("stream", "zstd"), "unpacks to 3000000"),
    "a value of 300 MB in an Arrow file": (one_large_value("file", "lz4"), "unpacks to 3000000"),
    "half a stream": (changed_arrow(lambda data: data[: len(data) * 3 // 4]), "data.arrow: "),
    "a message without a head": (changed_arrow(with_message(b"\xff\xff\xff\x7f")), "whose head is not in the file"),
    "a message of less than nothing": (changed_arrow(with_message(b"\xfe\xff\xff\xff")), "head is not in the file"),
    "a message whose head is noise": (changed_arrow(with_message(b"\x40\0\0\0" + b"\xa5" * 64)), "head is damaged"),
    "a stream of 2^40 rows": (changed_arrow(claimed_rows), "data.arrow: "),
    "not a number": (
        npz(lambda: {"x.npy": npy(np.full((4, 2), np.nan)), "y.npy": npy(np.arange(4))}),
        "NaN or infinite",
    ),
}


def linked_hdf5(kind: str) -> Callable[[Path], None]:
    """The files of PCAM, whose images are elsewhere; below `place` a file that is nobody's business."""

    def make(root: Path) -> None:
        import h5py

        pcam(root, pytest.MonkeyPatch())
        images = root / "pcam" / "camelyonpatch_level_2_split_train_x.h5"
        with h5py.File(root / "elsewhere.h5", "w") as file:
            file["x"] = random_images(2, 96, 96, 3)
        if kind in {"pipe", "device", "socket"}:
            images.unlink()
            special(kind, images.name)(images.parent)
            return
        with h5py.File(images, "a") as file:
            del file["x"]
            if kind == "external link":
                file["x"] = h5py.ExternalLink(str(root / "elsewhere.h5"), "x")
            elif kind == "external storage":
                file.create_dataset(
                    "x", (2, 96, 96, 3), "u1", external=[(str(root / "elsewhere.h5"), 0, 2 * 96 * 96 * 3)]
                )
            elif kind == "virtual":
                layout = h5py.VirtualLayout((2, 96, 96, 3), "u1")
                layout[:] = h5py.VirtualSource(str(root / "elsewhere.h5"), "x", (2, 96, 96, 3))
                file.create_virtual_dataset("x", layout)
            elif kind == "soft link":
                file["x"] = h5py.SoftLink("/gone")
            elif kind == "pieces of 1 GB":
                file.create_dataset("x", (2**15, 96, 96, 3), "u1", chunks=(2**15, 96, 96, 3), compression="gzip")
            elif kind == "floats":
                file["x"] = np.zeros((2, 96, 96, 3))

    return make


def among_digits(kind: str, name: str) -> Callable[[Path], None]:
    """MNIST's files, of which one is a pipe or its like."""

    def make(root: Path) -> None:
        write_mnist(root / "MNIST" / "raw")
        place = root / "MNIST" / "raw" / name
        place.unlink()
        special(kind, place.name)(place.parent)

    return make


# (dataset, maker of its files in the data folder, words that the refusal must hold)
NAMED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    **{
        f"HDF5: {kind}": ("pcam", linked_hdf5(kind), "is no array of bytes in this file")
        for kind in ("external link", "external storage", "virtual", "soft link", "floats")
    },
    "HDF5: pieces of 1 GB": ("pcam", linked_hdf5("pieces of 1 GB"), "is stored in pieces of"),
    **{
        f"HDF5: a {kind}": ("pcam", linked_hdf5(kind), "is not a regular file") for kind in ("pipe", "device", "socket")
    },
    **{
        f"MNIST: a {kind}": ("mnist", among_digits(kind, "train-images-idx3-ubyte"), "is not a regular file")
        for kind in ("pipe", "device", "socket")
    },
}


def text_file(content: Callable[[], bytes]) -> Maker:
    return written("labels.csv", lambda _: content())


HEAD = b"index,label\n"
# Files of labels for the digits, of which there are 1,400.
LABEL_FILES: dict[str, tuple[Maker, str]] = {
    **{
        f"a {kind}": (special(kind, "labels.csv"), "not a regular file")
        for kind in ("pipe", "device", "socket", "folder")
    },
    "a link to itself": (special("loop", "labels.csv"), "cannot be opened"),
    "a link to nothing": (special("nothing", "labels.csv"), "there is no such file"),
    "a tebibyte that was never written": (special("sparse", "labels.csv"), "at most 307200 are read"),
    "a name of 300 characters": (lambda folder: f"{folder}/{'a' * 300}", "file name too long"),
    "a name of 5,000 characters": (lambda folder: f"{folder}/{'a/' * 2500}", "file name too long"),
    "nothing": (text_file(lambda: b""), "the file is empty"),
    "60 MB of lines": (text_file(lambda: HEAD + b"0,1\n" * 15_000_000), "at most 307200 are read"),
    "60 MB of one line": (text_file(lambda: HEAD + b"1" * 60_000_000), "at most 307200 are read"),
    "a cell of 200,000 characters": (text_file(lambda: HEAD + b"0," + b"1" * 200_000), "no CSV text"),
    "a quotation without end": (text_file(lambda: HEAD + b'0,"' + b"1\n" * 9), "no CSV text"),
    "zeros": (text_file(lambda: HEAD + bytes(9000)), "line 2"),
    "zeros in a cell": (text_file(lambda: HEAD + b"0,1\0\n"), "is no integer"),
    "a label of 2^64 − 1": (text_file(lambda: HEAD + b"0,18446744073709551615\n"), "is no integer from 0 up"),
    "a label of 4,000 digits": (text_file(lambda: HEAD + b"0," + b"9" * 4000 + b"\n"), "is no integer from 0 up"),
    "an index of 2^64": (text_file(lambda: HEAD + b"18446744073709551616,1\n"), "is no integer from 0 up"),
    "a label in other digits": (text_file(lambda: HEAD + "0,٣\n".encode()), "is no integer from 0 up"),
    "a formula": (text_file(lambda: HEAD + b"0,=1+1\n"), "is no integer from 0 up"),
    "bytes that are no text": (text_file(lambda: HEAD + b"0,\xff\n"), "no CSV text in UTF-8"),
}

# Odd, and read as torchvision's ImageFolder reads it.
HANDLED: dict[str, Maker] = {
    "CMYK": image("a.jpg", saved("CMYK", "JPEG")),
    "a palette with a transparent colour": image("a.png", saved("P", "PNG", transparency=0)),
    "alpha": image("a.png", saved("RGBA", "PNG")),
    "gray with alpha": image("a.png", saved("LA", "PNG")),
    "one bit": image("a.png", saved("1", "PNG")),
    "three channels of sixteen bits": image("a.png", lambda: png(8, 6, depth=16, colour=2)),
    "an orientation": image("a.jpg", saved("RGB", "JPEG", exif=TURNED)),
    "much that is not EXIF": image("a.jpg", saved("RGB", "JPEG", exif=b"Exif\0\0" + b"\xff" * 60_000)),
    "a hundred thousand texts": image("a.png", many_texts),
    "bytes after the end": image("a.png", lambda: saved("RGB", "PNG")() + bytes(10_000)),
}
