"""torchvision's labelled image datasets by name: one adapter that reads their signatures."""

import contextlib
import functools
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fisher_cli.errors import DataError
from fisher_cli.inputs.data.images import FORMATS, read_image
from fisher_cli.inputs.data.normalization import NAMED
from fisher_cli.inputs.data.sources import Example, Source, one_by_one
from fisher_cli.inputs.data.torchvision_table import DATASETS, Entry

# GTSRB's images are in Netpbm's format, which can hold nothing but pixels.
_FORMATS: Final = (*FORMATS, "PPM")
_AGAIN: Final = "fetch the files again with --download into an empty --data-dir"


def data_folder(data_dir: str | None) -> Path:
    """Return where named datasets lie: --data-dir, else FISHER_DATA_DIR, else ./data."""
    return Path(data_dir or os.environ.get("FISHER_DATA_DIR") or "data").expanduser()


def torchvision_dataset(name: str, split: str | None, data_dir: str | None, *, download: bool) -> Source:
    """Return the split of a dataset of the table, fetched from the network only when asked to.

    Args:
        name: a key of the table.
        split: one of its splits, None if it has none.
        data_dir: where its files lie as torchvision lays them out; None: FISHER_DATA_DIR, else ./data.
        download: fetch what is missing into that folder.

    Raises:
        DataError: A package or the files are missing, damaged, or cannot be fetched.
    """
    entry = DATASETS[name]
    if entry.needs is not None and importlib.util.find_spec(entry.needs) is None:
        msg = f"{name}: torchvision needs {entry.needs} to read its files; type: pip install {entry.needs}"
        raise DataError(msg)
    root = data_folder(data_dir)
    dataset = _opened(name, entry, split, root, download=download)
    if entry.order is not None:
        entry.order(dataset)
    names = getattr(dataset, "classes", ())
    return Source(
        name=name,
        split=split,
        total=len(dataset),
        classes=entry.classes or len(dataset._characters),
        # ImageNet's classes have several names each; the first is the usual one.
        class_names=tuple(item if isinstance(item, str) else item[0] for item in names),
        examples=one_by_one(functools.partial(_example, name, entry, dataset, root)),
        constants=NAMED[entry.constants] if entry.constants else None,
        remedy=f"the file is damaged: {_AGAIN}",
    )


def _example(name: str, entry: Entry, dataset: Any, root: Path, index: int) -> Example:
    """Return the pixels and the label of one example.

    Raises:
        DataError: The reader cannot read it, or it has no label.
    """
    try:
        if entry.located is not None:
            place, label = entry.located(dataset, index)
            return read_image(place, _FORMATS), label
        image, label = dataset[index]
        if label is not None:
            return np.asarray(image), int(label)
    # A damaged image makes Pillow and the readers raise nearly anything.
    except Exception as error:
        msg = f"{name}: example {index} in {_shown(root)} cannot be read ({_reason(error)}); {_AGAIN}"
        raise DataError(msg) from error
    msg = f"{name}: example {index} has no label in these files; choose another --split, or give labels with --labels"
    raise DataError(msg)


def _opened(name: str, entry: Entry, split: str | None, root: Path, *, download: bool) -> Any:
    """Return torchvision's own dataset object.

    Raises:
        DataError: The files are missing or damaged, or cannot be fetched.
    """
    from torchvision import datasets  # a second that a run on the digits need not wait

    reader = _without_old_layout(getattr(datasets, entry.reader))
    parameters = inspect.signature(reader).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = _arguments(entry, split, parameters)
    # LFW's and StanfordCars' addresses are gone, and their readers say so.
    can_download = "download" in parameters or passes_on
    if can_download:
        arguments["download"] = download
    elif download and "root" in parameters:
        msg = f"{name}: it cannot be fetched automatically; get it from its makers and put it into {_shown(root)}"
        raise DataError(msg)
    if "root" in parameters:
        arguments["root"] = str(root)
    try:
        _check_files(entry, split, reader, root, download=download)
        # torchvision reports its downloads on stdout, where only results belong.
        with contextlib.redirect_stdout(sys.stderr):
            return reader(**arguments)
    # Readers raise nearly anything on damaged files, and any network error on a download.
    except Exception as error:
        missing = isinstance(error, FileNotFoundError) or "not found" in str(error) or "does not exist" in str(error)
        if download:
            msg = f"{name}: fetching it into {_shown(root)} failed ({_reason(error)}); check the network and try again"
        elif missing:
            fetch = "type --download to fetch it there, or " if can_download else ""
            msg = f"{name}: no intact files of it in {_shown(root)}; {fetch}type --data-dir DIR if it lies elsewhere"
        else:
            msg = f"{name}: its files in {_shown(root)} cannot be read ({_reason(error)}); {_AGAIN}"
        raise DataError(msg) from error


def _without_old_layout(reader: type) -> type:
    """Return the reader; of MNIST and its kin one that does not look for the `.pt` files of older versions.

    Those would be loaded without the checks that this program makes of every file of tensors. The name is kept:
    the readers make the folder's name from it.
    """
    if not hasattr(reader, "_check_legacy_exist"):
        return reader
    return type(reader.__name__, (reader,), {"_check_legacy_exist": lambda _: False})


def _arguments(entry: Entry, split: str | None, parameters: Any) -> dict[str, object]:
    """Return the reader's arguments for the split, with a loader of ours where it takes one."""
    arguments: dict[str, object] = dict(entry.arguments)
    if "loader" in parameters and entry.located is None:
        arguments["loader"] = _loader("L" if entry.reader == "Omniglot" else "RGB")
    if split is None:
        return arguments
    value = entry.split_values.get(split, split)
    if entry.split_argument is not None:
        arguments[entry.split_argument] = value
    elif "split" not in parameters or "split" in arguments:
        arguments["train"] = split == "train"
    else:
        arguments["split"] = value
    return arguments


def _loader(mode: str) -> Callable[[str], Image.Image]:
    return lambda path: Image.fromarray(read_image(path, _FORMATS)).convert(mode)


def _check_files(entry: Entry, split: str | None, reader: type, root: Path, *, download: bool) -> None:
    """Look for the files before readers that make folders or trust any file are called.

    Raises:
        FileNotFoundError: They are not there, or not intact.
    """
    from torchvision.datasets.utils import check_integrity

    if download:
        return
    if entry.below is not None and not (root / entry.below.format(entry.split_values.get(split or ""))).is_dir():
        msg = "dataset not found"
        raise FileNotFoundError(msg)
    if entry.checked is not None:
        _, file, digest = getattr(reader, entry.checked)[split]
        if not check_integrity(root / file, digest):
            msg = f"{file} not found or corrupted"
            raise FileNotFoundError(msg)


def _shown(root: Path) -> str:
    return str(root.absolute())


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
