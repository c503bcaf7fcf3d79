"""Input gradients made of convolutions: those of autograd, for every geometry."""

import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from fisher_cli.curvature.torch_backend import convolutions
from fisher_cli.curvature.torch_backend.convolutions import Geometry, Gradients, convolve

COUNT = 200


def geometries() -> Iterator[tuple[Geometry, tuple[int, ...], tuple[int, ...]]]:
    """Geometry, weight shape and input size (C_in, …), drawn at random."""
    draw, made = random.Random(0), 0
    while made < COUNT:
        dimensions, groups = draw.choice([1, 2, 2, 2, 3]), draw.choice([1, 1, 2, 3])

        def several(low: int, high: int, count: int = dimensions) -> tuple[int, ...]:
            return tuple(draw.randint(low, high) for _ in range(count))

        kernel, size, padding, dilation = several(1, 4), several(1, 9), several(0, 4), several(1, 3)
        geometry = Geometry(several(1, 3), padding, dilation, groups)
        fits = (n + 2 * p >= d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel, strict=True))
        if all(fits):
            made += 1
            out, into = several(1, 3, 2)
            yield geometry, (groups * out, into, *kernel), (groups * into, *size)


def gradients(y: Tensor, of: tuple[Tensor, ...], u: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y, of, u, retain_graph=True)


@pytest.mark.parametrize(
    ("few", "many"),
    [(0, 10**6), (4, 10), (10**6, 10**6)],
    ids=["by convolutions", "by all three ways", "by products"],
)
def test_every_geometry_has_the_gradients_of_autograd(few: int, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "FEW_POSITIONS", few)
    monkeypatch.setattr(convolutions, "MANY_POSITIONS", many)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    for geometry, shape, size in geometries():
        x, weight, bias = (tensor.requires_grad_() for tensor in (normal(2, *size), normal(*shape), normal(shape[0])))
        plain, ours = geometry.of(x, weight, bias), convolve(x, weight, bias, geometry)
        assert torch.equal(ours, plain)
        u = normal(3, *plain.shape)
        for found, expected in zip(
            gradients(ours, (x, weight, bias), u[0]), gradients(plain, (x, weight, bias), u[0]), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        many = vmap(lambda one, ours=ours, x=x: gradients(ours, (x,), one)[0])(u)
        for found, one in zip(many, u, strict=True):
            torch.testing.assert_close(found, gradients(plain, (x,), one)[0], rtol=1e-10, atol=1e-10)


def test_no_weight_gradient_is_computed_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    asked: list[bool] = []
    original = Geometry.back

    def watched(self: Geometry, u: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Gradients:
        asked.append(wanted[1])
        return original(self, u, x, weight, wanted)

    monkeypatch.setattr(Geometry, "back", watched)
    y = convolve(x, weight, None, Geometry((1, 1), (1, 1), (1, 1), 1))
    gradients(y, (x,), torch.ones_like(y))
    assert not asked
    gradients(y, (weight,), torch.ones_like(y))
    assert asked == [True]
