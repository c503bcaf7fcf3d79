"""The residual networks for small images: published sizes, and a forward pass by the letter of the papers."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, linear

from fisher_cli.inputs.networks.cifar_resnets import cifar_resnet, is_cifar_resnet
from fisher_cli.inputs.networks.shapes import hollow
from fisher_cli.inputs.networks.wide_resnets import is_wide_resnet, wide_resnet


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def shaken(network: nn.Module) -> nn.Module:
    """The network in float64 and evaluation mode with nothing left at its initial value."""
    generator = torch.Generator().manual_seed(3)
    for name, value in network.double().eval().state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else value + 0.1 * noise)
    return network


def norm(inputs: Tensor, weights: Mapping[str, Tensor], name: str) -> Tensor:
    parts = [weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return batch_norm(inputs, *parts)


def conv(inputs: Tensor, weights: Mapping[str, Tensor], name: str, stride: int = 1) -> Tensor:
    weight = weights[f"{name}.weight"]
    return conv2d(inputs, weight, weights.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)


def residual_reference(
    weights: Mapping[str, Tensor], images: Tensor, stages: int, shortcut: str, head: str, behind: bool
) -> Tensor:
    """He et al. 2016: figure 5 for the blocks, section 4.2 for the rest; `behind`: zeros follow, in option A."""
    x = norm(conv(images, weights, "conv1"), weights, "bn1").relu()
    for stage in range(1, stages + 1):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            if f"{at}.conv3.weight" in weights:
                y = norm(conv(x, weights, f"{at}.conv1"), weights, f"{at}.bn1").relu()
                y = norm(conv(y, weights, f"{at}.conv2", stride), weights, f"{at}.bn2").relu()
                y = norm(conv(y, weights, f"{at}.conv3"), weights, f"{at}.bn3")
            else:
                y = norm(conv(x, weights, f"{at}.conv1", stride), weights, f"{at}.bn1").relu()
                y = norm(conv(y, weights, f"{at}.conv2"), weights, f"{at}.bn2")
            if f"{at}.{shortcut}.0.weight" in weights:
                x = norm(conv(x, weights, f"{at}.{shortcut}.0", stride), weights, f"{at}.{shortcut}.1")
            elif stride == 2:
                zeros = torch.zeros_like(y)
                new = x.shape[1]
                first = 0 if behind else new // 2
                zeros[:, first : first + new] = x[:, :, ::2, ::2]
                x = zeros
            x = (x + y).relu()
            block += 1
    return linear(x.flatten(2).mean(2), weights[f"{head}.weight"], weights[f"{head}.bias"])


def wide_reference(
    weights: Mapping[str, Tensor], images: Tensor, stage_name: str, shortcut: str, head: str, stride_in: int, raw: bool
) -> Tensor:
    """Zagoruyko, Komodakis 2016, figure 1, with batch norm and ReLU before the convolutions."""
    x = conv(images, weights, "conv1")
    for stage in range(1, 4):
        block = 0
        while f"{stage_name.format(stage)}.{block}.conv1.weight" in weights:
            at, stride = f"{stage_name.format(stage)}.{block}", 2 if stage > 1 and block == 0 else 1
            activated = norm(x, weights, f"{at}.bn1").relu()
            y = conv(activated, weights, f"{at}.conv1", stride if stride_in == 1 else 1)
            y = conv(norm(y, weights, f"{at}.bn2").relu(), weights, f"{at}.conv2", stride if stride_in == 2 else 1)
            if f"{at}.{shortcut}.weight" in weights:
                x = conv(x if raw else activated, weights, f"{at}.{shortcut}", stride)
            x = x + y
            block += 1
    x = norm(x, weights, "bn1").relu()
    return linear(x.flatten(2).mean(2), weights[f"{head}.weight"], weights[f"{head}.bias"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet20-cifar", 269_722),
        ("resnet32-cifar", 464_154),
        ("resnet44-cifar", 658_586),
        ("resnet56-cifar", 853_018),
        ("resnet110-cifar", 1_727_962),
        ("resnet18-cifar", 11_173_962),
        ("resnet34-cifar", 21_282_122),
        ("resnet50-cifar", 23_520_842),
    ],
)
def test_residual_networks_have_the_published_sizes(name: str, expected: int) -> None:
    assert size(hollow(lambda: cifar_resnet(name))) == expected


def test_projections_add_what_two_of_them_hold() -> None:
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert size(cifar_resnet("resnet20-cifar", shortcut="B")) == 269_722 + projections


@pytest.mark.parametrize(
    ("name", "expected"),
    [("wrn-28-10", 36_479_194), ("wrn-16-8", 10_961_370), ("wrn-40-4", 8_949_210), ("wrn-16-4", 2_748_890)],
)
def test_wide_networks_have_the_published_sizes(name: str, expected: int) -> None:
    assert size(hollow(lambda: wide_resnet(name))) == expected


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet20-cifar", {}),
        ("resnet20-cifar", {"padding": "end", "in_channels": 1}),
        ("resnet20-cifar", {"shortcut": "B", "head_name": "fc", "shortcut_name": "downsample"}),
        ("resnet8-cifar", {"shortcut": "B", "width": 4, "num_classes": 7}),
        ("resnet18-cifar", {"width": 8}),
        ("resnet50-cifar", {"width": 4, "num_classes": 100}),
    ],
)
def test_residual_networks_compute_what_the_paper_says(name: str, arguments: dict[str, object]) -> None:
    network = shaken(cifar_resnet(name, **arguments))
    images = torch.randn(3, arguments.get("in_channels", 3), 16, 16, dtype=torch.float64)
    names = arguments.get("shortcut_name", "shortcut"), arguments.get("head_name", "linear")
    stages = 4 if name in {"resnet18-cifar", "resnet50-cifar"} else 3
    expected = residual_reference(network.state_dict(), images, stages, *names, arguments.get("padding") == "end")
    torch.testing.assert_close(network(images), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "layout"),
    [
        ({}, ("block{}.layer", "convShortcut", "fc", 1, False)),
        ({"stride_in": 2, "projection": "raw"}, ("block{}.layer", "convShortcut", "fc", 2, True)),
        ({"style": "layer", "bias": True, "num_classes": 5}, ("layer{}", "shortcut.0", "linear", 2, True)),
    ],
)
def test_wide_networks_compute_what_the_paper_says(
    arguments: dict[str, object], layout: tuple[str, str, str, int, bool]
) -> None:
    network = shaken(wide_resnet("wrn-16-1", **arguments))
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    expected = wide_reference(network.state_dict(), images, *layout)
    torch.testing.assert_close(network(images), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet21-cifar", "resnet2-cifar", "resnet99998-cifar", "resnet20", "resnet٢٠-cifar"])
def test_depths_that_there_are_not_are_unknown(name: str) -> None:
    assert not is_cifar_resnet(name)
    with pytest.raises(ValueError, match="6n"):
        cifar_resnet(name)


@pytest.mark.parametrize("name", ["wrn-28", "wrn-27-10", "wrn-28-0", "wrn-4-1", "wrn-9994-1", "wrn-28-100"])
def test_depths_and_widths_that_there_are_not_are_unknown(name: str) -> None:
    assert not is_wide_resnet(name)
    with pytest.raises(ValueError, match="6n"):
        wide_resnet(name)


def test_arguments_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="A or B"):
        cifar_resnet("resnet20-cifar", shortcut="C")
    with pytest.raises(ValueError, match="activated or raw"):
        wide_resnet("wrn-16-1", projection="both")
