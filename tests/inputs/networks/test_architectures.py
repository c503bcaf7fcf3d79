"""A name, an import string or a checkpoint's hint → the network."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from fisher_cli.inputs.networks.architectures import find_architecture, known_models
from fisher_cli.inputs.networks.digits_networks import digits_cnn, digits_mlp
from fisher_cli.inputs.networks.fitting import load_weights
from tests.architecture_cases import checkpoint, message

# Names


@pytest.mark.parametrize("factory", [digits_mlp, digits_cnn])
@pytest.mark.parametrize("classes", [10, 3])
def test_built_in_networks_take_the_number_of_classes_from_the_checkpoint(
    factory: Callable[..., nn.Module], classes: int
) -> None:
    original = factory(num_classes=classes).eval()
    name = factory.__name__.replace("_", "-")
    saved = checkpoint(original.state_dict(), arch=name.upper())
    for model in (name.title(), None):
        architecture = find_architecture(saved, model=model)
        assert architecture.name == name
        assert architecture.source == ("checkpoint" if model is None else "--model")
        network = architecture.build().eval()
        load_weights(network, saved)
        images = torch.rand(5, 1, 8, 8)
        assert network(images).shape == (5, classes)
        assert torch.equal(network(images), original(images))


def test_built_in_networks_have_the_documented_sizes() -> None:
    assert sum(parameter.numel() for parameter in digits_mlp().parameters()) == 6570
    assert sum(parameter.numel() for parameter in digits_cnn().parameters()) == 7514
    assert digits_mlp()(torch.zeros(2, 64)).shape == (2, 10)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "squeezenet1_0", "googlenet", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf"],
)
def test_torchvision_networks_take_the_number_of_classes_from_the_checkpoint(name: str) -> None:
    keywords = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    original = torchvision.models.get_model(name, weights=None, num_classes=7, **keywords)
    saved = checkpoint(original.state_dict())
    network = find_architecture(saved, model=name).build()
    load_weights(network, saved)
    assert list(network.state_dict()) == list(original.state_dict())
    assert all(torch.equal(value, saved.weights[key]) for key, value in network.state_dict().items())


def test_auxiliary_heads_are_kept_where_the_checkpoint_has_them() -> None:
    with torch.device("meta"):
        original = torchvision.models.get_model("googlenet", weights=None, num_classes=7, init_weights=False)
    network = find_architecture(checkpoint(original.state_dict()), model="GoogLeNet").build()
    shapes = {key: value.shape for key, value in original.state_dict().items()}
    assert {key: value.shape for key, value in network.state_dict().items()} == shapes


def test_arguments_win_over_the_checkpoint_and_the_flag_over_the_hint() -> None:
    saved = checkpoint(digits_mlp(3).state_dict(), "digits-mlp", num_classes=3, pretrained=True)
    assert find_architecture(saved).build()[-1].out_features == 3
    assert find_architecture(saved, arguments={"num_classes": "4"}).build()[-1].out_features == 4
    assert find_architecture(saved, model="digits-cnn").name == "digits-cnn"


def test_building_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    find_architecture(checkpoint({}), model="digits-mlp").build()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_known_names_are_the_built_in_networks_and_the_classifiers_of_torchvision() -> None:
    names = known_models()
    assert {"digits-mlp", "digits-cnn", "resnet18", "vit_b_16"} <= set(names)
    assert "fcn_resnet50" not in names
    assert len(names) == len(set(names))


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    text = message(lambda: find_architecture(checkpoint({}), model="resnet81"))
    assert "did you mean resnet18" in text
    assert "fisher models lists" in text
    assert "--model ./net.py:make" in message(lambda: find_architecture(checkpoint({}), model="./net.py"))


def test_without_any_name_the_line_says_what_to_type() -> None:
    text = message(lambda: find_architecture(checkpoint({})))
    assert text.startswith("run/a.pt: ")
    assert "--model NAME or --model ./file.py:factory" in text


@pytest.mark.parametrize("argument", ["weights", "pretrained"])
def test_nothing_is_ever_downloaded(argument: str) -> None:
    text = message(lambda: find_architecture(checkpoint({}), model="resnet18", arguments={argument: "DEFAULT"}))
    assert "leave this argument out" in text


def test_an_argument_that_the_network_does_not_know_is_named() -> None:
    text = message(lambda: find_architecture(checkpoint({}), model="resnet18", arguments={"depth": "3"}))
    assert "'depth'" in text
    assert "--model-arg" in text


# Hints in a checkpoint


@pytest.mark.parametrize("hint", ["os:getcwd", "evil:build", "./evil.py:build", "/tmp/evil.py", "evil.py"])
def test_a_checkpoint_never_gets_code_imported(hint: str, workdir: Path) -> None:
    (workdir / "evil.py").write_text("open('canary', 'w').close()\ndef build(): ...\n")
    text = message(lambda: find_architecture(checkpoint({}, hint)))
    assert f"if you trust it: --model {hint}" in text
    assert not (workdir / "canary").exists()
    assert str(workdir) not in sys.path


def test_an_unknown_hint_is_answered_with_the_nearest_names() -> None:
    text = message(lambda: find_architecture(checkpoint({}, "resnet_18")))
    assert "did you mean resnet18" in text
    assert "--model ./file.py:factory" in text


# Factories of the user

FACTORY = """
from dataclasses import dataclass
from torch import nn
import runs

@dataclass
class Sizes:
    width: int = 4

def network(width: int = Sizes().width, name: str = "x", bias: bool = True) -> nn.Module:
    runs.count += 1
    assert isinstance(name, str)
    return nn.Linear(width, 2, bias=bias)

def nothing():
    return {"a": 1}

def broken():
    raise ValueError("no such\\nsize")

def leaves():
    raise SystemExit(3)

ready = nn.Linear(2, 2)
number = 7
"""


@pytest.fixture
def factory_file(workdir: Path) -> Path:
    path = workdir / "inner" / "my_nets.py"
    path.parent.mkdir()
    for folder in (workdir, path.parent):  # a module finds what lies beside the package, a file what lies beside it
        (folder / "runs.py").write_text("count = 0\n")
    path.write_text(FACTORY)
    return path


def test_a_factory_comes_from_a_file_or_a_module(factory_file: Path) -> None:
    path = sys.path[:]
    arguments = {"width": "3", "name": "plain text", "bias": "false"}
    for model, name in (
        ("./inner/my_nets.py:network", "my_nets.py:network"),
        (f"{factory_file}:network", "my_nets.py:network"),
        ("inner.my_nets:network", "inner.my_nets:network"),
    ):
        architecture = find_architecture(checkpoint({}), model=model, arguments=arguments)
        assert (architecture.name, architecture.source) == (name, "--model")
        network = architecture.build()
        assert (network.in_features, network.bias) == (3, None)
    assert sys.path == path
    assert "my_nets" not in sys.modules


def test_two_files_of_one_name_stay_apart(workdir: Path) -> None:
    for folder, width in (("a", 3), ("b", 4)):
        (workdir / folder).mkdir()
        text = f"from torch import nn\ndef net():\n    return nn.Linear({width}, 1)\n"
        (workdir / folder / "net.py").write_text(text)
    widths = [find_architecture(checkpoint({}), model=f"{folder}/net.py:net").build().in_features for folder in "ab"]
    assert widths == [3, 4]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("./inner/my_nets.py:netwrk", "did you mean network?"),
        ("./inner/my_nets.py:number", "is no function"),
        ("./inner/my_nets.py:ready", "is no function"),
        ("./inner/my_nets.py:", "name a function"),
        ("./inner/none.py:network", "there is no file inner/none.py"),
        ("inner/my_nets:network", "a file is named with its suffix .py"),
        ("no_such_package:network", "No module named 'no_such_package'"),
        (":network", "importing it failed"),
        ("./inner/my_nets.py:nothing", "returned dict, no torch.nn.Module"),
        ("./inner/my_nets.py:broken", r"ValueError: no such\nsize"),
        ("./inner/my_nets.py:leaves", "SystemExit: 3"),
    ],
)
@pytest.mark.usefixtures("factory_file")
def test_a_factory_that_fails_is_told_in_one_line(model: str, expected: str) -> None:
    assert expected in message(lambda: find_architecture(checkpoint({}), model=model).build())


@pytest.mark.parametrize("code", ["def net(:", "raise RuntimeError('at import')", "import sys; sys.exit(2)"])
def test_a_file_that_cannot_be_imported_is_told_in_one_line(workdir: Path, code: str) -> None:
    (workdir / "halfdone.py").write_text(code)
    for model in ("./halfdone.py:net", "halfdone:net"):
        text = message(lambda model=model: find_architecture(checkpoint({}), model=model))
        assert "importing it failed" in text
    assert not any(name.startswith("_fisher_model_halfdone") for name in sys.modules)
