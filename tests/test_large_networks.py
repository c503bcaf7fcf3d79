"""What a large network costs in memory: a few times its parameters, in a process of its own."""

import csv
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.problem import TensorData
from fisher_cli.measurement import measure
from fisher_cli.settings import Settings
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
