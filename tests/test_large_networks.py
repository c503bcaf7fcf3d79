"""What a large network costs in memory: a few times its parameters, in a process of its own."""

import os
import resource
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fisher_cli.curvature.eigensystems import matrices
from fisher_cli.curvature.problem import TensorData, pose
from fisher_cli.curvature.routes import Route
from fisher_cli.measurement import measure
from fisher_cli.settings import Settings
from tests.test_records import in_child

MEBIBYTE = 2**20
# Above what the process has before: the weights are in that. Each is a copy of the parameters in float32.
VECTORS, REST = 5.0, 200 * MEBIBYTE


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


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_traces_of_a_hundred_million_parameters(tmp_path: Path, record_property: Callable[..., None]) -> None:
    """A batch of four; everything that a row has but eigenvalues."""

    def work() -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        network = Classifier()
        data = TensorData(torch.randn(4, 16, 16), torch.arange(4))
        size, before = sum(each.numel() for each in network.parameters()), _resident()
        found = measure(network, data, Settings(eigenvalues=0, data="tensors"), batch_size=4)
        assert found.trace is not None
        assert found.trace.true.value > 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (tmp_path / "found").write_text(f"{size} {peak - before}")

    assert in_child(work) == 0
    size, extra = map(int, (tmp_path / "found").read_text().split())
    record_property("peak", f"{size:,} parameters: {extra / MEBIBYTE:,.0f} MiB, {extra / size / 4:.2f} times theirs")
    assert size > 99_000_000
    assert extra <= VECTORS * 4 * size + REST


# The goal for the leading eigenvalues: beside the parameters themselves.
DUAL_VECTORS = 6.0


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
