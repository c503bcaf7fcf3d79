"""Random small networks over all layer kinds, likelihoods and batch sizes, each parameter against the oracle.

Twenty of them by default, two hundred with `make test-long`; network n is the same on every run. Ten, or two hundred,
are drawn by hypothesis, which looks for the smallest one that fails.
"""

import copy
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fisher_cli import analyze, verify
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from tests.cases import unsettle
from tests.reference import layer_traces, reference

COUNT, SHORT = 200, 20


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


def check(choose: random.Random, seed: int, dtype: torch.dtype, tolerance: float) -> None:
    model, inputs, labels, likelihood = network(choose, seed)
    model = model.to(dtype)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    expected = reference(model, inputs, labels, likelihood)
    truth = {"true": expected.traces(expected.fisher), "empirical": expected.traces(expected.empirical)}
    for size in {1, 7, 16, len(inputs)} if dtype is torch.float64 else {len(inputs)}:
        trace = sweep(pose(model, TensorData(inputs, labels), likelihood=likelihood, batch_size=size)).trace
        rounding = 8 * torch.finfo(dtype).eps
        for layer in trace.layers:
            for name, total in (("true", trace.true.value), ("empirical", trace.empirical.value)):
                own, found = truth[name][layer.name], getattr(layer, name).value
                assert abs(found - own) <= max(tolerance * own, rounding * total), (
                    layer.name,
                    layer.method,
                    name,
                    size,
                )


def long(first: int, count: int) -> list[object]:
    return [pytest.param(n, marks=pytest.mark.long if n >= SHORT else ()) for n in range(first, count)]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("seed", long(0, COUNT))
def test_random_networks_in_float64(seed: int) -> None:
    check(random.Random(seed), seed, torch.float64, 1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("seed", long(0, COUNT))
def test_random_networks_in_float32(seed: int) -> None:
    check(random.Random(seed), seed, torch.float32, 1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("count", [SHORT // 2, pytest.param(COUNT, marks=pytest.mark.long)])
def test_networks_that_hypothesis_draws(count: int) -> None:
    seen = []

    @settings(
        max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(choose=st.randoms(use_true_random=False), seed=st.integers(0, 2**32 - 1))
    def every(choose: random.Random, seed: int) -> None:
        check(choose, seed, torch.float64, 1e-10)
        seen.append(seed)

    every()
    assert len(seen) >= count


def sharpened(model: nn.Module, factor: float) -> nn.Module:
    """The network with its last linear layer multiplied: with a large factor its predictions are certain."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        last.weight *= factor
        last.bias *= factor
    return model


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("seed", long(0, COUNT))
def test_analyze_is_right_on_random_networks_and_verify_has_nothing_against_them(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Other networks than those above; every fifth of them is certain of what it says."""
    model, inputs, labels, likelihood = network(random.Random(f"verified {seed}"), seed)
    model = sharpened(model, 30 if seed % 5 == 4 else 1)
    expected = layer_traces(copy.deepcopy(model), inputs, labels, likelihood)
    words = {"likelihood": likelihood, "precision": "float64"}
    found = analyze(copy.deepcopy(model), (inputs, labels), eigenvalues=0, **words)
    assert found.table["status"].tolist() == ["ok"]
    scale = 1e-15 * sum(true for true, _ in expected.values())
    for row in found.layers.itertuples():
        assert (row.trace_true, row.trace_empirical) == pytest.approx(expected[row.layer], rel=1e-10, abs=scale)
    identities = verify(model, (inputs, labels), **words).identities
    by_verdict = identities.groupby("verdict")["identity"].agg(list).to_dict()
    alarms, undecided = (by_verdict.get(verdict, []) for verdict in ("fail", "undecided"))
    judged = "a false alarm" if alarms else "undecided in part" if undecided else "nothing wrong"
    record_property("tally", f"right random networks, by verify: {judged}")
    assert alarms == []


def small(name: str, **options: object) -> Callable[[], nn.Module]:
    import torchvision

    return lambda: torchvision.models.get_model(name, num_classes=3, **options)


def vision_transformer() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 16, 2, 2, 16, 24, num_classes=3)


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=3, layer_scale=0.5)


def densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(4, (2, 2), 8, num_classes=3)


def swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=3)


VISION = {
    "resnet18": small("resnet18"),
    "mobilenet_v2": small("mobilenet_v2", width_mult=0.35),
    "shufflenet": small("shufflenet_v2_x0_5"),
    "squeezenet": small("squeezenet1_1"),
    "densenet": densenet,
    "convnext": convnext,
    "vit": vision_transformer,
    "swin": swin,
}


@pytest.mark.parametrize("name", VISION)
def test_torchvisions_networks_have_the_trace_of_the_loop(name: str) -> None:
    torch.manual_seed(0)
    model = VISION[name]().double().eval()
    inputs, labels = torch.randn(3, 3, 32, 32).double(), torch.tensor([0, 1, 2])
    trace = sweep(pose(model, TensorData(inputs, labels), batch_size=2)).trace
    expected = sum(true for true, _ in layer_traces(model, inputs, labels).values())
    assert trace.true.value == pytest.approx(expected, rel=1e-10)
    if name != "swin":  # its table of relative positions is indexed, which no rule covers
        assert "per-example" not in {layer.method for layer in trace.layers}


def test_timms_vision_transformer_has_the_traces_of_the_loop() -> None:
    """Class token, position embedding and the fused projection of queries, keys and values among its parameters."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10).double().eval()
    inputs, labels = torch.randn(4, 3, 32, 32).double(), torch.tensor([0, 3, 6, 9])
    trace = sweep(pose(model, TensorData(inputs, labels), batch_size=3)).trace
    expected = {name: true for name, (true, _) in layer_traces(model, inputs, labels).items()}
    assert trace.true.value == pytest.approx(sum(expected.values()), rel=1e-10)
    found = {layer.name: layer.true.value for layer in trace.layers}
    assert found == pytest.approx(expected, rel=1e-9)
    methods = {layer.name: layer.method for layer in trace.layers}
    assert set(methods) == set(expected) == {name for name, _ in model.named_parameters()}
    assert set(methods.values()) == {"added", "convolution", "layer-norm", "linear"}
    assert (methods["cls_token"], methods["pos_embed"]) == ("added", "added")
    assert methods["blocks.0.attn.qkv.weight"] == "linear"
