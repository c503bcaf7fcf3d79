"""Right networks that use their parameters in unusual ways, against the oracle per tensor and in both precisions."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cases import hash_of
from tests.long_lists import some
from tests.parts import Body, Network, compare, compare_in_single_precision, draw

EXAMPLES = 7


def scaled_in_place(net: Network, x: Tensor) -> Tensor:
    z = net.inner(x)
    z *= net.scale
    z += net.shift
    z.mul_(net.scale)
    return net.head(torch.tanh(z))


def scaled_then_rectified(net: Network, x: Tensor) -> Tensor:
    z = net.inner(x) * net.scale
    z.relu_()
    return net.head(z.add(net.shift).mul_(0.5))


def a_view_scaled_in_place(net: Network, x: Tensor) -> Tensor:
    """What the parameter changes is part of another tensor, and both are used."""
    z = net.inner(x).clone()
    left = z[:, :2]
    left *= net.scale
    left += net.shift
    return net.head(z) + net.other(left)


def a_view_scaled_and_forgotten(net: Network, x: Tensor) -> Tensor:
    """As above, but of what was changed only the view is used, or only the whole."""
    z, y = net.inner(x) + 0.5, net.inner(x.sin()).clone()
    z[:, :2] *= net.scale
    left = y[:, :2]
    left += net.shift
    return net.head(z) + net.other(left)


def products_added_in_place(net: Network, x: Tensor) -> Tensor:
    z = net.inner(x)
    z.addcmul_(torch.sin(x[:, :4]), net.scale)
    z.sub_(net.shift)
    return net.head(torch.tanh(z))


def data_scaled_in_place(net: Network, x: Tensor) -> Tensor:
    """The input has no gradient before the parameter is there."""
    x = x.clone()
    x *= net.scale
    return net.head(torch.tanh(net.inner(x)))


def there_and_back(net: Network, x: Tensor) -> Tensor:
    """One tensor in a convolution and in its transpose."""
    y = torch.tanh(functional.conv2d(x, net.weight, padding=1))
    return net.head(torch.tanh(functional.conv_transpose2d(y, net.weight, padding=1)).flatten(1))


def there_and_back_by_a_square(net: Network, x: Tensor) -> Tensor:
    """The same where no shape tells one way from the other."""
    y = torch.tanh(functional.conv2d(x, net.weight))
    return net.head(torch.tanh(functional.conv_transpose2d(y, net.weight)).flatten(1))


def there_and_back_in_groups(net: Network, x: Tensor) -> Tensor:
    """The same with two groups one way and strides the other."""
    y = torch.tanh(functional.conv2d(torch.cat([x, -x], 1), net.weight, padding=1, groups=2))
    return net.head(torch.tanh(functional.conv_transpose2d(y, net.weight, padding=1, stride=2)).flatten(1))


def groups_of_two_kinds(net: Network, x: Tensor) -> Tensor:
    """One tensor with different groups, strides and dilations."""
    y = torch.tanh(functional.conv2d(x, net.weight, padding=1))
    z = torch.tanh(functional.conv2d(torch.cat([x, y[:, :2]], 1), net.weight, groups=2, padding=2, dilation=2))
    return net.head((y + z).flatten(1))


def both_orientations(net: Network, x: Tensor) -> Tensor:
    y = torch.tanh(functional.linear(x, net.weight))
    return net.head(torch.tanh(y @ net.weight) + functional.linear(torch.sin(y), net.weight.T))


def weight_and_gate(net: Network, x: Tensor) -> Tensor:
    """One tensor as a weight and as a factor."""
    return net.head(torch.tanh(functional.linear(x, net.weight)) * net.weight.sum(1) + (x[:, :1] * net.weight[:, 0]))


def tied_with_padding(net: Network, x: Tensor) -> Tensor:
    ids = (x.abs() * 3).long() % 6
    y = torch.tanh(net.rows(ids).sum(1))
    return net.head(functional.linear(y, net.rows.weight) + functional.embedding(ids[:, 0], net.rows.weight) @ net.back)


def gradient_of_an_energy(net: Network, x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        energy = net.energy(torch.tanh(net.inner(x))).sum()
        (force,) = torch.autograd.grad(energy, x, create_graph=True)
    return net.head(force)


def force_beside_energy(net: Network, x: Tensor) -> Tensor:
    """The layers go into the logits directly and through the gradient."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        energy = net.energy(torch.sin(net.inner(x)))
        (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    return net.head(force + energy)


def images_one_by_one(net: Network, x: Tensor) -> Tensor:
    return net.head(torch.stack([torch.tanh(net.conv(image)).flatten(1).mean(1) for image in x]))


def signals_one_by_one(net: Network, x: Tensor) -> Tensor:
    made = [torch.tanh(net.conv(image.flatten(1))).mean(1) + net.up(image.flatten(1)).mean(1) for image in x]
    return net.head(torch.stack(made))


def vectors_one_by_one(net: Network, x: Tensor) -> Tensor:
    return torch.stack([net.head(torch.tanh(net.inner(row)) * net.scale + net.shift) for row in x])


def mapped_over_examples(net: Network, x: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: net.head(torch.tanh(net.inner(row)) * net.scale + net.shift))(x)


def jacobian_in_forward(net: Network, x: Tensor) -> Tensor:
    """The derivative of a layer by its input is part of the logits."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: torch.tanh(net.inner(row))))(x)
    return net.head(jacobian.sum(2) + net.inner(x))


def called_functionally(net: Network, x: Tensor) -> Tensor:
    doubled = {name: 2 * value for name, value in net.inner.named_parameters()}
    return net.head(torch.tanh(torch.func.functional_call(net.inner, doubled, (x,)) + net.inner(x)))


def sparse_rows(net: Network, x: Tensor) -> Tensor:
    ids = (x.abs() * 3).long() % 6
    rows = net.module(ids).sum(1) + functional.embedding(ids, net.table, sparse=True).mean(1)
    return net.head(torch.tanh(rows + functional.embedding_bag(ids, net.bag, mode="sum", sparse=True)))


def linear(**more: Any) -> dict[str, Any]:
    return {"inner": nn.Linear(5, 4), "head": nn.Linear(4, 3), **more}


def energy() -> dict[str, Any]:
    return {"inner": nn.Linear(5, 8), "energy": nn.Linear(8, 1, bias=False), "head": nn.Linear(5, 3)}


def scales() -> dict[str, Any]:
    return {"scale": torch.rand(4) + 0.5, "shift": draw(1, 4)}


NETWORKS: dict[Body, Callable[[], dict[str, Any]]] = {
    scaled_in_place: lambda: linear(**scales()),
    scaled_then_rectified: lambda: linear(**scales()),
    a_view_scaled_in_place: lambda: linear(scale=draw(2), shift=draw(2), other=nn.Linear(2, 3)),
    a_view_scaled_and_forgotten: lambda: linear(scale=draw(2), shift=draw(2), other=nn.Linear(2, 3)),
    products_added_in_place: lambda: linear(**scales()),
    data_scaled_in_place: lambda: linear(scale=draw(5)),
    there_and_back: lambda: {"weight": draw(5, 2, 3, 3), "head": nn.Linear(32, 3)},
    there_and_back_by_a_square: lambda: {"weight": draw(2, 2, 1, 1), "head": nn.Linear(32, 3)},
    there_and_back_in_groups: lambda: {"weight": draw(4, 2, 3, 3), "head": nn.Linear(98, 3)},
    groups_of_two_kinds: lambda: {"weight": draw(4, 2, 3, 3), "head": nn.Linear(64, 3)},
    both_orientations: lambda: {"weight": draw(4, 5), "head": nn.Linear(5, 3)},
    weight_and_gate: lambda: {"weight": draw(4, 5), "head": nn.Linear(4, 3)},
    tied_with_padding: lambda: {
        "rows": nn.Embedding(6, 4, padding_idx=2),
        "back": draw(4, 6),
        "head": nn.Linear(6, 3),
    },
    gradient_of_an_energy: lambda: energy(),
    force_beside_energy: lambda: energy(),
    images_one_by_one: lambda: {"conv": nn.Conv2d(2, 4, 3), "head": nn.Linear(4, 3)},
    signals_one_by_one: lambda: {
        "conv": nn.Conv1d(2, 4, 3, groups=2),
        "up": nn.ConvTranspose1d(2, 4, 3),
        "head": nn.Linear(4, 3),
    },
    vectors_one_by_one: lambda: linear(**scales()) | {"shift": draw(4)},
    mapped_over_examples: lambda: linear(**scales()) | {"shift": draw(4)},
    jacobian_in_forward: lambda: linear(),
    called_functionally: lambda: linear(),
    sparse_rows: lambda: {
        "module": nn.Embedding(6, 4, sparse=True, padding_idx=1),
        "table": draw(6, 4),
        "bag": draw(6, 4),
        "head": nn.Linear(4, 3),
    },
}  # fmt: skip
IMAGES = {
    there_and_back,
    there_and_back_by_a_square,
    there_and_back_in_groups,
    groups_of_two_kinds,
    images_one_by_one,
    signals_one_by_one,
}


def made(body: Body) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(hash_of(body.__name__))
    network = Network(body, **NETWORKS[body]()).double().eval()
    x = torch.randn(EXAMPLES, *((2, 4, 4) if body in IMAGES else (5,)), dtype=torch.float64)
    return network, x, torch.randint(0, 3, (EXAMPLES,))


@pytest.mark.parametrize(
    ("body", "batch_size"),
    some(product(NETWORKS, [1, 3, 7]), part=0.5),
    ids=lambda each: getattr(each, "__name__", each),
)
def test_traces_of_every_tensor_equal_the_oracle(body: Body, batch_size: int) -> None:
    compare(*made(body), batch_size)


@pytest.mark.parametrize("body", NETWORKS, ids=lambda body: body.__name__)
def test_traces_of_every_tensor_are_right_in_single_precision(body: Body) -> None:
    compare_in_single_precision(*made(body), 4)


def test_uses_that_only_look_unusual_have_rules() -> None:
    words = {body: compare(*made(body), 3) for body in (scaled_in_place, there_and_back, both_orientations)}
    assert words[scaled_in_place]["scale"] == "multiplied ×2"
    assert words[scaled_in_place]["shift"] == "added"
    assert words[there_and_back]["weight"] == "convolution + transposed-convolution ×2"
    assert words[both_orientations]["weight"] == "linear + parametrized-linear ×3"
