"""What all these networks share: how one is described, the data, and a small network to plant a fault in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tests.cases import hash_of

Verdict = Literal["refused", "right", "right or refused"]
EXAMPLES, FEATURES, WIDTH, CLASSES = 12, 6, 8, 3
# Three batches; None is all at once.
BATCH = 4
BATCH_SIZES = (None, BATCH, 1)


def data() -> tuple[Tensor, Tensor]:
    """Standard normal inputs; the first feature grows with the example, and that of the last batch is far above."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(EXAMPLES, FEATURES, generator=generator)
    inputs[:, 0] = torch.linspace(-1, 1, EXAMPLES)
    inputs[-BATCH:, 0] += 2
    return inputs, torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)


def shuffled() -> tuple[Tensor, Tensor]:
    """The same in another order, large first features included."""
    inputs, labels = data()
    order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(2))
    return inputs[order], labels[order]


def a_single_one() -> tuple[Tensor, Tensor]:
    """The first example alone."""
    inputs, labels = data()
    return inputs[:1], labels[:1]


@dataclass(frozen=True)
class Network:
    """One network with data: `name` says in a line what is wrong, or what looks wrong and is right.

    `twin` computes the same outputs from the same parameters with the right derivative: its numbers are the right
    ones, and those of a network without a twin are its own. `tolerance` is that of the numbers where it is right.
    """

    name: str
    kind: str
    build: Callable[[], nn.Module]
    must_be: Verdict = "refused"
    twin: Callable[[], nn.Module] | None = None
    data: Callable[[], tuple[Tensor, Tensor]] = data
    batch_sizes: tuple[int | None, ...] = (None,)
    seeds: int = 1
    precision: str = "float32"
    tolerance: float = 1e-8

    @property
    def rounds(self) -> list[tuple[int | None, int]]:
        """Batch sizes and seeds to try: all seeds with the first of the sizes, one with the others."""
        first, *others = self.batch_sizes
        return [(first, seed) for seed in range(self.seeds)] + [(size, 0) for size in others]

    @property
    def one_round(self) -> tuple[int | None, int]:
        """One of them, the same every time; over many networks all of them."""
        return self.rounds[hash_of(self.name) % len(self.rounds)]

    def make(self) -> nn.Module:
        """The network, with the same parameters every time."""
        return seeded(self.build)

    def right(self) -> nn.Module:
        """Whose numbers are the right ones."""
        return seeded(self.twin or self.build)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().eval()


class Net(nn.Module):
    """Three linear layers with tanh between them, with a place after each of them for what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def early(self, z: Tensor) -> Tensor:
        """Of the first layer's outputs."""
        return z

    def middle(self, z: Tensor) -> Tensor:
        """Of the activations between the first and the second layer."""
        return z

    def forward(self, x: Tensor) -> Tensor:
        z = self.middle(torch.tanh(self.early(self.first(x))))
        return self.head(torch.tanh(self.second(z)))


Change = Callable[[Tensor, Tensor], Tensor]
Place = Literal["early", "middle", "late"]


class Changed(Net):
    """The network with a function of the values and the inputs at a place: of the first layer's outputs, of the
    activations behind it, or of the logits."""

    def __init__(self, place: Place, change: Change) -> None:
        super().__init__()
        self.place, self.change = place, change

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        z = torch.tanh(self.change(z, x) if self.place == "early" else z)
        z = self.change(z, x) if self.place == "middle" else z
        z = self.head(torch.tanh(self.second(z)))
        return self.change(z, x) if self.place == "late" else z


def changed(place: Place, change: Change) -> Callable[[], nn.Module]:
    return lambda: Changed(place, change)
