"""Small files that ask for work without end: hashing, printing, copying and counting what is shared (A21)."""

import json
import struct
from collections.abc import Iterator

from tests.attacks.assembly import (
    MAGIC,
    STOP,
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
from tests.attacks.safetensors_files import written

Attack = tuple[str, bytes]
SHARED = b"K\x01" + b"q\x63h\x63\x86" * 60  # a tuple of 2⁶⁰ leaves in 250 bytes
_MEGABYTE = text("a" * 1_000_000)
_LONG = "a" * 9_999


def deep(levels: int) -> bytes:
    """A tuple in a tuple, so many times."""
    return b"N" + b"\x85" * levels


def work_attacks() -> Iterator[Attack]:
    """Name and content of each file."""
    for kinds in (_keys(), _words(), _copies()):
        for what, value in kinds:
            yield f"{what}.pt", archive(weights_beside(value))
    yield from _references()
    yield from _machines()
    yield from _weights()
    yield from _headers()


def odd_files() -> Iterator[Attack]:
    """Name and content of files that may be read: what is odd in them stays inert, and takes no time."""
    dtype = call(name("numpy", "dtype"), text("f4"), b"\x89", b"\x88") + b"(K\x03" + SHARED + b"t" + b"b"
    for what, value in {
        "a type of 2⁶⁰ leaves": call(name("numpy.core.multiarray", "scalar"), dtype, b"C\x04aaaa"),
        "a megabyte of text 200,000 times": _MEGABYTE + b"q\x050](" + b"h\x05" * 200_000 + b"e",
        "a megabyte of blanks 200,000 times as an enumeration": name("a", "b")
        + b"q\x05"
        + text(" " * 1_000_000)
        + b"q\x0600]("
        + b"h\x05h\x06\x85R" * 120_000
        + b"e",
        "a state of 2⁶⁰ leaves": name("a", "b") + b")\x81" + SHARED + b"b",
        "50 megabytes of bytes 200 times": b"B"
        + struct.pack("<i", 50 << 20)
        + bytes(50 << 20)
        + b"q\x050]("
        + b"h\x05" * 200
        + b"e",
    }.items():
        yield f"{what}.pt", archive(weights_beside(value))
    parted = [text("x.y." * 700 + f"w{i}") + tensor(16, (1,), (1,), i % 16) for i in range(600)]
    yield "600 names of 1,401 parts.pt", archive(pickled(entries(text("state_dict"), entries(*parted))))
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [64, 64]}
    whole = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    header = {"w": whole} | {f"layer{i}.w": entry for i in range(99_000)}
    yield "99,001 tensors.safetensors", written(json.dumps(header, separators=(",", ":")).encode())


def _keys() -> Iterator[Attack]:
    for what, value in {
        "2⁶⁰ leaves": SHARED,
        "900,000 nested tuples": deep(900_000),
        "200 entries": b"(" + b"K\x01" * 200 + b"t",
        "a name of a megabyte in a tuple": _MEGABYTE + b"\x85",
    }.items():
        yield f"a key of {what}", b"}" + value + b"Ns"
        yield f"a set of {what}", b"\x8f(" + value + b"\x90"
        yield f"a frozen set of {what}", b"(" + value + b"\x91"
        yield f"an ordered dict with {what}", call(name("collections", "OrderedDict"), b"](" + value + b"N\x86e")
        yield f"a counter of {what}", call(name("collections", "Counter"), b"}" + value + b"Ns")
        yield f"an old set of {what}", call(name("builtins", "set"), b"](" + value + b"e")
    yield "a key that becomes 2⁶⁰ leaves", b"}" + call(name("builtins", "frozenset"), SHARED) + b"Ns"
    yield "2,000 tuples as keys", b"}(" + b"".join(number(i) + b"\x85N" for i in range(2000)) + b"u"
    yield (
        "2,000 fractions as keys",
        b"}(" + b"".join(b"G" + struct.pack(">d", i + 0.5) + b"N" for i in range(2000)) + b"u",
    )
    yield "frozen sets in frozen sets", b"(" * 5000 + b"N" + b"\x91" * 5000
    dots = [text("." * 9_000 + str(index)) + b"N" for index in range(200)]
    yield "names of 1,800,000 parts", entries(*dots)


def _words() -> Iterator[Attack]:
    """What stands in a message, or is compared with a word."""
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    whole, floats = numbers((4,)), storage(16)
    dtype = (
        call(name("numpy", "dtype"), text("f4"), b"\x89", b"\x88")
        + b"(K\x03"
        + SHARED
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = name("numpy.core.multiarray", "_reconstruct")
    sparse = name("torch._utils", "_rebuild_sparse_tensor")
    layout = call(name("torch.serialization", "_get_layout"), text("torch.sparse_coo"))
    rows = tensor(16, (1, 1), (1, 1))
    for what, value in {
        "a size": call(rebuild, floats, number(0), SHARED, whole, b"\x89", b"}"),
        "a stride": call(rebuild, floats, number(0), whole, SHARED, b"\x89", b"}"),
        "an offset": call(rebuild, floats, SHARED, whole, whole, b"\x89", b"}"),
        "a storage": call(rebuild, SHARED, number(0), whole, whole, b"\x89", b"}"),
        "a layout": call(name("torch.serialization", "_get_layout"), SHARED),
        "a torch.Size": call(name("torch", "Size"), SHARED),
        "a device": call(name("torch", "device"), SHARED),
        "an encoding": call(name("_codecs", "encode"), text("x"), SHARED),
        "bytes": call(name("builtins", "bytes"), SHARED),
        "a complex number": call(name("builtins", "complex"), SHARED),
        "a parameter": call(name("torch.nn.parameter", "Parameter"), SHARED),
        "an array": call(array, name("numpy", "ndarray"), numbers((0,)), b"C\x01b")
        + b"(K\x01"
        + SHARED
        + dtype
        + b"\x89C\x00t}bb",
        "a sparse size": call(sparse, layout, b"(" + rows + rows + SHARED + b"t"),
        "sparse indices": call(sparse, layout, b"(" + SHARED + rows + numbers((1, 1)) + b"t"),
        "a size without data": call(
            name("torch._utils", "_rebuild_meta_tensor_no_storage"), name("torch", "float32"), SHARED, whole, b"\x89"
        ),
        "a subclass": call(name("torch._tensor", "_rebuild_from_type_v2"), rebuild, b"N", SHARED, b"N"),
        "a called tuple": SHARED + b")R",
        "a key beside a list": b"}]" + SHARED + b"as" + SHARED,
    }.items():
        yield f"2⁶⁰ leaves as {what}", value


def _copies() -> Iterator[Attack]:
    """What is stored once and made many times."""
    many, again = 100_000, b"h\x05h\x06\x85R"
    for what, function, argument in (
        ("bytes of a megabyte", name("_codecs", "encode"), _MEGABYTE),
        ("paths of a megabyte", name("pathlib", "PosixPath"), _MEGABYTE),
        ("Windows' paths of a megabyte", name("pathlib", "WindowsPath"), text("a\\" * 500_000)),
        ("old bytes of a megabyte", name("builtins", "bytes"), _MEGABYTE),
    ):
        yield f"100,000 times {what}", function + b"q\x05" + argument + b"q\x0600](" + again * many + b"e"
    empty = _part({})
    yield (
        "networks of 2⁶⁰ parts without weights",
        empty + b"".join(b"q\x07" + _part({"a": b"h\x07", "b": b"h\x07"}) for _ in range(60)),
    )
    yield (
        "networks of 2⁶⁰ parts with long names",
        empty + b"".join(b"q\x07" + _part({_LONG + "a": b"h\x07", _LONG + "b": b"h\x07"}) for _ in range(60)),
    )
    shared = {f"part{index}": b"h\x07" for index in range(5000)}
    yield "5,000 parts that share 5,000 tensors", _part({}, 5000) + b"q\x07" + _part(shared)
    yield "200,000 nested calls", name("a", "b") + b"q\x05" + b"h\x05" * 200_000 + b"N" + b"\x85R" * 200_000
    namespace = name("argparse", "Namespace") + b")\x81"
    yield (
        "namespaces of 2⁶⁰ leaves",
        b"N"
        + b"".join(b"q\x07" + namespace + entries(text("a"), b"h\x07", text("b"), b"h\x07") + b"b" for _ in range(60)),
    )
    yield "a namespace in itself", namespace + b"q\x05" + entries(text("a"), b"h\x05") + b"b"
    queue = call(name("collections", "deque"))
    yield "queues of 2⁶⁰ leaves", b"N" + b"q\x07" + b"".join(queue + b"(h\x07h\x07eq\x07" for _ in range(60))
    yield "sets of 2⁶⁰ leaves in tuples", b"N" + b"q\x07(h\x07h\x07t" * 60
    yield "300,000 names of classes", b"](" + b"".join(name("m" * 400, f"n{i}") for i in range(300_000)) + b"e"


def _part(parts: dict[str, bytes], count: int = 0) -> bytes:
    """A network without a class, with parts and so many times the same tensor."""
    weight = tensor(16, (4, 4), (4, 1)) + b"q\x090"
    own = entries(*(text(f"w{index}") + b"h\x09" for index in range(count)))
    below = entries(*(text(key) + part for key, part in parts.items()))
    state = entries(text("_parameters"), own, text("_buffers"), b"}", text("_modules"), below)
    return weight + name("torch.nn.modules.container", "Sequential") + b")\x81" + state + b"b"


def _references() -> Iterator[Attack]:
    """Storages that are referred to by values without end."""

    def reference(word: bytes, kind: bytes, key: bytes, count: bytes) -> bytes:
        return b"(" + word + kind + key + text("cpu") + count + b"tQ"

    floats = name("torch", "FloatStorage")
    for what, value in {
        "a word": reference(SHARED, floats, text("0"), number(16)),
        "a type": reference(text("storage"), SHARED, text("0"), number(16)),
        "a key": reference(text("storage"), floats, SHARED, number(16)),
        "a count": reference(text("storage"), floats, text("0"), SHARED),
        "all of it": SHARED + b"Q",
    }.items():
        rebuilt = call(
            name("torch._utils", "_rebuild_tensor_v2"), value, number(0), numbers((4,)), numbers((1,)), b"\x89", b"}"
        )
        yield f"a storage by 2⁶⁰ leaves as {what}.pt", archive(pickled(entries(text("w"), rebuilt)))
        yield (
            f"legacy, a storage by 2⁶⁰ leaves as {what}.pt",
            legacy(pickled(entries(text("w"), rebuilt)), (16, bytes(64))),
        )
    yield "legacy, a module of 2⁶⁰ leaves.pt", legacy(pickled(b"(" + text("module") + SHARED * 1 + b"NNtQ)R"))


def _machines() -> Iterator[Attack]:
    """What stands around the content of an old file."""
    usual = pickled(entries(text("little_endian"), b"\x88"))
    version, content = pickled(b"M\xe9\x03"), pickled(entries(text("w"), tensor(4, (4,), (1,))))
    stored = struct.pack("<q", 4) + bytes(16)
    for what, parts in {
        "a version": (pickled(SHARED), usual, content, pickled(b"](" + text("0") + b"e")),
        "a byte order": (
            version,
            pickled(entries(text("little_endian"), SHARED)),
            content,
            pickled(b"](" + text("0") + b"e"),
        ),
        "a machine": (version, pickled(SHARED), content, pickled(b"](" + text("0") + b"e")),
        "a key of a storage": (version, usual, content, pickled(b"](" + SHARED + b"e")),
        "all keys": (version, usual, content, pickled(SHARED)),
        "a key of the machine": (version, pickled(b"}" + SHARED + b"Ns"), content, pickled(b"](" + text("0") + b"e")),
    }.items():
        yield f"legacy, 2⁶⁰ leaves as {what}.pt", MAGIC + b"".join(parts) + stored
    yield "legacy, nested tuples as version.pt", MAGIC + pickled(deep(900_000)) + usual + content + stored
    yield "a pickle alone of 2⁶⁰ leaves.pkl", pickled(b"}" + SHARED + b"Ns", protocol=b"\x80\x04")
    assert STOP in usual


def _weights() -> Iterator[Attack]:
    """Weights that are far more numbers than are stored."""
    expanded = (1 << 24,), (0,)
    pruned = [text(f"w{i}_{part}") + tensor(16, *expanded) for i in range(60) for part in ("orig", "mask")]
    yield "60 expanded masks.pt", archive(pickled(entries(*pruned)))
    ones = {"data/1": b"\x01" * (1 << 22)}
    views = [
        text(f"w{i}_{part}") + tensor(1 << 22, ((1 << 22) - 200,), (1,), i, "1", "ByteStorage")
        for i in range(200)
        for part in ("orig", "mask")
    ]
    yield "masks of 400 views.pt", archive(pickled(entries(*views)), ones)
    many = [text(f"w{i}") + tensor(1 << 20, ((1 << 20) - 2000,), (1,), i, "1") for i in range(2000)]
    yield "2,000 views of four megabytes.pt", archive(pickled(entries(*many)), ones)
    halves = [text(f"w{i}") + tensor(1 << 21, ((1 << 21) - 999,), (1,), i, "1", "HalfStorage") for i in range(999)]
    yield "999 views in half precision.pt", archive(pickled(entries(*halves)), ones)
    same = tensor(1 << 20, (1 << 20,), (1,), 0, "1") + b"q\x070"
    names = b"".join(text(f"w{i}") + b"h\x07" for i in range(100_000))
    yield "100,000 names of one tensor.pt", archive(pickled(same + b"}(" + names + b"u"), ones)
    parted = [text("x.y." * 1200 + f"w{i}") + tensor(16, (1,), (1,), i % 16) for i in range(1000)]
    yield "1,000 names of 2,400 parts.pt", archive(pickled(entries(text("state_dict"), entries(*parted))))
    wrapped = [text("module." * 1400 + f"w{i}") + tensor(16, (1,), (1,), i % 16) for i in range(1000)]
    yield "1,000 names in 1,400 wrappers.pt", archive(pickled(entries(*wrapped)))
    below = b"}(" + b"".join(text(f"k{i}") + b"h\x07" for i in range(200_000)) + b"u"
    yield "200,000 places below a long name.pt", archive(pickled(b"}q\x070" + entries(text(_LONG), below)))


def _headers() -> Iterator[Attack]:
    def entry(begin: int, end: int, shape: object) -> dict[str, object]:
        return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}

    whole = entry(0, 64, [16])
    for what, header in {
        "names of 1,500,000 parts": {"w": whole} | {"." * 9000 + str(i): entry(64, 64, [0]) for i in range(170)},
        "a name of a megabyte": {"w" * 1_000_000: whole},
        "a shape of a million ones": {"w": entry(0, 64, [1] * 1_000_000 + [16])},
        "a shape of 300,000 lists": {"w": entry(0, 64, [[]] * 300_000)},
        "200,000 members of a tensor": {"w": whole | {str(i): 0 for i in range(200_000)}},
        "metadata of 300,000 lists": {"w": whole, "__metadata__": {"a": [[]] * 300_000}},
        "nested metadata": {"w": whole, "__metadata__": {"a": {"b": {"c": "d"}}}},
    }.items():
        yield f"{what}.safetensors", written(json.dumps(header, separators=(",", ":")).encode())
    lists = b'{"w":[' + b"[]," * 3_000_000 + b"[]]}"
    yield "three million lists.safetensors", written(lists)
    yield "2,000 numbers of 4,000 digits.safetensors", written(b'{"w":[' + b",".join([b"9" * 4000] * 2000) + b"]}")
