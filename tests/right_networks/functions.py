"""Functions inside forward: of images, of Fourier transforms, recomputed, compiled, differentiated, iterated."""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from tests.cases import Case, classes, normal

VECTORS, IMAGES, WIDTH = normal(4, 5), normal(4, 2, 4, 4), 4


class SpatialTransformer(nn.Module):
    """An affine map of the image that a layer chooses, then sampled between the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.locate, self.convolution, self.head = nn.Linear(32, 6), nn.Conv2d(2, 3, 3), nn.Linear(3, 3)
        nn.init.normal_(self.locate.weight, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.locate(x.flatten(1)).view(-1, 2, 3) + torch.eye(2, 3).to(x)
        grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
        x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return self.head(torch.tanh(self.convolution(x)).mean((2, 3)))


class Deformable(nn.Module):
    """Each tap of a kernel is sampled where a convolution says."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.mix, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        offsets = 0.1 * self.offsets(x).permute(0, 2, 3, 1)
        base = functional.affine_grid(torch.eye(2, 3).to(x).expand(len(x), 2, 3), list(x.shape), align_corners=False)
        taps = [
            functional.grid_sample(x, base + offsets[..., 2 * tap : 2 * tap + 2], align_corners=False)
            for tap in range(2)
        ]
        return self.head(torch.tanh(self.mix(torch.cat(taps, 1).permute(0, 2, 3, 1))).mean((1, 2)))


class Unfolded(nn.Module):
    """A convolution by unfold, a product and fold."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.head = nn.Linear(18, 8), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.unfold(x, 3, padding=1, stride=2).transpose(1, 2)
        made = torch.tanh(self.kernel(patches)).transpose(1, 2)
        return self.head(functional.fold(made, (4, 4), 2, stride=2).square().mean((2, 3)))


class Shuffled(nn.Module):
    """Channels become pixels, and pixels channels."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.pixel_shuffle(functional.gelu(self.up(x)), 2)
        return self.head(torch.tanh(self.down(functional.pixel_unshuffle(x, 2))).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Channels are scaled by what their means say."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.squeeze, self.excite, self.head = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.hardswish(self.norm(self.convolution(x)))
        scale = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.head((x * scale).mean((2, 3)))


class UNet(nn.Module):
    """Down and up again, with a connection across; upsampled between the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = (
            nn.Conv2d(2, 3, 3, padding=1),
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Conv2d(6, 2, 1),
        )
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        across = torch.relu(self.down(x))
        low = torch.relu(self.middle(functional.avg_pool2d(across, 2)))
        high = functional.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return self.head(torch.tanh(self.up(torch.cat([across, high], 1))).mean((2, 3)))


class Fourier(nn.Module):
    """A layer of complex factors over frequencies, its parameters real and imaginary parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.filter, self.head = nn.Linear(5, 6), nn.Parameter(torch.randn(4, 2)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        frequencies = torch.fft.rfft(torch.tanh(self.first(x)))
        return self.head(torch.fft.irfft(frequencies * torch.view_as_complex(self.filter), 6))


class FourierImages(nn.Module):
    """Token mixing by the real part of a two-dimensional transform, between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed(x.flatten(1, 2))
        return self.head(self.norm(z + torch.fft.fft2(z).real).mean(1))


class Recomputed(nn.Module):
    """A block whose activations are computed again on the way back."""

    def __init__(self, *, reentrant: bool = False) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU())
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        return self.head(z + checkpoint(self.block, z, use_reentrant=self.reentrant))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(5, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, 3))


class CompiledPart(nn.Module):
    """A function of a layer, compiled; the rest as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.function = torch.compile(lambda z: torch.tanh(z) * torch.sigmoid(z), backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.function(self.first(x)))


class HeadsByEinsum(nn.Module):
    """Attention of two heads written with einsum, its projections bare parameters, with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inwards = nn.Parameter(torch.randn(3, 4, 2, 2))
        self.outwards, self.head = nn.Parameter(torch.randn(2, 2, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1, 2)[:, :5]
        q, k, v = torch.einsum("btd,sdhe->sbhte", z, self.inwards)
        scores = torch.einsum("bhqe,bhke->bhqk", q, k) / 2**0.5
        mask = torch.ones(z.shape[1], z.shape[1]).triu(1).bool()
        weights = scores.masked_fill(mask, -torch.inf).softmax(-1)
        return self.head((z + torch.einsum("bhqk,bhke,hed->bqd", weights, v, self.outwards)).mean(1))


class MultiQuery(nn.Module):
    """Rotary positions, grouped queries, root-mean-square norm and a gated feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.query, self.both = nn.RMSNorm(4), nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.gate, self.up, self.down = (nn.Linear(4, 4, bias=False) for _ in range(3))
        self.head = nn.Linear(4, 3)

    def rotated(self, z: Tensor) -> Tensor:
        angles = torch.arange(z.shape[2]).to(z).unsqueeze(1)
        first, second = z.unbind(-1)
        turned = first * angles.cos().T - second * angles.sin().T, first * angles.sin().T + second * angles.cos().T
        return torch.stack(turned, -1)

    def forward(self, x: Tensor) -> Tensor:
        z = x.flatten(1, 2)
        given = self.norm(z)
        q = self.rotated(self.query(given).unflatten(2, (2, 2)).transpose(1, 2))
        k, v = (each.unsqueeze(1) for each in self.both(given).chunk(2, -1))
        mixed = functional.scaled_dot_product_attention(q, self.rotated(k).expand_as(q), v.expand_as(q), is_causal=True)
        z = z + mixed.transpose(1, 2).flatten(2)
        return self.head((z + self.down(functional.silu(self.gate(z)) * self.up(z))).mean(1))


class Equilibrium(nn.Module):
    """Some steps towards a fixed point, the same layer in each."""

    def __init__(self) -> None:
        super().__init__()
        self.inject, self.step, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        given, z = self.inject(x), x.new_zeros(len(x), WIDTH)
        for _ in range(6):
            z = torch.tanh(0.5 * self.step(z) + given)
        return self.head(z)


class Flow(nn.Module):
    """Steps of Euler's method through a field that depends on time."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        for step in range(4):
            x = x + 0.25 * torch.tanh(self.field(torch.cat([x, x.new_full((len(x), 1), step / 4)], 1)))
        return self.head(x)


class EnergyGradient(nn.Module):
    """Logits from the gradient of an energy with respect to the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.energy, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.energy(torch.tanh(self.inner(x))).sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=True)
        return self.head(force)


class FunctionalGradient(nn.Module):
    """The same by torch.func, one example at a time under vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.energy, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        def energy(one: Tensor) -> Tensor:
            return self.energy(torch.tanh(self.inner(one))).sum()

        return self.head(torch.func.vmap(torch.func.grad(energy))(x))


class Mapped(nn.Module):
    """A layer of single examples, mapped over the batch by vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.func.vmap(lambda one: torch.outer(torch.tanh(self.first(one)), one).sum(1))(x))


class OneByOne(nn.Module):
    """Convolutions of single images in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([torch.tanh(self.convolution(one)).mean((1, 2)) for one in x]))


class Graph(nn.Module):
    """Messages along the edges of one graph, gathered and summed at its nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.message, self.update, self.head = nn.Linear(4, 3), nn.Linear(5, 3), nn.Linear(3, 3)
        self.edges: Tensor
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 0, 4], [1, 2, 3, 0, 4, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        nodes = x.unflatten(1, (5, 2))
        source, target = self.edges
        messages = torch.tanh(self.message(torch.cat([nodes[:, source], nodes[:, target]], 2)))
        summed = nodes.new_zeros(len(x), 5, 3).index_add(1, target, messages)
        return self.head(torch.tanh(self.update(torch.cat([nodes, summed], 2))).amax(1))


class Scattered(nn.Module):
    """Values added to a histogram of bins that are read off the inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        bins = (x.detach().clamp(-1.9, 1.9) + 2).long()
        return self.head(x.new_zeros(len(x), 4).scatter_add(1, bins, torch.tanh(self.first(x))))


class Solved(nn.Module):
    """The solution of linear equations that the layers give, and a determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.right, self.head = nn.Linear(5, 4), nn.Linear(5, 2), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        matrix = 0.3 * self.matrix(x).view(-1, 2, 2) + torch.eye(2).to(x)
        solved = torch.linalg.solve(matrix, self.right(x))
        return self.head(torch.cat([solved, torch.linalg.slogdet(matrix).logabsdet.unsqueeze(1)], 1))


class Dictionary(nn.Module):
    """Logits beside other things in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = torch.tanh(self.first(x))
        return {"logits": self.head(features), "features": features}


CASES = [
    Case("spatial transformer", SpatialTransformer, IMAGES, classes(3, 4)),
    Case("deformable sampling", Deformable, IMAGES, classes(3, 4)),
    Case("unfold and fold", Unfolded, IMAGES, classes(3, 4)),
    Case("pixel shuffle", Shuffled, IMAGES, classes(3, 4)),
    Case("squeeze and excite", SqueezeExcite, IMAGES, classes(3, 4)),
    Case("down and up with a connection across", UNet, IMAGES, classes(3, 4)),
    Case("Fourier filter", Fourier, VECTORS, classes(3, 4)),
    Case("mixing by Fourier transforms", FourierImages, IMAGES, classes(3, 4)),
    Case("recomputed", Recomputed, VECTORS, classes(3, 4)),
    Case("compiled, eager", lambda: torch.compile(plain(), backend="eager"), VECTORS, classes(3, 4)),
    Case("compiled, aot_eager", lambda: torch.compile(plain(), backend="aot_eager"), VECTORS, classes(3, 4)),
    Case("a compiled function inside", CompiledPart, VECTORS, classes(3, 4)),
    Case("attention by einsum", HeadsByEinsum, IMAGES, classes(3, 4)),
    Case("grouped queries and rotary positions", MultiQuery, IMAGES, classes(3, 4)),
    Case("deep equilibrium", Equilibrium, VECTORS, classes(3, 4)),
    Case("flow by Euler's method", Flow, VECTORS, classes(3, 4)),
    Case("gradient of an energy", EnergyGradient, VECTORS, classes(3, 4)),
    Case("gradient by torch.func", FunctionalGradient, VECTORS, classes(3, 4)),
    Case("mapped by vmap", Mapped, VECTORS, classes(3, 4)),
    Case("single images in a loop", OneByOne, IMAGES, classes(3, 4)),
    Case("messages on a graph", Graph, normal(4, 10), classes(3, 4)),
    Case("histogram", Scattered, VECTORS, classes(3, 4)),
    Case("linear equations", Solved, VECTORS, classes(3, 4)),
    Case("logits in a dictionary", Dictionary, VECTORS, classes(3, 4)),
    Case("regression, a flow", Flow, VECTORS, normal(4, 3), "gaussian"),
    Case("many labels, a graph", Graph, normal(4, 10), lambda: torch.randint(0, 2, (4, 3)).double(), "sigmoid"),
]
