"""Files that ask for more than they hold (A09 to A11, A20): memory, time, tensors beyond their storage."""

import struct
from collections.abc import Iterator

from tests.attacks.assembly import (
    archive,
    call,
    entries,
    legacy,
    name,
    number,
    numbers,
    pickled,
    storage,
    tensor,
    text,
    weights_beside,
)

Attack = tuple[str, bytes]
_PRIME = (1 << 61) - 1  # whole numbers with this difference have one hash


def value_attacks() -> Iterator[Attack]:
    """Name and content of each file."""
    for what, value in _values():
        yield f"{what}.pt", archive(weights_beside(value))
    for what, weights in _tensors():
        yield f"tensor, {what}.pt", archive(pickled(entries(text("w"), weights)), {"data/1": bytes(64)})
    yield "no storage.pt", archive(pickled(entries(text("w"), tensor(4, (4,), (1,), key="7"))))
    yield "byte order.pt", archive(weights_beside(b"N"), {"byteorder": b"middle"})
    yield "behind the pickle.pt", archive(weights_beside(b"N") + b"N.")
    yield "end of the pickle.pt", archive(b"\x80\x02}")
    yield "empty pickle.pt", archive(b"")
    yield "stop.pt", archive(b".")
    whole = entries(text("w"), tensor(4, (4,), (1,)))
    yield (
        "legacy, larger than the file.pt",
        legacy(pickled(entries(text("w"), tensor(1 << 33, (4,), (1,)))), (4, bytes(16))),
    )
    yield "legacy, another count.pt", legacy(pickled(whole), (1 << 40, bytes(16)))
    yield "legacy, unknown key.pt", legacy(pickled(whole), (4, bytes(16)), keys=["1"])
    yield "legacy, no storage.pt", legacy(pickled(whole))
    yield "legacy, more bytes.pt", legacy(pickled(whole), (4, bytes(16))) + b"more"
    view = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(4)
    view += numbers((1, 2, 1 << 40)) + b"tQ"
    rebuilt = call(name("torch._utils", "_rebuild_tensor"), view, number(0), numbers((1 << 40,)), numbers((1,)))
    yield "legacy, a view beyond its storage.pt", legacy(pickled(entries(text("w"), rebuilt)), (4, bytes(16)))


def _values() -> Iterator[Attack]:
    yield "bytearray of 2 GiB", call(name("builtins", "bytearray"), number(1 << 31))
    yield "bytearray of 30 GiB", call(name("__builtin__", "bytearray"), number(30 << 30))
    yield "tensor by its class", call(name("torch", "Tensor"), number(1 << 34))
    yield "float tensor by its class", call(name("torch", "FloatTensor"), number(1 << 34))
    yield "tuples of 2⁶⁰ leaves", b"N" + b"q\x00h\x00\x86" * 60
    yield "lists of 2⁶⁰ leaves", b"N" + b"".join(b"q\x00]q\x01(h\x00h\x00e" for _ in range(60))
    yield "dicts of 2⁴⁰ leaves", b"N" + b"q\x00}(K\x00h\x00K\x01h\x00u" * 40
    yield "dict in itself", b"}q\x05K\x00h\x05s"
    yield "list in itself", b"]q\x05h\x05a"
    yield "200,000 nested tuples", b"N" + b"\x85" * 200_000
    yield "50,000 nested lists", b"]" * 50_000 + b"a" * 49_999
    yield "1,000,001 numbers", b"](" + b"K\x00" * 1_000_001 + b"e"
    yield "1,000,001 empty lists", b"](" + b"]" * 1_000_001 + b"e"
    yield "500,000 ordered dicts", name("collections", "OrderedDict") + b"q\x05](" + b"h\x05)R" * 500_000 + b"e"
    yield "600,000 keys", b"}(" + b"".join(number(index) + b"N" for index in range(600_000)) + b"u"
    yield "a key of a megabyte", entries(text("x" * 1_000_000), b"N")
    yield "a number of 2040 bits", number(1 << 2030)
    yield "a number of a megabyte", b"\x8b" + struct.pack("<i", 1_000_000) + bytes(1_000_000)
    yield (
        "20,000 keys of one hash",
        b"}(" + b"".join(number(_PRIME * index) + b"N" for index in range(1, 20_000)) + b"u",
    )
    yield "a list as key", entries(b"]", b"N")
    yield "text of 4 GiB", b"X\xff\xff\xff\xff"
    yield "text that is none", b"X\x02\x00\x00\x00\xff\xfe"
    yield "a layout that is none", call(name("torch.serialization", "_get_layout"), text("os.system"))
    yield "a size below zero", call(name("torch", "Size"), b"](" + number(-1) + b"e")
    yield "an encoding of its own", call(name("_codecs", "encode"), text("x"), text("rot13"))
    yield "memo without entry", b"h\x63"
    yield "no mark", b"t"
    yield "an odd dict", b"}(K\x00u"
    yield "a network in itself", _module(b"h\x05")
    yield "networks of 2⁴⁰ parts", _module(b"N") + b"".join(b"q\x07" + _module(b"h\x07", b"h\x07") for _ in range(40))
    yield "a call of a number", b"K\x01)R"
    yield "a call without arguments", name("collections", "OrderedDict") + b"K\x01R"


def _module(*children: bytes) -> bytes:
    """A network whose class does not matter, with these parts."""
    parts = entries(*(text(f"part{index}") + child for index, child in enumerate(children)))
    weight = entries(text("w"), tensor(16, (4, 4), (4, 1)))
    state = entries(text("_parameters"), weight, text("_buffers"), b"}", text("_modules"), parts)
    return name("torch.nn.modules.container", "Sequential") + b")\x81q\x05" + state + b"b"


def _tensors() -> Iterator[Attack]:
    yield "2⁴⁰ elements with stride 0", tensor(16, (1 << 40,), (0,))
    yield "overlapping strides of 96 MiB", tensor(16, (4, 3, 1 << 21), (1, 1, 0))
    yield "beyond its storage", tensor(16, (4, 5), (5, 1))
    yield "one element beyond its storage", tensor(16, (17,), (1,))
    yield "offset one beyond its storage", tensor(16, (4, 4), (4, 1), offset=1)
    yield "offset beyond its storage", tensor(16, (4,), (1,), offset=14)
    yield "offset far beyond", tensor(16, (0,), (1,), offset=1 << 40)
    yield "negative offset", tensor(16, (4,), (1,), offset=-1)
    yield "negative size", tensor(16, (-4,), (1,))
    yield "negative stride", tensor(16, (4,), (-1,))
    yield "size times stride beyond 2⁶³", tensor(16, (1 << 32, 1 << 31), (1 << 31, 1))
    yield "size beyond 2⁶³", tensor(16, (1 << 63,), (1,))
    yield "100 dimensions", tensor(16, (1,) * 100, (1,) * 100)
    yield "more strides than sizes", tensor(16, (4,), (1, 1))
    yield "1024 elements in 64 bytes", tensor(1024, (1024,), (1,))
    yield "fewer elements than stored", tensor(4, (4,), (1,))
    yield "negative storage", tensor(-16, (4,), (1,))
    yield "a storage of 2⁶² elements", tensor(1 << 62, (4,), (1,))
    yield "a storage of another width", tensor(16, (16,), (1,), kind="DoubleStorage")
    yield "a storage of two types", b"(" + tensor(16, (4,), (1,)) + tensor(16, (4,), (1,), kind="IntStorage") + b"t"
    yield "a storage of no known type", tensor(16, (4,), (1,), kind="SecretStorage")
    yield "a storage outside of the archive", tensor(16, (4,), (1,), key="../../0")
    yield (
        "no storage at all",
        call(name("torch._utils", "_rebuild_tensor_v2"), b"N", number(0), numbers((4,)), numbers((1,)), b"\x89", b"}"),
    )
    yield (
        "a type as storage",
        call(
            name("torch._utils", "_rebuild_tensor_v2"), name("torch", "float32"), number(0), b")", b")", b"\x89", b"}"
        ),
    )
    yield (
        "another type that is wider",
        call(
            *(name("torch._utils", "_rebuild_tensor_v3"), storage(16), number(0), numbers((16,)), numbers((1,))),
            *(b"\x89", b"}", name("torch", "complex128")),
        ),
    )
    yield "filled like a dict", tensor(16, (4,), (1,)) + text("w") + b"Ns"
    yield "filled like a list", tensor(16, (4,), (1,)) + b"Na"
    yield "with a state", tensor(16, (4,), (1,)) + b"}b"
    yield "conjugate", _conjugate()
    yield "complex", tensor(8, (8,), (1,), kind="ComplexFloatStorage")
    yield (
        "quantized",
        call(
            *(name("torch._utils", "_rebuild_qtensor"), storage(64, kind="ByteStorage"), number(0)),
            *(numbers((1 << 40,)), numbers((1,)), b"(N" + b"K\x01K\x00t", b"\x89", b"}"),
        ),
    )
    whole = tensor(8, (8,), (1,), key="1", kind="LongStorage")
    yield "nested", call(name("torch._utils", "_rebuild_nested_tensor"), whole, whole, whole, whole)
    yield (
        "without data",
        call(
            name("torch._utils", "_rebuild_meta_tensor_no_storage"),
            *(name("torch", "float32"), numbers((1 << 40,)), numbers((1,)), b"\x89"),
        ),
    )
    layout = call(name("torch.serialization", "_get_layout"), text("torch.sparse_csr"))
    rows = call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage(8, "1", "LongStorage"),
        number(0),
        numbers((2,)),
        numbers((1,)),
        b"\x89",
        b"}",
    )
    values = tensor(16, (1,), (1,))
    yield (
        "sparse rows that do not fit",
        call(
            name("torch._utils", "_rebuild_sparse_tensor"),
            layout,
            b"(" + rows + rows + values + numbers((1 << 20, 3)) + b"t",
        ),
    )
    coordinates = call(name("torch.serialization", "_get_layout"), text("torch.sparse_coo"))
    yield (
        "sparse indices that do not fit",
        call(name("torch._utils", "_rebuild_sparse_tensor"), coordinates, b"(" + rows + values + numbers((1,)) + b"t"),
    )
    yield "sparse without layout", call(name("torch._utils", "_rebuild_sparse_tensor"), b"N", b"(NNNt")


def _conjugate() -> bytes:
    return call(
        *(name("torch._utils", "_rebuild_tensor_v2"), storage(8, kind="ComplexFloatStorage"), number(0)),
        *(numbers((8,)), numbers((1,)), b"\x89", b"}", entries(text("conj"), b"\x88")),
    )
