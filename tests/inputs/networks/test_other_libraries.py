"""Networks of timm and transformers: by name, by weights or by a plain configuration; never code, never the network."""

import importlib.util
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint
from fisher_cli.inputs.networks import huggingface_models, timm_models
from fisher_cli.inputs.networks.architectures import find_architecture, find_factory
from fisher_cli.inputs.networks.detection import detect
from fisher_cli.inputs.networks.fitting import load_weights
from fisher_cli.inputs.networks.timm_models import timm_model
from tests.architecture_cases import checkpoint, message

pytestmark = pytest.mark.filterwarnings("ignore")  # what these libraries say about themselves


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing reaches the network: a connection, or a name looked up, fails the test."""

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return


def assert_loads(saved: Checkpoint, original: nn.Module, **arguments: Any) -> None:
    network = find_architecture(saved, **arguments).build()
    load_weights(network, saved)
    own = network.state_dict()
    assert all(torch.equal(own[name], value) for name, value in original.state_dict().items())


# timm


class TestTimm:
    @pytest.fixture(autouse=True)
    def _needed(self) -> None:
        pytest.importorskip("timm")

    def test_a_network_is_named(self) -> None:
        original = timm_model("resnet10t", num_classes=5, in_chans=1)
        saved = checkpoint(original.state_dict())
        architecture = find_architecture(saved, model="timm:resnet10t")
        assert (architecture.name, architecture.source) == ("timm:resnet10t", "--model")
        assert_loads(saved, original, model="timm:resnet10t")
        assert find_factory("timm:resnet10t") is None, "it is no module called timm to import from"

    def test_the_file_names_a_network(self) -> None:
        original = timm_model("resnet10t", num_classes=5)
        saved = checkpoint(original.state_dict(), "resnet10t")
        architecture = find_architecture(saved)
        assert (architecture.name, architecture.source) == ("timm:resnet10t", "checkpoint")
        assert_loads(saved, original)

    def test_weights_alone_are_enough(self) -> None:
        original = timm_model("resnet10t", num_classes=5, in_chans=1)
        fit = detect(checkpoint(original.state_dict()))
        assert fit is not None
        assert fit.name == "timm:resnet10t"
        assert fit.why.endswith("timm:resnet10t's; 5 classes, 1 channel")

    @pytest.mark.long  # a dozen transformers of these names, and two that fit
    def test_of_networks_that_compute_the_same_the_first_is_taken_and_others_said(self) -> None:
        original = timm_model("vit_tiny_patch16_224", num_classes=3).eval()
        architecture = find_architecture(checkpoint(original.state_dict()))
        assert architecture.name == "timm:deit_tiny_patch16_224"
        assert "timm:vit_tiny_patch16_224 would be the same network" in architecture.notes[0]
        network = architecture.build().eval()
        load_weights(network, checkpoint(original.state_dict()))
        images = torch.rand(1, 3, 224, 224)
        torch.testing.assert_close(network(images), original(images))

    def test_the_index_holds_what_the_installed_timm_builds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        indexed = {name: found for found, names in timm_models._index().items() for name in names}
        names = sorted(f"timm:{name}" for name in indexed if timm_models.knows_timm(f"timm:{name}"))
        assert len(names) > 1000
        some = random.Random(4).sample(names, 6)
        monkeypatch.setattr(timm_models, "timm_names", lambda: some)
        made = {
            name: found for found, *names in map(str.split, timm_models.make_index().splitlines()) for name in names
        }
        assert made == {name.removeprefix("timm:"): indexed[name.removeprefix("timm:")] for name in some}

    @pytest.mark.parametrize("differs", [True, False])
    def test_of_two_that_fit_both_are_listed_unless_they_compute_the_same(
        self, differs: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, other = "timm:resnet10t", "timm:another"

        def built(name: str, **arguments: Any) -> nn.Module:
            network = timm_model(one, **arguments)
            if differs and name == other:
                network.act1 = nn.Tanh()  # the same names and shapes all the same
            return network

        family = replace(
            timm_models.TIMM,
            build=built,
            read=lambda _, shapes: timm_models.read_timm(one, shapes),
            guess=lambda shapes: [one, other] if "conv1.0.weight" in shapes else [],
        )
        monkeypatch.setattr("fisher_cli.inputs.networks.detection.TIMM", family)
        weights = timm_model(one, num_classes=4).state_dict()
        if differs:
            assert f"pass --model {one} or --model {other}" in message(lambda: detect(checkpoint(weights)))
        else:
            fit = detect(checkpoint(weights))
            assert fit is not None
            assert (fit.name, fit.beside) == (one, (other,))
            assert fit.why.endswith(f"{other} would be the same network")

    @pytest.mark.parametrize("name", ["timm:hf-hub:a/b", "timm:local-dir:/x", "timm:../x", "timm:resnet10tt", "timm:"])
    def test_only_names_that_timm_lists_are_taken(self, name: str) -> None:
        assert f"--model {name}: unknown" in message(lambda: find_factory(name))
        text = message(lambda: find_architecture(checkpoint({}, name.removeprefix("timm:") or "x/y")))
        assert "pass --model" in text or "if you trust it" in text

    def test_weights_are_never_fetched(self) -> None:
        for argument in ("pretrained", "pretrained_cfg", "checkpoint_path"):
            text = message(
                lambda argument=argument: find_architecture(
                    checkpoint({}), model="timm:resnet10t", arguments={argument: "true"}
                )
            )
            assert "leave this argument out" in text


def test_without_timm_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "timm" else find(name, *rest))
    assert "pip install 'fisher-cli[timm]'" in message(lambda: find_factory("timm:resnet50"))
    assert "is not installed" in message(lambda: find_factory("timm:resnet50"))


# transformers

SMALL = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 4,
    "id2label": {"0": "a", "1": "b", "2": "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
}


class TestTransformers:
    @pytest.fixture(autouse=True)
    def _needed(self) -> None:
        pytest.importorskip("transformers")

    @staticmethod
    def original() -> nn.Module:
        from transformers import ViTConfig, ViTForImageClassification

        words = {key: value for key, value in SMALL.items() if key not in {"model_type", "architectures"}}
        words["id2label"] = {int(key): value for key, value in SMALL["id2label"].items()}
        return ViTForImageClassification(ViTConfig(**words))

    def test_the_configuration_beside_the_weights_says_the_network(self) -> None:
        original = self.original().eval()
        saved = replace(checkpoint(original.state_dict()), config=dict(SMALL))
        architecture = find_architecture(saved)
        assert (architecture.name, architecture.source) == ("ViTForImageClassification", "checkpoint")
        network = architecture.build().eval()
        load_weights(network, saved)
        images = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(network(images).logits, original(images).logits, rtol=1e-5, atol=1e-6)

    def test_nothing_in_a_configuration_leads_to_code_or_the_network(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "evil.py").write_text("open('canary', 'w').close()\n")
        hostile = {
            **SMALL,
            "auto_map": {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"},
            "model_file": "evil.py",
            "_attn_implementation_internal": "someone/kernels",
            "attn_implementation": "someone/kernels",
            "_name_or_path": "someone/model",
            "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "backbone": "someone/backbone",
            "use_timm_backbone": True,
            "custom_pipelines": {"x": {"impl": "evil.P"}},
            "trust_remote_code": True,
            "kernel_config": {"kernel_mapping": {"x": "someone/kernels"}},
        }
        passed = {key for key in SMALL if key not in {"model_type", "architectures"}}
        assert (
            huggingface_models._plain(hostile, {"w": (100, 100)}, "here").keys() == passed
        )  # one lock; what is unknown is another
        original = self.original()
        saved = replace(checkpoint(original.state_dict()), config=hostile)
        assert_loads(saved, original)
        network = find_architecture(saved).build()
        assert network.config._attn_implementation == "sdpa"  # torch's own
        assert not hasattr(network.config, "auto_map")
        assert not (tmp_path / "canary").exists()

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"model_type": "timm_wrapper", "architecture": "hf-hub:a/b"}, "is no image classifier"),
            ({"model_type": "llama"}, "is no image classifier"),
            ({"model_type": "../evil"}, "is no image classifier"),
            ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000, which cannot be"),
            ({"hidden_size": 10**12}, "which cannot be"),
            ({"hidden_size": "x"}, "building the network failed"),
        ],
    )
    def test_what_cannot_be_is_told_in_one_line(self, changes: dict[str, Any], said: str) -> None:
        saved = replace(checkpoint(self.original().state_dict()), config={**SMALL, **changes})
        assert said in message(lambda: find_architecture(saved))

    def test_the_users_own_word_comes_first(self) -> None:
        saved = replace(checkpoint({}), config=dict(SMALL))
        assert find_architecture(saved, model="digits-mlp").name == "digits-mlp"


def test_without_transformers_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    text = message(lambda: find_architecture(replace(checkpoint({}), config=dict(SMALL))))
    assert "a vit of transformers, which is not installed; pip install 'fisher-cli[hf]'" in text
