"""Pictures of examples on a page: those of the report's own data, pixel by pixel, and of no other."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fisher_cli.reports.page import render_page
from fisher_cli.reports.reported_run import read_run
from fisher_cli.reports.thumbnails import LARGEST, ImageData, with_pictures
from fisher_cli.storage.readers import read_table
from tests.command import fisher
from tests.loading import load_examples
from tests.report_files import SAMPLES, made

LABELS = SAMPLES / "digits-noisy" / "labels.csv"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the noisy run whose examples are written beside it by `analyze` itself."""
    path = tmp_path_factory.mktemp("report") / "noisy.csv"
    last = SAMPLES / "digits-noisy" / "step_05280.pt"
    options = ("--labels", LABELS, "--limit", 24, "--eigenvalues", 0, "--per-example", "-q")
    assert fisher("analyze", last, *options, "-o", path).stderr == ""
    return path


def pixels(address: str) -> np.ndarray:
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_the_pictures_are_those_of_the_rows_that_carry_the_trace(report: Path) -> None:
    run = with_pictures(read_run(report), ImageData("digits", labels=str(LABELS)))
    rows = read_table(report.with_name("noisy.examples.csv")).sort_values("trace_true", ascending=False).head(10)
    assert list(run.pictures) == rows["index"].tolist()
    digits = load_examples("digits", limit=None)
    for index, address in run.pictures.items():
        expected = digits.inputs[index, 0].double() * 255 / digits.pixel_maximum
        assert np.array_equal(pixels(address), expected.round().numpy())
    text = render_page([run]).decode()
    cards = re.findall(r'<li(?: class="wrong")?><img src="[^"]*" alt="(.*?)"><span>(.*?)</span></li>', text, re.DOTALL)
    assert [name for name, _ in cards] == [f"example {index}" for index in run.pictures]
    for (_, said), row in zip(cards, rows.to_dict("records"), strict=True):
        noisy = "(wrong label)\n" if row["noisy"] else ""
        assert said == (
            f"label {row['label']}\n{noisy}predicted {row['predicted']}\n"
            f"trace {row['trace_true']:.3g}\nloss {row['loss']:.3g}"
        )
    assert text.count('<li class="wrong">') == (rows["label"] != rows["predicted"]).sum()
    assert any(rows["noisy"] == 1)


def test_the_command_shows_them_only_when_asked(report: Path, tmp_path: Path) -> None:
    assert fisher("report", report, "-o", tmp_path / "plain.html", "-q").stderr == ""
    assert b"<img" not in (tmp_path / "plain.html").read_bytes()
    asked = ("--data", "digits", "--labels", LABELS)
    assert fisher("report", report, *asked, "-o", tmp_path / "full.html", "-q").stderr == ""
    assert (tmp_path / "full.html").read_bytes().count(b'<img src="data:image/png;base64,') == 10


def test_other_data_is_refused_in_one_line(report: Path, tmp_path: Path) -> None:
    page, other = tmp_path / "a.html", tmp_path / "labels.csv"
    assert fisher("report", report, "--data", "digits", "-o", page, code=1).stderr == (
        "error: noisy was made with --labels labels.csv: add --labels and the file beside --data\n"
    )
    lines = LABELS.read_text().splitlines()
    index = read_table(report.with_name("noisy.examples.csv"))["index"][0]
    place = next(i for i, line in enumerate(lines) if line.startswith(f"{index},"))
    lines[place] = f"{index},{(int(lines[place].split(',')[1]) + 1) % 10},0"
    other.write_text("\n".join(lines))
    said = fisher("report", report, "--data", "digits", "--labels", other, "-o", page, code=1).stderr
    assert said == (
        f"error: --data digits with --labels {other} is not the data of noisy, which is digits train with --labels "
        "labels.csv: name that dataset\n"
    )
    said = fisher("report", report, "--labels", LABELS, "-o", page, code=2).stderr
    assert "needs --data" in said
    assert not page.exists()


def test_what_a_report_lacks_is_said(tmp_path: Path) -> None:
    report = made(tmp_path / "made.csv", 2, 1)
    said = fisher("report", report, "--data", "digits", "-o", tmp_path / "a.html", code=1).stderr
    assert said == (
        "error: made has no table of examples that --data could show: run `fisher examples` with the same -o\n"
    )


def test_a_record_without_the_data_is_said(report: Path, tmp_path: Path) -> None:
    shutil.copytree(report.parent, tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "noisy.fisher/record.json").read_text())
    del record["data"]["identity"]
    (tmp_path / "noisy.fisher/record.json").write_text(json.dumps(record))
    assert fisher("report", tmp_path / "noisy.csv", "--data", "digits", "-o", tmp_path / "a.html", code=1).stderr == (
        "error: noisy: its record does not say which data it is of: make the table again\n"
    )


NETWORK = """
from torch import nn


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear({inputs}, 3))
"""


@pytest.mark.usefixtures("workdir")
@pytest.mark.parametrize(("shape", "normalize", "kind"), [((3, 200, 120), "auto", "image"), ((5,), None, "numbers")])
def test_large_pictures_get_small_and_numbers_are_no_pictures(
    shape: tuple[int, ...], normalize: str | None, kind: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    size = int(np.prod(shape))
    Path("net.py").write_text(NETWORK.format(inputs=size))
    torch.save({"1.weight": torch.randn(3, size, generator=generator) / size, "1.bias": torch.zeros(3)}, "step_1.pt")
    inputs = torch.randint(0, 256, (12, *shape), generator=generator).to(torch.uint8 if kind == "image" else None)
    np.savez("data.npz", x=inputs.numpy() if kind == "image" else inputs.float().numpy() / 300, y=np.arange(12) % 3)
    options = ("--model", "./net.py:make", *(("--normalize", normalize) if normalize else ()), "-q")
    fisher("examples", "step_1.pt", "--data", "data.npz", *options, "-o", "a.csv")
    fisher("analyze", "step_1.pt", "--data", "data.npz", *options, "--eigenvalues", 0, "-o", "a.csv")
    asked = ("report", "a.csv", "--data", "data.npz", "-o", "a.html", "-q")
    if kind == "numbers":
        said = fisher(*asked, code=1).stderr
        assert said == "error: --data data.npz: its examples are no images: leave --data out\n"
        return
    said = fisher(*asked).stderr
    assert said == ""
    addresses = re.findall(r'<img src="([^"]*)"', Path("a.html").read_text())
    assert [pixels(each).shape for each in addresses] == [(LARGEST, 58, 3)] * 10
