"""What a large network costs in memory: a few times its parameters, in a process of its own."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.eigensystems import matrices
from fisher_cli.curvature.problem import TensorData, pose
from fisher_cli.curvature.routes import Route
from fisher_cli.measurement import measure
from fisher_cli.settings import Activations, Settings
from tests.test_records import in_child

MEBIBYTE = 2**20
# Of the whole process, torch and the network's weights included. A vector is a copy of the parameters in float32: one
# of weights and two of the mean gradient.
VECTORS, REST = 3.2, 700 * MEBIBYTE


class Classifier(nn.Module):
    """A transformer of 99.7 million parameters on sequences of 16 vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 960)
        layer = nn.TransformerEncoderLayer(960, 15, 3840, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 9, enable_nested_tensor=False)
        self.head = nn.Linear(960, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.encoder(self.inner(inputs)).mean(1))
        return outputs


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_traces_of_a_hundred_million_parameters(tmp_path: Path, record_property: Callable[..., None]) -> None:
    """A batch of four; everything that a row has but eigenvalues, the signal-to-noise ratio with its error too."""

    def work() -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        network = Classifier()
        data = TensorData(torch.randn(1, 16, 16) + 0.1 * torch.randn(4, 16, 16), torch.zeros(4).long())
        size = sum(each.numel() for each in network.parameters())
        found = measure(network, data, Settings(eigenvalues=0, data="tensors"), batch_size=4)
        assert found.trace is not None
        assert found.trace.true.value > 0
        assert found.gradient is not None
        assert found.gradient.signal_to_noise is not None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (tmp_path / "found").write_text(f"{size} {peak}")

    assert in_child(work) == 0
    size, peak = map(int, (tmp_path / "found").read_text().split())
    record_property("peak", f"{size:,} parameters: {peak / MEBIBYTE:,.0f} MiB, {(peak - REST) / size / 4:.2f} vectors")
    assert size > 99_000_000
    assert peak <= VECTORS * 4 * size + REST


WIDTH, LAYERS = 2048, 20

FACTORY = f"""
import torch
from torch import nn


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, {WIDTH})
        layer = nn.TransformerEncoderLayer({WIDTH}, 16, {4 * WIDTH}, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, {LAYERS}, enable_nested_tensor=False)
        self.head = nn.Linear({WIDTH}, 10)

    def forward(self, inputs):
        return self.head(self.encoder(self.inner(inputs)).mean(1))


def make():
    with torch.device("meta"):
        network = Classifier()
    return network.to_empty(device="cpu")  # no time for first weights that nobody needs


def examples():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 16, 16, generator=generator) + 0.1 * torch.randn(4, 16, 16, generator=generator)
    return torch.utils.data.TensorDataset(inputs, torch.zeros(4, dtype=torch.long))
"""


def _write_weights(shapes: dict[str, torch.Size], path: Path) -> int:
    """A safetensors file of random weights, made tensor by tensor; how many values it has."""
    header, end = dict[str, object](), 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + 4 * shape.numel()]}
        end += 4 * shape.numel()
    text = json.dumps(header).encode()
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            scale = 1.0 if ".norm" in name else shape[-1] ** -0.5
            values = torch.empty(shape).normal_(0, scale, generator=generator)
            file.write(memoryview((values + 1 if ".norm" in name and name.endswith("weight") else values).numpy()))
    return end // 4


@pytest.mark.long
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_billion_parameters_within_fifteen_gibibytes(
    precision: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    """The whole command on a file of 3.8 GiB: four examples, exact traces of ten classes."""
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(meminfo["MemAvailable"].split()[0])
    if available < 16 * 2**20 or shutil.disk_usage(tmp_path).free < 8 * 2**30:
        pytest.skip("needs 16 GiB of memory and 8 GiB of disk that nobody else uses")
    (tmp_path / "net.py").write_text(FACTORY)
    names = dict[str, Any]()
    exec(FACTORY, names)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in names["Classifier"]().state_dict().items()}
    weights = tmp_path / "weights.safetensors"
    try:
        size = _write_weights(shapes, weights)
        words = ["analyze", str(weights), "--model", f"{tmp_path}/net.py:make", "--data", f"{tmp_path}/net.py:examples"]
        words += ["--eigenvalues", "0", "-b", "4", "--dtype", precision, "-o", str(tmp_path / "trend.csv")]
        command = [sys.executable, "-m", "fisher_cli", *words]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        weights.unlink(missing_ok=True)
    assert found.returncode == 0, found.stderr
    record = json.loads((tmp_path / "trend.meta.json").read_text())
    [row] = csv.DictReader((tmp_path / "trend.csv").read_text().splitlines())
    peak = record["run"]["peak_memory_bytes"]
    record_property("peak", f"{size:,} parameters in {precision}: {peak / 2**30:.2f} GiB; {found.stderr}")
    assert size > 10**9
    assert float(row["trace_true"]) > 0
    assert peak <= 15 * 2**30


# The goal for the leading eigenvalues: beside the parameters themselves.
DUAL_VECTORS = 6.0


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_ten_eigenvalues_of_a_hundred_million_parameters(tmp_path: Path, record_property: Callable[..., None]) -> None:
    """By the dual, whose vectors are as long as there are columns: at most six vectors of the parameters' length."""

    def wide(width: int) -> nn.Module:
        torch.manual_seed(0)
        widths = (784, width, width, 10)
        layers = [nn.Linear(before, after) for before, after in pairwise(widths)]
        return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])

    def work() -> None:
        torch.set_num_threads(1)
        x, y = torch.randn(16, 784), torch.arange(16) % 10
        matrices(pose(wide(32), TensorData(x, y)))[0].leading(3, route=Route.DUAL)  # what the first use loads
        network = wide(9610)
        size, before = sum(each.numel() for each in network.parameters()), _resident()
        found = matrices(pose(network, TensorData(x, y)))[0].leading(10, route=Route.DUAL)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        assert found.converged
        assert bool((found.residuals <= 1e-3 * found.values[0]).all())
        (tmp_path / "found").write_text(f"{size} {peak - before} {found.products}")

    assert in_child(work) == 0
    size, extra, products = map(int, (tmp_path / "found").read_text().split())
    words = f"{size:,} parameters: {extra / size / 4:.2f} vectors in {products} products"
    print(words)
    record_property("dual", words)
    assert size > 99_000_000
    assert extra <= DUAL_VECTORS * 4 * size


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = x + self.second(torch.relu(self.norm(self.first(x))))
        return outputs


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_recomputed_activations_take_less_the_deeper_a_network_is(
    tmp_path: Path, record_property: Callable[..., None]
) -> None:
    """Traces of eight images by ten classes, in processes of their own; a network of four times the depth."""

    def work(depth: int, activations: Activations) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        blocks = [_Residual(16) for _ in range(depth)]
        network = nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
        data = TensorData(torch.randn(8, 3, 66, 66), torch.arange(8) % 10)
        settings = Settings(eigenvalues=0, data="tensors")
        measure(_small(), data, settings, batch_size=8)  # what the first use loads
        before, start = _resident(), time.perf_counter()
        found = measure(network, data, settings, batch_size=8, activations=activations)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        assert found.trace is not None
        (tmp_path / "found").write_text(f"{peak - before} {seconds} {found.trace.true.value!r}")

    taken: dict[tuple[int, Activations], tuple[float, float, str]] = {}
    for depth in (16, 64):
        for activations in Activations:
            assert in_child(lambda depth=depth, activations=activations: work(depth, activations)) == 0  # type: ignore[misc]
            size, seconds, value = (tmp_path / "found").read_text().split()
            taken[depth, activations] = int(size) / MEBIBYTE, float(seconds), value
            words = f"{depth} blocks, {activations}: {int(size) / MEBIBYTE:,.0f} MiB, {float(seconds):.1f} s"
            print(words)
            record_property(f"{depth} {activations}", words)
        assert taken[depth, Activations.KEEP][2] == taken[depth, Activations.RECOMPUTE][2]
    kept, anew = (taken[64, each][0] - taken[16, each][0] for each in (Activations.KEEP, Activations.RECOMPUTE))
    assert anew <= kept / 2.5


def _small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
