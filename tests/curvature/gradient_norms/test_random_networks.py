"""Random small networks over all layer kinds, likelihoods and batch sizes, each parameter against the oracle.

A tenth of two hundred by default, all with `make test-long`; network n is the same on every run. Five, or two hundred,
are drawn by hypothesis, which looks for the smallest one that fails.
"""

import copy
import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fisher_cli import analyze, verify
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from tests.long_lists import some
from tests.random_networks import network
from tests.reference import layer_traces, reference

COUNT, SHORT = 200, 20


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


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("seed", some(range(COUNT), part=SHORT / COUNT))
def test_random_networks_in_float64(seed: int) -> None:
    check(random.Random(seed), seed, torch.float64, 1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("seed", some(range(COUNT), part=SHORT / COUNT))
def test_random_networks_in_float32(seed: int) -> None:
    check(random.Random(seed), seed, torch.float32, 1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("count", [SHORT // 4, pytest.param(COUNT, marks=pytest.mark.long)])
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
@pytest.mark.parametrize("seed", some(range(COUNT), part=0.02))
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


@pytest.mark.ci
@pytest.mark.parametrize("name", some(VISION, part=0.3))
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
    model = (
        timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=10, depth=2).double().eval()
    )
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
