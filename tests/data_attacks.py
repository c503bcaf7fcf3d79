"""Files of data that are hostile, damaged or merely odd. Each maker writes below a folder and returns what to load."""

import io
import os
import pickle  # noqa: TID251  # written here, never to be read
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from tests.attacks.code import Canary
from tests.data_files import random_images, save_image

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
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to({"device": "/dev/zero", "loop": path}[kind])
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
    "not a number": (
        npz(lambda: {"x.npy": npy(np.full((4, 2), np.nan)), "y.npy": npy(np.arange(4))}),
        "NaN or infinite",
    ),
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
