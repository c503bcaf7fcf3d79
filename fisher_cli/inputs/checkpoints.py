"""Files and folders → checkpoints in training order, and each file → clean named weights."""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torch import Tensor

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs import timeline
from fisher_cli.inputs.containers import Payload, decode, digest, one_line, read_bytes
from fisher_cli.inputs.pruning import mask_note, without_masks, zeros_note
from fisher_cli.inputs.weights import clean_weights, find_weights, is_averaging_counter, nonfinite_names
from fisher_cli.results import WeightsKind

__all__ = ["Checkpoint", "CheckpointFile", "find_checkpoints", "load_checkpoint", "nonfinite_names"]

_SUFFIXES: Final = frozenset({".pt", ".pth", ".th", ".ckpt", ".bin", ".tar", ".pkl", ".safetensors"})
_UNFINISHED: Final = "tmp"
# What trainers write beside the weights, in files of the same suffixes.
_COMPANIONS: Final = ("optimizer", "scheduler", "scaler", "rng_state", "training_args")
_LONGEST_HINT: Final = 200


@dataclass(frozen=True)
class CheckpointFile:
    """A candidate found on disk; `error` is set when reading it already failed.

    `name` is the path relative to the folder that all found files share, with `/` between its parts.
    `sha256` is that of the bytes read, None when they could not be read.
    """

    path: Path
    name: str
    step: int | None
    epoch: float | None
    sha256: str | None
    error: CheckpointError | None


@dataclass(frozen=True)
class Checkpoint:
    """One file's weights under clean names, and what the file says about them.

    `state_key` tells where the weights were ("" is the root); `architecture` and its arguments are hints
    found in the file, plain text and numbers, never to be imported. `ignored` are the file's other entries. `masks`
    are those of pruned weights, by name; where they are zero, so are the weights.
    """

    name: str
    path: Path
    sha256: str
    format: str
    state_key: str
    weights: dict[str, Tensor]
    weights_kind: WeightsKind
    step: int | None
    epoch: float | None
    architecture: str | None
    architecture_arguments: dict[str, object]
    notes: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)


def find_checkpoints(paths: Sequence[Path], *, state_key: str | None = None) -> list[CheckpointFile]:
    """Return the checkpoint files that the paths name, each once, in order of training.

    A folder stands for the files directly inside it that have a checkpoint's suffix; hidden and unfinished
    files (`tmp…`) and optimizer states are not among them. Every file is read and checked here; one that
    cannot be used keeps its error and a place by its file name. Links to one file count as one.

    Raises:
        CheckpointError: A path does not exist, or a folder holds no checkpoint.
    """
    if not paths:
        msg = "no checkpoints given; name files or a folder, as in: fisher analyze checkpoints/"
        raise CheckpointError(msg)
    files = _one_per_inode([file for path in paths for file in _files_of(path)])
    absolute = [Path(os.path.abspath(file)) for file in files]  # links keep the names by which they were given
    parent = os.path.commonpath([file.parent for file in absolute])
    names = [_name(file.relative_to(parent)) for file in absolute]
    found = [_inspected(file, name, state_key) for file, name in zip(files, names, strict=True)]
    return timeline.in_training_order(found, lambda file: (file.name, file.step, file.epoch, file.error is None))


def load_checkpoint(file: CheckpointFile, *, state_key: str | None = None) -> Checkpoint:
    """Return the weights of one found file, read anew and compared with what was found.

    Raises:
        CheckpointError: The file cannot be used, or is no longer the one that was found.
    """
    if file.error is not None:
        raise file.error
    data = read_bytes(file.path)
    sha256 = digest(data)
    if file.sha256 is not None and sha256 != file.sha256:
        msg = f"{one_line(file.path, 500)}: changed since this run began; run again once it is written"
        raise CheckpointError(msg)
    return _checkpoint(data, file.path, file.name, sha256, state_key)


def _inspected(path: Path, name: str, state_key: str | None) -> CheckpointFile:
    sha256 = None
    try:
        data = read_bytes(path)
        sha256 = digest(data)
        checkpoint = _checkpoint(data, path, name, sha256, state_key)
    except CheckpointError as error:
        step, epoch = timeline.step_and_epoch({}, name)
        # The traceback would keep the file's whole content in memory.
        return CheckpointFile(path, name, step, epoch, sha256, error.with_traceback(None))
    return CheckpointFile(path, name, checkpoint.step, checkpoint.epoch, sha256, None)


def _checkpoint(data: bytes, path: Path, name: str, sha256: str, state_key: str | None) -> Checkpoint:
    where = one_line(path, 500)
    payload = decode(data, path)
    key, prefix, found = find_weights(payload.content, state_key, where)
    weights, notes = clean_weights(found, prefix, where)
    weights, masks = without_masks(weights)
    notes += [note for note in (mask_note(masks) or zeros_note(weights),) if note]
    about = _about(payload)
    step, epoch = timeline.step_and_epoch(about, name)
    is_averaged = any(is_averaging_counter(*entry) for entry in found.items())
    architecture = about.get("arch")
    is_hint = isinstance(architecture, str) and 0 < len(architecture) <= _LONGEST_HINT
    return Checkpoint(
        name=name,
        path=path,
        sha256=sha256,
        format=payload.format,
        state_key=key,
        weights=weights,
        weights_kind=WeightsKind.AVERAGED if is_averaged else WeightsKind.RAW,
        step=step,
        epoch=epoch,
        architecture=str(architecture) if is_hint else None,
        architecture_arguments=_plain_arguments(about.get("arch_args")),
        notes=tuple(notes),
        ignored=_ignored(payload, key),
        masks=masks,
    )


def _ignored(payload: Payload, state_key: str) -> tuple[str, ...]:
    """Return what stands beside the weights and tells nothing that is asked, such as an optimizer's state."""
    used = {state_key.partition(".")[0], *timeline.STEP_KEYS, *timeline.EPOCH_KEYS, "arch", "arch_args"}
    is_root = state_key == "" or not isinstance(payload.content, dict)
    return () if is_root else tuple(one_line(key) for key in _about(payload) if key not in used)


def _about(payload: Payload) -> Mapping[str, object]:
    """Return what stands beside the weights: the payload's other entries, or the metadata of safetensors."""
    if payload.metadata:
        return payload.metadata
    content = payload.content if isinstance(payload.content, dict) else {}
    return {key: value for key, value in content.items() if isinstance(key, str)}


def _plain_arguments(value: object) -> dict[str, object]:
    if isinstance(value, str):  # safetensors metadata are strings
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    if not isinstance(value, dict):
        return {}
    return {key: entry for key, entry in value.items() if isinstance(key, str) and _is_plain(entry)}


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and len(str(value)) <= _LONGEST_HINT


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        if not os.path.lexists(path):
            raise CheckpointError(_missing(path))
        return [path]
    files = _checkpoints_inside(path)
    if not files:
        raise CheckpointError(_nothing_inside(path))
    return files


def _checkpoints_inside(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        msg = f"{one_line(folder, 500)}: the folder cannot be listed ({error.strerror}); check it with: ls -ld"
        raise CheckpointError(msg) from error
    return [entry for entry in entries if _is_candidate(entry)]


def _is_candidate(path: Path) -> bool:
    return (
        path.suffix.lower() in _SUFFIXES
        and not path.name.startswith((".", _UNFINISHED))
        and path.name.partition(".")[0].rstrip("_0123456789") not in _COMPANIONS
        and not path.is_dir()
    )


def _missing(path: Path) -> str:
    where = one_line(path, 500)
    if any(character in str(path) for character in "*?["):
        return f"{where}: no file matches this pattern; check it with: ls {where}"
    try:
        beside = os.listdir(path.parent)
    except OSError:
        return f"{where}: there is no such file or folder, nor the folder around it; check the path"
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"did you mean {one_line(path.parent / near[0], 500)}?" if near else "check the path"
    return f"{where}: there is no such file or folder; {hint}"


def _nothing_inside(folder: Path) -> str:
    where = one_line(folder, 500)
    subfolders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    full = []
    for subfolder in subfolders[:1000]:
        try:
            full += [subfolder] if _checkpoints_inside(subfolder) else []
        except CheckpointError:
            continue  # a subfolder that may not be listed is no help
    if full:
        shown = " ".join(one_line(subfolder, 200) for subfolder in full[:2])
        more = f" … ({len(full)} subfolders hold some)" if len(full) > 2 else ""
        return f"{where}: the checkpoints are in subfolders; name them: fisher analyze {shown}{more}"
    if any(entry.suffix == ".distcp" for entry in folder.iterdir()):
        return (
            f"{where}: a sharded checkpoint of torch.distributed; join it where you trust it: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {where} weights.pt"
        )
    suffixes = " ".join(sorted(_SUFFIXES))
    return f"{where}: no checkpoint files inside ({suffixes}); name the folder that holds them"


def _one_per_inode(files: Sequence[Path]) -> list[Path]:
    """Return the files without further names of the same file: same path, symbolic link or hard link.

    Of several names one that tells a step or epoch is kept, and a plain file before a link to it.
    """
    names: dict[tuple[int, int] | str, list[Path]] = {}
    for file in files:
        try:
            status = os.stat(file)
            names.setdefault((status.st_dev, status.st_ino), []).append(file)
        except OSError:  # a dangling link: reading it gives the error
            names.setdefault(os.path.abspath(file), []).append(file)

    def rank(file: Path) -> tuple[bool, bool]:
        return timeline.step_and_epoch({}, file.name) == (None, None), file.is_symlink()

    return [min(same, key=rank) for same in names.values()]


def _name(relative: Path) -> str:
    # Names of files may hold any bytes; tables are UTF-8 and one line per row.
    text = os.fsencode(relative.as_posix()).decode("utf-8", "backslashreplace")
    return one_line(text, len(text) + 1)
