"""The networks of the benchmark, with seeded random weights, and the examples they are measured on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, resnet18

from fisher_cli.inputs.digits_networks import digits_cnn

CLASSES = 10


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
        return self.relu2(residual + x)


class ResNet20(nn.Module):
    """The ResNet-20 for 32 × 32 images of He et al. 2015 (arXiv:1512.03385, section 4.2), option A; P = 269,722."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = _stage(16, 16, stride=1)
        self.layer2 = _stage(16, 32, stride=2)
        self.layer3 = _stage(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.flatten(self.pool(x)))


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    later = (_Block(channels_out, channels_out, 1) for _ in range(2))
    return nn.Sequential(_Block(channels_in, channels_out, stride), *later)


def mlp() -> nn.Module:
    layers = nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, CLASSES)
    return nn.Sequential(*layers)


def cifar_resnet18() -> nn.Module:
    model = resnet18(num_classes=CLASSES)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def small_vit() -> nn.Module:
    model = VisionTransformer(
        image_size=32, patch_size=4, num_layers=4, num_heads=4, hidden_dim=128, mlp_dim=256, num_classes=CLASSES
    )
    # torchvision starts with a head of zeros, whose Fisher is zero in all other layers.
    nn.init.normal_(model.heads.head.weight, std=128**-0.5)
    return model


@dataclass(frozen=True)
class Case:
    """A network and its examples; `batch` is how many of them every method but ours is given at once."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    examples: int
    batch: int

    def network(self, weights: Path | None) -> nn.Module:
        """The network in evaluation mode with its seeded or loaded weights."""
        torch.manual_seed(0)
        model = self.build()
        if weights is not None and isinstance(model, ResNet20):
            model.load_state_dict(_state_dict(weights))
        return model.eval()

    def data(self, examples: int) -> tuple[Tensor, Tensor]:
        """Standard normal inputs and uniform labels; fewer examples are the first of many."""
        generator = torch.Generator().manual_seed(1)
        inputs = torch.randn(self.examples, *self.shape, generator=generator)
        labels = torch.randint(CLASSES, (self.examples,), generator=generator)
        return inputs[:examples], labels[:examples]


def _state_dict(path: Path) -> dict[str, Tensor]:
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        loaded = loaded.get(key, loaded)
    return {name.removeprefix("module."): value for name, value in loaded.items()}


CASES = (
    Case("mlp", mlp, (784,), examples=256, batch=256),
    Case("digits-cnn", digits_cnn, (1, 8, 8), examples=256, batch=256),
    Case("resnet20", ResNet20, (3, 32, 32), examples=256, batch=32),
    Case("resnet18", cifar_resnet18, (3, 32, 32), examples=32, batch=8),
    Case("vit", small_vit, (3, 32, 32), examples=64, batch=16),
)
