"""Folders of Hugging Face's libraries → one checkpoint: weights in a file or in shards, and what stands beside them."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from fisher_cli.errors import CheckpointError, NoWeightsError
from fisher_cli.inputs.checkpoints.stored_files import StoredCheckpoint, decoded, inside, joint_digest, read_file
from fisher_cli.inputs.checkpoints.weights import listed
from fisher_cli.inputs.formats.containers import Payload, read_bytes
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.plain_json import parse_json
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.text import clipped, digest

# In order of preference; the writers put both side by side only for old readers.
INDEXES: Final = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE: Final = ("model.safetensors", "pytorch_model.bin")
SHARD: Final = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.(?:safetensors|bin)")
ADAPTERS: Final = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json")
CONFIG: Final = "config.json"
TRAINER_STATE: Final = "trainer_state.json"
# Beside the weights of a training run, and never opened: some of these files run code when they are read.
COMPANIONS: Final = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "training_args.bin")
_COPY_AGAIN: Final = "copy or download the folder again"


def read_folder(folder: Path, reading: ReadOptions) -> StoredCheckpoint:
    """Return the weights of a folder, what `config.json` says of them, and step and epoch of `trainer_state.json`.

    Only the weights, their index and these two are opened. The hash is `joint_digest` of the files read.

    Raises:
        CheckpointError: The folder has no weights of its own, or its index and its files do not agree.
    """
    names = set(os.listdir(folder))
    where = clipped(folder, 500)
    index = next((name for name in INDEXES if name in names), None)
    whole = next((name for name in WHOLE if name in names), None)
    _refuse_other_content(names, index or whole, where)
    if index is not None and not (index == INDEXES[1] and whole == WHOLE[0]):
        payload, digests = _read_shards(folder, index, names, reading)
    else:
        payload, digests = _read_whole(folder, str(whole), reading)
    weights = joint_digest(digests)
    stored = StoredCheckpoint(payload, None, frozenset({weights, *(digests.values() if len(digests) == 1 else ())}))
    digests |= describe(stored, folder)
    stored.sha256 = joint_digest(digests)
    return stored


def describe(stored: StoredCheckpoint, folder: Path) -> dict[str, str]:
    """Set what the folder's `config.json` and `trainer_state.json` say; return the hashes of those that were read.

    A file of no use is a note: the weights are good without it.
    """
    digests: dict[str, str] = {}
    notes: list[str] = []
    stored.config = _beside(folder, CONFIG, digests, notes)
    state = _beside(folder, TRAINER_STATE, digests, notes) or {}
    times: dict[str, object] = {key: state[key] for key in ("global_step", "epoch") if key in state}
    stored.about = _hints(stored.config or {}) | times
    stored.notes += tuple(notes)
    return digests


def _refuse_other_content(names: set[str], weights: str | None, where: str) -> None:
    if weights is not None:
        return
    if names.intersection(ADAPTERS):
        msg = (
            f"{where}: a PEFT adapter, a change of a network that is not in this folder; merge them where both are: "
            "model.merge_and_unload().save_pretrained('merged')"
        )
        raise NoWeightsError(msg)
    shards = sorted(name for name in names if SHARD.fullmatch(name))
    if shards:
        msg = f"{where}: {len(shards)} shards ({listed(shards)}) and no index of them; copy *.index.json beside them"
        raise CheckpointError(msg)
    msg = f"{where}: no {' or '.join((*WHOLE, *INDEXES))} inside; name the folder that holds the weights"
    raise NoWeightsError(msg)


def _read_whole(folder: Path, name: str, reading: ReadOptions) -> tuple[Payload, dict[str, str]]:
    content = Content.read(inside(folder, name, clipped(folder, 500)))
    return decoded(content, folder / name, reading), {name: content.sha256}


def _read_shards(folder: Path, index: str, names: set[str], reading: ReadOptions) -> tuple[Payload, dict[str, str]]:
    """Return all shards as one; one of them is in memory at a time beside the weights.

    Raises:
        NoWeightsError: The index names none.
        CheckpointError: It and the shards do not agree.
    """
    where = clipped(folder / index, 500)
    data = read_bytes(inside(folder, index, where))
    places = _weight_map(parse_json(data, where), where)
    files = sorted(set(places.values()))
    paths = {name: inside(folder, name, where) for name in files}
    _refuse_extra(names, files, where)
    promised: dict[str, set[str]] = {}
    for key, place in places.items():
        promised.setdefault(place, set()).add(key)
    digests = {index: digest(data)}
    content: dict[object, object] = {}
    ignored_types: dict[str, None] = {}
    payload = None
    for name in files:
        stored = Content.read(paths[name])
        digests[name] = stored.sha256
        shard = decoded(stored, folder / name, reading)
        found = shard.content if isinstance(shard.content, dict) else {}
        _compare(found, promised[name], name, where)
        content |= found
        ignored_types |= dict.fromkeys(shard.ignored_types)
        payload = payload or shard
    if payload is None:
        msg = f"{where}: lists no weights; {_COPY_AGAIN}"
        raise NoWeightsError(msg)
    count = f"{len(files)} shard{'s' if len(files) > 1 else ''}"
    return replace(
        payload, format=f"{payload.format}, {count}", content=content, ignored_types=tuple(ignored_types)
    ), digests


def _weight_map(index: Mapping[str, object], where: str) -> dict[str, str]:
    found = index.get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        msg = f"{where}: no weight_map of names to files in it; {_COPY_AGAIN}"
        raise CheckpointError(msg)
    return {str(key): str(name) for key, name in found.items()}


def _refuse_extra(names: set[str], files: list[str], where: str) -> None:
    """Refuse shards that the index does not name: it may be that of another saving, and so may they.

    Raises:
        CheckpointError: There are some.
    """
    kinds = {(match[1], Path(name).suffix) for name in files if (match := SHARD.fullmatch(name))}
    extra = sorted(
        name
        for name in names.difference(files)
        if (match := SHARD.fullmatch(name)) and (match[1], Path(name).suffix) in kinds
    )
    if extra:
        msg = f"{where}: does not name {listed(extra)} beside it; delete what is left of another saving"
        raise CheckpointError(msg)


def _compare(found: Mapping[object, object], promised: set[str], name: str, where: str) -> None:
    missing = sorted(promised.difference(str(key) for key in found))
    if missing:
        msg = f"{where}: {clipped(name)} does not hold {listed(missing)}, as the index says; {_COPY_AGAIN}"
        raise CheckpointError(msg)
    extra = sorted(str(key) for key in found if key not in promised)
    if extra:
        msg = f"{where}: {clipped(name)} holds {listed(extra)}, which the index places elsewhere; {_COPY_AGAIN}"
        raise CheckpointError(msg)


def _beside(folder: Path, name: str, digests: dict[str, str], notes: list[str]) -> dict[str, object] | None:
    if not os.path.lexists(folder / name):
        return None
    where = clipped(folder / name, 500)
    try:
        data = read_bytes(inside(folder, name, clipped(folder, 500)))
        found = parse_json(data, where, allow_nan=True)
    except CheckpointError as error:
        notes.append(f"{name} not used: {str(error).removeprefix(f'{where}: ').partition(';')[0]}")
        return None
    digests[name] = digest(data)
    return found


def _hints(config: Mapping[str, object]) -> dict[str, object]:
    """Return the network's name as timm's configurations tell it, and the number of classes.

    What transformers calls `architectures` are names of its own classes: see `huggingface_models`.
    """
    name, count = config.get("architecture"), config.get("num_classes", config.get("num_labels"))
    arguments = {"num_classes": count} if isinstance(count, int) else {}
    return {"arch": name, "arch_args": arguments} if isinstance(name, str) else {}


MODEL_STATES: Final = re.compile(r"(?:zero_pp_rank_[0-9]+_)?mp_rank_[0-9]+_model_states\.pt")
_ALL_WEIGHTS: Final = "mp_rank_00_model_states.pt"


def read_deepspeed(folder: Path, reading: ReadOptions) -> StoredCheckpoint:
    """Return what a folder's file of model states holds; without shards it holds all weights, under `module`.

    Raises:
        NoWeightsError: The weights are in shards (ZeRO stage 3) or parts (model parallelism).
        CheckpointError: They cannot be read.
    """
    where = clipped(folder, 500)
    states = sorted(name for name in os.listdir(folder) if MODEL_STATES.fullmatch(name))
    if _ALL_WEIGHTS not in states:
        run = clipped(folder.parent, 400)
        msg = (
            f"{where}: {len(states)} ZeRO-3 shards; join them with the script that DeepSpeed saved beside them: "
            f"python {run}/zero_to_fp32.py {run} joined --tag {clipped(folder.name)}"
        )
        raise NoWeightsError(msg)
    if len(states) > 1:
        msg = f"{where}: {len(states)} parts of a model-parallel network; save it whole: save_16bit_model of DeepSpeed"
        raise NoWeightsError(msg)
    return read_file(inside(folder, _ALL_WEIGHTS, where), reading)
