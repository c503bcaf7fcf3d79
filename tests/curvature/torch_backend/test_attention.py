"""Attention that takes all directions back at once: torch's own values and gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fisher_cli.curvature.torch_backend.patches import ATTENTION_OF_ALL_DIRECTIONS, patched

EXAMPLES, HEADS, LENGTH, SOURCES, WIDTH = 2, 3, 5, 4, 6


def mask_of_rows() -> Tensor:
    """One query may look at nothing, the others at some."""
    mask = torch.ones(LENGTH, SOURCES, dtype=torch.bool).tril()
    mask[2] = False
    return mask


MASKS: dict[str, Callable[[], dict[str, Any]]] = {
    "none": dict,
    "scale": lambda: {"scale": 0.3},
    "causal": lambda: {"is_causal": True},
    "boolean": lambda: {"attn_mask": mask_of_rows()},
    "of each example": lambda: {"attn_mask": torch.rand(EXAMPLES, 1, 1, SOURCES) > 0.3},
    "added": lambda: {"attn_mask": torch.randn(HEADS, LENGTH, SOURCES, dtype=torch.float64)},
    "added, with infinities": lambda: {
        "attn_mask": torch.zeros(LENGTH, SOURCES, dtype=torch.float64).masked_fill(~mask_of_rows(), -torch.inf)
    },
}


def drawn(*leading: int, value_width: int = WIDTH) -> tuple[Tensor, ...]:
    shapes = (LENGTH, WIDTH), (SOURCES, WIDTH), (SOURCES, value_width)
    return tuple(torch.randn(*leading, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes)


def assert_same(inputs: tuple[Tensor, ...], given: dict[str, Any], wanted: tuple[Tensor, ...] | None = None) -> None:
    """Values, gradients of one direction, and of many."""
    wanted = inputs if wanted is None else wanted
    with sdpa_kernel(SDPBackend.MATH):
        expected = functional.scaled_dot_product_attention(*inputs, **given)
        with patched(ATTENTION_OF_ALL_DIRECTIONS):
            found = functional.scaled_dot_product_attention(*inputs, **given)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    directions = torch.randn(4, *expected.shape, dtype=torch.float64)
    many = vmap(lambda u: torch.autograd.grad(found, wanted, u, retain_graph=True))(directions)
    for index, u in enumerate(directions):
        plain = torch.autograd.grad(expected, wanted, u, retain_graph=True)
        ours = torch.autograd.grad(found, wanted, u, retain_graph=True)
        torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(tuple(each[index] for each in many), plain, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask: str) -> None:
    torch.manual_seed(0)
    assert_same(drawn(EXAMPLES, HEADS), MASKS[mask]())


@pytest.mark.parametrize("leading", [(3,), (2, 1), (2, 2, 2)])
@pytest.mark.parametrize("value_width", [WIDTH, 2])
def test_shapes(leading: tuple[int, ...], value_width: int) -> None:
    torch.manual_seed(0)
    assert_same(drawn(*leading, value_width=value_width), {})


def test_layouts_of_heads_in_memory() -> None:
    """Heads are usually views of one tensor, of which they are columns."""
    torch.manual_seed(0)
    packed = torch.randn(EXAMPLES, LENGTH, 3 * HEADS * WIDTH, dtype=torch.float64, requires_grad=True)
    heads = (part.unflatten(2, (HEADS, WIDTH)).transpose(1, 2) for part in packed.chunk(3, 2))
    assert_same(tuple(heads), {}, (packed,))


def test_what_is_not_plain_is_left_to_torch() -> None:
    """A mask that is learned, groups of queries that share keys."""
    torch.manual_seed(0)
    inputs = drawn(EXAMPLES, HEADS)
    bias = torch.randn(HEADS, LENGTH, SOURCES, dtype=torch.float64, requires_grad=True)
    assert_same(inputs, {"attn_mask": bias}, (*inputs, bias))
    q, k, v = drawn(EXAMPLES, 4)
    assert_same((q, k[:, :2], v[:, :2]), {"enable_gqa": True}, (q, k, v))


def test_bfloat16_is_left_to_torch() -> None:
    inputs = tuple(each.detach().bfloat16() for each in drawn(EXAMPLES, HEADS))
    with sdpa_kernel(SDPBackend.MATH):
        expected = functional.scaled_dot_product_attention(*inputs)
        with patched(ATTENTION_OF_ALL_DIRECTIONS):
            assert torch.equal(functional.scaled_dot_product_attention(*inputs), expected)
