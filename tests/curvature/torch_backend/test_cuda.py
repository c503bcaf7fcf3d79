"""On a GPU: the CPU's numbers, the same bits every time, smaller batches where memory ends; skipped without one."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.torch_backend.backend_flags import make_deterministic
from fisher_cli.curvature.traces.traces import TraceResult, sweep
from fisher_cli.run.measurement import MeasurementContext, measure
from fisher_cli.settings import Settings
from tests.cases import Case
from tests.spectra import true_eigenvalues

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ROOT = Path(__file__).parents[3]
CLEAN = ROOT / "sample_checkpoints" / "digits-clean"
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def as_the_command_begins() -> None:
    make_deterministic()


@pytest.fixture
def loose_process() -> Iterator[None]:
    """A process that has allowed TF32 and lets cuDNN choose by timing."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = cudnn.benchmark = True
    yield
    assert (cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark) == (True, True, True)
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def swept(case: Case, dtype: torch.dtype, device: torch.device, estimator: str = "exact") -> TraceResult:
    model, inputs, labels = case.make(dtype)
    data = TensorData(inputs, labels)
    problem = pose(model, data, likelihood=case.likelihood, device=device, dtype=dtype, batch_size=4)
    return sweep(problem, estimator=estimator, samples=2)


def by_layer(found: TraceResult) -> torch.Tensor:
    return torch.tensor([[layer.true.value, layer.empirical.value] for layer in found.trace.layers]).double()


@pytest.mark.parametrize("estimator", ["exact", "deflated", "sampled"])
def test_every_layer_has_the_trace_of_the_cpu(case: Case, estimator: str) -> None:
    expected, found = (swept(case, torch.float64, device, estimator) for device in (torch.device("cpu"), GPU))
    total = expected.trace.true.value + expected.trace.empirical.value
    torch.testing.assert_close(by_layer(found), by_layer(expected), rtol=1e-9, atol=1e-12 * total)
    scale = float(expected.mean_gradient.abs().max())
    torch.testing.assert_close(found.mean_gradient.cpu(), expected.mean_gradient, rtol=1e-9, atol=1e-11 * scale)
    assert found.predictions.loss.value == pytest.approx(expected.predictions.loss.value, rel=1e-9)


def test_eigenvalues_are_those_of_the_cpu(case: Case) -> None:
    found = []
    for device in (torch.device("cpu"), GPU):
        model, inputs, labels = case.make(torch.float64)
        problem = pose(model, TensorData(inputs, labels), likelihood=case.likelihood, device=device, batch_size=4)
        found.append(true_eigenvalues(problem, 3, tolerance=1e-8).values)
    assert found[1] == pytest.approx(found[0], rel=1e-6)


@pytest.mark.usefixtures("loose_process")
def test_float32_is_full_float32_whatever_the_process_allows(case: Case) -> None:
    """TF32 would be wrong in the third or fourth digit."""
    expected, found = swept(case, torch.float64, torch.device("cpu")), swept(case, torch.float32, GPU)
    total = expected.trace.true.value + expected.trace.empirical.value
    torch.testing.assert_close(by_layer(found), by_layer(expected), rtol=1e-4, atol=1e-5 * total)


@pytest.mark.usefixtures("loose_process")
@pytest.mark.parametrize("estimator", ["exact", "deflated"])
def test_the_same_bits_every_time(case: Case, estimator: str) -> None:
    first, second = (swept(case, torch.float32, GPU, estimator) for _ in range(2))
    assert torch.equal(by_layer(first), by_layer(second))
    assert first.trace.per_example_true == second.trace.per_example_true
    assert torch.equal(first.mean_gradient, second.mean_gradient)


class Wide(nn.Module):
    """Sixteen million values per example in the middle: 64 MiB, and as much for every direction."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 256, 3, padding=1), nn.Linear(256, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)).mean((2, 3)))


def test_where_memory_ends_smaller_batches_go_on_with_the_same_numbers() -> None:
    torch.manual_seed(0)
    model, inputs, labels = Wide(), torch.randn(32, 1, 128, 128), torch.randint(4, (32,))
    settings = Settings(eigenvalues=0)
    small = measure(model, TensorData(inputs, labels), settings, MeasurementContext(batch_size=4, device=GPU))
    torch.cuda.empty_cache()
    share = 2 * 2**30 / torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        found = measure(model, TensorData(inputs, labels), settings, MeasurementContext(batch_size=32, device=GPU))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.memory_ran_out_at == 32
    assert found.batch_size < 32
    assert found.trace.true.value == pytest.approx(small.trace.true.value, rel=1e-5)


def waits(examples: int) -> int:
    """How often a sweep over batches of eight waits for the GPU."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, stride=2), nn.Flatten(), nn.Linear(54, 5)
    )
    data = TensorData(torch.randn(examples, 1, 8, 8), torch.randint(5, (examples,)))
    problem = pose(model, data, device=GPU, batch_size=8)
    sweep(problem, verify=False)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            sweep(problem, verify=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(each.message) for each in seen)


def test_a_batch_waits_for_the_gpu_no_more_than_twice() -> None:
    more, fewer = waits(8 * 12), waits(8 * 4)
    assert (more - fewer) / 8 <= 2


def run(*words: str, code: int = 0, launcher: tuple[str, ...] = ()) -> str:
    command = [sys.executable, "-m", *launcher, *(() if launcher else ("fisher_cli",)), *words]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


ASKED = ("--limit", "128", "--eigenvalues", "2")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on each kind of device."""
    folder = tmp_path_factory.mktemp("reports")
    for device in ("cpu", "cuda"):
        run("analyze", str(CLEAN), *ASKED, "--device", device, "--quiet", "-o", str(folder / f"{device}.csv"))
    return folder


def compare(found: Path, expected: Path, tolerance: float) -> None:
    """All columns but the residuals of eigenvalues, which are what rounding leaves."""
    one, other = pd.read_csv(found), pd.read_csv(expected)
    assert list(one) == list(other)
    for name in one:
        if one[name].dtype.kind != "f":
            assert one[name].equals(other[name]), name
        elif not name.endswith("_residual"):
            differences = (one[name] - other[name]).abs() / other[name].abs().clip(lower=1e-300)
            assert not (differences > tolerance).any(), (name, differences.max())


def test_a_whole_run_is_that_of_the_cpu(reports: Path) -> None:
    compare(reports / "cuda.csv", reports / "cpu.csv", 1e-4)
    how = json.loads((reports / "cuda.fisher/record.json").read_text())["run"]
    assert how["device"].startswith("cuda")
    assert how["gpu"] == torch.cuda.get_device_name()
    assert how["tf32"] is False
    assert how["peak_device_memory_bytes"] > 0


def test_a_whole_run_has_the_same_bytes_every_time(reports: Path) -> None:
    again = reports / "again.csv"
    run("analyze", str(CLEAN), *ASKED, "--device", "cuda", "--quiet", "-o", str(again))
    assert again.read_bytes() == (reports / "cuda.csv").read_bytes()


def test_all_devices_are_one_process_for_each(reports: Path) -> None:
    report = reports / "devices.csv"
    run("analyze", str(CLEAN), *ASKED, "--devices", "all", "--quiet", "-o", str(report))
    if torch.cuda.device_count() == 1:
        assert report.read_bytes() == (reports / "cuda.csv").read_bytes()
    compare(report, reports / "cuda.csv", 1e-6)


def test_ranks_speak_through_nccl(reports: Path) -> None:
    report, ranks = reports / "ranks.csv", torch.cuda.device_count()
    launcher = ("torch.distributed.run", f"--nproc-per-node={ranks}", "-m", "fisher_cli")
    run("analyze", str(CLEAN), *ASKED, "--device", "cuda", "--quiet", "-o", str(report), launcher=launcher)
    compare(report, reports / "cuda.csv", 1e-6)


def test_more_ranks_than_gpus_are_refused_in_one_line() -> None:
    launcher = ("torch.distributed.run", f"--nproc-per-node={torch.cuda.device_count() + 1}", "-m", "fisher_cli")
    said = run("analyze", str(CLEAN), *ASKED, "--device", "cuda", code=1, launcher=launcher)
    assert "every rank takes a GPU of its own" in said or "ranks" in said


def test_bfloat16_says_what_it_costs() -> None:
    said = run("analyze", str(CLEAN / "step_01100.pt"), "--limit", "64", "--eigenvalues", "0", "--dtype", "bfloat16")
    assert "bfloat16: the traces of the first 4 examples are" in said


@pytest.mark.parametrize(("width", "examples"), [(64, 512), (256, 2048)])
def test_a_dry_run_foretells_the_memory(width: int, examples: int, tmp_path: Path) -> None:
    """Within 15 % of what torch's allocator holds at most."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        f"    parts = [nn.Conv2d(1, {width}, 3, padding=1), nn.ReLU()]\n"
        "    for _ in range(4):\n"
        f"        parts += [nn.Conv2d({width}, {width}, 3, padding=1), nn.ReLU()]\n"
        f"    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear({width}, 10))\n"
    )
    space: dict[str, object] = {}
    exec((tmp_path / "net.py").read_text(), space)
    torch.manual_seed(0)
    torch.save(space["net"]().state_dict(), tmp_path / "step_1.pt")  # type: ignore[operator]
    words = ("analyze", str(tmp_path), "--model", f"{tmp_path}/net.py:net", "--data", "digits", "--device", "cuda")
    words = (*words, "--limit", str(examples), "--eigenvalues", "0")
    foretold = json.loads(run(*words, "--dry-run", "--format", "json").partition("\n}")[0] + "\n}")
    run(*words, "--quiet", "-o", str(tmp_path / "report.csv"))
    measured = json.loads((tmp_path / "report.fisher/record.json").read_text())["run"][
        "peak_device_memory_reserved_bytes"
    ]
    ratio = foretold["peak_bytes"] / measured
    print(f"measured {measured / 2**20:,.0f} MiB, foretold of it {ratio:.2f}")
    assert ratio == pytest.approx(1, abs=0.15)


def test_tf32_where_it_is_asked_for_says_what_it_costs(tmp_path: Path) -> None:
    report = tmp_path / "report.csv"
    words = ("analyze", str(CLEAN), "--limit", "64", "--eigenvalues", "0", "--dtype", "tf32", "-o", str(report))
    assert "tf32: the traces of the first 4 examples are off by" in run(*words)
    record = json.loads(report.with_suffix(".fisher/record.json").read_text())
    assert record["run"]["tf32"] is True
    errors = [row["rounding"]["trace_true_error"] for row in record["checkpoints"]]
    assert all(1e-9 < error < 0.02 for error in errors), errors
