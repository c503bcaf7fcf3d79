"""When in training a checkpoint was made: step and epoch from what it says, else from its file name."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import natsort
import torch

# The words of Lightning, nanoGPT, detectron2 and plain loops, in order of trust.
STEP_KEYS: Final = ("global_step", "iter_num", "iteration", "step")
EPOCH_KEYS: Final = ("epoch",)
_LARGEST: Final = 10**15  # 15 digits: every such integer is exact as a float

# ASCII digits only and at most 15 of them; more are no step number but a hash or a date with time.
_NUMBER: Final = r"[-_=]?0*([0-9]{1,15})(?![0-9])"
_STEP_NAME: Final = re.compile(rf"(?<![a-z])(?:global_?step|steps?|iter(?:ation)?s?|ba){_NUMBER}", re.IGNORECASE)
_EPOCH_NAME: Final = re.compile(
    r"(?<![a-z])(?:epochs?|ep)[-_=]?0*([0-9]{1,15}(?![0-9])(?:\.[0-9]{1,6}(?![0-9]))?)", re.IGNORECASE
)
# `checkpoint-500` counts steps in some trainers and epochs in others: read only when nothing else tells.
_STEP_PERHAPS: Final = re.compile(rf"(?<![a-z])(?:checkpoint|ckpt){_NUMBER}", re.IGNORECASE)
_EPOCH_PERHAPS: Final = re.compile(rf"(?<![a-z])model{_NUMBER}", re.IGNORECASE)
_NUMBER_TEXT: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]+)?")

_Item = TypeVar("_Item")


def step_and_epoch(payload: Mapping[str, object], name: str) -> tuple[int | None, float | None]:
    """Return step and epoch as the payload tells them, else the file name; None where neither does."""
    step = _first_number(payload, STEP_KEYS)
    epoch = _first_number(payload, EPOCH_KEYS)
    parts = name.split("/")[::-1]  # the file's own name says more than its folder's
    step = _first_match(_STEP_NAME, parts) if step is None else step
    epoch = _first_match(_EPOCH_NAME, parts) if epoch is None else epoch
    if step is None and epoch is None:
        step = _first_match(_STEP_PERHAPS, parts)
        epoch = _first_match(_EPOCH_PERHAPS, parts) if step is None else None
    return (None if step is None else int(step)), epoch


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

    def key(pair: tuple[_Item, tuple[str, int | None, float | None, bool]]) -> tuple[float, object, str]:
        row = pair[1]
        place = 0.0 if axis is None else row[axis]
        # The plain name comes last so that names equal in natural order (`1` and `01`) have one order too.
        return (math.inf if place is None else float(place), natural(row[0]), row[0])

    return [item for item, _ in sorted(zip(items, rows, strict=True), key=key)]


def _first_number(payload: Mapping[str, object], keys: Sequence[str]) -> float | None:
    found = (_number(payload.get(key)) for key in keys)
    return next((number for number in found if number is not None), None)


def _number(value: object) -> float | None:
    if isinstance(value, torch.Tensor) and value.ndim == 0 and not (value.is_meta or value.is_complex()):
        value = value.item()
    elif isinstance(value, str) and _NUMBER_TEXT.fullmatch(value):  # safetensors metadata are all strings
        value = float(value)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < _LARGEST:
        return None
    return float(value)


def _first_match(pattern: re.Pattern[str], parts: Sequence[str]) -> float | None:
    found = (pattern.search(part) for part in parts)
    return next((float(match[1]) for match in found if match), None)
