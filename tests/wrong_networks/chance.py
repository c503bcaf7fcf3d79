"""Random forward passes: two evaluations of the same examples differ, or would have differed."""

import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.wrong_networks.networks import (
    BATCH_SIZES,
    CLASSES,
    WIDTH,
    Change,
    Net,
    Network,
    Verdict,
    a_single_one,
    changed,
    shuffled,
)

KIND = "random forward pass"
SEEDS = 3


def dropped(p: float) -> Change:
    return lambda z, _: functional.dropout(z, p, training=True)


def depth_of_the_batch(p: float) -> Change:
    """Stochastic depth: a branch is left out for all examples at once."""
    return lambda z, _: z + torch.tanh(2 * z) if float(torch.rand(())) >= p else z


def depth_by_example(p: float) -> Change:
    """Stochastic depth: a branch is left out example by example."""

    def change(z: Tensor, _: Tensor) -> Tensor:
        kept = (torch.rand(len(z), 1) >= p).to(z)
        return z + kept / (1 - p) * torch.tanh(2 * z)

    return change


def noise(scale: float) -> Change:
    return lambda z, _: z + scale * torch.randn_like(z)


def noise_where_large(z: Tensor, x: Tensor) -> Tensor:
    """Noise only in batches with an example whose first feature is large."""
    large = x[:, :1] > 1.5
    return torch.where(large, z + 0.01 * torch.randn_like(z), z) if bool(large.any()) else z


def noise_for_one(z: Tensor, x: Tensor) -> Tensor:
    """Drawn by numpy for the example alone whose first feature is the largest there is."""
    rows = [index for index, value in enumerate(x[:, 0].tolist()) if value > 2.99]
    for row in rows:
        z = torch.cat([z[:row], z[row : row + 1] + np.random.normal(0, 0.01), z[row + 1 :]])
    return z


def by_python(z: Tensor, _: Tensor) -> Tensor:
    return z + torch.tanh(2 * z) if random.random() >= 0.3 else z


def rarely_by_python(z: Tensor, _: Tensor) -> Tensor:
    return z + torch.tanh(2 * z) if random.random() >= 0.02 else z


def by_numpy(z: Tensor, _: Tensor) -> Tensor:
    return z + torch.from_numpy(np.random.normal(0, 1e-3, tuple(z.shape))).to(z)


def features_permuted(z: Tensor, _: Tensor) -> Tensor:
    return z[:, torch.randperm(z.shape[1])]


def two_swapped(z: Tensor, _: Tensor) -> Tensor:
    """The order of the channels, or with the last two exchanged."""
    order = torch.arange(z.shape[1])
    if float(torch.rand(())) < 0.2:
        order[-2:] = order[-2:].flip(0)
    return z[:, order]


def examples_permuted(z: Tensor, _: Tensor) -> Tensor:
    return z + 0.01 * z[torch.randperm(len(z))]


def sampled_gate(z: Tensor, _: Tensor) -> Tensor:
    return z * torch.bernoulli(torch.sigmoid(3 * z.detach()))


def gumbel(z: Tensor, _: Tensor) -> Tensor:
    return z * functional.gumbel_softmax(z, tau=1.0)


def leaky(z: Tensor, _: Tensor) -> Tensor:
    return functional.rrelu(z, training=True)


def reparameterised(z: Tensor, _: Tensor) -> Tensor:
    """A variational bottleneck: mean plus deviation times noise."""
    mean, deviation = z[:, :4], functional.softplus(z[:, 4:] - 4)
    return torch.cat([mean + deviation * torch.randn_like(mean), mean], 1)


class OwnGenerator(Net):
    """Noise from a generator of its own, which the global one says nothing of."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.generator, self.scale = torch.Generator().manual_seed(3), scale

    def middle(self, z: Tensor) -> Tensor:
        return z + self.scale * torch.randn(z.shape, generator=self.generator).to(z)


class OwnNumpyGenerator(Net):
    """Stochastic depth from numpy's new kind of generator."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.generator, self.p = np.random.default_rng(5), p

    def middle(self, z: Tensor) -> Tensor:
        return z + torch.tanh(2 * z) if self.generator.random() >= self.p else z


class FixedGenerator(Net):
    """Random features, the same ones every time: no chance at all."""

    def middle(self, z: Tensor) -> Tensor:
        return z @ torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)).to(z)


class Shuffling(Net):
    """Examples are shuffled and put back, which changes nothing but the random state."""

    def middle(self, z: Tensor) -> Tensor:
        order = torch.randperm(len(z))
        return torch.sin(z[order])[order.argsort()]


class Cropped(nn.Module):
    """A random crop of the image, by at most one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        row, column = torch.randint(0, 2, (2,)).tolist()
        image = (x.unsqueeze(2) * x.unsqueeze(1)).unsqueeze(1)[:, :, row : row + 5, column : column + 5]
        return self.head(torch.tanh(self.convolution(image)).mean((2, 3)))


class ChannelsDropped(nn.Module):
    """Dropout of whole channels, whose module is put into training mode inside forward."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3, CLASSES)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, x: Tensor) -> Tensor:
        self.dropout.train()
        image = (x.unsqueeze(2) * x.unsqueeze(1)).unsqueeze(1)
        return self.head(self.dropout(torch.tanh(self.convolution(image))).mean((2, 3)))


class AttentionDropped(nn.Module):
    """Dropout of attention's weights left on, as in a network whose dropout is an argument and not a module."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.project, self.head = nn.Linear(2, 4), nn.Linear(4, 12), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(self.embed(x.reshape(len(x), 3, 2))).chunk(3, -1)
        return self.head(functional.scaled_dot_product_attention(q, k, v, dropout_p=0.1).mean(1))


def drawn(name: str, build: Callable[[], nn.Module], must_be: Verdict = "refused") -> Network:
    return Network(name, KIND, build, must_be, batch_sizes=BATCH_SIZES, seeds=SEEDS)


NETWORKS = [
    *(drawn(f"dropout of {p:g} left on", changed("middle", dropped(p))) for p in (0.5, 0.1, 1e-4)),
    drawn("dropout of the logits left on", changed("late", dropped(0.1))),
    *(
        drawn(f"stochastic depth of {p:g}, whole batches", changed("middle", depth_of_the_batch(p)))
        for p in (0.2, 0.05, 0.02)
    ),
    *(
        drawn(f"stochastic depth of {p:g}, by example", changed("middle", depth_by_example(p)))
        for p in (0.2, 0.05, 0.02)
    ),
    *(drawn(f"normal noise of {scale:g}", changed("middle", noise(scale))) for scale in (0.1, 1e-2, 1e-3, 1e-4, 1e-5)),
    drawn("normal noise in the logits", changed("late", noise(1e-3))),
    drawn("features in a random order", changed("middle", features_permuted)),
    drawn("two channels exchanged by chance", changed("middle", two_swapped)),
    drawn("a little of another example, by chance", changed("middle", examples_permuted)),
    drawn("a gate that is sampled", changed("middle", sampled_gate)),
    drawn("Gumbel's softmax", changed("middle", gumbel)),
    drawn("a rectifier with random slopes", changed("middle", leaky)),
    drawn("a variational bottleneck", changed("middle", reparameterised)),
    drawn("a branch that Python draws", changed("middle", by_python)),
    drawn("a branch that Python draws, seldom left out", changed("middle", rarely_by_python)),
    drawn("noise that numpy draws", changed("middle", by_numpy)),
    drawn("noise from a generator of its own", lambda: OwnGenerator(1e-3)),
    drawn("depth from numpy's generator of its own", lambda: OwnNumpyGenerator(0.3)),
    drawn("a random crop", Cropped),
    drawn("dropout of channels", ChannelsDropped),
    drawn("dropout inside attention", AttentionDropped),
    drawn("noise where the first feature is large, in the last batch", changed("middle", noise_where_large)),
    Network("noise where the first feature is large, anywhere", KIND, changed("middle", noise_where_large),
            data=shuffled, batch_sizes=BATCH_SIZES, seeds=SEEDS),
    drawn("noise for the last example alone", changed("middle", noise_for_one)),
    Network("dropout of a single example", KIND, changed("middle", dropped(0.1)), data=a_single_one, seeds=SEEDS),
    # No chance, or chance that cancels.
    Network("random features, always the same", KIND, FixedGenerator, "right", batch_sizes=BATCH_SIZES),
    Network("shuffled and put back", KIND, Shuffling, "right or refused", batch_sizes=BATCH_SIZES, seeds=SEEDS,
            precision="float64"),
    Network("dropout of a module that is off", KIND, lambda: nn.Sequential(nn.Dropout(0.3), Net()), "right"),
]  # fmt: skip
