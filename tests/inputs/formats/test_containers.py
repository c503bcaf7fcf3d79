"""Container → content: all that torch reads is read the same."""

import collections
import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.containers import decode
from fisher_cli.inputs.formats.contents import Content
from tests.attacks.assembly import call, legacy, name, pickled
from tests.effort import Effort
from tests.saving import WAYS, as_bytes, every_way, read, same

NAME = Path("a.pt")


def shared() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0)
    return {"base": base, "part": base[4:10], "square": base[:16].reshape(4, 4), "across": base[:16].reshape(4, 4).T}


def trained() -> dict[str, object]:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    averaged = torch.optim.swa_utils.AveragedModel(model)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "model_ema": averaged.state_dict(),
        "epoch": 3,
        "rng": torch.get_rng_state(),
    }


def attributed() -> torch.Tensor:
    tensor = torch.ones(2)
    tensor.note = "kept aside"  # type: ignore[attr-defined]
    return tensor


GENUINE: dict[str, Callable[[], object]] = {
    "state dict": lambda: nn.Conv2d(2, 3, 3).state_dict(),
    "torchvision": lambda: torchvision.models.squeezenet1_1(num_classes=3).state_dict(),
    "training": trained,
    "data parallel": lambda: nn.DataParallel(nn.Linear(2, 2)).state_dict(),
    "compiled": lambda: {f"_orig_mod.{key}": value for key, value in nn.Linear(2, 2).state_dict().items()},
    "views and tied weights": shared,
    "parameters": lambda: {"w": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2), requires_grad=False)},
    "numbers": lambda: {"a": 0, "b": -1, "c": 255, "d": 65536, "e": 2**40, "f": -(2**90), "g": 0.1, "h": 1e400},
    "plain values": lambda: [
        None,
        True,
        False,
        "text",
        "é\ud800",
        b"\xff\0",
        bytearray(b"ab"),
        (1,),
        (),
        {1, 2},
        1 + 2j,
    ],
    "scalars and empty": lambda: {"n": torch.tensor(7), "e": torch.zeros(0), "f": torch.zeros(3, 0, 2)},
    "one element": lambda: {"a": torch.zeros(1).expand(1, 1), "b": torch.ones(4)[None, :, None].expand(1, 4, 1)},
    "types": lambda: {str(t): torch.ones(3).to(t) for t in (torch.float16, torch.bfloat16, torch.float64, torch.int8)},
    "more types": lambda: {
        str(t): torch.ones(4).to(t) for t in (torch.bool, torch.uint8, torch.int64, torch.complex64)
    },
    "new types": lambda: {str(t): torch.ones(4).to(t) for t in (torch.float8_e4m3fn, torch.uint16, torch.uint64)},
    "channels last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "sparse": lambda: {"coo": torch.eye(3).to_sparse(), "csr": torch.eye(3).to_sparse_csr()},
    "sparse in an optimizer": lambda: {"state": {0: {"exp_avg": torch.eye(4).to_sparse()}}, "param_groups": [{}]},
    "without data": lambda: {"m": torch.zeros(2, 3, device="meta")},
    "words of torch": lambda: [torch.float16, torch.Size([1, 2]), torch.device("cuda:1"), torch.device("cpu")],
    "counter": lambda: collections.Counter("hello"),
    "attributes": lambda: {"w": attributed()},
    "deep": lambda: {"a": {"b": {"c": [[[[{"d": torch.ones(1)}]]]]}}},
    "history": lambda: {"losses": [index / 7 for index in range(20_000)], "steps": list(range(20_000))},
    "shared values": lambda: (lambda groups: {"a": groups, "b": [groups, groups]})([{"betas": (0.9, 0.99)}]),
    "names that are odd": lambda: {"": torch.ones(1), "a b": torch.ones(1), "ünï": torch.ones(1), 7: 1, None: 2},
}


@every_way
@pytest.mark.parametrize("what", GENUINE)
@pytest.mark.filterwarnings("ignore")  # torch's remarks on sparse layouts and pickle protocols
def test_what_torch_reads_is_read_the_same(what: str, way: dict[str, Any]) -> None:
    data = as_bytes(GENUINE[what](), **way)
    payload = decode(data, NAME)
    is_zip = way["_use_new_zipfile_serialization"]
    assert payload.format == ("torch zip" if is_zip else "torch legacy")
    assert payload.integrity == ("checksums hold" if is_zip else "no checksums")
    assert payload.ignored_types == ()
    # Torch's restricted loader knows protocol 2 alone; these files are our own.
    is_readable = is_zip or what != "new types"  # torch cannot read these in its own old format
    theirs = torch.load(io.BytesIO(data), weights_only=way["pickle_protocol"] == 2) if is_readable else GENUINE[what]()
    assert same(payload.content, theirs)


def test_views_share_their_memory_as_they_did() -> None:
    for way in WAYS:
        content = read(shared(), **way).content
        assert isinstance(content, dict)
        assert {tensor.untyped_storage().data_ptr() for tensor in content.values()} == {content["base"].data_ptr()}
        content["base"][4] = -1.0
        assert content["part"][0] == content["across"][0, 1] == -1.0


def test_a_file_of_the_other_byte_order_is_read_the_same() -> None:
    content = {"w": torch.arange(3.0), "n": torch.arange(2), "z": torch.tensor([1 + 2j])}
    with zipfile.ZipFile(io.BytesIO(as_bytes(content))) as source:
        members = {name: source.read(name) for name in source.namelist()}
    order = "big" if sys.byteorder == "little" else "little"
    for index, kind in enumerate(("f4", "i8", "c8")):
        members[f"archive/data/{index}"] = np.frombuffer(members[f"archive/data/{index}"], kind).byteswap().tobytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, data in members.items():
            written.writestr(name, order if name.endswith("byteorder") else data)
    assert same(decode(buffer.getvalue(), NAME).content, content)


def test_files_without_checksums_are_read_and_say_so() -> None:
    torch.serialization.set_crc32_options(False)
    try:
        data = as_bytes({"w": torch.arange(3.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    payload = decode(data, NAME)
    assert payload.integrity == "no checksums"
    assert same(payload.content, {"w": torch.arange(3.0)})


def test_views_and_text_of_old_files_are_read_as_torch_reads_them() -> None:
    """As torch 0.3 under Python 2 wrote: storages with views, and names as byte strings."""
    view = b"(U\x07storage" + name("torch", "FloatStorage") + b"U\x010U\x03cpuK\x06(U\x01vK\x02K\x03ttQ"
    weight = call(name("torch._utils", "_rebuild_tensor"), view, b"K\x01", b"(K\x02t", b"(K\x01t")
    data = legacy(pickled(b"}(U\x01w", weight, b"u"), (6, np.arange(6, dtype="<f4").tobytes()))
    content = decode(data, NAME).content
    assert same(content, {"w": torch.tensor([3.0, 4.0])})
    assert same(content, torch.load(io.BytesIO(data), weights_only=True))


def test_a_hundred_megabytes_take_no_work_of_their_own_and_are_held_once() -> None:
    data = as_bytes({f"w{index}": torch.zeros(500, 5000) for index in range(10)})
    content = Content.of(data)
    decode(content, NAME)  # what the first time imports
    effort = Effort()
    with effort.counting():
        decode(content, NAME)
    assert effort.calls < 30_000
    assert effort.bytes < 1.01 * len(data)  # as views of what was read before


# Files of other libraries: what each is, and what to do instead, by the bytes that its own tool writes


def of_hdf5() -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["dense/kernel"] = np.ones((2, 3))
    return buffer.getvalue()


def of_msgpack(keys: list[bytes]) -> bytes:
    """A map from names to arrays of bytes, as flax.serialization.to_bytes writes it."""
    entries = b"".join(bytes([0xA0 + len(key)]) + key + b"\xc4\x40" + bytes(64) for key in keys)
    return bytes([0x80 + len(keys)]) + entries


STRANGERS = {
    "HDF5": of_hdf5,
    "TensorFlow Lite": lambda: b"\x1c\0\0\0TFL3" + bytes(200),
    "GGUF": lambda: b"GGUF\x03\0\0\0" + bytes(200),
    "ONNX": lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.4.0:\x90\x01" + bytes(200),
    "ONNX graph": lambda: b"\x08\x07:\x90\x01\x0a\x05" + bytes(200),
    "MessagePack": lambda: of_msgpack([b"params", b"batch_stats"]),
    "Lua's Torch": lambda: b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x0d\0\0\0nn.Sequential" + bytes(200),
    "NumPy": lambda: _npy(),
}


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((4, 4)))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", STRANGERS)
def test_files_of_other_libraries_are_named_with_what_to_do(kind: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        decode(STRANGERS[kind](), Path("a.bin"))
    message = str(caught.value)
    assert kind.removesuffix(" graph") in message
    assert "; " in message
    assert "save" in message or "name the checkpoint" in message
    assert "neither" not in message
