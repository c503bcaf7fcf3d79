"""Where the examples lie: in an order that depends on them, in another dimension, or folded; all of these are right.

The first batch is made so that it looks simpler than the later ones: in order already, or without a gradient.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.wrong_networks.networks import BATCH, BATCH_SIZES, CLASSES, EXAMPLES, FEATURES, WIDTH, Network

KIND = "data-dependent layout"


def in_order_first() -> tuple[Tensor, Tensor]:
    """In the first batch the first feature grows, later it does not."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(EXAMPLES, FEATURES, generator=generator)
    inputs[:BATCH, 0] = torch.arange(float(BATCH))
    return inputs, torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)


def of_one_kind_first() -> tuple[Tensor, Tensor]:
    """In the first batch all first features are negative, later they are mixed."""
    inputs, labels = in_order_first()
    inputs[:BATCH, 0] = -inputs[:BATCH, 0] - 0.1
    return inputs, labels


def frames(steps: int, quiet: int = BATCH) -> tuple[Tensor, Tensor]:
    """(N, steps, 4): the first feature of the first step is negative in the first batch and positive later."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(EXAMPLES, steps, 4, generator=generator)
    inputs[:, 0, 0] = inputs[:, 0, 0].abs() + 0.1
    inputs[:quiet, 0, 0] *= -1
    return inputs, torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)


class Ordered(nn.Module):
    """A layer in the middle sees the examples in an order of the data; they are put back behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def put_back(self, z: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        z = self.put_back(torch.tanh(self.second(self.ordered(z, x))), x)
        return self.head(z)


class ByPython(Ordered):
    """A list that Python sorts, stacked."""

    def order(self, x: Tensor) -> list[int]:
        return sorted(range(len(x)), key=x[:, 0].tolist().__getitem__)

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.stack([z[index] for index in self.order(x)])

    def put_back(self, z: Tensor, x: Tensor) -> Tensor:
        order = self.order(x)
        return torch.stack([z[order.index(index)] for index in range(len(x))])


class InputsByPython(ByPython):
    """The inputs themselves are sorted by Python, before any layer."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.second(torch.tanh(self.first(self.ordered(x, x)))))
        return self.head(self.put_back(z, x))


class ByConcatenation(ByPython):
    """Slices of one example, put together in Python's order."""

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.cat([z[index : index + 1] for index in self.order(x)])


class ByIndex(Ordered):
    """Indexed by argsort."""

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        return z[x[:, 0].argsort()]

    def put_back(self, z: Tensor, x: Tensor) -> Tensor:
        return z[x[:, 0].argsort().argsort()]


class ByGather(Ordered):
    """Gathered and scattered."""

    def order(self, z: Tensor, x: Tensor) -> Tensor:
        return x[:, 0].argsort().unsqueeze(1).expand_as(z)

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        return z.gather(0, self.order(z, x))

    def put_back(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(z).scatter(0, self.order(z, x), z)


class ByProduct(Ordered):
    """A permutation matrix, multiplied."""

    def matrix(self, x: Tensor) -> Tensor:
        return functional.one_hot(x[:, 0].argsort(), len(x)).to(x)

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        return self.matrix(x) @ z

    def put_back(self, z: Tensor, x: Tensor) -> Tensor:
        return self.matrix(x).T @ z


class ByDispatch(Ordered):
    """Two experts with places, filled through einsum, as mixtures of experts do; nobody is turned away."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        expert = functional.one_hot((x[:, 0] > 0).long(), 2).to(z)
        place = functional.one_hot((expert.cumsum(0) * expert).sum(1).long() - 1, len(x)).to(z)
        dispatch = torch.einsum("be,bp->bep", expert, place)
        given = torch.einsum("bep,bd->epd", dispatch, z)
        made = torch.stack([torch.tanh(self.second(given[0])), torch.tanh(self.other(given[1]))])
        return self.head(torch.einsum("bep,epd->bd", dispatch, made))


class ByMask(Ordered):
    """Two experts take their examples by a mask, and both parts are written back."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        z, chosen = torch.tanh(self.first(x)), x[:, 0] > 0
        made = torch.zeros_like(z)
        made[chosen], made[~chosen] = torch.tanh(self.second(z[chosen])), torch.tanh(self.other(z[~chosen]))
        return self.head(made)


class HalvesExchanged(Ordered):
    """Positive examples first, the others behind: two parts of a size that the data give."""

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        chosen = x[:, 0] > 0
        return torch.cat([z[chosen], z[~chosen]])

    def put_back(self, z: Tensor, x: Tensor) -> Tensor:
        chosen = x[:, 0] > 0
        return z[torch.cat([chosen.nonzero(), (~chosen).nonzero()]).flatten().argsort()]


class TurnedRound(Ordered):
    """Turned round where the first example of the batch is positive."""

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        return z.flip(0) if bool(x[0, 0] > 0) else z

    def put_back(self, z: Tensor, x: Tensor) -> Tensor:
        return self.ordered(z, x)


class Rotated(Ordered):
    """Rolled by as many places as the first example says."""

    def shift(self, x: Tensor) -> int:
        return int(x[0, 0].abs() * 3)

    def ordered(self, z: Tensor, x: Tensor) -> Tensor:
        return z.roll(self.shift(x), 0)

    def put_back(self, z: Tensor, x: Tensor) -> Tensor:
        return z.roll(-self.shift(x), 0)


class TimeFirst(nn.Module):
    """A layer over (time, batch, features) whose part of the outputs is gated, or behind a ReLU."""

    def __init__(self, steps: int, gate: str) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.steps, self.gate = steps, gate

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        weights = torch.linspace(1, 2, self.steps).to(z).view(-1, 1, 1)
        pooled = (torch.tanh(self.second(z.transpose(0, 1))) * weights).sum(0)
        if self.gate == "switched":
            part = pooled * (x[:, 0, :1] > 0).to(z)
        elif self.gate == "dead":
            part = torch.relu(pooled + 40 * x[:, 0, :1])
        else:
            part = pooled
        return self.head(z.mean(1) + part)


class TimeFirstFolded(nn.Module):
    """(time · batch, features), folded with time in front, and gated off in the first batch."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        z = torch.tanh(self.first(x))
        folded = torch.tanh(self.second(z.transpose(0, 1).reshape(self.steps * n, 5))).reshape(self.steps, n, 5)
        weights = torch.linspace(1, 2, self.steps).to(z).view(-1, 1, 1)
        return self.head(z.mean(1) + (folded * weights).sum(0) * (x[:, 0, :1] > 0).to(z))


class TimeFirstEncoder(nn.Module):
    """torch's transformer layer as it is by default, time first, behind a ReLU that is dead in the first batch."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.project, self.head, self.aside = nn.Linear(4, 4), nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0)
        self.weights = nn.Parameter(torch.rand(steps, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.project(x.transpose(0, 1))
        pooled = (self.layer(z) * self.weights).sum(0)
        return self.aside(z.mean(0)) + self.head(torch.relu(pooled + 40 * x[:, 0, :1]))


class TimeFirstRecurrent(nn.Module):
    """A recurrent layer, time first, whose states go on through a convolution over time."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.convolution = nn.GRU(4, 4), nn.Conv1d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states = self.recurrent(x.transpose(0, 1))[0]
        z = torch.tanh(self.convolution(states.permute(1, 2, 0)))
        return self.head((z * (x[:, 0, :1] > 0).to(z).unsqueeze(2)).sum(2) + states[-1])


class OneBranchOff(nn.Module):
    """A whole branch whose gradient is zero in the first batch; its positions are folded behind the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        folded = torch.tanh(self.second(z.reshape(-1, 5))).reshape(z.shape)
        weights = torch.linspace(1, 2, x.shape[1]).to(z).view(1, -1, 1)
        return self.head(z.mean(1) + torch.relu((folded * weights).sum(1) + 40 * x[:, 0, :1]))


def ordered(name: str, build: type[nn.Module], *, by_kind: bool = False) -> Network:
    return Network(name, KIND, build, "right", data=of_one_kind_first if by_kind else in_order_first,
                   batch_sizes=BATCH_SIZES, precision="float64")  # fmt: skip


def timed(steps: int, name: str) -> Network:
    """Steps as many as a batch, or twice as many, or as many as there are examples."""
    return Network(f"time first, {steps} steps, {name} in the first batch", KIND, lambda: TimeFirst(steps, name),
                   "right", data=lambda: frames(steps), batch_sizes=BATCH_SIZES, precision="float64")  # fmt: skip


NETWORKS = [
    ordered("stacked in Python's order", ByPython),
    ordered("inputs stacked in Python's order", InputsByPython),
    ordered("concatenated in Python's order", ByConcatenation),
    ordered("indexed by argsort", ByIndex),
    ordered("gathered and scattered", ByGather),
    ordered("permuted by a matrix", ByProduct),
    ordered("dispatched by einsum", ByDispatch, by_kind=True),
    ordered("dispatched by a mask", ByMask, by_kind=True),
    ordered("the positive ones in front", HalvesExchanged, by_kind=True),
    ordered("turned round where the first is positive", TurnedRound, by_kind=True),
    ordered("rolled by what the first example says", Rotated),
    *(timed(steps, gate) for steps in (4, 8, 12) for gate in ("switched", "dead")),
    timed(4, "open"),
    Network("time first and folded, 4 steps, switched", KIND, lambda: TimeFirstFolded(4), "right",
            data=lambda: frames(4), batch_sizes=BATCH_SIZES, precision="float64"),
    Network("time first and folded, 8 steps, switched", KIND, lambda: TimeFirstFolded(8), "right",
            data=lambda: frames(8), batch_sizes=BATCH_SIZES, precision="float64"),
    Network("a transformer layer, time first, 4 steps, dead", KIND, lambda: TimeFirstEncoder(4), "right",
            data=lambda: frames(4), batch_sizes=BATCH_SIZES, precision="float64"),
    Network("a recurrent layer, time first, 4 steps, switched", KIND, TimeFirstRecurrent, "right",
            data=lambda: frames(4), batch_sizes=BATCH_SIZES, precision="float64"),
    Network("positions behind the examples, 4 steps, dead", KIND, OneBranchOff, "right",
            data=lambda: frames(4), batch_sizes=BATCH_SIZES, precision="float64"),
    Network("time first, dead for all but the last examples", KIND, lambda: TimeFirst(4, "dead"), "right",
            data=lambda: frames(4, quiet=10), batch_sizes=BATCH_SIZES, precision="float64"),
]  # fmt: skip
