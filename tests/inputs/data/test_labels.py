from pathlib import Path

import pytest
import torch

from fisher_cli.errors import DataError
from tests.data_files import labels_file, refusal
from tests.loading import load_examples

pytestmark = pytest.mark.usefixtures("workdir")


def test_a_labels_file_replaces_the_labels_of_the_selected_examples(tmp_path: Path) -> None:
    rows = [(i, (7 * i) % 11, i % 2) for i in reversed(range(1400))]
    path = labels_file(tmp_path, rows, header="index,label,noisy")
    examples = load_examples("digits", limit=20, labels=path)
    assert torch.equal(examples.labels, (7 * examples.indices) % 11)
    assert examples.noisy is not None
    assert torch.equal(examples.noisy, examples.indices % 2 == 1)
    assert examples.classes is None  # the network decides which labels there can be
    assert examples.class_names == ()


def test_a_labels_file_needs_only_the_selected_examples_and_may_come_from_a_spreadsheet(
    tmp_path: Path,
) -> None:
    chosen = load_examples("digits", limit=20).indices.tolist()
    path = tmp_path / "labels.csv"
    path.write_bytes(b"\xef\xbb\xbfIndex, Label\r\n" + b"".join(b"%d, 3\r\n" % i for i in chosen) + b"\r\n")
    examples = load_examples("digits", limit=20, labels=str(path))
    assert examples.labels.tolist() == [3] * 20
    assert examples.noisy is None


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("index;label\n0;1\n", "line 1", "index,label,noisy"),
        ("label,index\n0,1\n", "line 1", "index,label"),
        ("index,label\n0,1\nx,1\n", "line 3", "index 'x' is no integer"),
        ("index,label\n0,1.5\n", "line 2", "label '1.5' is no integer"),
        ("index,label\n0,-1\n", "line 2", "from 0 up"),
        ("index,label\n-1,1\n", "line 2", "from 0 up"),
        ("index,label\n0,99999999999999999999\n", "line 2", "no integer"),
        ("index,label\n0,1_0\n", "line 2", "no integer"),
        ("index,label\n0,1\n1,1\n0,2\n", "line 4", "in line 2 already"),
        ("index,label\n1400,1\n", "line 2", "--split"),
        ("index,label\n0\n", "line 2", "1 cells, not 2"),
        ("index,label,noisy\n0,1,maybe\n", "line 2", "0, 1, false, true"),
        ("index,label\n0,1\n1,1\n", "line 3", "without a label for example 2 and 1397 more"),
    ],
)
def test_a_labels_file_with_a_fault_is_refused_with_the_line(text: str, line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    message = refusal(DataError, "digits", limit=None, labels=str(path))
    assert message.startswith(f"{path}: ")
    assert line in message
    assert says in message


def test_a_labels_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "there is no such file" in refusal(DataError, "digits", labels=str(tmp_path / "none.csv"))
    assert "--labels FILE" in refusal(DataError, "digits", labels=str(tmp_path))
    (tmp_path / "empty.csv").touch()
    assert "the file is empty" in refusal(DataError, "digits", labels=str(tmp_path / "empty.csv"))
    (tmp_path / "latin.csv").write_bytes(b"index,label\n0,\xff\n")
    assert "UTF-8" in refusal(DataError, "digits", labels=str(tmp_path / "latin.csv"))
