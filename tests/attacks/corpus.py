"""The attack corpus on disk."""

import os
import socket
from itertools import chain
from pathlib import Path

import torch

from tests.attacks.archives import archive_attacks, saved
from tests.attacks.code import code_attacks
from tests.attacks.folders import write_folders
from tests.attacks.safetensors_files import safetensors_attacks
from tests.attacks.values import value_attacks
from tests.attacks.work import work_attacks


def write_corpus(folder: Path, marker: Path) -> list[Path]:
    """Write every attack and return their paths; running one of them would create the marker."""
    folder.mkdir(parents=True)
    paths = []
    kinds = (code_attacks(marker), value_attacks(), archive_attacks(), safetensors_attacks(), work_attacks())
    for name, content in chain.from_iterable(kinds):
        path = folder / name
        assert not path.exists(), name
        path.write_bytes(content)
        paths.append(path)
    return paths + _special(folder) + write_folders(folder)


def _special(folder: Path) -> list[Path]:
    """Files that are none (A18), and files of other kinds."""
    os.mkfifo(folder / "pipe.pt")
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(folder)  # the address of a socket may not be longer than 107 bytes
        try:
            end.bind("socket.pt")
        finally:
            os.chdir(here)
    (folder / "zero.pt").symlink_to("/dev/zero")
    (folder / "loop.pt").symlink_to(folder / "loop.pt")
    (folder / "dangling.pt").symlink_to(folder / "gone.pt")
    with open(folder / "sparse.pt", "wb") as file:
        file.truncate(1 << 40)
    (folder / "empty.pt").write_bytes(b"")
    (folder / "pointer.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (folder / "page.pt").write_bytes(b"<!DOCTYPE html><html>404</html>")
    (folder / "gzip.pt").write_bytes(b"\x1f\x8b\x08" + bytes(100))
    names = ("pipe", "socket", "zero", "loop", "dangling", "sparse", "empty", "pointer", "page", "gzip")
    return [folder / f"{name}.pt" for name in names]


def write_good(folder: Path) -> list[Path]:
    """Write the good checkpoints that stand around each attack: an archive, a legacy file, safetensors' own."""
    from safetensors.torch import save

    folder.mkdir(parents=True)
    weights = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3)}
    paths = [folder / "good1.pt", folder / "good2.pt", folder / "good3.safetensors"]
    paths[0].write_bytes(saved())
    torch.save({"state_dict": weights, "step": 7}, paths[1], _use_new_zipfile_serialization=False)
    paths[2].write_bytes(save(weights))
    return paths
