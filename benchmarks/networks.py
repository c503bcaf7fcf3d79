"""The networks of the benchmarks, their weights, and the examples they are measured on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm
from torchvision.models import VisionTransformer, resnet18

from fisher_cli.inputs.data.datasets import load_examples
from fisher_cli.inputs.networks.digits_networks import digits_cnn
from fisher_cli.settings import Resources, Settings

CLASSES = 10
VOCABULARY = 1000


class _Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut without parameters: every other position, missing channels zero."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.stride, self.missing = stride, channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self.missing:
            front = self.missing // 2
            padding = (0, 0, 0, 0, front, self.missing - front)
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], padding)
        summed: Tensor = self.relu2(residual + x)
        return summed


class ResNet20(nn.Module):
    """The ResNet-20 for 32 × 32 images of He et al. 2015 (arXiv:1512.03385, section 4.2), option A; P = 269,722."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, stride=1)
        self.layer2 = _stage(16, 32, stride=2)
        self.layer3 = _stage(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.flatten(self.pool(x)))
        return logits


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    later = (_Block(channels_out, channels_out, 1) for _ in range(2))
    return nn.Sequential(_Block(channels_in, channels_out, stride), *later)


def mlp(classes: int = CLASSES, width: int = 512) -> nn.Module:
    layers = nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    return nn.Sequential(*layers)


def cifar_resnet18() -> nn.Module:
    model: nn.Module = resnet18(num_classes=CLASSES)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def small_vit() -> nn.Module:
    model: nn.Module = VisionTransformer(
        image_size=32, patch_size=4, num_layers=4, num_heads=4, hidden_dim=128, mlp_dim=256, num_classes=CLASSES
    )
    # torchvision starts with a head of zeros, whose Fisher is zero in all other layers.
    nn.init.normal_(model.get_parameter("heads.head.weight"), std=128**-0.5)
    return model


class _Recurrent(nn.Module):
    """A recurrent layer whose last output is read; two layers in both directions where asked for."""

    def __init__(self, kind: type[nn.RNNBase], layers: int = 1) -> None:
        super().__init__()
        self.inner = kind(16, 32, num_layers=layers, bidirectional=layers > 1, batch_first=True)
        self.head = nn.Linear(64 if layers > 1 else 32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.inner(x)[0][:, -1])
        return logits


class _Bag(nn.Module):
    """The mean of rows of a table, and a small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.EmbeddingBag(VOCABULARY, 64)
        self.head = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, CLASSES))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.rows(ids))
        return logits


class _Indexed(nn.Module):
    """The same of a bare parameter that is indexed."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(VOCABULARY, 64))
        self.head = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, CLASSES))

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table[ids].mean(1))
        return logits


def lstm() -> nn.Module:
    return _Recurrent(nn.LSTM)


def gru() -> nn.Module:
    return _Recurrent(nn.GRU)


def bidirectional_lstm() -> nn.Module:
    return _Recurrent(nn.LSTM, layers=2)


def weight_normed_mlp() -> nn.Module:
    hidden = weight_norm(nn.Linear(64, 128)), nn.ReLU(), weight_norm(nn.Linear(128, 128)), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(128, CLASSES))


def weight_normed_cnn() -> nn.Module:
    channels, layers = [(1, 16, 1), (16, 32, 2), (32, 32, 1)], list[nn.Module]()
    for before, after, stride in channels:
        layers += [weight_norm(nn.Conv2d(before, after, 3, stride, padding=1)), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


@dataclass(frozen=True)
class Setting:
    """Which weights, None for seeded random ones, and which images, None for standard normal inputs.

    `images` and `normalize` are what fisher's options `--data` and `--normalize` take.
    """

    words: str = "random weights, standard normal inputs"
    weights: Path | None = None
    images: str | None = None
    normalize: str | None = None


@dataclass(frozen=True)
class Case:
    """A network and its examples; `batch` is how many of them every method but ours is given at once.

    `steps` is the length of the short training on the digits, 0 for a network that they are nothing for. With `ids` the
    inputs are whole numbers below that.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    examples: int
    batch: int
    steps: int = 0
    ids: int = 0

    def network(self, setting: Setting) -> nn.Module:
        """The network in evaluation mode."""
        torch.manual_seed(0)
        model = self.build()
        if setting.weights is not None:
            model.load_state_dict(_state_dict(setting.weights))
        return model.eval()

    def data(self, setting: Setting, examples: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels; fewer examples are the first of many."""
        if setting.images is not None:
            chosen = load_examples(
                Settings(data=setting.images, limit=self.examples, normalize=setting.normalize), Resources()
            )
            images, labels = chosen.batch(0, len(chosen))
            return fitted(images, self.shape)[:examples], labels[:examples]
        generator = torch.Generator().manual_seed(1)
        size = (self.examples, *self.shape)
        inputs = (
            torch.randint(self.ids, size, generator=generator) if self.ids else torch.randn(size, generator=generator)
        )
        labels = torch.randint(CLASSES, (self.examples,), generator=generator)
        return inputs[:examples], labels[:examples]


def fitted(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images (N, C, H, W) resized to an input shape, a single channel repeated, flattened where the input is flat."""
    channels, height, width = shape if len(shape) == 3 else (1, math.isqrt(shape[0]), math.isqrt(shape[0]))
    if images.shape[2:] != (height, width):
        images = functional.interpolate(images, (height, width), mode="bilinear", antialias=True)
    if images.shape[1] == 1:
        images = images.expand(-1, channels, -1, -1)
    return images.reshape(len(images), *shape)


def _state_dict(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        loaded = loaded.get(key, loaded)
    return {name.removeprefix("module."): value for name, value in loaded.items()}


CASES = (
    Case("mlp", mlp, (784,), examples=256, batch=256, steps=300),
    Case("digits-cnn", digits_cnn, (1, 8, 8), examples=256, batch=256, steps=300),
    Case("resnet20", ResNet20, (3, 32, 32), examples=256, batch=32, steps=150),
    Case("resnet18", cifar_resnet18, (3, 32, 32), examples=32, batch=8, steps=60),
    Case("vit", small_vit, (3, 32, 32), examples=64, batch=16, steps=200),
)
# One kind of layer each, for the benchmark of the engine alone.
LAYERS = (
    Case("lstm", lstm, (20, 16), examples=64, batch=32),
    Case("gru", gru, (20, 16), examples=64, batch=32),
    Case("bidirectional-lstm", bidirectional_lstm, (20, 16), examples=64, batch=32),
    Case("weight-norm-mlp", weight_normed_mlp, (64,), examples=64, batch=32),
    Case("weight-norm-cnn", weight_normed_cnn, (1, 8, 8), examples=64, batch=32),
    Case("embedding-bag", _Bag, (20,), examples=64, batch=32, ids=VOCABULARY),
    Case("indexed-embedding", _Indexed, (20,), examples=64, batch=32, ids=VOCABULARY),
)
LOADABLE = "resnet20"


def case_named(name: str) -> Case:
    return next(case for case in (*CASES, *LAYERS) if case.name == name)


def examples_of(case: Case, quick: int | None) -> int:
    """N, or fewer."""
    return min(case.examples, quick or case.examples)
