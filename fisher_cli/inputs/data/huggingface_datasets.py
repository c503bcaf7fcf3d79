"""`--data hf:NAME[:CONFIG]` and `hf:DIR`: what the datasets library keeps on disk, read without running any of it.

Only --download calls that library. Its cache, folders of save_to_disk, and Parquet files of a repository are read as
the tables that they are: no loading script is looked at, and no address in a cell is opened.
"""

import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fisher_cli.errors import CheckpointError, DataError
from fisher_cli.inputs.data.image_tables import arrow_source, parquet_source
from fisher_cli.inputs.data.sources import DataSource
from fisher_cli.inputs.data.splits import SPLIT_WORDS, choose_split, in_order
from fisher_cli.inputs.formats.files import open_regular, shown
from fisher_cli.inputs.formats.plain_json import parse_json
from fisher_cli.text import clipped

PREFIX: Final = "hf:"
_NAME: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)?", re.ASCII)
_CONFIG: Final = re.compile(r"[\w.+-]*", re.ASCII)
_SHARD: Final = re.compile(r"(.+?)(?:-[0-9]{5}-of-[0-9]{5}(?:-[0-9a-f]+)?)?", re.ASCII)
_LONGEST_DESCRIPTION: Final = 64 * 2**20
_FIRST_SAFE: Final = 4  # versions below run a repository's loading script


def huggingface_source(data: str, split: str | None, *, download: bool) -> DataSource:
    """Return a split of a dataset in the local cache, or of a folder or file on disk.

    Raises:
        UsageError: There is no such split.
        DataError: It is not there, damaged, or has no columns of images and labels.
    """
    place = data.removeprefix(PREFIX)
    path = Path(os.path.expanduser(place))
    if place and os.path.isdir(path):
        return _split_of(data, _folder_splits(path), split, path)
    if place and os.path.isfile(path):
        return _split_of(data, {None: [path]}, split, path.parent)
    name, _, config = place.partition(":")
    if not _NAME.fullmatch(name) or ".." in name or not _CONFIG.fullmatch(config):
        msg = f"--data {clipped(data)}: names no dataset; type hf:NAME, hf:OWNER/NAME:CONFIG, or hf:DIR"
        raise DataError(msg)
    found = _cached(name, config)
    if not found and download:
        _download(data, name, config)
        found = _cached(name, config)
    if not found:
        msg = (
            f"{clipped(data)}: not in the cache in {shown(_home())}; type --download to fetch it, or hf:DIR for a "
            "folder of save_to_disk or of Parquet files"
        )
        raise DataError(msg)
    if len(found) > 1:
        msg = f"{clipped(data)}: has several configurations; type hf:{name}:CONFIG with one of {', '.join(found)}"
        raise DataError(msg)
    return _split_of(data, _folder_splits(next(iter(found.values()))), split, _home())


def _split_of(data: str, splits: Mapping[str | None, Sequence[Path]], split: str | None, beside: Path) -> DataSource:
    data = clipped(data, 500)
    chosen = choose_split(split, in_order(name for name in splits if name is not None), data)
    paths = sorted(splits[chosen])
    if paths[0].suffix == ".parquet":
        return parquet_source(data, paths, chosen)
    return arrow_source(data, paths, chosen, beside)


def _folder_splits(folder: Path) -> dict[str | None, list[Path]]:
    """Return the files of each split below a folder; None is the split of a folder without parts.

    Raises:
        DataError: It holds no Arrow or Parquet files.
    """
    if (folder / "dataset_dict.json").is_file():  # DatasetDict.save_to_disk
        names = _json(folder / "dataset_dict.json").get("splits")
        parts = names if isinstance(names, list) else []
        return {name: _saved(folder / name) for name in map(str, parts) if _is_plain(name)}
    if (folder / "state.json").is_file():  # Dataset.save_to_disk
        return {None: _saved(folder)}
    files = sorted({path for suffix in ("arrow", "parquet") for path in folder.rglob(f"*.{suffix}")})
    files = [path for path in files if not path.name.startswith("cache-")]  # results of .map()
    suffixes = {path.suffix for path in files}
    if not files or len(suffixes) > 1:
        msg = f"{shown(folder)}: holds {'no' if not files else 'both'} Arrow and Parquet files; name one file of them"
        raise DataError(msg)
    found: dict[str | None, list[Path]] = {}
    for path in files:
        found.setdefault(_split_word(path, folder), []).append(path)
    if None in found and len(found) > 1:
        msg = f"{shown(found[None][0])}: its name says no split as the others' do; name one file with --data FILE"
        raise DataError(msg)
    return found


def _split_word(path: Path, folder: Path) -> str | None:
    """The split in `train-00000-of-00002.parquet`, `name-train.arrow` or `train/0.parquet`."""
    found = _SHARD.fullmatch(path.stem)
    stem = found[1] if found else path.stem
    for word in (stem, stem.rpartition("-")[2], *path.relative_to(folder).parts[:-1][::-1]):
        if word.lower() in SPLIT_WORDS or (stem != path.stem and word == stem):
            return word
    return None


def _saved(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder of save_to_disk.

    Raises:
        DataError: Its list of files is damaged, or leads elsewhere.
    """
    state = _json(folder / "state.json")
    listed = state.get("_data_files")
    names = [file.get("filename") if isinstance(file, Mapping) else None for file in listed] if listed else []
    if not names or not all(_is_plain(name) for name in names) or state.get("_indices_data_files"):
        msg = f"{shown(folder / 'state.json')}: not as save_to_disk writes it; save the dataset again"
        raise DataError(msg)
    return [folder / str(name) for name in names]


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name not in {"", ".", ".."} and not set(name) & set("/\\\0")


def _json(path: Path) -> Mapping[str, Any]:
    try:
        with open_regular(path, _LONGEST_DESCRIPTION) as file:
            return parse_json(file.read(), shown(path))
    except OSError as error:
        msg = f"{shown(path)}: cannot be read ({error.strerror}); copy or download the dataset again"
        raise DataError(msg) from error
    except CheckpointError as error:
        raise DataError(str(error)) from error


def _home() -> Path:
    """Return the library's folder: HF_HOME, else huggingface below the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser()


def _cached(name: str, config: str) -> dict[str, Path]:
    """Return the newest folder of each configuration: prepared ones first, else the repository's own files."""
    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or _home() / "datasets").expanduser()
    owner, _, last = name.rpartition("/")
    # The library writes CamelCase names in lower case with _ between.
    snake = re.sub(r"([a-z\d])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", last)).lower()
    below = prepared / (f"{owner}___{snake}" if owner else snake)
    found: dict[str, Path] = {}
    for info in sorted(below.glob("*/*/*/dataset_info.json"), key=lambda path: path.stat().st_mtime):
        found[info.parts[-4]] = info.parent
    if not found:
        hub = Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub").expanduser()
        snapshots = sorted(
            hub.glob(f"datasets--{name.replace('/', '--')}/snapshots/*"), key=lambda path: path.stat().st_mtime
        )
        if snapshots:
            newest = snapshots[-1]
            folders = [path for path in newest.iterdir() if path.is_dir() and any(path.rglob("*.parquet"))]
            split_folders = {path.name.lower() for path in folders} <= {*SPLIT_WORDS, "data"}
            found = {"default": newest} if split_folders else {path.name: path for path in folders}
    if config:
        return {config: found[config]} if config in found else {}
    return {"default": found["default"]} if "default" in found else found


def _download(data: str, name: str, config: str) -> None:
    """Let the datasets library fetch and prepare it.

    Raises:
        DataError: The library is not there, too old, or fails.
    """
    try:
        import datasets
    except ImportError as error:
        msg = f"{clipped(data)}: fetching it needs the datasets library; type: pip install 'fisher-cli[hf]'"
        raise DataError(msg) from error
    if int(datasets.__version__.split(".")[0]) < _FIRST_SAFE:
        version = datasets.__version__
        msg = f"{clipped(data)}: datasets {version} may run a loading script; type: pip install 'datasets>=4'"
        raise DataError(msg)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            datasets.load_dataset(name, config or None)
    except Exception as error:
        msg = f"{clipped(data)}: fetching it failed ({clipped(error)}); check the name and the network"
        raise DataError(msg) from error
