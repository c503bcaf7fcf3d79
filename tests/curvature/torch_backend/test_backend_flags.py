"""The kernels that networks are evaluated with compute what torch's own do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from fisher_cli.curvature.torch_backend.backend_flags import reproducible_kernels


class Names(TorchDispatchMode):
    """The operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def attend(layer: nn.MultiheadAttention, q: Tensor, k: Tensor, v: Tensor, **given: Any) -> tuple[Tensor, ...]:
    """The output, and the gradients of its squares with respect to inputs and parameters."""
    output, _ = layer(q, k, v, **given)
    wanted = [q, *([] if k is q else [k]), *([] if v is k else [v]), *layer.parameters()]
    return output, *torch.autograd.grad(output.square().sum(), wanted)


@pytest.mark.parametrize("kind", ["self", "encoder-decoder", "three inputs"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_is_that_of_torch(kind: str, batch_first: bool, bias: bool, need_weights: bool) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, bias=bias, batch_first=batch_first, dtype=torch.float64)
    one, two, three = (torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    k = one if kind == "self" else two
    inputs = one, k, three if kind == "three inputs" else k
    expected = attend(layer, *inputs, need_weights=need_weights)
    before = functional._in_projection_packed
    with reproducible_kernels():
        found = attend(layer, *inputs, need_weights=need_weights)
    assert functional._in_projection_packed is before
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_going_back_through_self_attention_adds_up_no_zeros() -> None:
    layer = nn.MultiheadAttention(8, 2)
    x = torch.randn(3, 5, 8, requires_grad=True)
    with reproducible_kernels():
        output, _ = layer(x, x, x, need_weights=False)
    with Names() as names:
        torch.autograd.grad(output.sum(), x)
    assert "cat" in names.seen
    assert not {"select_backward", "zeros", "zeros_like", "new_zeros"} & set(names.seen)
