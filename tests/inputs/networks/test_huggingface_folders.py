"""Folders that transformers itself has written: the image classifier that it loads from them is the one analysed."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli import analyze
from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint
from fisher_cli.inputs.networks.huggingface_models import in_names_of
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.results import Status
from tests.loading import load_examples
from tests.long_lists import some
from tests.reference import layer_traces

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # what this library says about itself

QUICK: dict[str, Any] = {"data": "digits", "limit": 3, "eigenvalues": 0, "precision": "float64"}
PATCHES: dict[str, Any] = {"image_size": 8, "patch_size": 2, "num_channels": 1, "num_labels": 10}
SIZES: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
}
STAGES: dict[str, Any] = {"num_channels": 1, "hidden_sizes": [8, 12], "depths": [1, 2], "num_labels": 10}


def classifier(name: str) -> nn.Module:
    """A small one with weights that no initialisation has, in evaluation mode."""
    words = {
        "ViT": PATCHES | SIZES,
        "Swin": PATCHES | {"embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 2},
        "Dinov2": PATCHES | {key: SIZES[key] for key in list(SIZES)[:3]} | {"mlp_ratio": 2},
        "ResNet": STAGES | {"embedding_size": 8, "layer_type": "basic"},
        "ConvNext": STAGES | {"patch_size": 2, "num_stages": 2},
    }[name]
    torch.manual_seed(3)
    network = getattr(transformers, f"{name}ForImageClassification")(getattr(transformers, f"{name}Config")(**words))
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            tensor.data.add_(0.05 * torch.rand_like(tensor))
    return network.eval()


class Logits(nn.Module):
    """The logits of what transformers returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


def trace_by_autograd(folder: Path, name: str) -> float:
    """tr F of the network that transformers loads, from one gradient per example and class, in float64."""
    network = getattr(transformers, f"{name}ForImageClassification").from_pretrained(folder)
    images, labels = load_examples("digits", limit=3).batch(0, 3)
    return sum(true for true, _ in layer_traces(Logits(network), images, labels).values())


@pytest.mark.parametrize(
    ("name", "in_shards"), some(product(["ViT", "Swin", "Dinov2", "ResNet", "ConvNext"], [False, True]), part=0.3)
)
def test_the_network_that_transformers_loads_is_analysed(name: str, in_shards: bool, tmp_path: Path) -> None:
    shards = {"max_shard_size": "4KB"} if in_shards else {}
    classifier(name).save_pretrained(tmp_path / "net", **shards)
    assert len(list((tmp_path / "net").glob("*.safetensors"))) == 1 or shards
    assert (tmp_path / "net" / "model.safetensors.index.json").exists() == bool(shards)
    found = analyze(tmp_path / "net", **QUICK)
    [row] = found.measurements
    assert (row.status, row.architecture) == (Status.OK, f"{name}ForImageClassification"), row.error
    assert found.table["trace_true"][0] == pytest.approx(trace_by_autograd(tmp_path / "net", name), rel=1e-10)


@pytest.mark.ci
def test_what_transformers_imports_at_first_is_no_work_of_the_file(tmp_path: Path) -> None:
    """In a process that has imported nothing yet; calls of functions bound the work that a file may ask for."""
    classifier("ViT").save_pretrained(tmp_path / "net")
    words = [sys.executable, "-m", "fisher_cli", "inspect", str(tmp_path / "net"), "--format", "json"]
    done = subprocess.run(words, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["architecture"] == "ViTForImageClassification"


@pytest.mark.parametrize("has_class", [True, False])
def test_the_file_of_weights_is_read_with_the_configuration_beside_it(has_class: bool, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    classifier("ViT").save_pretrained(folder)
    if not has_class:
        config = json.loads((folder / "config.json").read_text())
        del config["architectures"]
        (folder / "config.json").write_text(json.dumps(config))
    [row] = analyze(folder / "model.safetensors", **QUICK).measurements
    assert (row.status, row.architecture, row.checkpoint) == (Status.OK, "ViTForImageClassification", "net"), row.error


def test_each_folder_of_a_trainer_is_a_row(tmp_path: Path) -> None:
    network = classifier("ViT")
    for step in (10, 20):
        network.classifier.bias.data.add_(0.5 * torch.arange(10))
        network.save_pretrained(tmp_path / f"checkpoint-{step}")
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    table = analyze(tmp_path, **QUICK).table
    assert table["step"].tolist() == [10, 20]
    expected = [trace_by_autograd(tmp_path / f"checkpoint-{step}", "ViT") for step in (10, 20)]
    assert table["trace_true"].tolist() == pytest.approx(expected, rel=1e-10)


def test_a_function_of_the_users_takes_the_folder_too(tmp_path: Path) -> None:
    classifier("ViT").save_pretrained(tmp_path / "net")
    words = PATCHES | SIZES
    (tmp_path / "make.py").write_text(
        "import transformers\n"
        f"def net(): return transformers.ViTForImageClassification(transformers.ViTConfig(**{words!r}))\n"
    )
    found = analyze(tmp_path / "net", model=f"{tmp_path}/make.py:net", **QUICK).table
    assert found["trace_true"][0] == pytest.approx(trace_by_autograd(tmp_path / "net", "ViT"), rel=1e-10)


def change(folder: Path, **keys: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def test_code_that_a_folder_names_is_never_run(workdir: Path) -> None:
    folder = workdir / "net"
    classifier("ResNet").save_pretrained(folder)
    expected = trace_by_autograd(folder, "ResNet")
    for place in (workdir, folder):
        (place / "evil.py").write_text(f"open({str(workdir / 'canary')!r}, 'w').close()\n")
    change(folder, auto_map={"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"})
    assert analyze(folder, **QUICK).table["trace_true"][0] == pytest.approx(expected, rel=1e-10)
    assert not (workdir / "canary").exists()


def bert() -> nn.Module:
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=2, **SIZES)
    return transformers.BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2))


def vit_without_head() -> nn.Module:
    return transformers.ViTModel(transformers.ViTConfig(**PATCHES, **SIZES))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (bert, "bert (BertForSequenceClassification)"),
        (gpt2, "gpt2 (GPT2LMHeadModel)"),
        (vit_without_head, "vit (ViTModel)"),
    ],
)
def test_other_networks_of_transformers_are_refused_in_one_line(
    make: Callable[[], Any], named: str, tmp_path: Path
) -> None:
    make().save_pretrained(tmp_path / "net")
    [row] = analyze(tmp_path / "net", **QUICK).measurements
    assert row.status is Status.REJECTED
    assert row.error == (
        f"{named} is no image classifier of transformers, and others are not built from a folder; pass "
        "--model ./file.py:factory"
    )


def test_weights_that_are_not_those_of_the_configuration_are_refused(tmp_path: Path) -> None:
    classifier("ViT").save_pretrained(tmp_path / "net")
    change(tmp_path / "net", hidden_size=12)
    [row] = analyze(tmp_path / "net", **QUICK).measurements
    assert row.status is Status.REJECTED
    assert row.error.startswith("weights do not fit the network")


def test_masks_of_pruned_weights_follow_their_weights(tmp_path: Path) -> None:
    """The names in the file are not those in memory."""
    network = classifier("ViT")
    network.save_pretrained(tmp_path / "net")
    checkpoint = load_checkpoint(find_checkpoints([tmp_path / "net"])[0])
    in_file = next(name for name in checkpoint.weights if name.endswith("layer.1.attention.attention.key.weight"))
    mask = (torch.rand(checkpoint.weights[in_file].shape) < 0.5).float()
    checkpoint.weights[in_file].mul_(mask)
    masked = Networks(None, {}).architecture(checkpoint).build()
    found = in_names_of(masked, replace(checkpoint, masks={in_file: mask}))
    assert found.weights.keys() == network.state_dict().keys()
    [(name, moved)] = found.masks.items()
    assert name != in_file
    assert torch.equal(moved, mask)
    assert torch.equal(found.weights[name], checkpoint.weights[in_file])


def test_loading_leaves_the_random_state_and_the_words_of_transformers_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    classifier("ViT").save_pretrained(tmp_path / "net")
    checkpoint = load_checkpoint(find_checkpoints([tmp_path / "net"])[0])
    networks = Networks(None, {})
    module = networks.architecture(checkpoint).build()
    state, verbosity = torch.get_rng_state(), transformers.utils.logging.get_verbosity()
    capfd.readouterr()
    in_names_of(module, checkpoint)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), state)
    assert transformers.utils.logging.get_verbosity() == verbosity
    assert transformers.utils.logging.is_progress_bar_enabled()
