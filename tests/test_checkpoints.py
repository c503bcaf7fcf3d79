"""Files on disk → clean weights in training order; whatever cannot be used is refused in one helpful line."""

import hashlib
import io
import os
import pickle  # noqa: TID251  only to write the files that must be refused
import socket
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from fisher_cli.errors import CheckpointError, NoWeightsError, UnsafeCheckpointError
from fisher_cli.inputs.checkpoints import (
    Checkpoint,
    CheckpointFile,
    find_checkpoints,
    load_checkpoint,
    nonfinite_names,
)
from fisher_cli.inputs.weights import clean_names
from fisher_cli.results import WeightsKind

WEIGHTS = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0])}


def saved(path: Path, content: object, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path, **options)
    return path


def as_bytes(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def load(path: Path, **options: str) -> Checkpoint:
    return load_checkpoint(find_checkpoints([path], **options)[0], **options)


def refusal(path: Path, kind: type[CheckpointError] = CheckpointError, **options: str) -> str:
    """The message for one file, which is a row with an error, of the kind expected, in one clean line."""
    [file] = find_checkpoints([path], **options)
    assert type(file.error) is kind, file.error
    with pytest.raises(kind):
        load_checkpoint(file, **options)
    return checked(str(file.error), path)


def checked(message: str, path: Path) -> str:
    assert message.isprintable(), message
    assert path.name in message
    assert "weights_only" not in message
    assert ";" in message, "the line must end in what to do next"
    return message


# Formats


@pytest.mark.parametrize("suffix", [".pt", ".pth.tar", ".safetensors", ".ckpt"])
def test_the_format_is_told_by_content_and_not_by_suffix(tmp_path: Path, suffix: str) -> None:
    zipped = saved(tmp_path / f"a{suffix}", WEIGHTS)
    legacy = saved(tmp_path / f"b{suffix}", WEIGHTS, _use_new_zipfile_serialization=False)
    tensors = tmp_path / f"c{suffix}"
    tensors.write_bytes(safetensors.torch.save(WEIGHTS))
    for path, name in ((zipped, "torch zip"), (legacy, "torch legacy"), (tensors, "safetensors")):
        checkpoint = load(path)
        assert checkpoint.format == name
        assert checkpoint.name == path.name
        assert set(checkpoint.weights) == set(WEIGHTS)
        assert all(torch.equal(checkpoint.weights[key], WEIGHTS[key]) for key in WEIGHTS)


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.zeros(2)}))
    expected = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    [file] = find_checkpoints([path])
    assert file.sha256 == expected
    assert load_checkpoint(file).sha256 == expected


def test_a_file_that_changed_since_it_was_found_is_refused(tmp_path: Path) -> None:
    [file] = find_checkpoints([saved(tmp_path / "a.pt", WEIGHTS)])
    saved(tmp_path / "a.pt", {"0.weight": torch.zeros(2, 3)})
    with pytest.raises(CheckpointError, match="changed since this run began; run again"):
        load_checkpoint(file)


# Files that are something else

STRANGE = {
    "empty": (b"", "copy or download it again"),
    "text": (b"step,loss\n1,2.3\n" * 4, "name a file written by torch.save"),
    "page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "download it again"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "run git lfs pull"),
    "gzip": (b"\x1f\x8b\x08" + bytes(range(64)), "gunzip"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(range(64)), "name a file written by one of them"),
    "zeros": (bytes(4096), "copy or download it again"),
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_file_of_another_kind_is_named_with_its_remedy(tmp_path: Path, what: str) -> None:
    content, remedy = STRANGE[what]
    path = tmp_path / f"{what}.pt"
    path.write_bytes(content)
    assert remedy in refusal(path)


def test_an_ordinary_zip_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes/readme.txt", "hello")
    assert "torch.save did not write" in refusal(path)


@pytest.mark.parametrize("special", ["pipe", "socket", "device", "folder"])
def test_special_files_are_refused_without_waiting(
    tmp_path: Path, special: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pt"
    monkeypatch.chdir(tmp_path)  # the address of a socket may not be longer than 107 bytes
    if special == "pipe":
        os.mkfifo(path)
    elif special == "device":
        path.symlink_to("/dev/zero")
    elif special == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
    if special == "folder":
        path.mkdir()
        with pytest.raises(CheckpointError, match=r"a\.pt: no checkpoint files inside"):
            find_checkpoints([path])
    else:
        assert f"a {special.replace('pipe', 'named pipe')}; name a checkpoint file" in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_row_in_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", WEIGHTS)
    path.chmod(0)
    assert "permission denied" in refusal(path)


def test_a_dangling_link_is_a_row_in_error(tmp_path: Path) -> None:
    (tmp_path / "a.pt").symlink_to(tmp_path / "gone.pt")
    assert "there is no such file" in refusal(tmp_path / "a.pt")


# Damage (every kind of it: test_damage.py)


def test_a_flipped_bit_in_a_weight_is_named_by_its_member(tmp_path: Path) -> None:
    whole = bytearray(as_bytes(WEIGHTS))
    whole[whole.index(WEIGHTS["0.bias"].numpy().tobytes())] ^= 1
    path = tmp_path / "a.pt"
    path.write_bytes(whole)
    message = refusal(path)
    assert "/data/" in message
    assert "checksum" in message


@pytest.mark.parametrize("change", ["compressed", "repeated", "case", "second root", "prefix", "comment"])
def test_an_archive_that_readers_could_see_differently_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "a.pt"
    compression = zipfile.ZIP_DEFLATED if change == "compressed" else zipfile.ZIP_STORED
    with (
        zipfile.ZipFile(io.BytesIO(as_bytes(WEIGHTS))) as source,
        zipfile.ZipFile(path, "w", compression) as archive,
    ):
        for member in source.infolist():
            archive.writestr(member.filename, source.read(member))
        if change == "repeated":
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr("archive/data/0", bytes(24))
        if change == "case":
            archive.writestr("archive/DATA/0", bytes(24))
        if change == "second root":
            archive.writestr("other/data/0", bytes(24))
        if change == "comment":
            archive.comment = b"hello"
    if change == "prefix":
        path.write_bytes(b"PK\x03\x04" + bytes(60) + path.read_bytes())
    assert "original file" in refusal(path) if change == "compressed" else "again" in refusal(path)


# Code


class Canary:
    """When unpickled by an unsafe reader this makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("container", ["zip", "legacy", "bare"])
def test_a_pickle_with_code_is_refused_and_nothing_runs(
    tmp_path: Path, container: str, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary = tmp_path / "canary"
    payload = {"state_dict": WEIGHTS, "hook": Canary(canary)}
    path = tmp_path / "a.pt"
    if container == "bare":
        path.write_bytes(pickle.dumps(Canary(canary), protocol))
    else:
        is_zip = container == "zip"
        torch.save(payload, path, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    if container != "bare" and protocol == 0:
        refusal_of_old_protocol = find_checkpoints([path])[0].error
        assert isinstance(refusal_of_old_protocol, CheckpointError)
    else:
        message = refusal(path, UnsafeCheckpointError)
        assert "posix.mkdir" in message
        assert "torch.save(model.state_dict(), 'weights.pt')" in message
    assert not canary.exists()


def test_a_pickle_without_code_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"w": [1.0, 2.0]}, 2))
    refusal(path)


def test_a_torchscript_archive_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    path = tmp_path / "scripted.pt"
    with zipfile.ZipFile(path, "w") as archive:  # the members that torch.jit.save writes
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"scripted/{name}", b"3\n")
    assert "torch.jit.load(FILE).state_dict()" in refusal(path, UnsafeCheckpointError)


# Where the weights are


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "module", "weights"])
def test_the_usual_keys_are_found(tmp_path: Path, key: str) -> None:
    content = {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}, key: WEIGHTS}
    checkpoint = load(saved(tmp_path / "a.pt", content))
    assert checkpoint.state_key == key
    assert list(checkpoint.weights) == list(WEIGHTS)
    assert checkpoint.notes == ()


def test_weights_at_the_root_leave_the_counters_beside_them_out(tmp_path: Path) -> None:
    content = {**WEIGHTS, "epoch": torch.tensor(3), "arch": "digits-mlp"}
    checkpoint = load(saved(tmp_path / "a.pt", content))
    assert checkpoint.state_key == ""
    assert list(checkpoint.weights) == list(WEIGHTS)
    assert checkpoint.epoch == 3.0
    assert checkpoint.notes == ("left out, being no tensors: arch",)


def test_an_explicit_key_is_dotted_and_wins(tmp_path: Path) -> None:
    averaged = {key: value + 1 for key, value in WEIGHTS.items()}
    path = saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, "extra": {"ema": averaged}})
    checkpoint = load(path, state_key="extra.ema")
    assert checkpoint.state_key == "extra.ema"
    assert torch.equal(checkpoint.weights["0.bias"], averaged["0.bias"])


def test_an_explicit_key_may_end_in_a_prefix_of_the_names(tmp_path: Path) -> None:
    names = {f"net.{key}": value for key, value in WEIGHTS.items()}
    path = saved(tmp_path / "a.pt", {"state_dict": {**names, "criterion.weight": torch.ones(2)}})
    checkpoint = load(path, state_key="state_dict.net")
    assert list(checkpoint.weights) == list(WEIGHTS)
    assert checkpoint.notes == ("only names beginning with net. used",)


def test_a_key_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, "extra": {"ema": WEIGHTS}, "epoch": 1})
    message = refusal(path, NoWeightsError, state_key="model")
    assert "--state-key model" in message
    assert "state_dict, extra.ema" in message
    assert list(load(path, state_key="extra.ema").weights) == list(WEIGHTS)  # the remedy works


def test_a_file_without_weights_lists_its_keys(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1).state_dict()
    path = saved(tmp_path / "a.pt", {"optimizer": optimizer, "epoch": 3})
    assert "its keys are optimizer, epoch;" in refusal(path, NoWeightsError)


def test_weights_at_an_unusual_key_are_suggested(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"state": {"model": WEIGHTS}})
    assert "--state-key state.model;" in refusal(path, NoWeightsError)
    assert load(path, state_key="state.model").state_key == "state.model"


@pytest.mark.parametrize("content", [torch.zeros(3), [torch.zeros(3)], 7, {}, {"loss": torch.tensor(1.0)}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    refusal(saved(tmp_path / "a.pt", content), NoWeightsError)


def test_a_payload_that_contains_itself_ends(tmp_path: Path) -> None:
    content: dict[str, object] = {"epoch": 1}
    content["self"] = content
    assert "contains itself" in refusal(saved(tmp_path / "a.pt", content))


# Names and types


@pytest.mark.parametrize(
    ("names", "clean"),
    [
        (["module.a.w", "module.b"], ["a.w", "b"]),
        (["module.module.a", "module.module.b"], ["a", "b"]),
        (["module._orig_mod.a.w", "module._orig_mod.b"], ["a.w", "b"]),
        (["_orig_mod.module.a.w"], ["a.w"]),
        (
            ["features.module.0.weight", "features.module.3.bias", "fc.weight"],
            ["features.0.weight", "features.3.bias", "fc.weight"],
        ),
        (["a._checkpoint_wrapped_module.w", "_fsdp_wrapped_module.b"], ["a.w", "b"]),
        (["module.a", "other.b"], ["module.a", "other.b"]),  # a submodule of that name, with a sibling
        (["x.module.a", "x.scale"], ["x.module.a", "x.scale"]),
        (["x.module", "y.w"], ["x.module", "y.w"]),  # a parameter of that name
        ([], []),
    ],
)
def test_wrappers_go_and_submodules_called_module_stay(names: list[str], clean: list[str]) -> None:
    assert clean_names(names) == clean


def test_wrapped_networks_give_the_names_of_the_plain_one(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for index, wrapped in enumerate([nn.DataParallel(plain), nn.DataParallel(torch.compile(plain))]):
        checkpoint = load(saved(tmp_path / f"{index}.pt", wrapped.state_dict()))
        assert list(checkpoint.weights) == list(plain.state_dict())
        assert "wrapper module. removed from names" in checkpoint.notes


def test_averaged_weights_are_marked_and_their_counter_dropped(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2))
    checkpoint = load(saved(tmp_path / "a.pt", averaged.state_dict()))
    assert list(checkpoint.weights) == ["weight", "bias"]
    assert checkpoint.weights_kind is WeightsKind.AVERAGED
    assert "n_averaged dropped: these weights are averages" in checkpoint.notes


def test_a_name_held_with_and_without_wrapper_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"_orig_mod.w": torch.zeros(2), "w": torch.ones(2)})
    assert "holds w twice" in refusal(path)


@pytest.mark.parametrize("container", ["torch", "safetensors"])
def test_half_precision_is_read_as_float32_with_a_note(tmp_path: Path, container: str) -> None:
    content = {"a": torch.ones(2).half(), "b": torch.ones(2).bfloat16(), "c": torch.ones(2).double()}
    content["d"] = content["a"] / 3
    path = tmp_path / "a.pt"
    path.write_bytes(as_bytes(content) if container == "torch" else safetensors.torch.save(content))
    checkpoint = load(path)
    kinds = [checkpoint.weights[key].dtype for key in "abc"]
    assert kinds == [torch.float32, torch.float32, torch.float64]
    assert checkpoint.notes == ("2 float16 tensors read as float32", "1 bfloat16 tensor read as float32")


UNUSABLE = {
    "complex64": torch.zeros(2, dtype=torch.complex64),
    "bool": torch.zeros(2, dtype=torch.bool),
    "float8_e4m3fn": torch.zeros(2).to(torch.float8_e4m3fn),
    "sparse_coo": torch.eye(3).to_sparse(),
    "without data": torch.zeros(2, device="meta"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_tensor_of_an_unsupported_kind_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path / "a.pt", {"good": torch.zeros(2), "head.odd": UNUSABLE[kind]})
    message = refusal(path)
    assert f"head.odd is {kind}" in message
    assert "float32" in message


def test_tensors_that_are_not_finite_are_named_and_not_refused(tmp_path: Path) -> None:
    content = {"a": torch.tensor([1.0, torch.nan]), "b": torch.ones(2), "c": torch.tensor([torch.inf])}
    content["d"] = torch.arange(3)
    assert nonfinite_names(load(saved(tmp_path / "a.pt", content)).weights) == ["a", "c"]


def test_parameters_come_back_as_plain_tensors(tmp_path: Path) -> None:
    checkpoint = load(saved(tmp_path / "a.pt", OrderedDict(w=nn.Parameter(torch.ones(2)))))
    assert type(checkpoint.weights["w"]) is torch.Tensor
    assert not checkpoint.weights["w"].requires_grad


# What the file says about itself


def test_the_architecture_hint_is_plain_text_and_numbers(tmp_path: Path) -> None:
    arguments = {"num_classes": 7, "name": "x", "bad": [1, 2], 3: 4}
    checkpoint = load(saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, "arch": "resnet18", "arch_args": arguments}))
    assert checkpoint.architecture == "resnet18"
    assert checkpoint.architecture_arguments == {"num_classes": 7, "name": "x"}
    for hint in (7, "", "x" * 1000, None, ["resnet18"]):
        path = saved(tmp_path / "b.pt", {"state_dict": WEIGHTS, "arch": hint})
        assert load(path).architecture is None


def test_safetensors_metadata_give_step_epoch_and_architecture(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    about = {"step": "500", "epoch": "1.5", "arch": "digits-cnn", "arch_args": '{"num_classes": 3}'}
    path.write_bytes(safetensors.torch.save(WEIGHTS, metadata=about))
    checkpoint = load(path)
    assert (checkpoint.step, checkpoint.epoch) == (500, 1.5)
    assert (checkpoint.architecture, checkpoint.architecture_arguments) == ("digits-cnn", {"num_classes": 3})


@pytest.mark.parametrize(
    ("about", "step", "epoch"),
    [
        ({"global_step": 10, "epoch": 2}, 10, 2.0),
        ({"iter_num": 10, "step": 99}, 10, None),
        ({"iteration": torch.tensor(10)}, 10, None),
        ({"step": torch.tensor(3.0), "epoch": 0.25}, 3, 0.25),
        ({"step": True, "epoch": float("nan")}, None, None),
        ({"step": -1, "epoch": 10**16}, None, None),
        ({"step": "٣", "epoch": "soon"}, None, None),
    ],
)
def test_step_and_epoch_come_from_the_payload(
    tmp_path: Path, about: dict[str, object], step: int | None, epoch: float | None
) -> None:
    [file] = find_checkpoints([saved(tmp_path / "a.pt", {"state_dict": WEIGHTS, **about})])
    assert (file.step, file.epoch) == (step, epoch)


@pytest.mark.parametrize(
    ("name", "step", "epoch"),
    [
        ("epoch=9-step=90.ckpt", 90, 9.0),
        ("ep3-ba000120-rank0.pt", 120, 3.0),
        ("checkpoint-500.pt", 500, None),
        ("ckpt_00500.pt", 500, None),
        ("model_12.pth", None, 12.0),
        ("epoch_0.5.pt", None, 0.5),
        ("resnet20-iter_7.pth.tar", 7, None),
        ("step10.pt", 10, None),  # and not epoch 10, by the end of "step"
        ("run_step٣.pt", None, None),
        (f"step{'1' * 16}.pt", None, None),
        ("weights.pt", None, None),
    ],
)
def test_step_and_epoch_come_from_the_file_name_otherwise(
    tmp_path: Path, name: str, step: int | None, epoch: float | None
) -> None:
    [file] = find_checkpoints([saved(tmp_path / name, WEIGHTS)])
    assert (file.step, file.epoch) == (step, epoch)


def test_an_ambiguous_file_name_does_not_add_a_step_to_a_known_epoch(tmp_path: Path) -> None:
    [file] = find_checkpoints([saved(tmp_path / "checkpoint-5.pth.tar", {"state_dict": WEIGHTS, "epoch": 5})])
    assert (file.step, file.epoch) == (None, 5.0)


# Finding and order


def names(files: list[CheckpointFile]) -> list[str]:
    return [file.name for file in files]


def test_a_folder_stands_for_the_checkpoints_directly_inside(tmp_path: Path) -> None:
    for name in ("b.pt", "a10.pth.tar", "a9.th", ".hidden.pt", "tmp_a.pt", "optimizer.pt", "rng_state_0.pth"):
        saved(tmp_path / name, WEIGHTS)
    saved(tmp_path / "inner" / "c.pt", WEIGHTS)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "d.safetensors").write_bytes(safetensors.torch.save(WEIGHTS))
    assert names(find_checkpoints([tmp_path])) == ["a9.th", "a10.pth.tar", "b.pt", "d.safetensors"]


def test_names_are_relative_to_the_folder_shared_by_all(tmp_path: Path) -> None:
    for run in ("checkpoint-1000", "checkpoint-500"):
        saved(tmp_path / run / "model.pt", WEIGHTS)
    found = find_checkpoints(sorted(tmp_path.iterdir()))
    assert [(file.name, file.step) for file in found] == [
        ("checkpoint-500/model.pt", 500),
        ("checkpoint-1000/model.pt", 1000),
    ]


def test_the_order_is_by_step_else_epoch_else_natural_name(tmp_path: Path) -> None:
    def order(folder: str, about: dict[str, dict[str, object]]) -> list[str]:
        for name, fields in about.items():
            saved(tmp_path / folder / name, {"state_dict": WEIGHTS, **fields})
        return names(find_checkpoints([tmp_path / folder]))

    by_step = {"a.pt": {"step": 20, "epoch": 1}, "b.pt": {"step": 3, "epoch": 2}, "last.pt": {"step": 20}}
    assert order("step", by_step) == ["b.pt", "a.pt", "last.pt"]
    assert order("epoch", {"a.pt": {"step": 1, "epoch": 2}, "b.pt": {"epoch": 1.5}}) == ["b.pt", "a.pt"]
    by_name = {"v10.pt": {"step": 1}, "v9.pt": {}, "v011.pt": {"epoch": 0}}
    assert order("name", by_name) == ["v9.pt", "v10.pt", "v011.pt"]


def test_files_in_error_take_the_place_their_name_tells_and_else_the_end(tmp_path: Path) -> None:
    for step in (10, 30):
        saved(tmp_path / f"z{step}.pt", {"state_dict": WEIGHTS, "step": step})
    (tmp_path / "step_20.pt").write_bytes(b"")
    (tmp_path / "broken.pt").write_bytes(b"")
    found = find_checkpoints([tmp_path])
    assert names(found) == ["z10.pt", "step_20.pt", "z30.pt", "broken.pt"]
    assert [file.step for file in found] == [10, 20, 30, None]
    assert [file.error is None for file in found] == [True, False, True, False]


def test_files_given_twice_or_linked_are_used_once(tmp_path: Path) -> None:
    path = saved(tmp_path / "epoch_3.pt", {"state_dict": WEIGHTS})
    (tmp_path / "best.pt").symlink_to(path)
    os.link(path, tmp_path / "last.pt")
    (tmp_path / "sub").mkdir()
    found = find_checkpoints([tmp_path, path, tmp_path / "sub" / ".." / "last.pt"])
    assert names(found) == ["epoch_3.pt"]


def test_odd_file_names_become_printable_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd\n\xff.pt"))
    path.write_bytes(b"")
    [file] = find_checkpoints([path])
    assert file.name == r"odd\n\xff.pt"
    assert str(file.error).isprintable()


# Paths that hold nothing


def test_a_missing_path_suggests_the_nearest_name(tmp_path: Path) -> None:
    saved(tmp_path / "checkpoint-500.pt", WEIGHTS)
    with pytest.raises(CheckpointError) as caught:
        find_checkpoints([tmp_path / "checkpoint-50.pt"])
    message = checked(str(caught.value), tmp_path / "checkpoint-50.pt")
    assert f"did you mean {tmp_path / 'checkpoint-500.pt'}?" in message
    for path in (tmp_path / "xyz", tmp_path / "no" / "such", tmp_path / "*.ckpt"):
        with pytest.raises(CheckpointError, match="check"):
            find_checkpoints([path])
    with pytest.raises(CheckpointError, match="name files or a folder"):
        find_checkpoints([])


def test_an_empty_folder_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoints([tmp_path])
    assert ".safetensors" in checked(str(caught.value), tmp_path)


def test_a_folder_of_folders_names_those_with_checkpoints(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        saved(tmp_path / f"run{step}" / "a.pt", WEIGHTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError) as caught:
        find_checkpoints([tmp_path])
    message = checked(str(caught.value), tmp_path)
    assert f"fisher analyze {tmp_path / 'run1'} {tmp_path / 'run2'} … (3 subfolders hold some)" in message
    assert names(find_checkpoints([tmp_path / "run1"])) == ["a.pt"]


def test_a_sharded_checkpoint_is_named_with_the_way_to_join_it(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    (tmp_path / ".metadata").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="dcp_to_torch"):
        find_checkpoints([tmp_path])
