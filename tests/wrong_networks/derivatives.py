"""Wrong derivatives: the outputs are right, and backward mode says something else than they do."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.wrong_networks.networks import CLASSES, FEATURES, WIDTH, Change, Net, Network, Place, Verdict, changed, data

FACTORS = (0.0, -1.0, 0.5, 0.9, 0.99, 0.999, 1.001, 1.01, 1.3, 2.0)


def scaled(factor: float, *, vectorised: bool = True) -> Callable[[Tensor], Tensor]:
    """The identity, whose backward pass multiplies; with a rule for vmap or without."""

    class Identity(torch.autograd.Function):
        generate_vmap_rule = vectorised

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def setup_context(_ctx: Any, _inputs: Any, _output: Any) -> None:
            pass

        @staticmethod
        def backward(_ctx: Any, gradient: Tensor) -> Tensor:
            return factor * gradient

    return Identity.apply


class OldStyle(torch.autograd.Function):
    """The square, whose derivative lacks its two; written as before there were rules for vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x


class Product(torch.autograd.Function):
    """x Wᵀ + b, of whose three derivatives one is multiplied."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, _which: int, _factor: float) -> Tensor:
        return x @ weight.T + bias

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, _output: Any) -> None:
        x, weight, _, ctx.which, ctx.factor = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        found = [gradient @ weight, gradient.T @ x, gradient.sum(0)]
        found[ctx.which] = found[ctx.which] * ctx.factor
        return (*found, None, None)


class OwnLinear(Net):
    """Its second layer is a function of its own."""

    def __init__(self, which: int, factor: float) -> None:
        super().__init__()
        self.which, self.factor = which, factor

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x))
        z = Product.apply(z, self.second.weight, self.second.bias, self.which, self.factor)
        return self.head(torch.tanh(z))


class Clipped(torch.autograd.Function):
    """The identity; what comes back is clipped to ±c, as against exploding gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, _bound: float) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, _output: Any) -> None:
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.clamp(-ctx.bound, ctx.bound), None


def branch(factor: float) -> Change:
    """A residual branch whose own backward is multiplied."""
    return lambda z, _: z + torch.tanh(2 * scaled(factor)(z))


def for_the_example(index: int, factor: float) -> Change:
    """Multiplied where the first feature is that of one example."""

    def change(z: Tensor, x: Tensor) -> Tensor:
        chosen = (x[:, :1] - data()[0][index, 0].to(x)).abs() < 1e-6
        return torch.where(chosen, scaled(factor)(z), z)

    return change


def for_the_channel(index: int, factor: float) -> Change:
    def change(z: Tensor, _: Tensor) -> Tensor:
        return torch.cat([z[:, :index], scaled(factor)(z[:, index : index + 1]), z[:, index + 1 :]], 1)

    return change


def hooked(factor: float) -> Change:
    """A hook on the tensor, where it has a gradient to hook."""

    def change(z: Tensor, _: Tensor) -> Tensor:
        z = z * 1
        if z.requires_grad:
            z.register_hook(lambda gradient: factor * gradient)
        return z

    return change


class ModuleHook(Net):
    """A full backward hook on the second layer, which multiplies what goes on to the first."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.second.register_full_backward_hook(lambda _module, given, _: tuple(factor * each for each in given))


class ModulePreHook(Net):
    """A full backward pre-hook on the second layer, which multiplies what arrives there."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.second.register_full_backward_pre_hook(lambda _module, given: tuple(factor * each for each in given))


class Rectified(nn.Module):
    """Convolutions with ReLU and max pooling, kinks everywhere; the fault is in the middle."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
        self.head = nn.Linear(12, CLASSES)
        self.fault = scaled(factor)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.relu(self.first(x.unsqueeze(1)))
        z = functional.max_pool1d(torch.relu(self.second(self.fault(z))), 2)
        return self.head(z.flatten(1))


class Normalised(nn.Module):
    """Layer norm behind the fault: what lies before it has a small derivative."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(FEATURES, WIDTH), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.fault = scaled(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.gelu(self.norm(self.fault(self.first(x)))))


class Faint(Net):
    """A branch with a millionth of the trace or less, whose derivative is wrong."""

    def __init__(self, factor: float, share: float) -> None:
        super().__init__()
        self.side = nn.Linear(FEATURES, WIDTH)
        self.fault, self.share = scaled(factor), share

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(self.first(x)) + self.share * self.fault(torch.tanh(self.side(x)))
        return self.head(torch.tanh(self.second(z)))


class Multiplied(nn.Module):
    """A bare parameter that multiplies; its own backward is multiplied as well."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.scale = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.fault = scaled(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.first(x)) * self.fault(self.scale))


class Attending(nn.Module):
    """Attention whose values come back multiplied, the queries and keys as they are."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.embed, self.project = nn.Linear(2, 4), nn.Linear(4, 12)
        self.head = nn.Linear(4, CLASSES)
        self.fault = scaled(factor)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(self.embed(x.reshape(len(x), 3, 2))).chunk(3, -1)
        return self.head(functional.scaled_dot_product_attention(q, k, self.fault(v)).mean(1))


class Overwritten(Net):
    """What tanh keeps for its backward pass is changed behind autograd's back."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def middle(self, z: Tensor) -> Tensor:
        y = torch.tanh(z)
        if self.factor == 1:
            return y
        kept = y.clone()
        y.data.mul_(self.factor)
        return y + (kept - y).detach()


KIND = "wrong derivative"


def case(name: str, make: Callable[[float], nn.Module], factor: float, must_be: Verdict = "refused") -> Network:
    """A network that takes a factor: its twin is the one with a factor of one."""
    precision = "float64" if must_be == "right or refused" else "float32"
    return Network(
        f"{name}, times {factor:g}", KIND, lambda: make(factor), must_be, lambda: make(1.0), precision=precision
    )


def at(name: str, place: Place, make: Callable[[float], Change], factor: float) -> Network:
    return case(name, lambda each: changed(place, make(each))(), factor)


def everywhere(factor: float, *, vectorised: bool = True) -> Change:
    return lambda z, _: scaled(factor, vectorised=vectorised)(z)


NETWORKS = [
    *(at("backward in the middle", "middle", everywhere, factor) for factor in FACTORS),
    *(at("backward without a rule for vmap", "middle", lambda f: everywhere(f, vectorised=False), f) for f in FACTORS),
    *(at("backward of the first layer", "early", everywhere, factor) for factor in (0.0, -1.0, 0.99, 1.001, 1.3)),
    *(at("backward at the outputs", "late", everywhere, factor) for factor in (0.5, -1.0, 0.99, 1.001, 1.3)),
    *(at("backward of one branch", "middle", branch, factor) for factor in (0.0, -1.0, 0.9, 1.01, 2.0)),
    *(
        at(f"backward for example {index} alone", "middle", lambda f, i=index: for_the_example(i, f), factor)
        for index, factor in ((0, 1.3), (2, 0.0), (6, 1.3), (6, 0.99), (11, -1.0))
    ),
    *(at("backward of channel 3 alone", "middle", lambda f: for_the_channel(3, f), factor) for factor in (0, 0.99, 2)),
    *(at("backward of the last class alone", "late", lambda f: for_the_channel(2, f), factor) for factor in (0, 1.01)),
    *(at("a hook on a tensor inside forward", "middle", hooked, factor) for factor in (0.0, 0.999, 1.3)),
    *(case("a full backward hook of a module", ModuleHook, factor, "right or refused") for factor in (0.5, 1.01)),
    case("a full backward pre-hook of a module", ModulePreHook, 1.3, "right or refused"),
    *(case("backward in a network of kinks", Rectified, factor) for factor in (0.0, 0.99, 1.01, -1.0)),
    *(case("backward before a layer norm", Normalised, factor) for factor in (0.0, 1.01)),
    *(case("backward of a branch with a tiny share", lambda f: Faint(f, 1e-4), factor) for factor in (0.0, 1.3, 100.0)),
    *(case("backward of a bare parameter", Multiplied, factor) for factor in (0.0, 1.01)),
    *(case("backward of the values of attention", Attending, factor) for factor in (0.0, 0.99)),
    *(
        case(f"a linear layer's own backward, {which}", lambda f, i=index: OwnLinear(i, f), factor)
        for index, which, factor in ((0, "inputs", 1.01), (1, "weight", 0.99), (2, "bias", 0.0), (1, "weight", -1.0))
    ),
    case("a tensor overwritten that backward needs", Overwritten, 0.5),
    Network("a square without its two", KIND, changed("middle", lambda z, _: OldStyle.apply(z)),
            twin=changed("middle", lambda z, _: z * z)),
    Network("clipped on the way back", KIND, changed("middle", lambda z, _: Clipped.apply(z, 1e-2)),
            twin=changed("middle", lambda z, _: z)),
    Network("reversed for an adversary", KIND, changed("middle", lambda z, _: z + 0.1 * scaled(-0.3)(torch.sin(z))),
            twin=changed("middle", lambda z, _: z + 0.1 * torch.sin(z))),
    # Right ones: no fault, or one where no parameter can notice.
    Network("a function of one's own that is right", KIND, changed("middle", everywhere(1.0)), "right"),
    Network("one without a rule for vmap that is right", KIND, changed("middle", everywhere(1.0, vectorised=False)),
            "right"),
    Network("a hook that changes nothing", KIND, changed("middle", hooked(1.0)), "right"),
    Network("a network of kinks that is right", KIND, lambda: Rectified(1.0), "right"),
    Network("a wrong derivative by the inputs, which no parameter sees", KIND,
            lambda: nn.Sequential(_AtTheInputs(), Net()), "right", twin=lambda: nn.Sequential(nn.Identity(), Net())),
]  # fmt: skip


class _AtTheInputs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return scaled(0.0)(x)
