"""Random small networks over all layer kinds and likelihoods, with inputs and labels."""

import random

import torch
from torch import Tensor, nn

from tests.cases import unsettle


class Residual(nn.Module):
    """x + f(x), in place half of the time."""

    def __init__(self, inner: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = inner, in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.in_place:
            y += x
            return y
        return x + y


class Scaled(nn.Module):
    """γ ∘ f(x) + β with bare parameters over the last dimension, or one per channel."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = inner
        self.gamma, self.beta = nn.Parameter(torch.rand(shape) + 0.5), nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.gamma + self.beta


class Twice(nn.Module):
    """One layer, used twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.tanh(self.inner(x)))


class SelfAttention(nn.Module):
    def __init__(self, width: int, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.attention = nn.MultiheadAttention(width, 2, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.attention(x, x, x, need_weights=False)[0]
        return y if self.batch_first else y.transpose(0, 1)


class ClassToken(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)


class Mean(nn.Module):
    def __init__(self, *dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dimensions)


def activation(choose: random.Random) -> nn.Module:
    return choose.choice([nn.ReLU(inplace=True), nn.ReLU(), nn.GELU(), nn.Tanh(), nn.SiLU(), nn.PReLU()])


def spatial(choose: random.Random, dimensions: int) -> tuple[nn.Sequential, int]:
    """Convolutions of all kinds, norms and activations on (2, 6, …); the network and its channels."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    up = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimensions]
    batch = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    instance = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions]
    layers: list[nn.Module] = []
    channels = 2
    strides = iter(choose.sample([1, 2, 1], 3))  # one stride of two, so that norms over positions have some
    for _ in range(choose.randint(1, 3)):
        groups = choose.choice([1, 1, 2])
        wider = choose.choice([2, 4])
        mode = choose.choice(["zeros", "zeros", "circular", "replicate"])
        kind = choose.randrange(4)
        if kind == 0:
            layers.append(
                conv(channels, wider, 3, stride=next(strides), padding=1, groups=groups, padding_mode=mode,
                     bias=choose.random() < 0.7)
            )  # fmt: skip
        elif kind == 1:
            layers.append(
                conv(channels, wider, choose.choice([1, 2, 3]), padding="same", dilation=choose.choice([1, 2]))
            )
        elif kind == 2:
            layers.append(conv(channels, channels, 3, padding=1, groups=channels))
            wider = channels
        else:
            layers.append(
                up(channels, wider, 3, stride=2, padding=1, output_padding=choose.choice([0, 1]), groups=groups)
            )
            layers.append({1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}[dimensions](2))
        channels = wider
        norm = choose.choice([None, batch(channels), nn.GroupNorm(choose.choice([1, 2]), channels),
                              instance(channels, affine=True), batch(channels, affine=False)])  # fmt: skip
        layers += [layer for layer in (norm, activation(choose)) if layer is not None]
        if choose.random() < 0.4:
            layers.append(Residual(conv(channels, channels, 3, padding=1), choose.random() < 0.5))
        if choose.random() < 0.3:
            layers.append(Scaled(nn.Identity(), (channels, *(1,) * dimensions)))
    layers.append(Mean(*range(2, 2 + dimensions)))
    return nn.Sequential(*layers), channels


def tokens(choose: random.Random) -> tuple[nn.Sequential, int]:
    """Embedding, attention, norms, reused and scaled layers on three ids."""
    width = 4
    layers: list[nn.Module] = [nn.Embedding(5, width, padding_idx=choose.choice([None, 0]))]
    if choose.random() < 0.5:
        layers.append(ClassToken(width))
    for _ in range(choose.randint(1, 3)):
        layers.append(
            choose.choice(
                [
                    nn.LayerNorm(width, bias=choose.random() < 0.5),
                    nn.RMSNorm(width),
                    nn.Linear(width, width),
                    Twice(nn.Linear(width, width, bias=choose.random() < 0.5)),
                    SelfAttention(width, batch_first=choose.random() < 0.5),
                    nn.TransformerEncoderLayer(width, 2, 6, batch_first=True, norm_first=choose.random() < 0.5),
                    Scaled(nn.Linear(width, width), (width,)),
                    Residual(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width)), choose.random() < 0.5),
                ]
            )
        )
        if choose.random() < 0.5:
            layers.append(activation(choose))
    layers.append(Mean(1))
    return nn.Sequential(*layers), width


def network(choose: random.Random, seed: int) -> tuple[nn.Module, Tensor, Tensor, str]:
    """Network, inputs, labels and likelihood; `seed` is that of the numbers in them."""
    torch.manual_seed(seed)
    examples = choose.choice([3, 5, 8])
    kind = choose.choice(["line", "image", "image", "cube", "tokens", "tokens"])
    if kind == "tokens":
        body, width = tokens(choose)
        inputs = torch.randint(0, 5, (examples, 3))
    else:
        dimensions = {"line": 1, "image": 2, "cube": 3}[kind]
        body, width = spatial(choose, dimensions)
        inputs = torch.randn(examples, 2, *(9 if dimensions < 3 else 6,) * dimensions)
    outputs, likelihood = choose.choice([(3, "softmax"), (4, "softmax"), (2, "softmax"), (1, "sigmoid"), (3, "sigmoid"),
                                         (2, "gaussian")])  # fmt: skip
    head = nn.Sequential(nn.Linear(width, 5), nn.Tanh(), nn.Linear(5, outputs))
    model = nn.Sequential(body, choose.choice([head, nn.Linear(width, outputs)]))
    unsettle(model)
    return model.eval(), inputs, torch.randint(0, max(2, outputs), (examples,)), likelihood
