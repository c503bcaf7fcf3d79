"""When in training a checkpoint was made: step and epoch from what it says, else from its file name."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import natsort
import torch

# The words of Lightning, nanoGPT, detectron2, plain loops, DeepSpeed and MMEngine, in order of trust.
STEP_KEYS: Final = ("global_step", "iter_num", "iteration", "step", "global_steps", "meta.iter")
EPOCH_KEYS: Final = ("epoch", "meta.epoch")
TIME_KEYS: Final = frozenset(key.partition(".")[0] for key in (*STEP_KEYS, *EPOCH_KEYS) if "." not in key)
_LARGEST: Final = 10**15  # 15 digits: every such integer is exact as a float

# ASCII digits only and at most 15 of them; more are no step number but a hash or a date with time.
_NUMBER: Final = r"0*(?P<number>[0-9]{1,15})(?![0-9])"
_STEPS: Final = rf"{_NUMBER}(?!\.[0-9])(?P<scale>[km](?![a-z]))?"
_SCALES: Final = {"k": 10**3, "m": 10**6}
# Words that make the number one of the training's settings: `max_epochs_90`, `warmup_500_steps`.
_SETTING: Final = r"(?<![a-z])(?P<setting>(?:max|num|nb?|total|warm_?up|decay|every)[-_=]?)?"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


# In order of trust. `epoch_3` is a place in training wherever it stands. `600_epochs` and `epochs_600` may be what a
# whole run was meant to take, and say how far a file has come only in the file's own name.
_STEP_NAME: Final = _compiled(rf"(?<![a-z])(?:global_?step|step|iter(?:ation)?|ba)[-_=]?{_STEPS}")
_EPOCH_NAME: Final = _compiled(rf"(?<![a-z])(?:epoch|ep)[-_=]?{_NUMBER}(?P<fraction>\.[0-9]{{1,6}}(?![0-9]))?")
_STEPS_NAME: Final = (
    _compiled(rf"{_SETTING}(?<![a-z0-9.]){_STEPS}[-_]?(?:steps?|iter(?:ation)?s?)(?![a-z])"),
    _compiled(rf"{_SETTING}(?:steps|iter(?:ation)?s)[-_=]?{_STEPS}"),
)
_EPOCHS_NAME: Final = (
    _compiled(rf"{_SETTING}(?<![a-z0-9.]){_NUMBER}[-_]?(?:epochs?|eps?)(?![a-z])"),
    _compiled(rf"{_SETTING}epochs[-_=]?{_NUMBER}"),
)
# `checkpoint-500` counts steps in some trainers and epochs in others: read only when nothing else tells.
_STEP_PERHAPS: Final = _compiled(rf"(?<![a-z])(?:checkpoint|ckpt)[-_=]?{_STEPS}")
# `model_3` at the end of a name; `model_3_layers`, `model2` and `model-00001-of-00002` are something else.
_EPOCH_PERHAPS: Final = _compiled(rf"(?<![a-z])model[-_=]{_NUMBER}(?:\.[a-z.]+)?$")
_DATE: Final = re.compile(r"(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
_LONGEST_TEXT: Final = 100
_NUMBER_TEXT: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]+)?")

# Copies of a checkpoint whose place in training its name does not tell; `-v1` is Lightning's answer to a name in use.
_ALIAS: Final = re.compile(
    r"(?:(?:model|checkpoint|ckpt|weights|net)[-_]?)?(?:last|best|latest|final)(?:[-_][a-z]+)?(?:-v[0-9]+)?(?:\.[a-z.]+)?"
    r"|(?:checkpoint|ckpt)\.[a-z.]+",
    re.IGNORECASE,
)
NAME: Final = "name"
ORDER: Final = "order"

_NOTHING: Final = (None, "")

_Item = TypeVar("_Item")
_Row: TypeAlias = tuple[str, int | None, float | None, bool]


@dataclass(frozen=True)
class TrainingPoint:
    """When in training a checkpoint was made, and who says so.

    Attributes:
        step: the training step; None where nothing tells it.
        epoch: the training epoch, which may be a fraction; None where nothing tells it.
        source: the entries of the file that tell it (`global_step, epoch`), `name` for the file's or its folder's name,
            `order` where nothing tells it and only the order of the names is left.
    """

    step: int | None
    epoch: float | None
    source: str


@dataclass(frozen=True)
class StatedPoint:
    """Step and epoch as a file states them, whatever it is called.

    Attributes:
        step: None where no entry tells it.
        step_source: the entry that does; "" where none does.
        epoch: None where no entry tells it.
        epoch_source: the entry that does; "" where none does.
    """

    step: float | None = None
    step_source: str = ""
    epoch: float | None = None
    epoch_source: str = ""


def stated(entries: Mapping[str, object]) -> StatedPoint:
    """Return what a file's entries say about its place; numbers are taken as they are written."""
    return StatedPoint(*_first_number(entries, STEP_KEYS), *_first_number(entries, EPOCH_KEYS))


def moment(says: StatedPoint, name: str) -> TrainingPoint:
    """Return step and epoch as the file states them, else as its name does.

    Some count finished epochs and some begin at 0: nothing here makes them equal.
    """
    step, step_source, epoch, epoch_source = says.step, says.step_source, says.epoch, says.epoch_source
    own, *folders = name.split("/")[::-1]  # the file's own name says more than its folder's
    parts = [own, *folders]
    if step is None:
        step, step_source = _first_match([_STEP_NAME], parts) or _first_match(_STEPS_NAME, [own]) or _NOTHING
    if epoch is None:
        epoch, epoch_source = _first_match([_EPOCH_NAME], parts) or _first_match(_EPOCHS_NAME, [own]) or _NOTHING
    if step is None and epoch is None:
        step, step_source = _first_match([_STEP_PERHAPS], parts) or _NOTHING
        if step is None:
            epoch, epoch_source = _first_match([_EPOCH_PERHAPS], parts) or _NOTHING
    sources = dict.fromkeys(source for source in (step_source, epoch_source) if source)
    return TrainingPoint(None if step is None else int(step), epoch, ", ".join(sources) or ORDER)


def is_alias(name: str) -> bool:
    """Return whether the name is one under which trainers keep a further copy, such as `last` or `model_best`."""
    return _ALIAS.fullmatch(name.rpartition("/")[2]) is not None


def in_training_order(
    items: Sequence[_Item], describe: Callable[[_Item], tuple[str, int | None, float | None, bool]]
) -> list[_Item]:
    """Return the items by step if every usable one has a step, else by epoch if every one has, else by name.

    `describe` gives (name, step, epoch, is usable). Unusable items join the same axis where their names tell
    a place on it and follow at the end otherwise. Names are compared naturally: `9` before `10`; they
    also decide between equal steps.
    """
    natural = natsort.natsort_keygen()
    rows = [describe(item) for item in items]
    deciding = [row for row in rows if row[3]] or rows
    axis = next((axis for axis in (1, 2) if all(row[axis] is not None for row in deciding)), None)

    def key(pair: tuple[_Item, _Row]) -> tuple[float, bool, object, str]:
        row = pair[1]
        place = 0.0 if axis is None else row[axis]
        # Where names alone decide, `last` and `best` follow what has a number.
        is_last = axis is None and is_alias(row[0])
        # The plain name comes last so that names equal in natural order (`1` and `01`) have one order too.
        return (math.inf if place is None else float(place), is_last, natural(row[0]), row[0])

    return [item for item, _ in sorted(zip(items, rows, strict=True), key=key)]


def _first_number(stated: Mapping[str, object], keys: Sequence[str]) -> tuple[float | None, str]:
    for key in keys:
        value: object = stated
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        number = _number(value)
        if number is not None:
            return number, key
    return None, ""


def _number(value: object) -> float | None:
    if isinstance(value, torch.Tensor) and value.ndim == 0 and not (value.is_meta or value.is_complex()):
        value = value.item()
    elif (
        isinstance(value, str) and len(value) < _LONGEST_TEXT and _NUMBER_TEXT.fullmatch(value)
    ):  # safetensors metadata are all strings
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _LARGEST:
        return None
    return float(value)


def _first_match(patterns: Sequence[re.Pattern[str]], parts: Sequence[str]) -> tuple[float, str] | None:
    """Return the first number that a part of a name gives by one of the patterns, and that the name tells it."""
    for part in parts:
        for pattern in patterns:
            for found in map(re.Match.groupdict, pattern.finditer(part)):
                digits = found["number"]
                number = float(digits + (found.get("fraction") or "")) * _SCALES.get(
                    (found.get("scale") or "").lower(), 1
                )
                if not found.get("setting") and not _DATE.fullmatch(digits) and number < _LARGEST:
                    return number, NAME
    return None
