"""Parts that autograd does not see: the outputs depend on a parameter, and its derivative says that they do not."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.wrong_networks.networks import CLASSES, FEATURES, WIDTH, Change, Net, Network, Place, changed

KIND = "detached part"


def without_gradient(z: Tensor) -> Tensor:
    with torch.no_grad():
        return z * 1.0


def through_numpy(z: Tensor) -> Tensor:
    return torch.from_numpy(z.detach().cpu().numpy().copy()).to(z)


class Detached(nn.Module):
    """A network with a switch: with it a part is detached, without it the function is the same, derived rightly."""

    def __init__(self, is_detached: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.is_detached = is_detached

    def cut(self, z: Tensor) -> Tensor:
        return z.detach() if self.is_detached else z

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Weight(Detached):
    """The second layer's weight is used detached, its bias is not."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        return self.head(torch.tanh(functional.linear(z, self.cut(self.second.weight), self.second.bias)))


class Bias(Detached):
    """The head's bias is used detached."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.second(torch.tanh(self.first(x))))
        return functional.linear(z, self.head.weight, self.cut(self.head.bias))


class Once(Detached):
    """A layer that is used twice, once detached."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(torch.tanh(functional.linear(z, self.cut(self.second.weight), self.cut(self.second.bias))))


class Statistics(Detached):
    """A norm over the features whose mean and deviation are detached."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        mean, deviation = z.mean(1, keepdim=True), z.std(1, keepdim=True)
        return self.head(torch.tanh(self.second((z - self.cut(mean)) / self.cut(deviation))))


class Weights(Detached):
    """Attention over three pieces of the example whose weights are detached."""

    def forward(self, x: Tensor) -> Tensor:
        pieces = torch.stack([torch.tanh(self.first(x.roll(shift, 1))) for shift in range(3)], 1)
        weights = self.cut(torch.softmax((self.second(pieces) * pieces).sum(2), 1))
        return self.head((weights.unsqueeze(2) * pieces).sum(1))


class Gate(Detached):
    """A gate whose second factor is detached."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.head(z * self.cut(torch.sigmoid(self.second(torch.tanh(z)))))


class Example(Detached):
    """Detached for the examples of the last batch alone."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        return self.head(torch.tanh(self.second(torch.where(x[:, :1] > 1.5, self.cut(z), z))))


class Step(Detached):
    """The first of two recurrent steps is detached, as in truncated backpropagation."""

    def forward(self, x: Tensor) -> Tensor:
        state = torch.tanh(self.first(x))
        state = self.cut(torch.tanh(self.second(state)))
        return self.head(torch.tanh(self.second(state) + self.first(x.flip(1))))


class Scalar(nn.Module):
    """A parameter that is taken as a Python number."""

    def __init__(self, is_detached: bool) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.temperature = nn.Parameter(torch.tensor(1.7))
        self.is_detached = is_detached

    def forward(self, x: Tensor) -> Tensor:
        temperature = float(self.temperature.detach()) if self.is_detached else self.temperature
        return self.head(torch.tanh(self.first(x))) / temperature


class Length(nn.Module):
    """Divided by a length that is taken from a detached copy."""

    def __init__(self, is_detached: bool) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.is_detached = is_detached

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        length = z.norm(dim=1, keepdim=True)
        return self.head(torch.tanh(3 * z / (length.data if self.is_detached else length)))


class Backbone(nn.Module):
    """A backbone in a block without gradients, whose parameters are trainable all the same."""

    def __init__(self, is_detached: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(FEATURES, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, CLASSES)
        self.is_detached = is_detached

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_detached):
            z = self.backbone(x)
        return self.head(z)


class Frozen(Net):
    """The second layer is frozen, which is no fault."""

    def __init__(self) -> None:
        super().__init__()
        self.second.requires_grad_(False)


class Copied(Net):
    """A frozen copy of the first layer made when the network was, which is no fault."""

    def __init__(self) -> None:
        super().__init__()
        self.target = copy.deepcopy(self.first).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = torch.tanh(self.target(x))
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)) * target)))


def cut(name: str, change: Change, place: Place = "middle") -> Network:
    return Network(name, KIND, changed(place, change), twin=changed(place, lambda z, _: z))


def partly(name: str, whole: Callable[[Tensor], Tensor], weight: float) -> Network:
    """z + w·f(z), of which the second summand is detached."""
    return Network(
        name,
        KIND,
        changed("middle", lambda z, _: z + weight * whole(z).detach()),
        twin=changed("middle", lambda z, _: z + weight * whole(z)),
    )


def switched(name: str, make: Callable[[bool], nn.Module]) -> Network:
    return Network(name, KIND, lambda: make(True), twin=lambda: make(False))


NETWORKS = [
    cut("detach", lambda z, _: z.detach()),
    cut("detach of the first layer's outputs", lambda z, _: z.detach(), "early"),
    cut("a block without gradients", lambda z, _: without_gradient(z)),
    cut("the data of a tensor", lambda z, _: z.data),
    cut("a tensor made anew from a list", lambda z, _: torch.tensor(z.tolist(), dtype=z.dtype)),
    cut("a detached copy", lambda z, _: torch.empty_like(z).copy_(z.detach())),
    cut("through numpy and back", lambda z, _: through_numpy(z)),
    cut("half of the channels detached", lambda z, _: torch.cat([z[:, :4], z[:, 4:].detach()], 1)),
    cut("one channel detached", lambda z, _: torch.cat([z[:, :7], z[:, 7:].detach()], 1)),
    cut("one of the logits detached", lambda z, _: torch.cat([z[:, :2], z[:, 2:].detach()], 1), "late"),
    partly("a twentieth detached", lambda z: torch.tanh(3 * z), 0.05),
    partly("a thousandth detached", lambda z: torch.tanh(3 * z), 1e-3),
    partly("a summand detached", torch.sin, 1.0),
    switched("a weight detached", Weight),
    switched("a bias detached", Bias),
    switched("a layer used twice, once detached", Once),
    switched("a norm's statistics detached", Statistics),
    switched("attention's weights detached", Weights),
    switched("a gate detached", Gate),
    switched("detached in the last batch", Example),
    switched("a recurrent step detached", Step),
    switched("a parameter taken as a number", Scalar),
    switched("a length taken from the data", Length),
    switched("a trainable backbone without gradients", Backbone),
    # The right derivative of what is rounded is zero almost everywhere: its twin has it.
    Network("straight-through rounding", KIND, changed("middle", lambda z, _: z + ((4 * z).round() / 4 - z).detach()),
            twin=changed("middle", lambda z, _: (4 * z).round() / 4)),
    Network("straight-through signs", KIND, changed("middle", lambda z, _: z + (z.sign() - z).detach()),
            twin=changed("middle", lambda z, _: z.sign())),
    Network("a straight-through choice", KIND, changed("middle", lambda z, _: z + (_hardest(z) - z).detach()),
            twin=changed("middle", lambda z, _: _hardest(z))),
    # No faults.
    Network("a frozen layer", KIND, Frozen, "right"),
    Network("a frozen copy without gradients", KIND, Copied, "right"),
    Network("a detached constant of the example", KIND, changed("middle", lambda z, x: z * x[:, :1].sigmoid().detach()),
            "right"),
    Network("a mask of what is positive", KIND, changed("middle", lambda z, _: z * (z > 0).detach().to(z)), "right"),
]  # fmt: skip


def _hardest(z: Tensor) -> Tensor:
    return functional.one_hot(z.argmax(1), WIDTH).to(z)
