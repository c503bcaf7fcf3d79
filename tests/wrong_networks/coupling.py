"""Coupled forward passes: what comes out for an example depends on the others, on their number or on earlier calls."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tests.wrong_networks.networks import (
    BATCH_SIZES,
    CLASSES,
    EXAMPLES,
    FEATURES,
    WIDTH,
    Change,
    Net,
    Network,
    Verdict,
    a_single_one,
    changed,
    data,
    shuffled,
)

KIND = "coupled forward pass"
FAR = 1.5  # only examples of the last batch have a first feature above


def normalised(z: Tensor, _: Tensor) -> Tensor:
    """Batch norm by the batch's own statistics."""
    return (z - z.mean(0)) / (z.std(0, unbiased=False) + 1e-2)


def centred(share: float) -> Change:
    return lambda z, _: z - share * z.mean(0)


def against_the_others(z: Tensor, _: Tensor) -> Tensor:
    """A softmax over the batch, as in contrastive losses."""
    return z + torch.softmax(z @ z.T, 1) @ z


def sorted_across(z: Tensor, _: Tensor) -> Tensor:
    return torch.cat([z[:, :1].sort(0).values, z[:, 1:]], 1)


def with_capacity(z: Tensor, _: Tensor) -> Tensor:
    """Of those who want the expert the first three get it."""
    wanted = z[:, 0] > 0
    served = wanted & (wanted.cumsum(0) <= 3)
    return torch.where(served.unsqueeze(1), torch.sin(3 * z), z)


def summed_so_far(z: Tensor, _: Tensor) -> Tensor:
    return z + 0.01 * z.cumsum(0)


def mixed(*rows: int) -> Change:
    """Each of these examples of a batch takes a tenth of the one before."""

    def change(z: Tensor, _: Tensor) -> Tensor:
        chosen = torch.zeros(len(z), 1).to(z)
        chosen[[row % len(z) for row in rows if -len(z) < row < len(z)]] = 0.1
        return z + chosen * z.roll(1, 0)

    return change


def mixed_where_far(z: Tensor, x: Tensor) -> Tensor:
    """Examples whose first feature is large take a tenth of the batch's mean."""
    return torch.where(x[:, :1] > FAR, z + 0.1 * z.mean(0), z)


def all_where_one_is_far(z: Tensor, x: Tensor) -> Tensor:
    """One large first feature changes every example of the batch."""
    return z + (0.1 * z.mean(0) if bool((x[:, 0] > FAR).any()) else 0)


def first_of_the_far(z: Tensor, x: Tensor) -> Tensor:
    """First come, first served: the first example with a large feature is treated in another way."""
    far = x[:, 0] > FAR
    return torch.where((far & (far.cumsum(0) == 1)).unsqueeze(1), 1.1 * z, z)


def most(z: Tensor, _: Tensor) -> Tensor:
    """Divided by the largest of the batch."""
    return z / z.abs().amax()


def quantised(z: Tensor, _: Tensor) -> Tensor:
    """Rounded on a scale that the batch gives, as in dynamic quantisation."""
    scale = z.detach().abs().amax() / 127
    return z + ((z / scale).round() * scale - z).detach()


def by_number(z: Tensor, _: Tensor) -> Tensor:
    return z * (1 + 0.01 / len(z))


def more_for_one(z: Tensor, _: Tensor) -> Tensor:
    """A batch of one takes another way."""
    return z if len(z) > 1 else 1.01 * z


def padded(z: Tensor, x: Tensor) -> Tensor:
    """Divided by the longest of the batch."""
    return z / (x.abs() > 0.5).sum(1).amax()


class Exit(nn.Module):
    """Early exit: the rest is not computed where all of a batch are sure already."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.exit = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.second, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        early = self.exit(4 * z)
        if bool((early.softmax(1).amax(1) > 0.5).all()):
            return early
        return early + self.head(torch.tanh(self.second(z)))


class Counting(Net):
    """Every call is a little different."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.calls, self.step = 0, step

    def middle(self, z: Tensor) -> Tensor:
        self.calls += 1
        return z * (1 + self.step * self.calls)


class Alternating(Net):
    """Every other call takes another way."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def middle(self, z: Tensor) -> Tensor:
        self.calls += 1
        return z if self.calls % 2 else 1.1 * z


class Warming(Net):
    """The first two calls are different, as of a network that warms up."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def middle(self, z: Tensor) -> Tensor:
        self.calls += 1
        return 1.1 * z if self.calls <= 2 else z


class Running(Net):
    """Running statistics that go on in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(WIDTH))

    def middle(self, z: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * z.detach().mean(0))
        return z - self.mean


class Largest(Net):
    """Remembers the largest value so far."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: Tensor
        self.register_buffer("largest", torch.zeros(()))

    def middle(self, z: Tensor) -> Tensor:
        self.largest.copy_(torch.maximum(self.largest, z.detach().amax()))
        return z / (1 + self.largest)


class Previous(Net):
    """Takes a tenth of the last batch's mean."""

    previous: Tensor | None = None

    def middle(self, z: Tensor) -> Tensor:
        before, self.previous = self.previous, z.detach().mean(0)
        return z if before is None else z + 0.1 * before.to(z)


class Stateful(nn.Module):
    """A recurrent layer whose last state is the next call's first one."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, CLASSES)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        state = self.state if self.state is not None and self.state.shape[1] == len(x) else None
        out, last = self.recurrent(x.reshape(len(x), 3, 2), None if state is None else state.to(x))
        self.state = last.detach()
        return self.head(out[:, -1])


class AcrossTheBatch(nn.Module):
    """A recurrent layer over (batch, features): the examples are taken for the steps of one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(FEATURES, 4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0])


class AttendingAcross(nn.Module):
    """Attention with the batch where its layer expects positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(2, 4), nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x.reshape(len(x), 3, 2))
        return self.head((z + self.attention(z, z, z, need_weights=False)[0]).mean(1))


class WholeBatch(nn.Module):
    """Batch norm without running statistics, over positions of one example at least."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(FEATURES, WIDTH), nn.BatchNorm1d(2, track_running_stats=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.norm(self.first(x).unflatten(1, (2, 4)))).flatten(1))


def own_features(z: Tensor, x: Tensor) -> Tensor:
    """Sorted, summed and centred inside each example: no coupling."""
    return z.sort(1).values + z.cumsum(1) - z.mean(1, keepdim=True) + x[:, :1]


def flipped_twice(z: Tensor, _: Tensor) -> Tensor:
    return torch.sin(z.flip(0)).flip(0)


def coupled(
    name: str,
    build: Callable[[], nn.Module],
    must_be: Verdict = "refused",
    source: Callable[[], tuple[Tensor, Tensor]] = data,
) -> Network:
    return Network(name, KIND, build, must_be, data=source, batch_sizes=BATCH_SIZES)


MIDDLE = EXAMPLES // 2

NETWORKS = [
    coupled("the batch's own statistics", changed("middle", normalised)),
    coupled("batch norm without running statistics", WholeBatch),
    coupled("centred by the batch", changed("middle", centred(1.0))),
    coupled("centred a little", changed("middle", centred(3e-4))),
    coupled("centred a little, in the logits", changed("late", centred(1e-3))),
    coupled("centred by a detached mean", changed("late", lambda z, _: z - 0.1 * z.mean(0).detach())),
    coupled("a softmax over the batch", changed("middle", against_the_others)),
    coupled("sorted across the batch", changed("middle", sorted_across)),
    coupled("an expert with a capacity", changed("middle", with_capacity)),
    coupled("a sum over the batch so far", changed("middle", summed_so_far)),
    coupled("divided by the largest of the batch", changed("middle", most)),
    coupled("rounded on the batch's scale", changed("middle", quantised)),
    coupled("divided by the longest of the batch", changed("middle", padded)),
    coupled("a summand that depends on the number", changed("middle", by_number)),
    coupled("another way for a batch of one", changed("middle", more_for_one)),
    coupled("the first two of a batch mixed", changed("middle", mixed(1))),
    coupled("the middle of a batch mixed", changed("middle", mixed(2, MIDDLE))),
    coupled("the last two of a batch mixed", changed("middle", mixed(-1))),
    coupled("the last but two of a batch mixed", changed("middle", mixed(-3))),
    coupled("large examples take the mean, in the last batch", changed("middle", mixed_where_far)),
    coupled("large examples take the mean, anywhere", changed("middle", mixed_where_far), source=shuffled),
    coupled("a large example changes its batch, the last", changed("middle", all_where_one_is_far)),
    coupled("a large example changes its batch, any", changed("middle", all_where_one_is_far), source=shuffled),
    coupled("first come, first served, in the last batch", changed("middle", first_of_the_far)),
    coupled("first come, first served, anywhere", changed("middle", first_of_the_far), source=shuffled),
    coupled("early exit of the whole batch", Exit),
    coupled("early exit of the whole batch, shuffled", Exit, source=shuffled),
    coupled("counts its calls", lambda: Counting(0.01)),
    coupled("counts its calls, by little", lambda: Counting(1e-5)),
    coupled("every other call is different", Alternating),
    coupled("the first two calls are different", Warming),
    coupled("running statistics that go on", Running),
    coupled("divided by the largest so far", Largest),
    coupled("the mean of the batch before", Previous),
    coupled("a recurrent state kept between calls", Stateful),
    coupled("a recurrent layer over the batch", AcrossTheBatch),
    coupled("attention over the batch", AttendingAcross),
    # With one example there is no company, and the number is that of no other batch.
    Network("a single example, centred by the batch", KIND, changed("middle", centred(0.1)), data=a_single_one),
    Network("a single example, the number of examples", KIND, changed("middle", by_number), data=a_single_one),
    Network("a single example, counting", KIND, lambda: Counting(0.01), data=a_single_one),
    # No coupling.
    coupled("sorted and summed inside each example", changed("middle", own_features), "right"),
    coupled("a batch that is turned round and back", changed("middle", flipped_twice), "right"),
]
