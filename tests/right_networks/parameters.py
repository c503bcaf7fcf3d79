"""Weights that are made of parameters: normalised, tied, generated, updated, chosen, looked up."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from tests.cases import Case, classes, normal

VECTORS, WIDTH = normal(4, 5), 4


def ids(*shape: int, count: int = 6):
    return lambda: torch.randint(0, count, shape)


def row(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def weight_normed_by_hooks() -> nn.Module:
    """torch's older weight norm, which computes the weight in a hook before forward."""
    return row(
        nn.utils.weight_norm(nn.Linear(5, WIDTH)), nn.Tanh(), nn.utils.weight_norm(nn.Linear(WIDTH, 3), dim=None)
    )


def weight_normed() -> nn.Module:
    convolution = parametrizations.weight_norm(nn.Conv1d(1, 3, 3))
    return row(
        nn.Unflatten(1, (1, 5)), convolution, nn.Tanh(), nn.Flatten(), parametrizations.weight_norm(nn.Linear(9, 3))
    )


def spectral_normed() -> nn.Module:
    return row(parametrizations.spectral_norm(nn.Linear(5, WIDTH)), nn.Tanh(), nn.Linear(WIDTH, 3))


def spectral_normed_by_hooks() -> nn.Module:
    return row(nn.utils.spectral_norm(nn.Linear(5, WIDTH)), nn.Tanh(), nn.Linear(WIDTH, 3))


def orthogonal() -> nn.Module:
    middle = parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH), orthogonal_map="cayley")
    return row(nn.Linear(5, WIDTH), nn.Tanh(), middle, nn.Tanh(), nn.Linear(WIDTH, 3))


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def symmetric() -> nn.Module:
    middle = nn.Linear(WIDTH, WIDTH)
    parametrize.register_parametrization(middle, "weight", Symmetric())
    return row(nn.Linear(5, WIDTH), nn.Tanh(), middle, nn.Tanh(), nn.Linear(WIDTH, 3))


class Standardised(nn.Conv1d):
    """Weight standardisation: the kernel is centred and scaled at every call."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2), keepdim=True)
        weight = weight / (weight.std((1, 2), keepdim=True) + 1e-3)
        return functional.conv1d(x, weight, self.bias)


class LowRank(nn.Module):
    """A frozen layer with a trainable update of rank two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(5, WIDTH).requires_grad_(False), nn.Linear(WIDTH, 3)
        self.down, self.up = nn.Linear(5, 2, bias=False), nn.Linear(2, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(x) + 0.5 * self.up(self.down(x))))


class Hypernetwork(nn.Module):
    """A network makes the weights of another from the example."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.bias, self.head = (
            nn.Linear(5, 5 * WIDTH),
            nn.Parameter(torch.randn(WIDTH)),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        weights = self.maker(torch.tanh(x)).view(len(x), WIDTH, 5)
        return self.head(torch.tanh(torch.baddbmm(self.bias.view(1, -1, 1), weights, x.unsqueeze(2))[:, :, 0]))


class SharedMaker(nn.Module):
    """A vector of parameters makes all weights of a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.maker, self.head = nn.Parameter(torch.randn(3)), nn.Linear(3, 5 * WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(functional.linear(x, self.maker(self.code).view(WIDTH, 5))))


class Kronecker(nn.Module):
    """A weight that is the Kronecker product of two."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(2, 1)), nn.Parameter(torch.randn(2, 5))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(x @ torch.kron(self.left, self.right).T))


class TiedBackwards(nn.Module):
    """An autoencoder whose decoder is the encoder's transpose, with a head on the code and the error."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH + 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(self.encoder(x))
        return self.head(torch.cat([code, (functional.linear(code, self.encoder.weight.T) - x) ** 2], 1))


class TiedConvolutions(nn.Module):
    """One kernel in a convolution and in the transposed one."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.head = nn.Parameter(0.5 * torch.randn(3, 2, 3, 3)), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(functional.conv2d(x, self.kernel, padding=1))
        return self.head(torch.tanh(functional.conv_transpose2d(x, self.kernel, padding=1)).mean((2, 3)))


class MultipliedInPlace(nn.Module):
    """z *= g and z += b, with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.gain, self.shift = nn.Parameter(torch.rand(WIDTH) + 0.5), nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        z *= self.gain
        z += self.shift
        return self.head(torch.tanh(z))


class Divided(nn.Module):
    """Temperatures: divided by one parameter, raised to another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.temperature, self.power = nn.Parameter(torch.tensor(1.3)), nn.Parameter(torch.tensor(1.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.first(x)) ** self.power) / self.temperature


class Cosine(nn.Module):
    """A head of cosines: features and weights are normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head, self.scale = (
            nn.Linear(5, WIDTH),
            nn.Linear(WIDTH, 3, bias=False),
            nn.Parameter(torch.ones(())),
        )

    def forward(self, x: Tensor) -> Tensor:
        z = functional.normalize(torch.tanh(self.first(x)))
        return self.scale.exp() * functional.linear(z, functional.normalize(self.head.weight))


class Prototypes(nn.Module):
    """Distances to parameters in place of a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.prototypes = nn.Linear(5, WIDTH), nn.Parameter(torch.randn(3, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(torch.tanh(self.first(x)), self.prototypes).square()


class SoftExperts(nn.Module):
    """All experts, weighted by a router; their weights are one stacked tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts, self.head = (
            nn.Linear(5, 3),
            nn.Parameter(torch.randn(3, 5, WIDTH)),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        made = torch.tanh(torch.einsum("bi,eio->beo", x, self.experts))
        return self.head(torch.einsum("be,beo->bo", self.router(x).softmax(1), made))


class TopExpert(nn.Module):
    """The expert with the largest gate, its weights picked by index from a stacked tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts, self.head = (
            nn.Linear(5, 3),
            nn.Parameter(torch.randn(3, 5, WIDTH)),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate, chosen = self.router(x).softmax(1).max(1)
        made = torch.bmm(x.unsqueeze(1), self.experts[chosen])[:, 0]
        return self.head(torch.tanh(made) * gate.unsqueeze(1))


class TopTwo(nn.Module):
    """Two of three experts for every example: those who want an expert are picked out and added back."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(5, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(5, WIDTH), nn.GELU()) for _ in range(3))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.router(x).topk(2, 1)
        gates = gates.softmax(1)
        made = x.new_zeros(len(x), WIDTH)
        for index, expert in enumerate(self.experts):
            rows, places = (chosen == index).nonzero(as_tuple=True)
            made = made.index_add(0, rows, expert(x[rows]) * gates[rows, places].unsqueeze(1))
        return self.head(made)


class Bag(nn.Module):
    """An embedding bag of five ids for each example."""

    def __init__(self, mode: str, *, padded: bool = False, sparse: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(6, WIDTH, mode=mode, padding_idx=0 if padded else None, sparse=sparse)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bag(x)))


class WeightedBag(nn.Module):
    """A bag whose ids are weighted, by another embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.weights, self.head = (
            nn.EmbeddingBag(6, WIDTH, mode="sum"),
            nn.Embedding(6, 1),
            nn.Linear(WIDTH, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bag(x, per_sample_weights=self.weights(x)[..., 0])))


class OffsetBag(nn.Module):
    """Bags of different lengths, all ids in a row with offsets; zeros are left out."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(6, WIDTH, mode=mode), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        kept = x != 0
        lengths = kept.sum(1)
        return self.head(torch.tanh(self.bag(x[kept], lengths.cumsum(0) - lengths)))


class Lookup(nn.Module):
    """A table of parameters, indexed and gathered; positions relative to each other."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.distances = nn.Parameter(torch.randn(6, WIDTH)), nn.Parameter(torch.randn(9))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.table[x]
        steps = torch.arange(x.shape[1], device=x.device)
        bias = self.distances[steps.unsqueeze(0) - steps.unsqueeze(1) + 4]
        return self.head((torch.softmax(z @ z.transpose(1, 2) + bias, 2) @ z).mean(1))


class Pair(nn.Module):
    """A bilinear form of two halves of the example."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = nn.Bilinear(2, 3, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.pair(x[:, :2].contiguous(), x[:, 2:].contiguous())))


CASES = [
    Case("weight norm by hooks", weight_normed_by_hooks, VECTORS, classes(3, 4)),
    Case("weight norm", weight_normed, VECTORS, classes(3, 4)),
    Case("spectral norm", spectral_normed, VECTORS, classes(3, 4)),
    Case("spectral norm by hooks", spectral_normed_by_hooks, VECTORS, classes(3, 4)),
    Case("orthogonal weight", orthogonal, VECTORS, classes(3, 4)),
    Case("symmetric weight", symmetric, VECTORS, classes(3, 4)),
    Case("weight standardisation", lambda: row(nn.Unflatten(1, (1, 5)), Standardised(1, 3, 3), nn.GroupNorm(1, 3),
                                               nn.ReLU(), nn.Flatten(), nn.Linear(9, 3)), VECTORS, classes(3, 4)),
    Case("low-rank update of a frozen layer", LowRank, VECTORS, classes(3, 4)),
    Case("hypernetwork", Hypernetwork, VECTORS, classes(3, 4)),
    Case("weights made from a vector", SharedMaker, VECTORS, classes(3, 4)),
    Case("Kronecker product", Kronecker, VECTORS, classes(3, 4)),
    Case("tied autoencoder", TiedBackwards, VECTORS, classes(3, 4)),
    Case("tied convolutions", TiedConvolutions, normal(4, 2, 4, 4), classes(3, 4)),
    Case("products in place", MultipliedInPlace, VECTORS, classes(3, 4)),
    Case("temperature and power", Divided, VECTORS, classes(3, 4)),
    Case("cosine head", Cosine, VECTORS, classes(3, 4)),
    Case("prototypes", Prototypes, VECTORS, classes(3, 4)),
    Case("soft mixture of experts", SoftExperts, VECTORS, classes(3, 4)),
    Case("one expert by index", TopExpert, VECTORS, classes(3, 4)),
    Case("two experts of three", TopTwo, VECTORS, classes(3, 4)),
    *(Case(f"embedding bag, {mode}", lambda mode=mode: Bag(mode), ids(4, 5), classes(3, 4))
      for mode in ("sum", "mean", "max")),
    Case("embedding bag, padded", lambda: Bag("mean", padded=True), ids(4, 5), classes(3, 4)),
    Case("embedding bag, sparse", lambda: Bag("sum", sparse=True), ids(4, 5), classes(3, 4)),
    Case("embedding bag, weighted", WeightedBag, ids(4, 5), classes(3, 4)),
    *(Case(f"embedding bag with offsets, {mode}", lambda mode=mode: OffsetBag(mode), ids(4, 5), classes(3, 4))
      for mode in ("sum", "mean")),
    Case("indexed table and relative positions", Lookup, ids(4, 5), classes(3, 4)),
    Case("bilinear form", Pair, VECTORS, classes(3, 4)),
]  # fmt: skip
