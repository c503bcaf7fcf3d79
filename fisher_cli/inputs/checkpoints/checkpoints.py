"""Files and folders → checkpoints in training order, and each of them → clean named weights."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from torch import Tensor

from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory
from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.checkpoints import discovery, duplicates, timeline
from fisher_cli.inputs.checkpoints.inspection_cache import InspectedFile, InspectionCache
from fisher_cli.inputs.checkpoints.pruning import mask_note, without_masks, zeros_note
from fisher_cli.inputs.checkpoints.stored_files import StoredCheckpoint
from fisher_cli.inputs.checkpoints.stored_weights import find_weights
from fisher_cli.inputs.checkpoints.timeline import TrainingPoint
from fisher_cli.inputs.checkpoints.weights import clean_weights, kept_in_parts, listed, nonfinite_names
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.plain_json import parse_json
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.results import WeightsKind, by_run
from fisher_cli.text import clipped, escape

__all__ = ["Checkpoint", "CheckpointFile", "ReadOptions", "find_checkpoints", "load_checkpoint", "nonfinite_names"]

_LONGEST_HINT: Final = 200
_USUAL: Final = ReadOptions()


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that was found on disk, a file or a folder; its weights are not held.

    Attributes:
        path: where it is.
        name: the path relative to the folder that all found files share, with `/` between its parts, unprintable
            characters escaped.
        step: the training step; None where nothing tells it.
        epoch: the training epoch, which may be a fraction; None where nothing tells it.
        sha256: of the bytes read, as `sha256:<hex>`; None when they could not be read.
        error: why it cannot be used; None when it was read.
        copies: names of further copies of it that were left out.
        identity: marks that copies of one checkpoint share, by which they are suspected.
        run: the name of the run that it is of: that of its folder.
    """

    path: Path
    name: str
    step: int | None
    epoch: float | None
    sha256: str | None
    error: CheckpointError | None
    copies: tuple[str, ...] = ()
    identity: frozenset[str] = frozenset()
    run: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """One file's or folder's weights under clean names, and what it says about them.

    Attributes:
        name: as in `CheckpointFile`.
        path: where it is.
        sha256: of the bytes read, as `sha256:<hex>`.
        format: the container, in words for the report.
        state_key: where in the file the weights were; "" is the root.
        weights: tensors by clean name, on the CPU; half precision is float32 here.
        weights_kind: which of the file's weights they are.
        step: the training step; None where nothing tells it.
        epoch: the training epoch, which may be a fraction; None where nothing tells it.
        architecture: what the file calls its network, a hint of at most 200 characters, never to be imported; None
            without one.
        architecture_arguments: of that hint, plain text and numbers.
        notes: remarks for the row.
        ignored: names of the file's other entries.
        step_source: who tells step and epoch, as `TrainingPoint.source`.
        config: what the folder's `config.json` says, never to be imported either; None without one.
        integrity: whether the container's checksums hold, or that it has none.
        masks: of pruned weights, bool tensors by the weight's name; where a mask is false, the weight is zero.
        types: as which the tensors are stored, in words (`float16`), by clean name.
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
    step_source: str = timeline.ORDER
    config: dict[str, object] | None = None
    integrity: str = ""
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)


def find_checkpoints(
    paths: Sequence[Path], reading: ReadOptions = _USUAL, inspection_cache: InspectionCache | None = None
) -> list[CheckpointFile]:
    """Find the checkpoints that the paths name, each once, run by run, in order of training.

    A folder that is one checkpoint (of a trainer, sharded) is one; any other stands for what is directly inside it, or
    for the runs below it, see `discovery.find_candidates`. Everything is read and checked here; what cannot be used
    keeps its error and a place by its name. Links to one file count as one, and so do `last`, `best` and their like
    with a file of the same weights; the one that is kept names them.

    Args:
        paths: files and folders, as the user named them.
        reading: what to take out of each file.
        inspection_cache: files whose bytes it knows are hashed and not decoded; the others are added to it.

    Raises:
        CheckpointError: No path is given, a path does not exist, or a folder holds no checkpoint.
    """
    if not paths:
        msg = "no checkpoints given; name files or a folder, as in: fisher analyze checkpoints/"
        raise CheckpointError(msg)
    candidates = discovery.find_candidates(paths)
    inspection_cache = inspection_cache or InspectionCache()
    absolute = [Path(os.path.abspath(each.path)) for each in candidates]  # links keep the names they were given by
    parent = os.path.commonpath([path.parent for path in absolute])
    names = [_name(path.relative_to(parent)) for path in absolute]
    found = [
        replace(inspected(each.path, name, reading, inspection_cache), copies=each.copies, run=each.run)
        for each, name in zip(candidates, names, strict=True)
    ]
    return [file for files in by_run(found).values() for file in _in_order(files, reading)]


def _in_order(found: list[CheckpointFile], reading: ReadOptions) -> list[CheckpointFile]:
    """The checkpoints of one run in order of training, each once."""
    found = _without_copies(found, reading)
    final = duplicates.perhaps_copies(found)
    return timeline.in_training_order(found, lambda file: _row(file, file.name in final))


def load_checkpoint(file: CheckpointFile, reading: ReadOptions = _USUAL) -> Checkpoint:
    """Read the weights of a checkpoint that was found, and compare its bytes with those that were found.

    Args:
        file: as `find_checkpoints` gives it.
        reading: the same that it was found with.

    Raises:
        CheckpointError: It cannot be used, or its bytes are no longer those that were found.
    """
    if file.error is not None:
        raise file.error
    with _one_error(file.path):
        checkpoint, _ = _understood(discovery.read(file.path, reading), file.path, file.name, reading)
    if file.sha256 is not None and checkpoint.sha256 != file.sha256:
        msg = f"{clipped(file.path, 500)}: changed since this run began; run again once it is written"
        raise CheckpointError(msg)
    if not file.copies:
        return checkpoint
    note = f"left out, being copies of it: {', '.join(file.copies)}"
    return replace(checkpoint, notes=(*checkpoint.notes, note))


def inspected(path: Path, name: str, reading: ReadOptions, inspection_cache: InspectionCache) -> CheckpointFile:
    """Return what a candidate is; one that is a single file is read once, and decoded if its bytes are not known."""
    content = None
    try:
        with _one_error(path):
            content = None if path.is_dir() else Content.read(path)
            found = None if content is None else inspection_cache.recall(content.sha256)
            if found is None:
                stored = discovery.read(path, reading, content)
                checkpoint, says = _understood(stored, path, name, reading)
                found = InspectedFile(checkpoint.sha256, says, tuple(sorted(stored.identity)))
                if content is not None:
                    inspection_cache.add(found)
    except CheckpointError as error:
        told = timeline.moment(timeline.StatedPoint(), name)
        sha256 = None if content is None else content.sha256
        # The traceback would keep the file's whole content in memory.
        return CheckpointFile(path, name, told.step, told.epoch, sha256, error.with_traceback(None))
    when = timeline.moment(found.stated, name)
    identity = frozenset(found.identity) | _moments(when)
    return CheckpointFile(path, name, when.step, when.epoch, found.sha256, None, (), identity)


@contextmanager
def _one_error(path: Path) -> Iterator[None]:
    """Make what the disk or the memory refuses the error of this checkpoint: the others go on.

    Raises:
        CheckpointError: Something was refused.
        RuntimeError: Something else went wrong.
    """
    try:
        yield
    except OSError as error:
        msg = f"{clipped(path, 500)}: cannot be read ({clipped(error.strerror or error)}); check it with: ls -l"
        raise CheckpointError(msg) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise CheckpointError(_without_memory(path)) from error
    except MemoryError as error:
        raise CheckpointError(_without_memory(path)) from error


def _without_memory(path: Path) -> str:
    return f"{clipped(path, 500)}: does not fit into the memory; use a larger machine, or save fewer numbers in it"


def _without_copies(found: list[CheckpointFile], reading: ReadOptions) -> list[CheckpointFile]:
    """Return the checkpoints less the further copies of one, whose names go into the one that stays."""
    digests: dict[str, str | None] = {}

    def weights_digest(file: CheckpointFile) -> str | None:
        if file.name not in digests:
            try:
                digests[file.name] = duplicates.weights_digest(load_checkpoint(file, reading).weights)
            except CheckpointError:
                digests[file.name] = None
        return digests[file.name]

    copies = duplicates.copies([file for file in found if file.error is None], weights_digest)
    left_out = {copy.name for same in copies.values() for copy in same}
    return [
        replace(file, copies=(*file.copies, *(name for copy in copies.get(file.name, []) for name in _names(copy))))
        for file in found
        if file.name not in left_out
    ]


def _row(file: CheckpointFile, is_perhaps_a_copy: bool) -> tuple[str, int | None, float | None, bool]:
    """Return what decides about the order; a final copy whose place nothing tells has no say in it."""
    is_placed = file.step is not None or file.epoch is not None
    is_usable = file.error is None and (is_placed or not is_perhaps_a_copy)
    return file.name, file.step, file.epoch, is_usable


def _names(file: CheckpointFile) -> tuple[str, ...]:
    return (file.name, *file.copies)


def _understood(
    stored: StoredCheckpoint, path: Path, name: str, reading: ReadOptions
) -> tuple[Checkpoint, timeline.StatedPoint]:
    """Return the checkpoint that is stored at the path, and what it says of its place in training."""
    where = clipped(path, 500)
    found = find_weights(stored.payload.content, reading, where)
    weights, types, notes = clean_weights(stored.fetch(found.mapping), found.prefix, where)
    weights, masks = without_masks(weights, where)
    notes += [note for note in (mask_note(masks) or zeros_note(weights), kept_in_parts(list(weights))) if note]
    about = _about(stored)
    says = timeline.stated(about)
    when = timeline.moment(says, name)
    architecture = about.get("arch")
    is_hint = isinstance(architecture, str) and 0 < len(architecture) <= _LONGEST_HINT
    checkpoint = Checkpoint(
        name=name,
        path=path,
        sha256=str(stored.sha256),
        format=stored.payload.format,
        state_key=found.key,
        weights=weights,
        weights_kind=found.kind,
        step=when.step,
        epoch=when.epoch,
        architecture=str(architecture) if is_hint else None,
        architecture_arguments=_plain_arguments(about.get("arch_args")),
        notes=(*found.notes, *notes, *stored.notes, *_ignored_types(stored)),
        ignored=_ignored(stored, found.key),
        step_source=when.source,
        config=stored.config,
        integrity=stored.payload.integrity,
        masks=masks,
        types=types,
    )
    return checkpoint, says


def _moments(when: TrainingPoint) -> frozenset[str]:
    """Return the mark of a step, else of an epoch, that a checkpoint states itself."""
    if when.source in {timeline.NAME, timeline.ORDER}:
        return frozenset()
    return frozenset({f"step:{when.step}" if when.step is not None else f"epoch:{when.epoch}"})


def _ignored(stored: StoredCheckpoint, state_key: str) -> tuple[str, ...]:
    """Return what stands beside the weights and tells nothing that is asked, such as an optimizer's state."""
    content = stored.payload.content
    used = {state_key.partition(".")[0], *timeline.TIME_KEYS, "arch", "arch_args"}
    if state_key == "" or not isinstance(content, dict):
        return ()
    return tuple(clipped(key) for key in content if isinstance(key, str) and key not in used)


def _ignored_types(stored: StoredCheckpoint) -> tuple[str, ...]:
    """Return a note on the classes that the file names and that were not imported, if there are any."""
    types = stored.payload.ignored_types
    return (f"read without {listed(types)}: classes in a file are not imported",) if types else ()


def _about(stored: StoredCheckpoint) -> Mapping[str, object]:
    """Return what stands beside the weights: in files of their own, in the payload, in the metadata of safetensors."""
    content = stored.payload.content if isinstance(stored.payload.content, dict) else {}
    return {
        **{key: value for key, value in content.items() if isinstance(key, str)},
        **stored.payload.metadata,
        **stored.about,
    }


def _plain_arguments(value: object) -> dict[str, object]:
    if isinstance(value, str):  # safetensors metadata are strings
        try:
            value = parse_json(value.encode(), "metadata")
        except (CheckpointError, ValueError):
            return {}
    if not isinstance(value, dict):
        return {}
    return {key: entry for key, entry in value.items() if isinstance(key, str) and _is_plain(entry)}


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | float) and len(str(value)) <= _LONGEST_HINT


def shown_name(path: Path, paths: Sequence[Path]) -> str:
    """Return the name of a file that has come later, relative to what the named folders and files share."""
    folders = [os.path.abspath(each if each.is_dir() else each.parent) for each in paths]
    return _name(Path(os.path.relpath(os.path.abspath(path), os.path.commonpath(folders))))


def _name(relative: Path) -> str:
    # Names of files may hold any bytes; tables are UTF-8 and one line per row. `text.unescape` gives the name back.
    return escape(relative.as_posix())
