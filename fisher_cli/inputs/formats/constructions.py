"""What a torch file may ask to have made, beyond plain values: the few names that are known, each by its own rule."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats import storages
from fisher_cli.inputs.formats.budgets import Budget
from fisher_cli.inputs.formats.number_types import NUMBER_TYPES, STORAGE_TYPES, NumberType
from fisher_cli.inputs.formats.stand_ins import Named, StandIn
from fisher_cli.inputs.formats.storages import DenseTensor, SparseTensor
from fisher_cli.text import clipped

QUANTIZED: Final = "holds a quantized tensor, which is not supported; name a checkpoint from before it was quantized"
_LONGEST_NOTE: Final = 100
_REBUILD: Final = "torch._utils._rebuild"


class Known:
    """A name whose meaning is built in.

    Args:
        path: the name as files have it, `module.name`.
        make: called with the arguments found in the file, all of which it checks.
    """

    __slots__ = ("make", "path")

    def __init__(self, path: str, make: Callable[..., object]) -> None:
        self.path = path
        self.make = make


def constant(module: str, name: str) -> object | None:
    """Return the value that a name stands for (a type of numbers, of storages, or something known), or None."""
    if module in {"torch", "torch.storage", "torch.cuda"} and name in _STORAGE_TYPES:
        return _STORAGE_TYPES[name]
    if module == "torch" and name in NUMBER_TYPES:
        return NUMBER_TYPES[name]
    known = _KNOWN.get(f"{module}.{name}")
    if known is None and (module in {"torch", "torch.cuda", "torch.sparse"}) and name.endswith("Tensor"):
        return Known(f"{module}.{name}", _refuse_tensor)
    return known


def construct(function: object, arguments: tuple[object, ...], budget: Budget) -> object:
    """Return what one of the known names makes of its arguments.

    Raises:
        CheckpointError: The arguments do not fit, or would make something that is not stored.
    """
    if not isinstance(function, Known):
        msg = f"damaged: it calls {clipped(function, 80)}"
        raise CheckpointError(msg)
    if function.make in _COUNTED:
        return function.make(budget, *arguments)
    return function.make(*arguments)


class StorageType:
    """A class of storages, by its type of numbers."""

    __slots__ = ("kind",)

    def __init__(self, kind: NumberType) -> None:
        self.kind = kind


class Size(tuple[int, ...]):
    """A shape, as torch.Size."""

    __slots__ = ()


class Device:
    """A device, as torch.device."""

    __slots__ = ("index", "kind")

    def __init__(self, kind: str, index: int | None) -> None:
        self.kind = kind
        self.index = index


_STORAGE_TYPES: Final = {name: StorageType(kind) for name, kind in STORAGE_TYPES.items()}


def _ordered(budget: Budget, pairs: object = ()) -> object:
    made: OrderedDict[object, object] = OrderedDict()
    if not isinstance(pairs, dict | list | tuple):
        raise CheckpointError(_odd("an ordered dict"))
    for pair in pairs.items() if isinstance(pairs, dict) else pairs:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise CheckpointError(_odd("an ordered dict"))
        budget.check_key(pair[0])
        made[pair[0]] = pair[1]
    return made


def _set(budget: Budget, items: object = ()) -> object:
    if not isinstance(items, list | tuple):
        raise CheckpointError(_odd("a set"))
    for item in items:
        budget.check_key(item)
    return set(items)


def _complex(real: object, imaginary: object = 0.0) -> object:
    if type(real) is not float or type(imaginary) is not float:
        raise CheckpointError(_odd("a complex number"))
    return complex(real, imaginary)


def _encoded(budget: Budget, text: object, encoding: object = "latin1") -> object:
    # Protocol 2 stores bytes as text.
    is_known = isinstance(encoding, str) and encoding in {"latin1", "latin-1", "utf-8", "ascii"}
    if not isinstance(text, str) or not is_known:
        raise CheckpointError(_odd("bytes"))
    budget.spend_text(len(text))  # each call makes a copy of what may have been stored once
    return text.encode(str(encoding), "strict")


def _bytes(budget: Budget, data: object = b"", encoding: object = "latin1") -> object:
    # A number instead of data would ask for that much memory.
    if isinstance(data, str):
        return _encoded(budget, data, encoding)
    if not isinstance(data, bytes):
        raise CheckpointError(_odd("a bytearray"))
    return data


def _size(sizes: object = ()) -> object:
    if not isinstance(sizes, tuple | list) or not all(type(n) is int and 0 <= n < 1 << 60 for n in sizes):
        raise CheckpointError(_odd("a size"))
    return Size(sizes)


def _device(kind: object = "cpu", index: object = None) -> object:
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise CheckpointError(_odd("a device"))
    return Device(clipped(kind, _LONGEST_NOTE), index)


def _tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> object:
    metadata = rest[2] if len(rest) > 2 else None
    return _unconjugated(storages.tensor(storage, offset, size, stride), metadata)


def _typed_tensor(
    storage: object, offset: object, size: object, stride: object, _: object, __: object, kind: object, *rest: object
) -> object:
    if kind is None:
        raise CheckpointError(_odd("a tensor"))
    return _unconjugated(storages.tensor(storage, offset, size, stride, kind), rest[0] if rest else None)


def _unconjugated(tensor: DenseTensor, metadata: object) -> DenseTensor:
    if metadata:
        msg = "a tensor that is the conjugate or negative of what is stored; save it with .resolve_conj()"
        raise CheckpointError(msg)
    return tensor


def _parameter(data: object, *_: object) -> object:
    # A parameter's own class adds nothing but gradients.
    if not isinstance(data, DenseTensor | SparseTensor | StandIn):
        raise CheckpointError(_odd("a parameter"))
    return data


def _subclass(budget: Budget, function: object, _: object, arguments: object, __: object = None) -> object:
    # The tensor inside a tensor with attributes or of a subclass, which are left aside.
    if isinstance(function, Named | StandIn):
        return StandIn(function, arguments if isinstance(arguments, tuple) else ())
    if not isinstance(function, Known) or not isinstance(arguments, tuple) or not function.path.startswith(_REBUILD):
        raise CheckpointError(_odd("a tensor"))
    return construct(function, arguments, budget)


def _quantized(*_: object) -> object:
    raise CheckpointError(QUANTIZED)


def _nested(*_: object) -> object:
    msg = "holds a nested tensor, which is not supported; save it as a dense float32 tensor"
    raise CheckpointError(msg)


def _without_data(kind: object, size: object, stride: object, *_: object) -> object:
    return storages.tensor_without_data(kind, size, stride)


def _refuse_tensor(*_: object) -> object:
    raise CheckpointError(_odd("a tensor"))


def _odd(what: str) -> str:
    return f"damaged: it asks for {what} that is not stored in it"


_RULES: Final[dict[str, Callable[..., object]]] = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _ordered,
    "builtins.set": _set,
    "builtins.complex": _complex,
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "_codecs.encode": _encoded,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": storages.layout_named,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.autograd.variable.Variable": _parameter,  # until torch 0.3
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_sparse_tensor": storages.sparse_tensor,
    "torch._utils._rebuild_meta_tensor_no_storage": _without_data,
    "torch._utils._rebuild_qtensor": _quantized,
    "torch._utils._rebuild_nested_tensor": _nested,
    "torch._tensor._rebuild_from_type_v2": _subclass,
}
# Those that copy, hash or look through what they are given.
_COUNTED: Final = frozenset({_ordered, _set, _bytes, _encoded, _subclass, storages.sparse_tensor})
_KNOWN: Final = {path: Known(path, make) for path, make in _RULES.items()}
