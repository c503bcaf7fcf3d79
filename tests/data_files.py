"""Files of data in miniature, and what every test of data asks for."""

import hashlib
import pickle  # noqa: TID251  # CIFAR's genuine files are pickles; these are written here
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from fisher_cli.errors import FisherError
from tests.loading import load_examples


def refusal(kind: type[FisherError], data: str, **options: object) -> str:
    with pytest.raises(FisherError) as caught:
        load_examples(data, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    return message


def labels_file(folder: Path, rows: list[tuple[object, ...]], header: str = "index,label") -> str:
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def save_image(path: Path, size: tuple[int, int] = (6, 5), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def random_images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray, code: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    path.write_bytes(head + array.tobytes())


def write_mnist(raw: Path, prefixes: tuple[str, str] = ("train", "t10k"), first_label: int = 0) -> np.ndarray:
    images = random_images(20, 28, 28)
    labels = (np.arange(20) % 10 + first_label).astype(np.uint8)
    for prefix, part in zip(prefixes, (slice(0, 15), slice(15, 20)), strict=True):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images[part])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels[part])
    return images


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int = 10) -> tuple[np.ndarray, list[int]]:
    reader, key = (CIFAR10, "labels") if classes == 10 else (CIFAR100, "fine_labels")
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    pixels, labels = random_images(60, 3 * 32 * 32), [i % classes for i in range(60)]

    def write(name: str, content: object) -> str:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    names, rows = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], [10] * 6
    if classes == 100:
        names, rows = ["train", "test"], [50, 10]
    starts = [sum(rows[:i]) for i in range(len(rows) + 1)]
    digests = [
        [name, write(name, {"data": pixels[start:stop], key: labels[start:stop]})]
        for name, start, stop in zip(names, starts, starts[1:], strict=False)
    ]
    class_names = {reader.meta["key"]: [f"class {i}" for i in range(classes)]}
    monkeypatch.setattr(reader, "train_list", digests[:-1])
    monkeypatch.setattr(reader, "test_list", digests[-1:])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": write(reader.meta["filename"], class_names)})
    return pixels, labels
