"""What was saved → the mapping that holds the weights: raw ones, or an average of them where that is asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

from torch import Tensor

from fisher_cli.errors import CheckpointError, NoWeightsError
from fisher_cli.inputs.checkpoints.timeline import TIME_KEYS
from fisher_cli.inputs.checkpoints.weights import clean_names, is_averaging_counter, listed
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.results import WeightsKind
from fisher_cli.text import clipped

# In this order: Lightning's raw weights beside an average, torch examples and Lightning, the PyTorch tutorials,
# torchvision and nanoGPT, pytorch-cifar, DeepSpeed, plain loops, BasicSR, DINO, Composer.
WEIGHTS_KEYS: Final = (
    "current_model_state",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "module",
    "weights",
    "params",
    "student",
    "state.model",
)
# timm, torchvision, others, BasicSR.
EMA_KEYS: Final = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
# Keys of raw weights that make an average of what another key holds: Lightning's WeightAveraging, DINO.
_AVERAGES_BESIDE: Final = (
    ("current_model_state", "state_dict", WeightsKind.AVERAGED),
    ("student", "teacher", WeightsKind.EMA),
)
_DEEPEST: Final = 3  # of the levels searched for weights at unusual keys; a payload may contain itself
_WIDEST: Final = 1000
_SAVE: Final = "name a file that holds the model's weights"


@dataclass(frozen=True)
class FoundWeights:
    """Where in a file the weights are.

    Attributes:
        key: the dotted key of their mapping; "" is the root.
        prefix: that of the names to select in it; "" for all.
        mapping: the mapping itself, with all that is in it.
        kind: which of the file's weights they are.
        notes: remarks for the row.
    """

    key: str
    prefix: str
    mapping: Mapping[object, object]
    kind: WeightsKind
    notes: tuple[str, ...] = ()


def find_weights(content: object, reading: ReadOptions, where: str) -> FoundWeights:
    """Return where the weights are: at `state_key`, a usual key, the root, else in the largest mapping of tensors.

    `state_key` is dotted; parts of it that are no keys select the weights whose names begin with them
    (`state_dict.model` for names like `model.conv1.weight` in `state_dict`). The members of a list are under their
    numbers (`state_dict.0`). Raw weights come before averages unless `use_ema` asks for those; a file that holds
    nothing but averages gives them and says so.

    Raises:
        NoWeightsError: Nothing there is a mapping of mostly tensors, nothing is under `state_key`, or averages are
            asked for and there are none.
        CheckpointError: `state_key` and `use_ema` are both given, or the choice would be a guess.
    """
    content = _by_key(content)
    if not isinstance(content, dict):
        msg = f"{where}: holds a {type(content).__name__} and no named weights; save model.state_dict() instead"
        raise NoWeightsError(msg)
    if reading.state_key is not None:
        if reading.use_ema:
            msg = f"{where}: --state-key {clipped(reading.state_key)} and --use-ema both choose weights; give one"
            raise CheckpointError(msg)
        return _weights_at(content, reading.state_key, where)
    averages = _averages(content)
    if reading.use_ema and averages:
        return averages[0]
    raw = _raw(content, where)
    if reading.use_ema:
        return _average(raw, content, where)
    if raw is not None:
        return raw
    if averages:
        note = f"holds no raw weights, only the average under {averages[0].key}: that is used"
        return FoundWeights(averages[0].key, "", averages[0].mapping, averages[0].kind, (note,))
    return _largest(content, where)


def _by_key(value: object) -> object:
    """Return the mappings of a list by their numbers, and everything else as it is."""
    if not isinstance(value, list | tuple) or len(value) > _WIDEST:
        return value
    return {str(number): each for number, each in enumerate(value) if isinstance(each, dict)} or value


def _raw(content: Mapping[object, object], where: str) -> FoundWeights | None:
    """Return the weights at a usual key or at the root, None where they are at neither.

    Raises:
        NoWeightsError: A usual key holds a list of several.
    """
    for key in WEIGHTS_KEYS:
        mapping = _at(content, key)
        if is_weights(mapping):
            return FoundWeights(key, "", mapping, _kind(mapping))
        if not isinstance(content.get(key), list | tuple):
            continue
        members = [f"{key}.{number}" for number, member in mapping.items() if is_weights(member)]
        if len(members) > 1:
            choices = listed([f"--state-key {member}" for member in members])
            msg = f"{where}: {key} is a list of {len(members)} state dicts; choose one: {choices}"
            raise NoWeightsError(msg)
        if members:
            mapping = _at(content, members[0])
            return FoundWeights(members[0], "", mapping, _kind(mapping))
    if is_weights(content):
        return FoundWeights("", "", _without_time(content), _kind(content))
    return None


def _averages(content: Mapping[object, object]) -> list[FoundWeights]:
    """Return the averages in order of trust; one may be wrapped once more, as `ema.module` or `ema.state_dict`."""
    found = []
    for key in EMA_KEYS:
        for inner in (key, *(f"{key}.{name}" for name in WEIGHTS_KEYS)):
            mapping = _at(content, inner)
            if is_weights(mapping):
                found.append(FoundWeights(inner, "", mapping, WeightsKind.EMA))
                break
    for raw, key, kind in _AVERAGES_BESIDE:
        if is_weights(content.get(raw)) and is_weights(content.get(key)):
            found.append(FoundWeights(key, "", _at(content, key), kind))
    return found


def _average(raw: FoundWeights | None, content: dict[object, object], where: str) -> FoundWeights:
    if raw is not None and raw.kind is WeightsKind.AVERAGED:
        return raw
    msg = (
        f"{where}: holds no averaged weights at {', '.join(EMA_KEYS)}; its keys are {listed(list(content))}; "
        "leave out --use-ema, or name their place with --state-key"
    )
    raise NoWeightsError(msg)


def _largest(content: dict[object, object], where: str) -> FoundWeights:
    """Return the mapping of tensors with the most numbers in it.

    Raises:
        NoWeightsError: There is none.
        CheckpointError: Two have equally many, so that one of them would be a guess.
    """
    found = {key: _at(content, key) for key in _weights_keys(content)}
    sizes = {key: sum(t.numel() for t in mapping.values() if isinstance(t, Tensor)) for key, mapping in found.items()}
    if not found:
        msg = f"{where}: no weights found; its keys are {listed(list(content)) or 'none'}; {_SAVE}"
        raise NoWeightsError(msg)
    best = max(sizes, key=lambda key: sizes[key])
    if list(sizes.values()).count(sizes[best]) > 1:
        msg = (
            f"{where}: weights are under {listed(list(found))}, and none of these is the usual place; "
            f"choose one with --state-key {clipped(best)}"
        )
        raise NoWeightsError(msg)
    others = [key for key in found if key != best]
    beside = f", the largest of {listed(list(found))}" if others else ", an unusual place"
    return FoundWeights(best, "", found[best], _kind(found[best]), (f"weights taken from {clipped(best)}{beside}",))


def _kind(mapping: Mapping[object, object]) -> WeightsKind:
    is_averaged = any(is_averaging_counter(*entry) for entry in mapping.items())
    return WeightsKind.AVERAGED if is_averaged else WeightsKind.RAW


def _at(content: Mapping[object, object], key: str) -> Mapping[object, object]:
    """Return the mapping at a dotted key, an empty one where there is none."""
    mapping: object = content
    for part in key.split("."):
        mapping = _by_key(mapping.get(part)) if isinstance(mapping, dict) else None
    return mapping if isinstance(mapping, dict) else {}


def _weights_at(content: dict[object, object], state_key: str, where: str) -> FoundWeights:
    parts = [part for part in state_key.split(".") if part]
    mapping, used = content, 0
    while used < len(parts) and isinstance(deeper := _by_key(mapping.get(parts[used])), dict):
        mapping, used = deeper, used + 1
    prefix = ".".join([*parts[used:], ""]) if used < len(parts) else ""
    key = ".".join(parts)
    if _has_tensors(mapping, prefix):
        weights = _without_time(mapping) if mapping is content else mapping
        averages = {average.key: average.kind for average in _averages(content)}
        kinds = [kind for at, kind in averages.items() if key == at or key.startswith(f"{at}.")]
        return FoundWeights(key, prefix, weights, kinds[0] if kinds else _kind(mapping))
    keys = ["''" if key == "" else key for key in _weights_keys(content)]
    there = f"weights are under {listed(keys)}" if keys else f"its keys are {listed(list(content)) or 'none'}"
    msg = f"{where}: no weights under --state-key {clipped(state_key)}; {there}"
    raise NoWeightsError(msg)


def _has_tensors(mapping: dict[object, object], prefix: str) -> bool:
    if not prefix:
        return any(isinstance(value, Tensor) for value in mapping.values())
    tensors = [key for key, value in mapping.items() if isinstance(key, str) and isinstance(value, Tensor)]
    return any(name.startswith(prefix) for name in clean_names(tensors))


def is_weights(value: object) -> bool:
    """Return whether this is a mapping of mostly tensors, one of them at least more than a single number."""
    if not isinstance(value, dict):
        return False
    tensors = [entry for key, entry in value.items() if isinstance(key, str) and isinstance(entry, Tensor)]
    return 2 * len(tensors) > len(value) and any(tensor.ndim > 0 for tensor in tensors)


def _weights_keys(content: dict[object, object]) -> Iterator[str]:
    level: list[tuple[str, dict[object, object]]] = [("", content)]
    for _ in range(_DEEPEST + 1):
        deeper: list[tuple[str, dict[object, object]]] = []
        for path, mapping in level:
            if is_weights(mapping):
                yield path
            elif "param_groups" not in mapping:  # an optimizer's tensors are no weights
                below = (
                    (f"{path}.{key}" if path else key, value)
                    for key, value in ((key, _by_key(value)) for key, value in mapping.items())
                    if isinstance(key, str) and isinstance(value, dict)
                )
                deeper += islice(below, _WIDEST - len(deeper))
        level = deeper


def _without_time(content: Mapping[object, object]) -> Mapping[object, object]:
    """Return the mapping without the step and epoch that some loops store as tensors beside the weights."""
    return {
        key: value
        for key, value in content.items()
        if not (key in TIME_KEYS and isinstance(value, Tensor) and value.ndim == 0)
    }
