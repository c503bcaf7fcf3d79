"""Datasets are decoded in processes of their own: with the same numbers, and what ends one is that file's error."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fisher_cli.errors import DataError
from fisher_cli.inputs.data import array_files, hdf5_images, image_tables, images
from fisher_cli.inputs.data.catalogue import find_source
from fisher_cli.storage.reader_limits import MOST_FILES
from fisher_cli.storage.reader_process import ReaderOwner, ReaderProcess
from tests.data_files import random_images
from tests.loading import load_examples
from tests.torchvision_layouts import pcam
from tests.waiting import PATIENCE

POISON = "POISON"
# A process as it is, but for what it does with poisoned images.
POISONED = """
import sys; sys.path += sys.argv[1:]
import os, socket
from {module} import DECODERS
from fisher_cli.inputs.data import image_bytes
from fisher_cli.storage import reader_child, reader_limits
reader_limits._SECONDS = {seconds}
def act():
    {act}
usual = image_bytes.Image.open
image_bytes.Image.open = lambda file, **words: act() if b"POISON" in file.getvalue() else usual(file, **words)
reader_child.main(DECODERS, False)
"""


def write_folder(root: Path, count: int = MOST_FILES + 8) -> str:
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number, pixels in enumerate(random_images(count // 2, 6, 5, 3, seed=label)):
            Image.fromarray(pixels).save(root / name / f"{number:03d}.png")
    return f"folder:{root}"


def write_table(folder: Path, poisoned: int | None = None, form: str = "parquet") -> str:
    root = folder / "files"
    write_folder(root)
    paths = sorted(root.rglob("*.png"))
    cells = [{"bytes": path.read_bytes(), "path": None} for path in paths]
    if poisoned is not None:
        cells[poisoned]["bytes"] += POISON.encode()
    table = pa.table({"image": cells, "label": [int(path.parent.name == "dog") for path in paths]})
    if form == "parquet":
        pq.write_table(table, folder / "data.parquet", row_group_size=11)
        return str(folder / "data.parquet")
    (folder / "saved").mkdir()
    with pa.ipc.new_stream(folder / "saved" / "data.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=11)
    return f"hf:{folder / 'saved'}"


def write_arrays(folder: Path) -> str:
    pixels = random_images(50, 6, 5, 3)
    np.savez_compressed(folder / "data.npz", images=pixels, labels=np.arange(50) % 3)
    return str(folder / "data.npz")


def write_pcam(folder: Path) -> str:
    pcam(folder, pytest.MonkeyPatch())
    return "pcam"


WRITERS: dict[str, tuple[ReaderOwner, Callable[[Path], str]]] = {
    "a folder": (images.OWNER, lambda folder: write_folder(folder / "files")),
    "Parquet": (image_tables.OWNER, write_table),
    "Arrow": (image_tables.OWNER, lambda folder: write_table(folder, form="arrow")),
    "arrays": (array_files.OWNER, write_arrays),
    "HDF5": (hdf5_images.OWNER, write_pcam),
}


def identity(data: str, folder: Path, **words: Any) -> str:
    return load_examples(data, normalize="none", data_dir=str(folder), **words).identity


@pytest.mark.parametrize("kind", WRITERS)
def test_the_numbers_are_those_that_this_process_would_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, write = WRITERS[kind]
    data = write(tmp_path)

    def never(*_: Any) -> Iterator[Any]:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr("fisher_cli.storage.reader_process.decoded", never)
        found = [identity(data, tmp_path), identity(data, tmp_path, limit=1), identity(data, tmp_path, limit=2)]
        assert owner.reader is not None
    monkeypatch.setattr(ReaderOwner, "is_possible", False)
    owner.end()
    assert [identity(data, tmp_path), identity(data, tmp_path, limit=1), identity(data, tmp_path, limit=2)] == found
    assert owner.reader is None


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, int], None]]:
    """What lets the readers of images and of tables do something with poisoned images."""
    owners = (images.OWNER, image_tables.OWNER)

    def poison(act: str, seconds: int = 10) -> None:
        for owner, module in zip(owners, ("image_bytes", "table_bytes"), strict=True):
            owner.end()
            code = POISONED.format(module=f"fisher_cli.inputs.data.{module}", act=act, seconds=seconds)
            monkeypatch.setattr(owner, "code", code)

    yield poison
    for owner in owners:
        owner.end()


ENDS = [
    ("os.kill(os.getpid(), 9)", 10, "was killed"),
    ("os.abort()", 10, "ended by signal 6"),
    ("while True: pass", 0, "s of processor time"),
    ("return [bytes(1 << 20) for _ in range(4096)]", 10, "MemoryError"),
    ("return open('/dev/null')", 10, "Too many open files"),
    ("return socket.socket()", 10, "Too many open files"),
]


@pytest.mark.parametrize(("act", "seconds", "said"), ENDS)
def test_what_a_reader_cannot_do_is_the_error_of_that_image(
    act: str, seconds: int, said: str, tmp_path: Path, poisoned: Callable[[str, int], None]
) -> None:
    poisoned(act, seconds)
    data = write_folder(tmp_path / "files")
    good = identity(data, tmp_path)
    bad = sorted((tmp_path / "files" / "dog").iterdir())[-3]
    content = bad.read_bytes()
    bad.write_bytes(content + POISON.encode())
    with pytest.raises(DataError) as caught:
        load_examples(data, normalize="none")
    assert str(caught.value).startswith(str(bad))
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    bad.write_bytes(content)
    assert identity(data, tmp_path) == good


@pytest.mark.parametrize(("act", "seconds", "said"), ENDS[:3])
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_what_ends_a_reader_of_a_table_is_the_error_of_that_table(
    form: str, act: str, seconds: int, said: str, tmp_path: Path, poisoned: Callable[[str, int], None]
) -> None:
    poisoned(act, seconds)
    data = write_table(tmp_path, 27, form)
    with pytest.raises(DataError) as caught:
        load_examples(data, normalize="none")
    assert f"data.{form}: " in str(caught.value)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_file_that_is_not_there_is_named_and_not_one_beside_it(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "files")
    path = sorted((tmp_path / "files" / "cat").iterdir())[5]
    path.unlink()
    path.symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=f"{path}: there is no such file"):
        load_examples(data, normalize="none")


def test_who_does_not_take_all_images_leaves_no_half_answer_and_no_process(tmp_path: Path) -> None:
    write_folder(tmp_path / "files")
    paths = sorted((tmp_path / "files").rglob("*.png"))
    expected = [np.asarray(Image.open(path)) for path in paths]
    first = images.read_images(paths)
    assert np.array_equal(next(first), expected[0])
    reader = images.OWNER.reader
    assert reader is not None
    assert np.array_equal(images.read_image(paths[1]), expected[1]), "a second one reads meanwhile"
    first.close()
    assert images.OWNER.reader is None
    assert not Path(f"/proc/{reader.pid}").exists()
    assert all(np.array_equal(*each) for each in zip(images.read_images(paths), expected, strict=True))
    again = images.OWNER.reader
    assert np.array_equal(images.read_image(paths[1]), expected[1])
    assert images.OWNER.reader is again, "one that has answered is asked again"


def test_the_reader_of_images_has_neither_numpy_nor_torch() -> None:
    """It is begun in every run with images: NumPy takes longer than all else."""
    code = "import sys; sys.path += sys.argv[1:]; from fisher_cli.inputs.data import image_bytes; "
    code += "print([name for name in ('torch', 'numpy', 'pandas') if name in sys.modules])"
    words = [sys.executable, "-I", "-S", "-c", code, str(Path(__file__).parents[3]), str(Path(PIL.__file__).parents[1])]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_answers_that_nobody_takes_may_be_collected_while_another_reader_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector runs in whatever thread it likes, also in one that holds the owner's lock."""
    path = write_table(tmp_path)
    left = [iter(find_source(path, None, None, {}, download=False).examples(range(9)))]
    next(left[0])
    wait = ReaderProcess.wait

    def collect(self: ReaderProcess) -> None:
        left.clear()
        wait(self)

    monkeypatch.setattr(ReaderProcess, "wait", collect)
    found: list[int] = []
    reading = threading.Thread(target=lambda: found.append(len(load_examples(path, normalize="none"))), daemon=True)
    reading.start()
    reading.join(PATIENCE)
    assert found == [MOST_FILES + 8]
    assert not left
