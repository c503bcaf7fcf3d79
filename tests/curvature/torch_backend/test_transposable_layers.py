"""Convolutions and batch norms with transposes of their own, against autograd's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fisher_cli.curvature.torch_backend.patches import TRANSPOSABLE_LAYERS, patched


class Convolutions(TorchDispatchMode):
    """Counts convolutions, a backward pass as one for each gradient that it gives."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.count += 1
        if func is torch.ops.aten.convolution_backward.default:
            self.count += sum(args[-1][:2])
        return func(*args, **(kwargs or {}))


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (3, 4, 5, 6)),
    "one channel": (lambda: nn.Conv2d(1, 6, 3, padding=1), (3, 1, 5, 6)),
    "no bias": (lambda: nn.Conv2d(4, 6, (3, 1), stride=(2, 1), bias=False), (3, 4, 7, 6)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2), (3, 4, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), (3, 4, 5, 5)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (3, 4, 5, 5)),
    "same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (3, 4, 5, 5)),
    "valid": (lambda: nn.Conv2d(4, 6, 2, padding="valid"), (3, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), (3, 2, 4, 4, 3)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), (3, 4, 5, 5)),
    "batch norm": (lambda: settled(nn.BatchNorm2d(4)), (3, 4, 5, 5)),
    "batch norm of vectors": (lambda: settled(nn.BatchNorm1d(4)), (3, 4)),
    "batch norm of sequences": (lambda: settled(nn.BatchNorm1d(4)), (3, 4, 7)),
    "batch norm without parameters": (lambda: settled(nn.BatchNorm2d(4, affine=False)), (3, 4, 5, 5)),
    "batch norm of the batch": (lambda: nn.BatchNorm2d(4, track_running_stats=False), (3, 4, 5, 5)),
}


def settled(layer: nn.Module) -> nn.Module:
    """A batch norm whose statistics and parameters are no ones and zeros."""
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2.0)
    return layer


def graphs(name: str, *, plain: bool, frozen: str = "") -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
    """Outputs of the layer between two other maps, the gradients of a cotangent u, u itself, and the leaves."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build().double().eval(), draw(*shape).requires_grad_(frozen != "inputs")
    for part, parameter in layer.named_parameters():
        parameter.requires_grad_(part != frozen)
    if plain:
        outputs = layer(x.tanh()).sigmoid()
    else:
        with patched(TRANSPOSABLE_LAYERS):
            outputs = layer(x.tanh()).sigmoid()
    leaves = [leaf for leaf in (x, *layer.parameters()) if leaf.requires_grad]
    u = draw(*outputs.shape).requires_grad_()
    return outputs, list(torch.autograd.grad(outputs, leaves, u, create_graph=True)), u, leaves


@pytest.mark.parametrize("frozen", ["", "inputs", "weight", "bias"])
@pytest.mark.parametrize("name", LAYERS)
def test_both_directions_are_autograds(name: str, frozen: str) -> None:
    has = dict(LAYERS[name][0]().named_parameters())
    if (frozen in {"weight", "bias"} and frozen not in has) or (frozen == "inputs" and not has):
        pytest.skip("it has none, or nothing else")
    expected, back, plain_u, leaves = graphs(name, plain=True, frozen=frozen)
    outputs, found, u, _ = graphs(name, plain=False, frozen=frozen)
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, back, rtol=1e-12, atol=1e-12)
    tangents = [draw(*leaf.shape) for leaf in leaves]
    forth = torch.autograd.grad(found, u, tangents)
    torch.testing.assert_close(forth, torch.autograd.grad(back, plain_u, tangents), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("single", range(3))
@pytest.mark.parametrize("name", ["conv2d", "batch norm"])
def test_a_tangent_of_one_tensor_alone(name: str, single: int) -> None:
    _, back, plain_u, leaves = graphs(name, plain=True)
    _, found, u, _ = graphs(name, plain=False)
    tangent = draw(*leaves[single].shape)
    forth = torch.autograd.grad(found[single], u, tangent)
    torch.testing.assert_close(forth, torch.autograd.grad(back[single], plain_u, tangent), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["conv2d", "grouped"])
def test_a_product_takes_two_convolutions_where_autograd_takes_more(name: str) -> None:
    counts = []
    for plain in (False, True):
        _, found, u, leaves = graphs(name, plain=plain)
        with Convolutions() as forth:
            torch.autograd.grad(found, u, [draw(*leaf.shape) for leaf in leaves], retain_graph=True)
        counts.append(forth.count)
    ours, autograds = counts
    assert ours == 2 < autograds


def test_everything_is_put_back() -> None:
    names = ("conv1d", "conv2d", "conv3d", "batch_norm")
    before = [getattr(functional, name) for name in names]
    with patched(TRANSPOSABLE_LAYERS):
        assert all(getattr(functional, name) is not was for name, was in zip(names, before, strict=True))
        # An error of a layer leaves the context as an end does.
        with pytest.raises(RuntimeError, match="weight"):
            functional.conv2d(draw(1, 1, 2, 2), draw(1, 2, 1, 1))
    assert [getattr(functional, name) for name in names] == before


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_channel_are_laid_out_like_others(channels: int) -> None:
    """Else every activation behind the first layer is laid out in another way than its gradient, at ten times the cost.

    An activation's strides say how it is laid out: with channels last they are (…, 1, …).
    """
    x = torch.rand(2, channels, 5, 4)
    layer = nn.Conv2d(channels, 6, 3)
    with patched(TRANSPOSABLE_LAYERS):
        outputs = layer(x)
        (gradient,) = torch.autograd.grad(outputs.square().sum(), layer.weight)
    assert outputs.stride(1) == 1
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    plain = layer(x)
    (expected,) = torch.autograd.grad(plain.square().sum(), layer.weight)
    assert torch.allclose(outputs, plain, rtol=1e-5, atol=1e-6)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5)
