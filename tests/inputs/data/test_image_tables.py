"""Tables of images: Parquet files, and what the datasets library leaves on disk."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data import image_rows
from fisher_cli.storage.decoding import Answer
from fisher_cli.storage.reader_process import ReaderOwner
from tests.data_files import random_images, refusal
from tests.loading import load_examples

PIXELS = random_images(30, 6, 5, 3)
LABELS = [i % 3 for i in range(30)]
EXPECTED = torch.from_numpy(PIXELS).permute(0, 3, 1, 2)


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


CELLS = [{"bytes": encoded(pixels), "path": f"{i}.png"} for i, pixels in enumerate(PIXELS)]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog", "cow"], "_type": "ClassLabel"}}
DESCRIPTION = {b"huggingface": json.dumps({"info": {"features": FEATURES}}).encode()}


def write(path: Path, columns: dict[str, object], metadata: dict[bytes, bytes] | None = None, rows: int = 7) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=rows)
    return str(path)


def test_a_parquet_file_is_read_with_the_names_of_its_classes(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"image": CELLS, "label": LABELS, "id": LABELS}, DESCRIPTION)
    examples = load_examples(file, normalize="half")
    assert torch.equal(examples.inputs, EXPECTED)
    assert examples.labels.tolist() == LABELS
    assert (examples.classes, examples.class_names, examples.total) == (3, ("cat", "dog", "cow"), 30)
    assert "leave --split out" in refusal(UsageError, file, split="train")


@pytest.mark.parametrize("column", ["image", "img", "picture"])
@pytest.mark.parametrize("cell", ["struct", "bytes"])
def test_columns_are_found_by_their_types(column: str, cell: str, tmp_path: Path) -> None:
    cells = CELLS if cell == "struct" else [each["bytes"] for each in CELLS]
    file = write(tmp_path / "a.parquet", {"name": ["x"] * 30, column: cells, "digit": LABELS})
    examples = load_examples(file, normalize="none", limit=11)
    assert torch.equal(examples.inputs, EXPECTED[examples.indices])
    assert examples.labels.tolist() == [LABELS[i] for i in examples.indices.tolist()]
    assert examples.classes is None


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image": CELLS}, "no single column of labels among image (image)"),
        ({"a": LABELS, "b": LABELS, "image": CELLS}, "no single column of labels"),
        ({"image": CELLS, "mask": CELLS, "label": LABELS}, "no single column of images"),
        ({"label": LABELS}, "no single column of images"),
        ({"image": CELLS, "label": [0.5] * 30}, "no single column of labels"),
    ],
)
def test_columns_that_leave_a_choice_are_refused(columns: dict[str, object], says: str, tmp_path: Path) -> None:
    assert says in refusal(DataError, write(tmp_path / "a.parquet", columns), normalize="none")


def test_a_usual_name_decides_between_columns_of_integers(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", {"index": list(range(30)), "label": LABELS, "image": CELLS})
    assert load_examples(file, normalize="none").labels.tolist() == LABELS


@pytest.mark.parametrize(
    ("label", "says"),
    [(None, "20: has the label None"), (-1, "row 20 has the label -1"), (3, "there are 3 classes")],
)
def test_a_label_that_is_none_is_refused_with_its_row(label: int | None, says: str, tmp_path: Path) -> None:
    labels = [*LABELS[:20], label, *LABELS[21:]]
    file = write(tmp_path / "a.parquet", {"image": CELLS, "label": labels}, DESCRIPTION)
    assert says in refusal(DataError, file, normalize="none")


def test_a_cell_without_an_image_is_refused_with_its_row(tmp_path: Path) -> None:
    for cell, says in (
        ({"bytes": None, "path": None}, "row 9: has no image in it"),
        ({"bytes": b"damaged", "path": None}, "row 9: its content is no JPEG, PNG or WEBP image"),
        ({"bytes": None, "path": "http://example.org/a.png"}, "which is not opened"),
        ({"bytes": None, "path": "/etc/hostname"}, "which is not opened"),
        ({"bytes": None, "path": "../a.png"}, "which is not opened"),
    ):
        cells = [*CELLS[:9], cell, *CELLS[10:]]
        file = write(tmp_path / "a.parquet", {"image": cells, "label": LABELS})
        assert says in refusal(DataError, file, normalize="none")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    decoded: list[str] = []
    decode = image_rows.decode_image

    def decode_and_count(data: bytes, where: str) -> Answer:
        decoded.append(where)
        return decode(data, where)

    monkeypatch.setattr(image_rows, "decode_image", decode_and_count)
    monkeypatch.setattr(ReaderOwner, "is_possible", False)  # here, where they are counted
    return decoded


def test_only_selected_images_of_a_million_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = pa.array(CELLS[:1]).take(pa.array(np.zeros(100_000, dtype=np.int64)))
    file = write(tmp_path / "a.parquet", {"image": cell, "label": np.arange(100_000) % 3}, rows=10_000)
    paths = [tmp_path / "big" / f"train-{i:05d}-of-00010.parquet" for i in range(10)]
    paths[0].parent.mkdir()
    for path in paths:
        os.link(file, path)
    decoded = counted(monkeypatch)
    examples = load_examples(f"hf:{tmp_path / 'big'}", normalize="none", limit=50)
    assert (examples.total, len(examples)) == (1_000_000, 50)
    assert len(decoded) == 51  # the first one tells the number of channels


# What the datasets library writes


@pytest.fixture(scope="module")
def library() -> object:
    return pytest.importorskip("datasets")


def made(library: object, count: int = 30) -> object:
    features = library.Features({"img": library.Image(), "label": library.ClassLabel(names=["cat", "dog", "cow"])})
    return library.Dataset.from_dict({"img": CELLS[:count], "label": LABELS[:count]}, features=features)


def test_folders_of_save_to_disk_are_read(library: object, tmp_path: Path) -> None:
    made(library).save_to_disk(tmp_path / "one", num_shards=3)
    library.DatasetDict(train=made(library), validation=made(library, 6)).save_to_disk(tmp_path / "two")
    examples = load_examples(f"hf:{tmp_path / 'one'}", normalize="none")
    assert torch.equal(examples.inputs, EXPECTED)
    assert (examples.split, examples.class_names, examples.labels.tolist()) == (None, ("cat", "dog", "cow"), LABELS)
    assert load_examples(f"hf:{tmp_path / 'two'}", normalize="none").total == 30
    validation = load_examples(f"hf:{tmp_path / 'two'}", split="val", normalize="none")
    assert (validation.split, validation.total) == ("validation", 6)
    assert validation.describe()["name"] == "hf:two"
    assert "there are train, validation" in refusal(UsageError, f"hf:{tmp_path / 'two'}", split="test")


def test_one_of_its_files_and_folders_of_parquet_files_are_read(library: object, tmp_path: Path) -> None:
    made(library).save_to_disk(tmp_path / "one")
    file = next((tmp_path / "one").glob("*.arrow"))
    assert load_examples(f"hf:{file}", normalize="none", limit=4).total == 30
    (tmp_path / "repository" / "data").mkdir(parents=True)
    made(library).to_parquet(tmp_path / "repository" / "data" / "train-00000-of-00002.parquet")
    made(library, 9).to_parquet(tmp_path / "repository" / "data" / "train-00001-of-00002.parquet")
    made(library, 5).to_parquet(tmp_path / "repository" / "data" / "test-00000-of-00001-0123456789abcdef.parquet")
    examples = load_examples(f"hf:{tmp_path / 'repository'}", normalize="none")
    assert (examples.split, examples.total, examples.classes) == ("train", 39, 3)
    assert torch.equal(examples.inputs[30:], EXPECTED[:9])
    assert load_examples(f"hf:{tmp_path / 'repository'}", split="test", normalize="none").total == 5


@pytest.fixture
def cache(library: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a dataset into the cache as load_dataset does it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def prepare(name: str, config: str) -> Path:
        source = tmp_path / "source" / config
        source.mkdir(parents=True)
        for split, count in (("train", 30), ("test", 6)):
            made(library, count).to_parquet(source / f"{split}.parquet")
        files = {split: str(source / f"{split}.parquet") for split in ("train", "test")}
        builder = library.load_dataset_builder(
            "parquet", config, data_files=files, cache_dir=str(tmp_path / "scratch" / config)
        )
        builder.download_and_prepare()
        prepared = Path(builder.cache_dir)
        place = tmp_path / "home" / "datasets" / name / config / "0.0.0" / "abc"
        place.parent.mkdir(parents=True)
        prepared.rename(place)
        return place

    return prepare


def test_the_cache_is_read_offline(cache: Callable[[str, str], Path]) -> None:
    cache("owner___tiny_animals", "plain")
    examples = load_examples("hf:owner/TinyAnimals", normalize="none")
    assert torch.equal(examples.inputs, EXPECTED)
    assert (examples.split, examples.class_names) == ("train", ("cat", "dog", "cow"))
    assert examples.describe()["name"] == "hf:owner/TinyAnimals"
    assert load_examples("hf:owner/TinyAnimals:plain", split="testing", normalize="none").total == 6
    assert "type --download" in refusal(DataError, "hf:owner/TinyAnimals:other")
    cache("owner___tiny_animals", "second")
    assert "type hf:owner/TinyAnimals:CONFIG with one of plain, second" in refusal(DataError, "hf:owner/TinyAnimals")
    cache("owner___tiny_animals", "default")
    assert load_examples("hf:owner/TinyAnimals", normalize="none").total == 30


@pytest.mark.usefixtures("cache")
def test_a_repository_in_the_hub_s_cache_is_read(tmp_path: Path) -> None:
    snapshot = tmp_path / "home" / "hub" / "datasets--owner--animals" / "snapshots" / "0123"
    blob = Path(write(tmp_path / "blob.parquet", {"image": CELLS, "label": LABELS}, DESCRIPTION))
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data" / "train-00000-of-00001.parquet").symlink_to(blob)
    (snapshot / "animals.py").write_text("raise SystemExit('a loading script was run')\n")
    assert load_examples("hf:owner/animals", normalize="none").class_names == ("cat", "dog", "cow")


def test_the_cache_needs_no_library_and_no_network(cache: Callable[[str, str], Path]) -> None:
    cache("animals", "default")
    code = (
        "import sys; sys.modules['datasets'] = None\n"
        "network = ('socket.connect', 'socket.getaddrinfo')\n"
        "sys.addaudithook(lambda event, _: sys.exit(event) if event in network else None)\n"
        "from fisher_cli.inputs.data.datasets import load_examples\n"
        "from fisher_cli.settings import Resources, Settings\n"
        "print(load_examples(Settings(data='hf:animals', normalize='none'), Resources()).total)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.stdout.strip(), found.returncode) == ("30", 0), found.stderr


def test_only_download_asks_the_library(
    library: object, cache: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def load_dataset(name: str, config: str | None) -> None:
        asked.append((name, config))
        if name == "gone":
            msg = "no\nsuch"
            raise ConnectionError(msg)
        cache("animals", config or "default")

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    assert "not in the cache" in refusal(DataError, "hf:animals")
    assert asked == []
    assert load_examples("hf:animals:small", normalize="none", download=True).total == 30
    assert asked == [("animals", "small")]
    assert "fetching it failed (no\\nsuch)" in refusal(DataError, "hf:gone", download=True)
    monkeypatch.setattr(library, "__version__", "3.6.0")
    assert "pip install 'datasets>=4'" in refusal(DataError, "hf:other", download=True)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'fisher-cli[hf]'" in refusal(DataError, "hf:other", download=True)


@pytest.mark.parametrize("name", ["hf:", "hf:../x", "hf:a/b/c", "hf:a b", "hf:https://example.org/x"])
def test_words_that_name_no_dataset_are_refused(name: str) -> None:
    assert "names no dataset; type hf:NAME" in refusal(DataError, name)


def test_images_beside_a_table_are_opened_only_inside_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    inside, outside = folder / "pictures" / "0.png", tmp_path / "outside.png"
    for path in (inside, outside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CELLS[0]["bytes"])
    (folder / "pictures" / "link.png").symlink_to(outside)
    cells = {str(inside): True, "pictures/0.png": True}
    cells |= dict.fromkeys((str(outside), "../outside.png", "pictures/link.png", f"file://{inside}"), False)
    for path, is_read in cells.items():
        table = pa.table({"image": [{"bytes": None, "path": path}], "label": [0]})
        with pa.OSFile(str(folder / "data.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        if is_read:
            assert torch.equal(load_examples(f"hf:{folder}", normalize="none").inputs, EXPECTED[:1])
        else:
            assert "which is not opened" in refusal(DataError, f"hf:{folder}", normalize="none")


def test_files_of_arrow_s_other_format_are_read(tmp_path: Path) -> None:
    table = pa.table({"image": CELLS, "label": LABELS})
    with pa.OSFile(str(tmp_path / "train.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    examples = load_examples(f"hf:{tmp_path}", normalize="none", limit=5)
    assert torch.equal(examples.inputs, EXPECTED[examples.indices])
    assert examples.split == "train"


def test_a_state_that_leads_elsewhere_is_refused(library: object, tmp_path: Path) -> None:
    made(library).save_to_disk(tmp_path / "one")
    state = tmp_path / "one" / "state.json"
    content = json.loads(state.read_text())
    for name in ("../x.arrow", "/etc/hostname", "", None, 3):
        state.write_text(json.dumps({**content, "_data_files": [{"filename": name}]}))
        assert "not as save_to_disk writes it" in refusal(DataError, f"hf:{tmp_path / 'one'}")
    for text in ("{", "[" * 200_000, "[]", "\ud800".encode("utf-8", "surrogatepass").decode("latin1")):
        state.write_text(text)
        refusal(DataError, f"hf:{tmp_path / 'one'}")
