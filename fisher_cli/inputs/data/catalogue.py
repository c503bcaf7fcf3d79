"""What `--data` can be: the names it knows, and the other forms by which data are named."""

import difflib
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.data import digits, folders
from fisher_cli.inputs.data.array_files import npz_tables, tensor_tables
from fisher_cli.inputs.data.arrays import array_source
from fisher_cli.inputs.data.data_functions import function_source
from fisher_cli.inputs.data.folders import folder
from fisher_cli.inputs.data.huggingface_datasets import PREFIX as HUGGINGFACE
from fisher_cli.inputs.data.huggingface_datasets import huggingface_source
from fisher_cli.inputs.data.image_tables import parquet_source
from fisher_cli.inputs.data.sources import DataSource
from fisher_cli.inputs.data.splits import choose_split
from fisher_cli.inputs.data.torchvision_datasets import CELEBA_ATTRIBUTES, DATASETS, torchvision_dataset
from fisher_cli.text import clipped

_FOLDER: Final = "folder:"
_LINE: Final = 80  # of a terminal that nobody has widened
_TENSORS: Final = (".pt", ".pth", ".safetensors")
_FILES: Final = (".npz", ".parquet", *_TENSORS)
_REFUSED: Final = {
    "lsun": "its reader in torchvision unpickles files that lie in the working directory; export it to a folder of "
    "images and type --data folder:DIR",
    ".npy": "one array alone has no labels; save both: numpy.savez(FILE.npz, images=…, labels=…)",
    ".csv": "no images or arrays; save them with numpy.savez, or type --data FILE.py:FUNCTION",
    ".pkl": "a pickle runs code when it is read; save arrays with numpy.savez",
    ".pickle": "a pickle runs code when it is read; save arrays with numpy.savez",
    ".h5": "not read; save it with numpy.savez, or type --data FILE.py:FUNCTION that returns a dataset",
    ".tar": "an archive; unpack it, and type --data folder:DIR",
    ".zip": "an archive; unpack it, and type --data folder:DIR",
}
FORMS: Final = (
    ("folder:DIR", "one folder per class, as torchvision's ImageFolder; --split names a folder of them in DIR"),
    ("FILE.npz", "arrays images and labels, x_train and y_train …, or MedMNIST's train_images and train_labels …"),
    ("FILE.pt, .safetensors", "tensors inputs and labels; a .pt file also a pair of them"),
    ("FILE.parquet", "a column of images and one of labels"),
    ("hf:NAME[:CONFIG]", "what the datasets library has in its cache; --download fetches it"),
    ("hf:DIR", "a folder of save_to_disk, or of Arrow or Parquet files"),
    ("module:function", "or ./file.py:function: your function that returns (inputs, labels) or a dataset; --data-arg"),
)


def known_datasets() -> list[str]:
    """Return the names that `--data` knows, sorted; files, folders and functions are not among them."""
    return sorted(["digits", "imagenet", *DATASETS])


def splits_of(name: str) -> Sequence[str]:
    """Return the splits of a name of `known_datasets`, () where it has only one part."""
    own = {"digits": digits.SPLITS, "imagenet": folders.SPLITS}
    return own[name] if name in own else DATASETS[name].splits


def catalogue() -> list[tuple[str, str, str, str, str]]:
    """Return (name, splits, classes, size, needs) of each name, CelebA's forty attributes as one."""
    rows = [
        ("digits", ", ".join(digits.SPLITS), "10", "8×8", ""),
        ("imagenet", ", ".join(folders.SPLITS), str(folders.CLASSES), "", ""),
    ]
    attributes = {f"celeba-{attribute}" for attribute in CELEBA_ATTRIBUTES}
    for name in set(DATASETS) - attributes | {"celeba-ATTRIBUTE"}:
        entry = DATASETS.get(name) or DATASETS["celeba-smiling"]
        classes = "" if entry.classes is None else str(entry.classes)
        rows.append((name, ", ".join(entry.splits), classes, entry.size, entry.needs or ""))
    return sorted(rows)


def catalogue_text() -> str:
    """What `fisher datasets` writes: a line per name, then the other forms of `--data`.

    Returns:
        Lines with their ends; those of names have splits, classes, size and needs.
    """
    rows = [("name", "splits", "classes", "size", "needs"), *catalogue()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    width = max(len(form) for form, _ in FORMS)
    indent = " " * (width + 2)
    forms = [
        textwrap.fill(f"{form.ljust(width)}  {meaning}", _LINE, subsequent_indent=indent, break_on_hyphens=False)
        for form, meaning in FORMS
    ]
    return "\n".join([*lines, "", "Other forms of --data", *forms, ""])


def find_source(
    data: str, split: str | None, data_dir: str | None, arguments: Mapping[str, str], *, download: bool
) -> DataSource:
    """Return the split of the dataset that `data` names.

    Raises:
        UsageError: `folder:` names no folder, the dataset has no such split, or arguments are given to no function.
        DataError: There is no such dataset.
    """
    is_function = _is_function(data)
    if arguments and not is_function:
        msg = f"--data-arg {next(iter(arguments))}: only a function takes arguments; type --data FILE.py:FUNCTION"
        raise UsageError(msg)
    if data.startswith(_FOLDER):
        place = data.removeprefix(_FOLDER)
        if not place:
            msg = "--data folder: names no folder; type --data folder:DIR"
            raise UsageError(msg)
        return folder(place, split)
    if data.startswith(HUGGINGFACE):
        return huggingface_source(data, split, download=download)
    if is_function:
        if split is not None:
            msg = f"--split {clipped(split)}: a function has no splits; pass it on as --data-arg split={clipped(split)}"
            raise UsageError(msg)
        return function_source(data, arguments)
    if Path(data).suffix.lower() in _FILES:
        return _file_source(data, split)
    return _named(_canonical(data), split, data_dir, download=download)


def _is_function(data: str) -> bool:
    return ":" in data and not data.startswith((_FOLDER, HUGGINGFACE))


def _file_source(data: str, split: str | None) -> DataSource:
    path, name = Path(os.path.expanduser(data)), clipped(data, 500)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return parquet_source(name, [path], choose_split(split, (), name))
    return array_source(name, npz_tables(path) if suffix == ".npz" else tensor_tables(path), split)


def _named(name: str, split: str | None, data_dir: str | None, *, download: bool) -> DataSource:
    chosen = choose_split(split, splits_of(name), name)
    if name == "digits":
        return digits.digits(chosen or "train")
    if name == "imagenet":
        return folders.imagenet(chosen or "train", data_dir)
    return torchvision_dataset(name, chosen, data_dir, download=download)


def _canonical(data: str) -> str:
    """Return the name as `known_datasets` spells it.

    Raises:
        DataError: It names none of them.
    """
    by_key = {_key(name): name for name in known_datasets()}
    key = _key(data)
    if key in by_key:
        return by_key[key]
    if data and os.path.isdir(os.path.expanduser(data)):
        shown = clipped(data)
        msg = f"--data {shown}: a folder of images is named --data folder:{shown}"
        raise DataError(msg)
    suffix = Path(data).suffix.lower()
    reason = _REFUSED.get(suffix) or (_REFUSED["lsun"] if key.startswith("lsun") else None)
    if reason is not None:
        msg = f"--data {clipped(data)}: {reason}"
        raise DataError(msg)
    near = [name for each, name in by_key.items() if each.startswith(key)][:6] if key else []
    near += [by_key[each] for each in difflib.get_close_matches(key, by_key, n=3)]
    guess = f"did you mean {', '.join(dict.fromkeys(near))}? " if near else ""
    forms = "fisher datasets lists them and the other forms, as folder:DIR"
    msg = f"--data {clipped(data)!r}: unknown dataset; {guess}{forms}"
    raise DataError(msg)


def _key(name: str) -> str:
    return re.sub(r"[-_\s]", "", name.lower())
