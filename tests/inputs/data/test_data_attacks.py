"""The attack corpus of data: each file is refused in one line, or read as training read it; in little memory."""

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from torchvision.datasets import ImageFolder

from fisher_cli.errors import DataError
from fisher_cli.storage.reader_process import ReaderOwner
from tests.attacks.code import Canary
from tests.data_attacks import HANDLED, LABEL_FILES, NAMED, REFUSED
from tests.effort import Effort
from tests.loading import load_examples
from tests.long_lists import some

# Of the processor, with all that counts what it does, and of memory beside what was there: what one file may take.
SECONDS, MEGABYTES = 10, 512


def in_child(data: str, **words: Any) -> dict[str, Any]:
    """What loading these data ends in, with the most bytes held at once, from a process that may die of it.

    It reads by itself, as where no other process can be had: the budgets hold.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        ReaderOwner.is_possible = False
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(20 * SECONDS)  # for what waits
        found: dict[str, object] = {}
        pool = pyarrow.system_memory_pool()  # the other one counts what making the files took
        pyarrow.set_memory_pool(pool)
        effort = Effort()
        try:
            with effort.counting():
                load_examples(data, normalize="none", **words)
        except BaseException as error:
            found = {"kind": type(error).__name__, "message": str(error)}
        found["grown"] = (effort.bytes + pool.max_memory()) / 2**20
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"kind": "died or hung"}


def assert_refused(data: str, says: str, **words: Any) -> None:
    """By a process that reads by itself, and by one that has another one read."""
    found = in_child(data, **words)
    assert found["kind"] == "DataError", found
    assert_said(found["message"], says)
    assert found["grown"] < MEGABYTES
    with pytest.raises(DataError) as caught:
        load_examples(data, normalize="none", **words)
    assert_said(str(caught.value), says)


def assert_said(message: str, says: str) -> None:
    assert says in message, message
    assert message.isprintable()
    assert len(message) < 1200


@pytest.mark.parametrize("name", some(REFUSED, part=0.3))
def test_a_hostile_file_is_refused_in_one_line(name: str, workdir: Path) -> None:
    make, says = REFUSED[name]
    assert_refused(make(workdir), says)
    assert not (workdir / "canary").exists()


@pytest.mark.parametrize("name", NAMED)
def test_files_of_a_named_dataset_that_lead_elsewhere_are_refused_in_one_line(name: str, workdir: Path) -> None:
    dataset, make, says = NAMED[name]
    make(workdir)
    assert_refused(dataset, says, data_dir=str(workdir))


@pytest.mark.parametrize("name", LABEL_FILES)
def test_a_hostile_file_of_labels_is_refused_in_one_line(name: str, workdir: Path) -> None:
    make, says = LABEL_FILES[name]
    assert_refused("digits", says, labels=make(workdir))


@pytest.mark.parametrize("name", HANDLED)
def test_an_odd_image_is_read_as_in_training(name: str, tmp_path: Path) -> None:
    data = HANDLED[name](tmp_path)
    expected = np.array(ImageFolder(data.removeprefix("folder:"))[0][0])
    assert torch.equal(load_examples(data, normalize="none").inputs[0], torch.from_numpy(expected).permute(2, 0, 1))


def test_the_corpus_is_what_it_claims(tmp_path: Path) -> None:
    assert len(REFUSED) >= 115
    assert len(NAMED) >= 12
    assert len(LABEL_FILES) >= 21
    torch.serialization.pickle.loads(torch.serialization.pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").is_dir()  # the canary sings where it is opened


@pytest.mark.parametrize("name", ["a.npz", "a.parquet", "a.safetensors", "a.pt"])
@pytest.mark.parametrize(
    "content", [b"\0", b"PK\x03\x04" + bytes(50), b"PAR1" + bytes(90) + b"PAR1", b"<html>", b"x" * 999]
)
def test_rubbish_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_examples(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("name", ["a.npz", "a.parquet", "a.safetensors", "a.png", "a.jpg"])
def test_no_prefix_and_no_flipped_bit_raises_another_error(name: str, tmp_path: Path) -> None:
    """Arrays with checksums give the same numbers or none; every other damage is at least told by one class."""
    good = {
        "a.npz": lambda: Path(_good_npz(tmp_path)),
        "a.parquet": lambda: Path(_good_parquet(tmp_path)),
        "a.safetensors": lambda: _good_safetensors(tmp_path),
        "a.png": lambda: _good_image(tmp_path, "PNG"),
        "a.jpg": lambda: _good_image(tmp_path, "JPEG"),
    }[name]()
    content = good.read_bytes()
    is_image = name in {"a.png", "a.jpg"}
    data = f"folder:{good.parent.parent}" if is_image else str(good)
    reference = load_examples(data, normalize="none").identity
    random = np.random.default_rng(0)
    cases = [content[:length] for length in range(0, len(content), max(1, len(content) // 40))]
    for place in random.integers(0, len(content), 150):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(random.integers(8))
        cases.append(bytes(flipped))
    for case in cases:
        good.write_bytes(case)
        try:
            found = load_examples(data, normalize="none").identity
        except DataError:
            continue
        if name in {"a.npz", "a.png"}:  # their checksums cover every number
            assert found == reference


def _good_npz(folder: Path) -> str:
    np.savez(folder / "a.npz", images=np.arange(4 * 36, dtype=np.uint8).reshape(4, 6, 6), labels=np.arange(4))
    return str(folder / "a.npz")


def _good_parquet(folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = _good_image(folder, "PNG").read_bytes()
    table = pa.table({"image": [image] * 3, "label": [0, 1, 2]})
    pq.write_table(table, folder / "a.parquet", write_page_checksum=True)
    return str(folder / "a.parquet")


def _good_safetensors(folder: Path) -> Path:
    import safetensors.torch

    safetensors.torch.save_file({"x": torch.rand(4, 5), "y": torch.arange(4)}, folder / "a.safetensors")
    return folder / "a.safetensors"


def _good_image(folder: Path, format: str) -> Path:
    from PIL import Image

    from tests.data_files import random_images

    path = folder / "images" / "class" / f"a.{format.lower()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_images(1, 9, 9, 3)[0]).save(path, format=format)
    return path
