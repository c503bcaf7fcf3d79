"""Paths that the user names → the files and folders that are one checkpoint each, and the run that each is of."""

import difflib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import natsort

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints import timeline
from fisher_cli.inputs.checkpoints.distributed_checkpoints import METADATA, SUFFIX, read_distributed
from fisher_cli.inputs.checkpoints.sharded import (
    ADAPTERS,
    COMPANIONS,
    CONFIG,
    INDEXES,
    MODEL_STATES,
    SHARD,
    TRAINER_STATE,
    WHOLE,
    describe,
    read_deepspeed,
    read_folder,
)
from fisher_cli.inputs.checkpoints.stored_files import StoredCheckpoint, read_file
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.text import clipped, escape

_SUFFIXES: Final = frozenset({".pt", ".pth", ".th", ".ckpt", ".bin", ".tar", ".pkl", ".safetensors"})
# What lies beside checkpoints and never holds weights: logs, settings, figures, tables, code, TensorBoard's events.
_BESIDE: Final = re.compile(
    r"(\.(txt|md|rst|log|out|err|lock|jsonl?|ya?ml|toml|cfg|ini|csv|tsv|xlsx|parquet|arrow|db|wandb|zip|gz"
    r"|png|jpe?g|gif|svg|pdf|html|mp4|pyc?|ipynb|sh))?"
)
_EVENTS: Final = ".tfevents."
_UNFINISHED: Final = ("tmp", "recovery_tmp")
# What trainers write beside the weights, in files of the same suffixes.
_COMPANIONS: Final = ("optimizer", "scheduler", "scaler", "sampler", "rng_state", "random_states", "training_args")
_OF_TRAINER: Final = re.compile(r"checkpoint[-_][0-9]+")
# Where accelerate puts the weights of FSDP, and DeepSpeed its own, within the trainer's folder.
_FSDP: Final = "pytorch_model_fsdp_0"
_DEEPSPEED: Final = re.compile(r"global_step[0-9]+")

# How far below a named folder without checkpoints runs are looked for: lightning_logs/version_0/checkpoints.
_DEPTH: Final = 3

_Reader = Callable[[Path, ReadOptions], StoredCheckpoint]


@dataclass(frozen=True)
class Candidate:
    """A file or folder that is one checkpoint.

    Attributes:
        path: where it is.
        copies: further names of the same file.
        run: the name of the run that it is of; "" for that of the root folder.
    """

    path: Path
    copies: tuple[str, ...] = ()
    run: str = ""


def find_candidates(paths: Sequence[Path]) -> list[Candidate]:
    """Find the files and folders that the paths name, each once, run by run, within a run in no particular order.

    A folder that is a checkpoint stands for itself. Any other stands for what is directly inside it: files that have a
    checkpoint's suffix, and folders that are checkpoints; hidden and unfinished ones (`tmp…`) and optimizer states are
    not among them. Links to one file of a run count as one. No file is opened.

    A folder of checkpoints is a run, and so are all files that are named one by one. A folder without checkpoints
    stands for the runs below it. Runs are named by their folders, relative to the folder that all of them share.

    Raises:
        CheckpointError: A path does not exist, or a folder holds no checkpoint or cannot be listed.
    """
    runs: dict[Path, list[Path]] = {}
    around, alone = list[Path](), list[Path]()
    for path in paths:
        if not _is_folder(path):
            alone += _of_file(path)
            continue
        found = _runs_of(path)
        if not found:
            raise CheckpointError(_nothing_inside(path))
        for folder, inside in found:
            runs.setdefault(folder, []).extend(inside)
        own = Path(os.path.abspath(path))
        above = next((folder.parent for folder, _ in found if folder in (own, own.parent)), own)
        around.append(above)
    if alone:
        shared = Path(os.path.commonpath([os.path.abspath(each.parent) for each in alone]))
        runs.setdefault(shared, []).extend(alone)
        around.append(shared.parent)
    base, taken = os.path.commonpath(around) if around else "", set[str]()
    candidates = []
    for folder, inside in runs.items():
        name = escape(Path(os.path.relpath(folder, base)).as_posix())
        new = [each for each in inside if _real(each) not in taken]
        candidates += [replace(each, run="" if name == "." else name) for each in _one_per_inode(new)]
        taken |= {_real(each) for each in inside}
    return candidates


def passed_over(named: Sequence[Path], found: Iterable[Path]) -> str:
    """Return how many files of which other suffixes lie beside the checkpoints that a folder stood for, "" for none.

    Args:
        named: the paths as the user named them.
        found: the checkpoints that these stand for.
    """
    alone = set(named)
    return _other_suffixes(dict.fromkeys(path.parent for path in found if path not in alone))


def _other_suffixes(folders: Iterable[Path]) -> str:
    counts = Counter(
        suffix
        for folder in folders
        for name in _entries(folder)
        if (suffix := Path(name).suffix.lower()) not in _SUFFIXES
        and not _BESIDE.fullmatch(suffix)
        and not (name.startswith((".", *_UNFINISHED)) or _EVENTS in name or (folder / name).is_dir())
    )
    return ", ".join(
        f"{count} file{'s' if count > 1 else ''} {clipped(suffix, 40)}" for suffix, count in sorted(counts.items())
    )


def _real(path: Path) -> str:
    """A name that a path alone has, however its folder was named; a link at its end is not followed."""
    return os.path.join(os.path.realpath(path.parent), path.name)


def _runs_of(folder: Path, depth: int = _DEPTH) -> list[tuple[Path, list[Path]]]:
    """The runs of a folder, each with its own folder: itself, or those below it; none where no checkpoint is there."""
    if inside := _inside(folder):
        return [(_run_of(Path(os.path.abspath(folder)), inside), inside)]
    found: list[tuple[Path, list[Path]]] = []
    below = [folder / name for name in _entries(folder) if not name.startswith((".", *_UNFINISHED))]
    for each in natsort.natsorted(below, key=str) if depth else ():
        try:
            found += _runs_of(each, depth - 1) if each.is_dir() else []
        except CheckpointError:  # it may not be listed
            continue
    return found


def _run_of(folder: Path, inside: Sequence[Path]) -> Path:
    """The folder of a run: the one around a folder that is, or that holds and tells the place of, one checkpoint."""
    if len(inside) > 1:
        return folder
    is_itself = os.path.abspath(inside[0]) == str(folder)
    is_placed = timeline.moment(timeline.StatedPoint(), f"{folder.name}/").source != timeline.ORDER
    return folder.parent if is_itself or is_placed else folder


def read(path: Path, reading: ReadOptions, content: Content | None = None) -> StoredCheckpoint:
    """Return what a candidate holds; `content` is that of a file that has been read already.

    Raises:
        CheckpointError: It cannot be read.
    """
    if content is not None or not path.is_dir():
        return read_file(path, reading, content)
    reader = _reader_of(path)
    if reader is None:
        msg = f"{clipped(path, 500)}: no checkpoint any more; run again once it is written"
        raise CheckpointError(msg)
    return reader(path, reading)


def _reader_of(folder: Path) -> _Reader | None:
    """Return how to read a folder that is one checkpoint, None for any other."""
    names = set(_entries(folder))
    if METADATA in names or any(name.endswith(SUFFIX) for name in names):
        return read_distributed
    if any(MODEL_STATES.fullmatch(name) for name in names):
        return read_deepspeed
    is_of_trainer = not names.isdisjoint((CONFIG, TRAINER_STATE, *COMPANIONS)) or _OF_TRAINER.fullmatch(folder.name)
    if not names.isdisjoint(INDEXES) or (is_of_trainer and not names.isdisjoint(WHOLE)):
        return read_folder
    if is_of_trainer and _inner(names) is not None:
        return _read_inner
    # These cannot be used: reading them says why.
    is_in_shards = any(SHARD.fullmatch(name) for name in names)
    return read_folder if is_in_shards or not names.isdisjoint(ADAPTERS) else None


def _inner(names: Iterable[str]) -> str | None:
    """Return the folder in a trainer's folder where FSDP or DeepSpeed keep the weights."""
    return next((name for name in sorted(names) if name == _FSDP or _DEEPSPEED.fullmatch(name)), None)


def _read_inner(folder: Path, reading: ReadOptions) -> StoredCheckpoint:
    inner = folder / str(_inner(_entries(folder)))
    stored = read_distributed(inner, reading) if inner.name == _FSDP else read_deepspeed(inner, reading)
    stored.include(describe(stored, folder))
    return stored


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a name that is too long
        msg = f"{clipped(path, 500)}: cannot be looked at ({str(error.strerror).lower()}); check the path"
        raise CheckpointError(msg) from error


def _of_file(path: Path) -> list[Path]:
    if not os.path.lexists(path):
        raise CheckpointError(_missing(path))
    is_in_folder = path.name in INDEXES or (path.name in WHOLE and (path.parent / CONFIG).is_file())
    return [path.parent] if is_in_folder else [path]


def _inside(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder: itself, the files in it that are no part of it, and folders."""
    names = _entries(folder)
    reader = _reader_of(folder)
    own: list[Path] = [] if reader is None else [folder]
    inner = _inner(names) if own else None
    entries = [folder / name for name in names if name != inner]
    files = [entry for entry in entries if _is_candidate(entry) and not (own and _is_part(entry.name))]
    return [*own, *files, *(entry for entry in entries if _is_checkpoint_folder(entry))]


def _is_part(name: str) -> bool:
    """Return whether a file in a folder that is a checkpoint belongs to this checkpoint."""
    is_named = name in WHOLE or name in ADAPTERS or name == "meta.pt"
    return is_named or any(pattern.fullmatch(name) for pattern in (SHARD, MODEL_STATES)) or "_optim_states" in name


def _is_candidate(path: Path) -> bool:
    return (
        path.suffix.lower() in _SUFFIXES
        and not path.name.startswith((".", *_UNFINISHED))
        and path.name.partition(".")[0].rstrip("_0123456789") not in _COMPANIONS
        and not path.is_dir()
    )


def _is_checkpoint_folder(path: Path) -> bool:
    if path.name.startswith((".", *_UNFINISHED)) or not path.is_dir():
        return False
    try:
        return _reader_of(path) is not None
    except CheckpointError:  # it may not be listed
        return False


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        msg = f"{clipped(folder, 500)}: the folder cannot be listed ({error.strerror}); check it with: ls -ld"
        raise CheckpointError(msg) from error


def _missing(path: Path) -> str:
    where = clipped(path, 500)
    if any(character in str(path) for character in "*?["):
        return f"{where}: no file matches this pattern; check it with: ls {where}"
    try:
        beside = os.listdir(path.parent)
    except OSError:
        return f"{where}: there is no such file or folder, nor the folder around it; check the path"
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {clipped(path.parent / near[0], 500)}?" if near else "check the path"
    return f"{where}: there is no such file or folder; {hint}"


def _nothing_inside(folder: Path) -> str:
    suffixes, others = " ".join(sorted(_SUFFIXES)), _other_suffixes([folder])
    remedy = f"not looked at: {others}; name one to have it read" if others else "name the folder that holds them"
    return f"{clipped(folder, 500)}: no checkpoint files inside ({suffixes}); {remedy}"


def _one_per_inode(paths: Sequence[Path]) -> list[Candidate]:
    """Return the files without further names of the same file: same path, symbolic link or hard link.

    Of several names one that tells a step or epoch is kept, and a plain file before a link to it.
    """
    names: dict[tuple[int, int] | str, list[Path]] = {}
    for path in paths:
        try:
            status = os.stat(path)
            names.setdefault((status.st_dev, status.st_ino), []).append(path)
        except OSError:  # a dangling link: reading it gives the error
            names.setdefault(os.path.abspath(path), []).append(path)

    def rank(path: Path) -> tuple[bool, bool, bool]:
        is_silent = timeline.moment(timeline.StatedPoint(), path.name).source == timeline.ORDER
        return is_silent, timeline.is_alias(path.name), path.is_symlink()

    found = []
    for same in names.values():
        kept = min(same, key=rank)
        copies = dict.fromkeys(clipped(path.name) for path in same if path.name != kept.name)
        found.append(Candidate(kept, tuple(copies)))
    return found
