"""What a large network costs in memory: a few times its parameters, in a process of its own."""

import resource
from collections.abc import Callable
from pathlib import Path

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
