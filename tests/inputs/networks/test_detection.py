"""Names and shapes alone → the one network that has them, with its classes, channels and stem; never a guess.

A seeded tenth of torchvision's classifiers by default, all of them with `make test-long`.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fisher_cli.inputs.checkpoints.checkpoints import Checkpoint, find_checkpoints, load_checkpoint
from fisher_cli.inputs.networks import networks as networks_module
from fisher_cli.inputs.networks import torchvision_models
from fisher_cli.inputs.networks.architectures import Architecture, find_architecture
from fisher_cli.inputs.networks.cifar_resnets import cifar_resnet
from fisher_cli.inputs.networks.detection import detect
from fisher_cli.inputs.networks.digits_networks import digits_cnn, digits_mlp
from fisher_cli.inputs.networks.fitting import load_weights
from fisher_cli.inputs.networks.shapes import hollow
from fisher_cli.inputs.networks.torchvision_models import INDEX, fingerprint, torchvision_model, torchvision_names
from fisher_cli.inputs.networks.wide_resnets import wide_resnet
from tests.architecture_cases import checkpoint, message
from tests.effort import Effort
from tests.long_lists import some

NAMES = torchvision.models.list_models(module=torchvision.models)
# Of each kind of family a small one; as files they are 60 MB.
SMALL = (
    *("squeezenet1_0", "squeezenet1_1", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "mnasnet0_5", "mnasnet0_75"),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "efficientnet_b0"),
)
MOST_CALLS = 3_000_000


def shapes_only(name: str, **arguments: object) -> dict[str, Tensor]:
    keywords = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    return dict(hollow(lambda: torchvision_model(name, **{**keywords, **arguments})).state_dict())


def under(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in network.state_dict().items()}


def same_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    own = network.state_dict()
    return list(own) == list(weights) and all(torch.equal(own[name], weights[name]) for name in own)


# torchvision


@pytest.mark.parametrize("name", some(NAMES))
def test_every_classifier_of_torchvision_is_known_by_its_names_and_shapes(name: str) -> None:
    saved = checkpoint(shapes_only(name, num_classes=7))
    effort = Effort()
    with effort.counting_calls():
        fit = detect(saved)
    assert fit is not None
    assert (fit.name, fit.arguments["num_classes"], fit.prefix, fit.beside) == (name, 7, "", ())
    assert effort.calls < MOST_CALLS


@pytest.mark.parametrize("name", SMALL)
def test_files_of_torchvisions_classifiers_are_known(name: str, tmp_path: Path) -> None:
    weights = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in shapes_only(name).items()}
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, tmp_path / "a.pt")
    [file] = find_checkpoints([tmp_path / "a.pt"])
    architecture = find_architecture(load_checkpoint(file))
    assert (architecture.name, architecture.source) == (name, "detected")
    assert architecture.notes[0].startswith(f"all {len(weights)} names and shapes are {name}'s; 1000 classes, 3 ch")


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "vit_b_32", "swin_t", "efficientnet_b0"])
def test_a_changed_first_convolution_is_read(name: str) -> None:
    fit = detect(checkpoint(shapes_only(name, num_classes=4, in_channels=1)))
    assert fit is not None
    assert (fit.name, fit.arguments["in_channels"]) == (name, 1)
    assert fit.why.endswith("4 classes, 1 channel")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("has_heads", [True, False])
def test_auxiliary_heads_are_read(name: str, has_heads: bool) -> None:
    fit = detect(checkpoint(shapes_only(name, aux_logits=has_heads)))
    assert fit is not None
    assert fit.arguments["aux_logits"] is has_heads
    assert f"{'with' if has_heads else 'without'} auxiliary heads" in fit.why


def test_the_image_size_of_a_transformer_is_read() -> None:
    fit = detect(checkpoint(shapes_only("vit_b_16", image_size=64)))
    assert fit is not None
    assert fit.arguments["image_size"] == 64


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_a_small_stem_is_read_and_its_max_pool_is_said_to_be_a_guess(name: str) -> None:
    saved = checkpoint(shapes_only(name, num_classes=10, stem="cifar"))
    architecture = find_architecture(saved)
    network = hollow(architecture.build)
    assert architecture.name == name
    assert network.conv1.stride == (1, 1)
    assert isinstance(network.maxpool, nn.Identity)
    assert "a 3 × 3 stem of stride 1; 10 classes, 3 channels" in architecture.notes[0]
    assert "whether a max-pool follows it: none (--model-arg max_pool=true: one)" in architecture.notes[1]
    pooled = hollow(find_architecture(saved, arguments={"max_pool": "true"}).build)
    assert isinstance(pooled.maxpool, nn.MaxPool2d)
    assert pooled.conv1.stride == (1, 1)
    named = hollow(find_architecture(saved, model=name).build)
    assert named.conv1.kernel_size == (3, 3)


@pytest.mark.parametrize("name", some(NAMES))
def test_the_index_holds_what_the_installed_torchvision_builds(name: str) -> None:
    found = fingerprint(shapes_only(name))
    assert name in INDEX.get(found, ()), "write make_index() of torchvision_models into torchvision_index"


def test_the_index_has_every_name_once() -> None:
    indexed = [name for names in INDEX.values() for name in names]
    assert set(NAMES) <= set(indexed)
    assert len(indexed) == len(set(indexed))


def test_another_torchvision_with_more_networks_is_built_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = shapes_only("squeezenet1_1", num_classes=3)
    fewer = {found: names for found, names in INDEX.items() if "squeezenet1_1" not in names}
    monkeypatch.setattr(torchvision_models, "torchvision_names", lambda: ("alexnet", "squeezenet1_1"))
    monkeypatch.setattr(torchvision_models, "INDEX", fewer)
    fit = detect(checkpoint(weights))
    assert fit is not None
    assert fit.name == "squeezenet1_1"
    monkeypatch.setattr(torchvision_models, "torchvision_names", lambda: ("alexnet",))
    assert detect(checkpoint(weights)) is None


def test_one_other_shape_is_another_network() -> None:
    weights = shapes_only("resnet18", num_classes=7)
    weights["layer3.1.conv2.weight"] = torch.empty(256, 256, 1, 1, device="meta")
    text = message(lambda: find_architecture(checkpoint(weights)))
    assert "no known network has its 122 names and shapes; the names are those of resnet18, the shapes are not" in text
    weights = shapes_only("resnet18")
    assert detect(checkpoint({**weights, "layer1.2.conv1.weight": weights["conv1.weight"]})) is None
    del weights["layer4.1.bn2.running_var"]
    assert detect(checkpoint(weights)) is None


# Built in


@pytest.mark.parametrize(
    ("network", "name", "why"),
    [
        (digits_mlp(3), "digits-mlp", "all 6 names and shapes are digits-mlp's; 3 classes"),
        (digits_cnn(), "digits-cnn", "all 20 names and shapes are digits-cnn's; 10 classes, 1 channel"),
        (
            cifar_resnet("resnet20-cifar"),
            "resnet20-cifar",
            "all 116 names and shapes are resnet20-cifar's, option A; 10 classes, 3 channels",
        ),
        (cifar_resnet("resnet8-cifar", 7, 1, "A", head_name="fc"), "resnet8-cifar", "option A; 7 classes, 1 channel"),
        (
            cifar_resnet("resnet32-cifar", 100, shortcut="B", shortcut_name="downsample", head_name="fc"),
            "resnet32-cifar",
            "option B; 100 classes",
        ),
        (cifar_resnet("resnet14-cifar", shortcut="B", width=4), "resnet14-cifar", "option B, width 4; 10 classes"),
        (cifar_resnet("resnet18-cifar"), "resnet18-cifar", "resnet18-cifar's; 10 classes, 3 channels"),
        (cifar_resnet("resnet50-cifar", width=4), "resnet50-cifar", "resnet50-cifar's; 10 classes"),
        (wide_resnet("wrn-16-4"), "wrn-16-4", "wrn-16-4's; 10 classes, 3 channels"),
        (wide_resnet("wrn-10-3", 5), "wrn-10-3", "wrn-10-3's; 5 classes"),
        (wide_resnet("wrn-22-1", style="layer", bias=True), "wrn-22-1", "wrn-22-1's, with biases; 10 classes"),
        (wide_resnet("wrn-16-2", style="layer"), "wrn-16-2", "wrn-16-2's; 10 classes"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_built_in_networks_are_known_in_each_way_to_name_them(
    network: nn.Module, name: str, why: str, prefix: str
) -> None:
    saved = checkpoint(under(prefix, network))
    architecture = find_architecture(saved)
    assert (architecture.name, architecture.source) == (name, "detected")
    assert (
        why.replace(" are ", f" under {prefix} are ") in architecture.notes[0]
        if prefix
        else why in architecture.notes[0]
    )
    found = architecture.build()
    load_weights(found, saved)
    assert same_weights(found, network.state_dict())
    images = torch.rand(2, saved.weights[f"{prefix}conv1.weight"].shape[1] if "digits" not in name else 1, 8, 8)
    assert torch.equal(found.eval()(images), network.eval()(images))
    by_name = find_architecture(saved, model=name)
    assert same_shapes(by_name.build(), network)


def same_shapes(first: nn.Module, second: nn.Module) -> bool:
    return {name: value.shape for name, value in first.state_dict().items()} == {
        name: value.shape for name, value in second.state_dict().items()
    }


def test_choices_without_parameters_are_named_and_can_be_changed() -> None:
    network = cifar_resnet("resnet8-cifar")
    saved = checkpoint(network.state_dict())
    notes = find_architecture(saved).notes
    assert "zeros for new channels half on each side (--model-arg padding=end: all behind)" in notes[1]
    other = find_architecture(saved, arguments={"padding": "end"}).build()
    load_weights(other, saved)
    images = torch.rand(2, 3, 16, 16)
    assert not torch.equal(other.eval()(images), network.eval()(images))
    wide = find_architecture(checkpoint(wide_resnet("wrn-10-1").state_dict()))
    assert "stride in convolution 1 of a block and projections of its activated input" in wide.notes[1]
    assert "--model-arg stride_in=2, --model-arg projection=raw" in wide.notes[1]


def test_counters_of_batch_norm_may_be_missing() -> None:
    weights = {key: value for key, value in digits_cnn().state_dict().items() if "tracked" not in key}
    architecture = find_architecture(checkpoint(weights))
    assert architecture.notes == (f"all {len(weights)} names and shapes are digits-cnn's; 10 classes, 1 channel",)


def test_a_built_in_network_is_found_without_loading_torchvision(tmp_path: Path) -> None:
    torch.save(cifar_resnet("resnet20-cifar").state_dict(), tmp_path / "a.pt")
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from fisher_cli.inputs.networks.architectures import find_architecture\n"
        "from fisher_cli.inputs.checkpoints.checkpoints import find_checkpoints, load_checkpoint\n"
        f"[file] = find_checkpoints([Path({str(tmp_path / 'a.pt')!r})])\n"
        "print(find_architecture(load_checkpoint(file)).name)\n"
        "print([name for name in ('torchvision', 'timm', 'transformers') if name in sys.modules])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split("\n")[:2] == ["resnet20-cifar", "[]"]


# What stands beside, twice, or around


def test_what_a_prefix_leaves_out_is_named() -> None:
    weights = {**under("net.", digits_mlp()), "criterion.weight": torch.ones(10)}
    dropped = "the network's names stand under net.; not used: criterion.weight"
    for model in (None, "digits-mlp"):
        assert dropped in find_architecture(checkpoint(weights), model=model).notes


def test_two_networks_in_a_file_are_not_chosen_between() -> None:
    weights = {**under("encoder_q.", digits_mlp()), **under("encoder_k.", digits_mlp())}
    text = message(lambda: find_architecture(checkpoint(weights)))
    keys = [f"--model digits-mlp --state-key state_dict.{part}" for part in ("encoder_q", "encoder_k")]
    assert text.endswith(f"more than one network has these names and shapes; pass {keys[0]} or {keys[1]}")
    text = message(lambda: find_architecture(checkpoint(weights), model="digits-mlp"))
    assert "pass --state-key state_dict.encoder_q or --state-key state_dict.encoder_k" in text


def test_two_different_networks_in_a_file_are_both_listed() -> None:
    weights = {**under("a.", digits_mlp()), **under("b.", digits_cnn())}
    text = message(lambda: find_architecture(checkpoint(weights)))
    assert "pass --model digits-mlp --state-key state_dict.a or --model digits-cnn" in text
    assert find_architecture(checkpoint(weights), model="digits-cnn").name == "digits-cnn"


def test_a_part_whose_outputs_go_on_is_not_taken_for_the_whole() -> None:
    weights = {**under("backbone.", digits_mlp(16)), **under("head.", nn.Linear(16, 3))}
    text = message(lambda: find_architecture(checkpoint(weights)))
    assert "head.weight seems to take its outputs" in text
    assert "for the whole, or --model digits-mlp --state-key state_dict.backbone for that part alone" in text


# What the file calls it


@pytest.mark.parametrize("hint", ["resnet18", "wrn-28-10", "resnet_18", "./evil.py:build", "os:getcwd", "timm:x"])
def test_a_name_that_is_not_that_of_the_weights_is_not_followed(hint: str) -> None:
    saved = checkpoint(digits_mlp().state_dict(), hint)
    architecture = find_architecture(saved)
    assert (architecture.name, architecture.source) == ("digits-mlp", "detected")
    assert architecture.notes[-1] == (
        f"the file calls its network {hint}, which was not followed: names and shapes decide"
    )


def test_a_known_name_whose_weights_are_of_no_network_is_told_what_does_not_fit() -> None:
    saved = checkpoint({"a.weight": torch.zeros(2, 2)}, "digits-mlp")
    architecture = find_architecture(saved)
    text = message(lambda: load_weights(architecture.build(), saved))
    assert "6 missing: 1.weight" in text


def test_arguments_in_a_file_that_cannot_be_take_no_memory() -> None:
    saved = checkpoint(digits_mlp().state_dict(), "resnet18", num_classes=10**12, width_per_group=10**6)
    assert find_architecture(saved).name == "digits-mlp"


def test_names_without_end_are_looked_through_with_little_work() -> None:
    weights = {f"{'a.' * (index % 50)}{index}.weight": torch.empty(1, device="meta") for index in range(5000)}
    effort = Effort()
    with effort.counting_calls():
        assert detect(checkpoint(weights)) is None
    assert effort.calls < MOST_CALLS


def test_checkpoints_of_one_network_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def finding(given: Checkpoint, **options: Any) -> Architecture:
        looked.append(given.name)
        return find_architecture(given, **options)

    monkeypatch.setattr(networks_module, "find_architecture", finding)
    networks, found = networks_module.Networks(None, {}), []
    perceptron, convolutional, smaller = digits_mlp(), digits_cnn(), digits_mlp(3)
    for number, network in enumerate((perceptron, perceptron, smaller, convolutional, convolutional, perceptron)):
        given = replace(checkpoint(network.state_dict()), name=f"step_{number}.pt")
        architecture = networks.architecture(given)
        assert same_weights(networks.load(architecture, given), network.state_dict())
        found.append(architecture.name)
    assert found == ["digits-mlp", "digits-mlp", "digits-mlp", "digits-cnn", "digits-cnn", "digits-mlp"]
    assert looked == ["step_0.pt", "step_2.pt", "step_3.pt", "step_5.pt"]
    named = replace(checkpoint(perceptron.state_dict()), architecture="digits-mlp")
    assert networks.architecture(named).source == "checkpoint"


def test_the_names_of_torchvision_are_the_classifiers() -> None:
    assert list(torchvision_names()) == NAMES
