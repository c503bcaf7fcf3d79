"""Networks × likelihoods × data that every estimator is tested on; all of them small, all seeded."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """In-place ReLU, in-place addition, a strided projection: where captured tensors go stale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(6)
        self.project = nn.Conv2d(4, 6, 1, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        y = self.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        y += self.project(x)
        y = self.relu(y)
        return self.head(y.mean((2, 3)))


class Grouped(nn.Module):
    """Grouped and depthwise convolutions, dilation, circular padding, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(2, 4, 3, padding=1)
        self.grouped = nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6, padding=2, dilation=2, padding_mode="circular")
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.wide(x))
        x = functional.relu(self.grouped(x))
        x = functional.relu(self.depthwise(x))
        return self.head(functional.relu(self.up(x)).amax((2, 3)))


class Sequence(nn.Module):
    """Embedding tied to the head, positions as a bare parameter, layer and RMS norm, a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8, padding_idx=0)
        self.position = nn.Parameter(torch.randn(4, 8))
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.once = nn.Linear(8, 6)
        self.rms = nn.RMSNorm(6)
        self.down = nn.Linear(6, 8, bias=False)
        self.unused = nn.Linear(3, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.position
        x = torch.tanh(self.mix(torch.tanh(self.mix(self.norm(x)))))
        x = self.down(self.rms(functional.gelu(self.once(x))))
        return functional.linear(x.mean(1), self.embed.weight) / 4


class Norms(nn.Module):
    """Group, instance and one-dimensional batch norm, one- and three-dimensional convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(2, 4, 3, padding="same", padding_mode="reflect")
        self.batch = nn.BatchNorm1d(4)
        self.group = nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm1d(4, affine=True)
        self.cube = nn.Conv3d(1, 3, (2, 3, 3), stride=(1, 2, 1), padding=(1, 0, 1))
        self.lift = nn.ConvTranspose1d(3, 2, 4, stride=3, padding=1, dilation=2)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.batch(self.line(x)))
        x = functional.silu(self.group(x))
        x = self.instance(x)
        x = functional.silu(self.cube(x.unflatten(2, (3, 3)).unsqueeze(1)))
        return self.head(torch.tanh(self.lift(x.flatten(2)[:, :, :6])).mean(2))


class Attention(nn.Module):
    """A transformer encoder layer with a class token: functional use of parameters inside a module."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8) * 0.5)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)
        return self.head(self.encoder(x)[:, 0])


class TimeFirst(nn.Module):
    """Works on (time, batch, features): the batch is not where a rule would look for it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x.transpose(0, 1))).mean(0))


class Normalised(nn.Module):
    """Convolution with a bias, batch norm, ReLU, two linear layers, for images (2, 5, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.hidden, self.head = nn.Linear(36, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.convolution(x))).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


@dataclass(frozen=True)
class Case:
    """A network with data; `likelihood` None means the automatic choice."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    labels: Callable[[], Tensor]
    likelihood: str = "softmax"

    def make(self, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
        """Seeded network in evaluation mode with non-trivial batch-norm statistics, inputs and labels."""
        torch.manual_seed(hash_of(self.name))
        model = self.build()
        unsettle(model)
        inputs, labels = self.inputs(), self.labels()
        if inputs.is_floating_point():
            inputs = inputs.to(dtype)
        return model.to(dtype).eval(), inputs, labels


def unsettle(model: nn.Module) -> None:
    """Give every batch norm statistics and an affine part that are not the initial ones."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.3)


def scaled_head(model: nn.Module, factor: float) -> nn.Module:
    """The last layer's weight and bias multiplied."""
    for parameter in list(model.parameters())[-2:]:
        parameter.data.mul_(factor)
    return model


def without_biases(model: nn.Module) -> nn.Module:
    """All biases at zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.zero_()
    return model


def hash_of(text: str) -> int:
    """A seed from a name; Python's own hash varies from run to run."""
    return sum(ord(letter) * 31**index for index, letter in enumerate(text)) % 2**31


def classes(count: int, examples: int = 6) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, count, (examples,))


def normal(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def positions() -> nn.Sequential:
    """Linear layers on four-dimensional inputs."""
    return nn.Sequential(mlp(4, 5, 3), nn.Flatten(), nn.Linear(18, 3))


def case_of(name: str) -> "Case":
    return next(case for case in CASES if case.name == name)


CASES = [
    Case("linear", lambda: nn.Linear(5, 3), normal(6, 5), classes(3)),
    Case("mlp", lambda: mlp(6, 8, 5, 4), normal(6, 6), classes(4)),
    Case("two classes", lambda: mlp(6, 8, 2), normal(6, 6), classes(2)),
    Case("one logit", lambda: mlp(6, 8, 1), normal(6, 6), classes(2), "sigmoid"),
    Case("many labels", lambda: mlp(6, 8, 3), normal(6, 6), lambda: torch.randint(0, 2, (6, 3)).double(), "sigmoid"),
    Case("regression", lambda: mlp(6, 8, 2), normal(6, 6), normal(6, 2), "gaussian"),
    Case("one-hot regression", lambda: mlp(6, 8, 3), normal(6, 6), classes(3), "gaussian"),
    Case("positions", positions, normal(6, 2, 3, 4), classes(3)),
    Case("residual", Residual, normal(6, 2, 6, 6), classes(4)),
    Case("grouped", Grouped, normal(6, 2, 6, 6), classes(3)),
    Case("norms", Norms, normal(6, 2, 9), classes(3)),
    Case("sequence", Sequence, lambda: torch.randint(0, 7, (6, 4)), classes(7)),
    Case("attention", Attention, normal(6, 3, 8), classes(3)),
    Case("time first", TimeFirst, normal(6, 3, 4), classes(3)),
]  # fmt: skip
