"""Networks without storage: their names and shapes at once and without memory, whatever their size."""

import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fisher_cli.errors import ArchitectureError

Shapes = Mapping[str, tuple[int, ...]]

COUNTER: Final = "num_batches_tracked"  # batch norm has it since torch 0.4.1, and evaluation ignores it


# Calls of functions, and returns, that building a network may take: for each tensor that the file has, and beside them.
# Those of timm and transformers take 500 to 5,000 for each tensor of theirs; some take a million before the first.
_CALLS_EACH: Final = 5_000
_CALLS: Final = 3_000_000
# Numbers that one tensor may have which is made while a network is planned, beside as many as the file has.
_NUMBERS: Final = 2**24


# What no file's tensors have to show: numbers of words, seeds, tokens; pixels of a side; entries of a list.
_USUAL_NUMBER: Final = 100_000
_USUAL_SIDE: Final = 1024
_USUAL_LENGTH: Final = 1000
_LARGEST_REAL: Final = 1e9
_SIDES: Final = ("image", "img", "window", "resolution", "grid", "crop")
_DEEPEST: Final = 4


class BeyondFileError(ArchitectureError):
    """A network is asked for that a file's tensors cannot be the weights of, however it is called."""


class _TooMuchError(BaseException):
    """What a network is built with takes more work than the file's tensors can need; no library may catch it."""


class _Hollow(TorchFunctionMode):
    """Puts what holds weights on the meta device, and leaves the numbers that a network is planned with.

    `with torch.device("meta")` would move those too, and RegNets read theirs while they are built.

    Args:
        most: how many numbers such a tensor may have; None for any.
    """

    _HOLDERS: Final = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
    # On the meta device they change nothing, and torch imports its compiler for them, which takes seconds.
    _DRAWS: Final = frozenset({Tensor.normal_, Tensor.uniform_})
    _COUNTED: Final = frozenset({torch.linspace, torch.logspace})
    _MULTIPLYING: Final = frozenset({torch.outer, torch.kron, torch.cdist, torch.cartesian_prod, torch.eye})
    _REPEATING: Final = frozenset({Tensor.repeat, Tensor.tile, torch.tile, torch.repeat_interleave})

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self._most = most

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if function in self._DRAWS and args[0].is_meta:
            return args[0]
        if function in self._HOLDERS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        if self._most is not None and kwargs.get("device") != "meta":
            numbers = self._numbers(function, [*args, *kwargs.values()])
            if numbers > self._most:
                msg = f"a tensor of {numbers} numbers, more"
                raise _TooMuchError(msg)
        return function(*args, **kwargs)

    def _numbers(self, function: Callable[..., Any], values: list[Any]) -> int:
        """Return how many numbers the result may have: the broadcast shape of the tensors, or what a function makes."""
        inner = [each for value in values for each in (value if isinstance(value, (list, tuple)) else [value])]
        tensors = [each for each in inner if isinstance(each, Tensor) and not each.is_meta]
        given = [each for each in inner if isinstance(each, (int, float)) and math.isfinite(each)]
        sizes = [int(abs(each)) for each in given]
        if function is torch.arange:
            start, stop, step = given if len(given) == 3 else [0, *given, 1][-3:]
            return int(abs(stop - start) / abs(step or 1))
        if function in self._COUNTED:
            return max(sizes, default=0)
        if function in self._MULTIPLYING:
            return math.prod([each.numel() for each in tensors] or sizes)
        shapes = [tuple(each.shape) for each in tensors]
        widest = max(map(len, shapes), default=0)
        padded = [(1,) * (widest - len(shape)) + shape for shape in shapes]
        broadcast: int = math.prod(max(column) for column in zip(*padded, strict=True))
        return broadcast * (math.prod(sizes) if function in self._REPEATING else 1)


class _Calls:
    """A context in which only so many functions may be called; who profiles the program is left alone.

    What a library imports when it is first used has nothing to do with the file, and is not counted.
    """

    _IMPORT: Final = importlib._bootstrap._find_and_load.__code__  # type: ignore[attr-defined]
    # Where torch takes modes off their stack and puts them back: nothing may end between the two.
    _PAIRED: Final = frozenset({torch.overrides.__file__, contextlib.__file__})

    def __init__(self, most: int) -> None:
        self._left = most
        self._importing: FrameType | None = None

    def __enter__(self) -> None:
        self._is_watching = sys.getprofile() is None
        if self._is_watching:
            sys.setprofile(self._count)

    def __exit__(self, *_: object) -> None:
        if self._is_watching:
            sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if self._importing is not None:
            if frame is self._importing and event == "return":
                self._importing = None
            return
        if event == "call" and frame.f_code is self._IMPORT:
            self._importing = frame
            return
        self._left -= 1
        if self._left < 0 and frame.f_code.co_filename not in self._PAIRED:
            msg = "more work"
            raise _TooMuchError(msg)


def hollow(build: Callable[[], nn.Module], stored: Shapes | None = None) -> nn.Module:
    """Build a network with all large tensors on the meta device, which has shapes and no storage.

    Args:
        build: makes the network; tensors that it puts on a device by name stay there.
        stored: shapes of a file's weights, where the file says what to build: their number bounds the work, and with it
            the depth, and their sizes bound what the network is planned with. None where nothing of a file decides.

    Raises:
        BeyondFileError: the network takes more than these tensors can need.
    """
    if stored is None:
        with _Hollow(None):
            return build()
    numbers = sum(map(math.prod, stored.values()))
    try:
        with _Calls(_CALLS + _CALLS_EACH * len(stored)), _Hollow(_NUMBERS + numbers):
            return build()
    except _TooMuchError as error:
        msg = f"building the network takes {error} than the file's {len(stored)} tensors of {numbers} numbers can need"
        raise BeyondFileError(msg) from error


def can_be_of(key: str, value: object, stored: Shapes) -> bool:
    """Whether a number in a file's configuration can be one of the network of its weights.

    Lengths of sequences, widths and numbers of classes are sizes of tensors; what the network has for the positions of
    an image, it has in tensors. Numbers that are small in any network are not held against them.

    Args:
        key: what the number is called.
        value: the number; texts and truth values can always be, lists and mappings if what is in them can.
        stored: shapes of the file's weights.
    """
    sizes = [size for shape in stored.values() for size in shape]
    numbers = sum(map(math.prod, stored.values()))
    side = max(_USUAL_SIDE, 4 * math.isqrt(numbers)) if any(word in key for word in _SIDES) else None
    length = max(_USUAL_LENGTH, len(stored), *sizes)
    return _is_modest(value, side or max(_USUAL_NUMBER, *sizes), length, _DEEPEST)


def _is_modest(value: object, most: int, length: int, depth: int) -> bool:
    if isinstance(value, Mapping):
        return (depth > 0 and len(value) <= length) and all(
            _is_modest(each, max(most, _USUAL_NUMBER), length, depth - 1) for each in value.values()
        )
    if isinstance(value, list):
        return depth > 0 and len(value) <= length and all(_is_modest(each, most, length, depth - 1) for each in value)
    if isinstance(value, int):
        return abs(value) <= most
    return not isinstance(value, float) or abs(value) <= _LARGEST_REAL


def refuse_larger(network: nn.Module, stored: Shapes) -> None:
    """Refuse a network with many more numbers than the file has, before memory is taken for them.

    Args:
        network: without storage.
        stored: shapes of the file's weights.

    Raises:
        BeyondFileError: it is one.
    """
    numbers = sum(map(math.prod, stored.values()))
    needed = sum(value.numel() for value in network.state_dict().values())
    if needed > 2 * numbers + _NUMBERS:
        msg = f"the network has {needed} numbers, and the file {numbers}"
        raise BeyondFileError(msg)


def shapes_of(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items() if isinstance(tensor, Tensor)}


def without_counters(names: Mapping[str, Any]) -> list[str]:
    """Return the names that a checkpoint must have: all but batch norm's counters."""
    return [name for name in names if name.rpartition(".")[2] != COUNTER]


def rows(shapes: Shapes, *names: str) -> int | None:
    """Return the first size of the first of these tensors that there is."""
    return next((shapes[name][0] for name in names if shapes.get(name)), None)


def columns(shapes: Shapes, *names: str) -> int | None:
    """Return the second size of the first of these tensors that there is."""
    return next((shapes[name][1] for name in names if len(shapes.get(name, ())) > 1), None)


def blocks(shapes: Shapes, stage: str) -> int:
    """Return how many submodules numbered from 0 the stage has."""
    numbers = {
        part
        for name in shapes
        if name.startswith(f"{stage}.")
        for part in [name.removeprefix(f"{stage}.").partition(".")[0]]
        if part.isascii() and part.isdigit() and len(part) < 6
    }
    return len(numbers)


def takes_one_channel(network: nn.Module, sides: tuple[int, int]) -> bool:
    """Return whether the first layer that shows it takes images of one channel.

    Args:
        network: whose modules are in the order in which they are called, as they mostly are.
        sides: height and width of the images, by which the width of a linear layer tells the channels.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels == 1
        if isinstance(module, nn.Linear):
            return module.in_features == math.prod(sides)
    return False
