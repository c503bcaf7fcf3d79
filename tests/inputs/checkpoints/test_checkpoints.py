"""Files on disk → weights; whatever cannot be used is refused in one helpful line."""

import hashlib
import io
import os
import pickle  # noqa: TID251  only to write the files that must be refused
import socket
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from tests.attacks.code import Canary
from tests.checkpoint_files import WEIGHTS, load, refusal
from tests.saving import as_bytes, saved

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
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(range(64)), "save model.state_dict()"),
    "unknown": (b"\xfe" + bytes(range(64)), "name a file written by one of them"),
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


@pytest.mark.usefixtures("workdir")
@pytest.mark.parametrize("special", ["pipe", "socket", "device", "folder"])
def test_special_files_are_refused_without_waiting(special: str) -> None:
    path = Path("a.pt")  # the address of a socket may not be longer than 107 bytes
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
