"""What somebody types at first that cannot be, each with the answer of a helpful colleague, as it is printed."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from fisher_cli.inputs.networks.cifar_resnets import cifar_resnet
from tests.command import error_line, fisher

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
NETWORK = """\
from torch import nn


def make_net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))
"""
# After `$ ` a command, below it its answer.
ANSWERS = Path(__file__).with_name("wrong_commands.txt").read_text()
CASES = re.findall(r"^\$ (.*)\n(.*)$", ANSWERS, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def beginners_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("beginner")
    (folder / "sample_checkpoints").symlink_to(SAMPLES)
    for name, step in (("one.pt", 66), ("two.pt", 88)):
        (folder / name).write_bytes((SAMPLES / "digits-clean" / f"step_{step:05d}.pt").read_bytes())
    for name in ("cifar", "empty", "photos/cats"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "photos" / "cats" / "one.png")
    for step in (0, 10):
        torch.save(cifar_resnet("resnet20-cifar").state_dict(), folder / "cifar" / f"step_{step}.pt")
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 12)).state_dict(), folder / "twelve.pt")
    (folder / "net.py").write_text(NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fisher("analyze", "one.pt", "--limit", 8, "--eigenvalues", 0, "-o", "trend.csv")
    return folder


def test_a_dozen_wrong_first_commands_get_the_answer_of_a_colleague(
    beginners_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(CASES) >= 12
    monkeypatch.chdir(beginners_folder)
    monkeypatch.delenv("FISHER_DATA_DIR", raising=False)
    said = []
    for command, _ in CASES:
        words = shlex.split(command)[1:]
        quick = ["--limit", "8", "--eigenvalues", "0"] if words[0] == "analyze" and len(words) > 1 else []
        result = fisher(*words, *(quick if "--limti" not in words else []), code=None)
        assert result.exit_code in {1, 2}
        answer = error_line(result).replace(f"{beginners_folder}/", "")
        said.append((command, answer))
    assert said == CASES
