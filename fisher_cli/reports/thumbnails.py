"""The examples of a report as small pictures, from the dataset that it was made of and from no other."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fisher_cli.errors import DataError, OutputError
from fisher_cli.reports.reported_run import ReportedRun, last_examples
from fisher_cli.settings import Resources, Settings
from fisher_cli.text import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from fisher_cli.inputs.data.datasets import Examples

# Pixels: larger pictures are made smaller, smaller ones are shown larger without being smoothed.
LARGEST = 96


@dataclass(frozen=True)
class ImageData:
    """Where a report's examples are to be had; which of them and how prepared, the report's record says.

    Attributes:
        name: the dataset, as `--data` names it.
        data_dir: the folder of the named datasets; None for the usual one.
        labels: the file of labels that the report was made with; None without one.
    """

    name: str
    data_dir: str | None = None
    labels: str | None = None


def with_pictures(run: ReportedRun, data: ImageData) -> ReportedRun:
    """The report with the pictures of the examples that carry the trace of its last checkpoint.

    Args:
        run: a report with a table of examples.
        data: where its examples are to be had; they are compared with the report's by their identity.

    Returns:
        A report whose `pictures` are PNG files as `data:` addresses, at most 96 pixels on a side.

    Raises:
        OutputError: there is no table of examples beside the report, or no record of its data.
        DataError: the dataset is another than the report's, or holds no images.
        UsageError: the dataset has no such split, or its normalisation cannot be.
    """
    found = last_examples(run)
    if found is None:
        msg = f"{run.name} has no table of examples that --data could show: run `fisher examples` with the same -o"
        raise OutputError(msg)
    examples = _examples(run, data)
    places = {int(index): place for place, index in enumerate(examples.indices.tolist())}
    wanted = [int(index) for index in found[1]["index"].dropna().tolist()]
    shown = {
        index: _address(examples.inputs[places[index]], examples.pixel_maximum) for index in wanted if index in places
    }
    return replace(run, pictures=shown)


def _examples(run: ReportedRun, data: ImageData) -> "Examples":
    """The dataset's examples that the report is about.

    Raises:
        OutputError: the report has no record of its data.
        DataError: they are others, or no images.
    """
    from fisher_cli.inputs.data.datasets import load_examples

    record = run.records.get("examples") or run.record
    known, settings = record.get("data"), record.get("settings")
    if not isinstance(known, Mapping) or not isinstance(settings, Mapping) or "identity" not in known:
        raise OutputError(_unknown(run))
    asked = Settings(
        data=data.name,
        split=settings.get("split"),
        limit=settings.get("limit"),
        labels=data.labels if settings.get("labels") is not None else None,
        normalize=_normalize(run, known, settings),
        resize=settings.get("resize"),
        crop=settings.get("crop"),
        grayscale=known.get("grayscale", False),
        data_arguments=tuple((str(key), str(value)) for key, value in settings.get("data_arguments") or ()),
        seed=settings.get("seed", 0),
    )
    examples = load_examples(asked, Resources(data_dir=data.data_dir))
    if examples.identity != known["identity"]:
        raise DataError(_differs(run, data, known, settings))
    if not examples.is_image or examples.inputs.ndim != 4 or examples.inputs.shape[1] not in {1, 3}:
        msg = f"--data {data.name}: its examples are no images: leave --data out"
        raise DataError(msg)
    return examples


def _unknown(run: ReportedRun) -> str:
    return f"{run.name}: its record does not say which data it is of: make the table again"


def _normalize(run: ReportedRun, known: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """As it was typed; what `auto` chose, by its numbers.

    Raises:
        OutputError: it does not say what.
    """
    typed: str | None = settings.get("normalize")
    if typed is None or typed.lower() != "auto":
        return typed
    chosen = known.get("normalization") or {}
    if not chosen.get("mean") or not chosen.get("std"):
        raise OutputError(_unknown(run))
    return "/".join(",".join(repr(float(value)) for value in chosen[name]) for name in ("mean", "std"))


def _differs(run: ReportedRun, data: ImageData, known: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """In one line, that the dataset is another one, and what the report's was."""
    labels = settings.get("labels")
    if labels is not None and data.labels is None:
        return f"{run.name} was made with --labels {one_line(str(labels))}: add --labels and the file beside --data"
    of = one_line(" ".join(str(known[key]) for key in ("name", "split") if known.get(key)))
    given = f"--data {data.name}" if labels is None else f"--data {data.name} with --labels {data.labels}"
    more = "" if labels is None else f" with --labels {one_line(str(labels))}"
    return f"{given} is not the data of {run.name}, which is {of}{more}: name that dataset"


def _address(image: "Tensor", largest: float) -> str:
    """An image (C, H, W) as the address of a PNG that lies in the page itself."""
    from PIL import Image

    scaled = (image.double() * (255.0 / largest)).round().clamp(0, 255).byte()
    pixels = scaled[0].numpy() if scaled.shape[0] == 1 else scaled.permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Card:
    """A picture of an example with what stands under it.

    Attributes:
        picture: a `data:` address.
        name: `example` and its index.
        lines: label, prediction, trace and loss.
        is_wrong: whether another class is predicted than its label.
    """

    picture: str
    name: str
    lines: Sequence[str]
    is_wrong: bool


def cards(run: ReportedRun, top: Sequence[Mapping[str, Any]]) -> list[Card]:
    """A card for each of these rows of the table of examples, where the report has their pictures."""
    return [_card(run.pictures[row["index"]], row) for row in top if row["index"] in run.pictures]


def _card(picture: str, row: Mapping[str, Any]) -> Card:
    label, predicted = (_named(row, name) for name in ("label", "predicted"))
    numbers = [
        f"{name} {row[key]:.3g}" for name, key in (("trace", "trace_true"), ("loss", "loss")) if row[key] is not None
    ]
    lines = [f"label {label}", f"predicted {predicted}", *numbers]
    if row.get("noisy") == 1:
        lines.insert(1, "(wrong label)")
    return Card(picture, f"example {row['index']}", lines, row.get("label") != row.get("predicted"))


def _named(row: Mapping[str, Any], name: str) -> str:
    """A class by its name where it has one."""
    text = row.get(f"{name}_name")
    return one_line(text) if isinstance(text, str) else str(row.get(name))
