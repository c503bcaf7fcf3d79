"""Complex, half and cached states: what the network holds besides its parameters, and what precision makes of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.wrong_networks.networks import BATCH_SIZES, CLASSES, FEATURES, WIDTH, Net, Network, changed

KIND = "state"


def turned(z: Tensor, by: Tensor) -> Tensor:
    """Pairs of features, turned in the plane."""
    return torch.view_as_real(torch.view_as_complex(z.reshape(len(z), -1, 2)) * by).flatten(1)


class Rotary(Net):
    """Angles in a complex buffer, which checkpoints do or do not hold."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.angles: Tensor
        self.register_buffer("angles", torch.polar(torch.ones(4), torch.tensor([0.3, 1, 2, 2.9])), persistent)

    def early(self, z: Tensor) -> Tensor:
        return turned(z, self.angles)


class FrozenComplex(Net):
    """A frozen parameter that is complex."""

    def __init__(self) -> None:
        super().__init__()
        self.angles = nn.Parameter(torch.polar(torch.ones(4), torch.rand(4) * 3), requires_grad=False)

    def early(self, z: Tensor) -> Tensor:
        return turned(z, self.angles)


class Spectral(Net):
    """A fixed complex filter over the features' Fourier transform."""

    def __init__(self) -> None:
        super().__init__()
        self.filter: Tensor
        self.register_buffer("filter", torch.randn(WIDTH // 2 + 1, dtype=torch.complex64))

    def middle(self, z: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(z) * self.filter, WIDTH)


class InsideModule(Net):
    """A complex buffer in a module of the network's, beside a real one."""

    class Turn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phase: Tensor
            self.register_buffer("phase", torch.exp(1j * torch.arange(4.0)))

        def forward(self, z: Tensor) -> Tensor:
            return turned(z, self.phase)

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.norm = InsideModule.Turn(), nn.BatchNorm1d(WIDTH)

    def early(self, z: Tensor) -> Tensor:
        return self.norm(self.turn(z))


class FineTable(Net):
    """A buffer in float64 whose last digits count: float32 cannot tell its values apart."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Tensor
        self.register_buffer("times", 1e9 + torch.arange(WIDTH, dtype=torch.float64) / 4)

    def middle(self, z: Tensor) -> Tensor:
        return z * torch.sin(self.times - 1e9).to(z)


class ByPrecision(Net):
    """Another network in float64 than in float32."""

    def middle(self, z: Tensor) -> Tensor:
        return torch.sin(3 * z) if z.dtype is torch.float64 else z


class ByWeightsPrecision(Net):
    """A way that only float32 weights take, as to a fast kernel."""

    def middle(self, z: Tensor) -> Tensor:
        return z if self.second.weight.dtype is torch.float32 else 0.9 * z


class ByMode(Net):
    """Another network while gradients are recorded."""

    def middle(self, z: Tensor) -> Tensor:
        return torch.sin(3 * z) if torch.is_grad_enabled() else z


class Half(Net):
    """Its middle layer works in half precision."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.half_type = dtype

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x)).to(self.half_type)
        z = functional.linear(z, self.second.weight.to(self.half_type), self.second.bias.to(self.half_type))
        return self.head(torch.tanh(z.to(x)))


class HalfInput(Net):
    """Inputs are rounded to half precision on their way in, which no parameter notices."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.half().to(x))


class SinglePrecision(Net):
    """Its middle layer works in float32 whatever the rest is in."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x)).float()
        z = functional.linear(z, self.second.weight.float(), self.second.bias.float())
        return self.head(torch.tanh(z.to(x)))


class Mixed(nn.Module):
    """Stored in half precision: the first layer in float16, the others in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.first.half()

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.to(self.first.weight.dtype))
        return self.head(torch.tanh(z.to(self.head.weight.dtype)))


class Cached(Net):
    """Keeps the second layer's weight times its scale once it is in evaluation mode."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(WIDTH, 1) + 0.5)
        self.kept = kept
        self.cache: Tensor | None = None

    def train(self, mode: bool = True) -> "Cached":
        super().train(mode)
        self.cache = None if mode or not self.kept else (self.scale * self.second.weight).detach()
        return self

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scale * self.second.weight if self.cache is None else self.cache.to(x)
        return self.head(torch.tanh(functional.linear(torch.tanh(self.first(x)), weight, self.second.bias)))


class CachedLater(Cached):
    """Keeps it at the first call in evaluation mode, whichever that is."""

    def train(self, mode: bool = True) -> "CachedLater":
        nn.Module.train(self, mode)
        self.cache = None
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.kept and not self.training and self.cache is None:
            self.cache = self.scale * self.second.weight
        return super().forward(x)


class Merged(Net):
    """A low-rank update that is added to the weight in evaluation mode, and taken away again in training mode."""

    def __init__(self, merges: bool) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(WIDTH, 2)), nn.Parameter(torch.randn(2, WIDTH))
        self.merges, self.is_merged = merges, False

    def train(self, mode: bool = True) -> "Merged":
        super().train(mode)
        if self.merges and self.is_merged == mode:
            with torch.no_grad():
                self.second.weight += (-1 if mode else 1) * self.up @ self.down
            self.is_merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        update = 0 if self.is_merged else functional.linear(functional.linear(z, self.down), self.up)
        return self.head(torch.tanh(self.second(z) + update))


class Counted(Net):
    """Counts its calls in a buffer, and nothing else comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def middle(self, z: Tensor) -> Tensor:
        self.calls += 1
        return z


class Watched(Net):
    """Keeps the activations' mean in place, for somebody who looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(WIDTH))

    def middle(self, z: Tensor) -> Tensor:
        self.seen.mul_(0.9).add_(0.1 * z.detach().mean(0))
        return z


class Scratch(Net):
    """Writes its activations into a buffer in place, and goes on with what it reads there."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch: Tensor
        self.register_buffer("scratch", torch.zeros(32, WIDTH), persistent=False)

    def middle(self, z: Tensor) -> Tensor:
        self.scratch[: len(z)] = z.detach()
        return z + self.scratch[: len(z)].square().sum(1, keepdim=True) * 0.1


def as_it_would_be(z: Tensor, _: Tensor) -> Tensor:
    return z + z.square().sum(1, keepdim=True) * 0.1


def right(name: str, build: type[nn.Module]) -> Network:
    return Network(name, KIND, build, "right", precision="float64", batch_sizes=BATCH_SIZES)


NETWORKS = [
    *(
        Network(f"a complex buffer, {where} checkpoints", KIND, lambda kept=kept: Rotary(persistent=kept), "right",
                precision="float64", batch_sizes=BATCH_SIZES)
        for where, kept in (("in", True), ("not in", False))
    ),
    right("a frozen complex parameter", FrozenComplex),
    right("a complex filter", Spectral),
    right("a complex buffer in a module", InsideModule),
    right("a float64 buffer whose last digits count", FineTable),
    right("a counter in a buffer", Counted),
    right("a mean in a buffer that nothing depends on", Watched),
    right("inputs rounded to half precision", HalfInput),
    Network("weights partly in half precision", KIND, Mixed, "right or refused", precision="float64"),
    Network("another network in float64", KIND, ByPrecision, precision="float64"),
    Network("another network for float32 weights", KIND, ByWeightsPrecision, precision="float64"),
    Network("another network with gradients", KIND, ByMode, batch_sizes=BATCH_SIZES),
    # A layer in half precision may be off by its rounding, 2⁻⁸ in bfloat16, and no more.
    *(
        Network(f"a layer in {dtype}", KIND, lambda dtype=dtype: Half(dtype), "right or refused", twin=Net,
                precision="float64", tolerance=tolerance)
        for dtype, tolerance in ((torch.float16, 5e-3), (torch.bfloat16, 4e-2))
    ),
    Network("a layer in float32", KIND, SinglePrecision, "right or refused", twin=Net, precision="float64",
            tolerance=1e-5),
    Network("a weight kept in evaluation mode", KIND, lambda: Cached(kept=True), "right or refused",
            twin=lambda: Cached(kept=False), precision="float64"),
    Network("a weight kept at the first call", KIND, lambda: CachedLater(kept=True), "right or refused",
            twin=lambda: CachedLater(kept=False), precision="float64", batch_sizes=BATCH_SIZES),
    Network("a low-rank update merged in evaluation mode", KIND, lambda: Merged(merges=True), "right or refused",
            twin=lambda: Merged(merges=False), precision="float64"),
    Network("activations read back from a buffer", KIND, Scratch, batch_sizes=BATCH_SIZES,
            twin=changed("middle", as_it_would_be)),
]  # fmt: skip
