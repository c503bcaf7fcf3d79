"""Networks with layers whose derivative is not that of what they compute."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Change = Callable[[Tensor], Tensor]


def multiplied(factor: float) -> Change:
    """The identity whose backward multiplies by a factor."""

    class Multiplied(torch.autograd.Function):
        @staticmethod
        def forward(_: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_: object, gradient: Tensor) -> Tensor:
            return factor * gradient

    return Multiplied.apply


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        return 2 * x


def hooked(x: Tensor) -> Tensor:
    x = x.clone()
    if x.requires_grad:
        x.register_hook(lambda gradient: 1.001 * gradient)
    return x


class Between(nn.Module):
    """A function as a layer."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x)


class Stages(nn.Module):
    """Convolution, something between, max pooling, a hidden layer and a head."""

    def __init__(self, between: Change, behind: Change = lambda z: z) -> None:
        super().__init__()
        self.convolution, self.hidden, self.head = nn.Conv2d(1, 3, 3), nn.Linear(12, 6), nn.Linear(6, 4)
        self.between, self.behind = between, behind

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.between(self.convolution(x))), 2).flatten(1)
        return self.behind(self.head(functional.gelu(self.hidden(x))))


FIRST = {"convolution.weight", "convolution.bias"}
ALL = FIRST | {"hidden.weight", "hidden.bias", "head.weight", "head.bias"}
WRONG: dict[str, tuple[Change, Change, set[str]]] = {
    **{f"times {f}": (multiplied(f), lambda z: z, FIRST) for f in (1.001, 0.999, 1.01, 1.3, -1.0, 0.0)},
    "detached": (lambda x: x.detach(), lambda z: z, FIRST),
    "partly detached": (lambda x: x + 0.05 * torch.tanh(3 * x).detach(), lambda z: z, FIRST),
    "without gradients": (without_gradients, lambda z: z, FIRST),
    "rounded straight through": (lambda x: x + ((8 * x).round() / 8 - x).detach(), lambda z: z, FIRST),
    "hooked": (hooked, lambda z: z, FIRST),
    "at the outputs": (lambda x: x, multiplied(1.01), ALL),
    "of the last example": (lambda x: x, lambda z: torch.cat([z[:-1], multiplied(0.5)(z[-1:])]), ALL),
    "of one channel": (lambda x: torch.cat([x[:, :2], multiplied(1.05)(x[:, 2:])], 1), lambda z: z, FIRST),
    "in float32": (lambda x: multiplied(1.3)(x).float().double(), lambda z: z, FIRST),
    "of a share of 1e-14": (lambda x: x * 0 + 1e-7 * x.detach(), lambda z: z, FIRST),
}


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(5)).double()
