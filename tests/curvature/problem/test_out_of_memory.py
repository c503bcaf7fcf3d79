"""Memory runs out at every point of a measurement: what comes out is what the smaller batch gives, and no other."""

import json
import math
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fisher_cli import analyze
from fisher_cli.curvature.gradient_norms import per_example_gradients
from fisher_cli.curvature.problem.problem import Problem, TensorData, pose
from fisher_cli.curvature.products import jvp
from fisher_cli.curvature.spectra import eigensystems
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory, release_memory
from fisher_cli.errors import DataError, OutOfMemoryError
from fisher_cli.inputs.networks.digits_networks import digits_mlp
from fisher_cli.reports.summary import render_summary
from fisher_cli.results import Measurement, Status
from fisher_cli.run import measurement as measuring
from fisher_cli.run.measurement import MeasurementContext, NoObserver, measure
from fisher_cli.run.preparation import FileRun, run_of_files
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.journal import open_journal
from fisher_cli.tables.build import frame, to_csv
from fisher_cli.tables.registry import LAYERS, MAIN
from tests.cases import mlp
from tests.long_lists import some

CLEAN = Path(__file__).parents[3] / "sample_checkpoints" / "digits-clean"
FIRST, MIDDLE, LAST = (CLEAN / f"step_{step:05d}.pt" for step in (0, 440, 1760))
EXAMPLES = 20

SHORTAGES: dict[str, Callable[[], Exception]] = {
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"),
    "CPU": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "CPU elsewhere": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9 by."
    ),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cuDNN": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN inside": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE: CUDA out of memory"),
    "driver": lambda: RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    "C++": lambda: RuntimeError("std::bad_alloc"),
    "Python": lambda: MemoryError(),
}  # fmt: skip


# --- which errors say so ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", SHORTAGES)
def test_a_shortage_is_known_in_every_form_and_when_it_is_the_cause(form: str) -> None:
    assert is_out_of_memory(SHORTAGES[form]())
    wrapped = DataError("the network does not accept the inputs")
    wrapped.__cause__ = SHORTAGES[form]()
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        ValueError("this dataset is about people who run out of memory"),
        NotImplementedError("derivative for aten::foo is not implemented"),
        KeyError("memory"),
    ],
)
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_a_real_allocation_that_cannot_be() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.float64)
    assert is_out_of_memory(caught.value)
    release_memory()


# --- shortages planted in a measurement ----------------------------------------------------------------------------


def network(path: Path = MIDDLE) -> nn.Module:
    module = digits_mlp()
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    return module


def data() -> TensorData:
    generator = torch.Generator().manual_seed(0)
    return TensorData(
        torch.rand(EXAMPLES, 1, 8, 8, generator=generator), torch.randint(10, (EXAMPLES,), generator=generator)
    )


def texts(found: Measurement) -> tuple[str, str]:
    """Both tables of one measurement."""
    return to_csv(frame(MAIN.with_eigenvalues(2), [found])), to_csv(frame(LAYERS, [found]))


@cache
def with_half() -> Measurement:
    """What eight examples at once give."""
    return measure(network(), data(), Settings(eigenvalues=2), MeasurementContext(batch_size=8))


class Shortage:
    """Raises at the k-th call, once; with `above`, always for more examples than that."""

    def __init__(self, at: int = 0, form: str = "CUDA", above: float = math.inf) -> None:
        self.at, self.form, self.above = at, form, above
        self.calls = self.raised = 0

    def __call__(self, examples: int = 0) -> int:
        self.calls += 1
        if self.calls == self.at or examples > self.above:
            self.raised += 1
            raise SHORTAGES[self.form]()
        return examples


@contextmanager
def planted(where: str, shortage: Shortage, module: nn.Module) -> Iterator[None]:
    """Let the shortage see every forward pass, backward pass or product of the network."""
    with pytest.MonkeyPatch.context() as patch:
        if where == "forward":
            module.register_forward_pre_hook(lambda _, inputs: shortage(len(inputs[0])) and None)
        elif where == "backward":
            original = torch.autograd.grad
            patch.setattr(torch.autograd, "grad", lambda *a, **k: (shortage(), original(*a, **k))[1])
        else:
            add = Problem.add_pulled_back
            patch.setattr(Problem, "add_pulled_back", lambda *a, **k: (shortage(len(a[1])), add(*a, **k))[1])
        yield


@pytest.fixture(autouse=True)
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eigenvalues by products also of a network so small that their matrix is cheaper."""
    monkeypatch.setattr(eigensystems, "choose_eigensolver", lambda *_, **__: Eigensolver.LANCZOS)


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The batch sizes with which measurements were begun."""
    sizes: list[int | None] = []

    def posed(*words: Any, **options: Any) -> Problem:
        sizes.append(options["batch_size"])
        return pose(*words, **options)

    monkeypatch.setattr(measuring, "pose", posed)
    return sizes


@pytest.mark.parametrize(("call", "where"), some(product(range(1, 9), ["forward", "backward", "product"]), part=0.2))
def test_a_shortage_at_any_call_gives_the_tables_of_half_the_batch(
    where: str, call: int, attempts: list[int | None]
) -> None:
    form = list(SHORTAGES)[call]
    expected, module, shortage = with_half(), network(), Shortage(call, form)
    attempts.clear()
    with planted(where, shortage, module):
        found = measure(module, data(), Settings(eigenvalues=2), MeasurementContext(batch_size=16))
    assert shortage.raised == 1
    assert attempts == [16, 8]
    assert texts(found) == texts(expected)
    assert found.trace == expected.trace
    assert found.trace is not None
    assert (found.examples, len(found.trace.per_example_true)) == (EXAMPLES, EXAMPLES)
    assert (found.batch_size, found.memory_ran_out_at) == (8, 16)
    assert found.notes == (*expected.notes, "memory ran out at 16 examples at once: 8 were taken")
    assert (expected.memory_ran_out_at, found.status) == (None, expected.status)


@pytest.mark.parametrize("call", some(range(1, 9), part=0.4))
def test_a_shortage_with_the_automatic_batch_size(call: int, attempts: list[int | None]) -> None:
    """The first two forward passes are those that decide upon the size: then nothing is known but these examples."""
    module, settings = network(), Settings(eigenvalues=0)
    shortage = Shortage(call)
    with planted("forward", shortage, module):
        found = measure(module, data(), settings)
    assert shortage.raised == 1
    size = 1 if call <= 2 else EXAMPLES // 2
    assert attempts == [None, size]
    assert texts(found) == texts(measure(network(), data(), settings, MeasurementContext(batch_size=size)))


@pytest.mark.parametrize(
    ("holds", "estimator"), some(product([1, 2, 5, 8, 15], ["exact", "deflated", "sampled"]), part=0.2)
)
def test_the_batch_is_halved_until_it_fits(holds: int, estimator: str, attempts: list[int | None]) -> None:
    """The check looks at two examples and the products' test at three; a memory that holds fewer is no use here."""
    module, settings = network(), Settings(eigenvalues=0, estimator=estimator)  # type: ignore[arg-type]
    shortage = Shortage(above=max(holds, 3))
    with planted("forward", shortage, module):
        found = measure(module, data(), settings, MeasurementContext(batch_size=16))
    sizes = [16 // 2**i for i in range(5) if i == 0 or 16 // 2 ** (i - 1) > max(holds, 3)]
    assert attempts == sizes
    assert len(attempts) - 1 <= math.log2(16) + 1
    assert found.batch_size == sizes[-1]
    assert texts(found) == texts(measure(network(), data(), settings, MeasurementContext(batch_size=sizes[-1])))


def test_more_examples_at_once_than_there_are_count_as_all_of_them(attempts: list[int | None]) -> None:
    module = network()
    with planted("backward", Shortage(1), module):
        found = measure(module, data(), Settings(eigenvalues=0), MeasurementContext(batch_size=1000))
    assert attempts == [1000, EXAMPLES // 2]
    assert found.memory_ran_out_at == EXAMPLES


def test_what_the_failed_attempt_held_is_let_go_before_the_next(attempts: list[int | None]) -> None:
    module, held = network(), list[weakref.ref[Tensor]]()
    alive: list[int] = []

    def watch(_: nn.Module, __: object, outputs: Tensor) -> None:
        if len(attempts) == 1:
            held.append(weakref.ref(outputs))
        elif not alive:
            alive.append(sum(ref() is not None for ref in held))

    module.register_forward_hook(watch)
    with planted("backward", Shortage(3), module):
        measure(module, data(), Settings(eigenvalues=0), MeasurementContext(batch_size=16))
    assert len(held) > 5
    assert alive == [0]


class Mixed(nn.Module):
    """A use of a parameter that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("bi,ij->bj", x, self.weight))


def test_what_cannot_be_vectorised_is_told_from_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(mlp(6, 5), Mixed(), nn.Linear(5, 3))
    inputs = TensorData(torch.randn(8, 6), torch.arange(8) % 3)
    shortage, original = Shortage(2, "CPU"), per_example_gradients.by_vmap

    def vectorised(*words: Any) -> dict[str, Tensor]:
        shortage()
        return original(*words)

    monkeypatch.setattr(per_example_gradients, "by_vmap", vectorised)
    found = measure(module, inputs, Settings(eigenvalues=0), MeasurementContext(batch_size=4))
    assert (found.batch_size, shortage.raised) == (2, 1)
    assert shortage.calls > 4, "it is still vectorised afterwards"


def test_forward_mode_is_not_given_up_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes first where most parameters are those of convolutions."""
    convolutional = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    problem = pose(convolutional, TensorData(data().inputs, data().labels % 3), batch_size=4)

    def short(*_: object) -> tuple[Tensor, Tensor]:
        raise SHORTAGES["CUDA"]()

    monkeypatch.setattr(jvp, "jvp", short)
    with pytest.raises(torch.OutOfMemoryError):
        jvp.jvp_of(problem)


# --- where nothing helps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "tries"), [(16, [16, 8, 4, 2, 1]), (None, [None, 1]), (1, [1])])
def test_one_example_that_does_not_fit_is_one_clear_line(
    batch_size: int | None, tries: list[int | None], attempts: list[int | None]
) -> None:
    module = network()
    with planted("forward", Shortage(above=0), module), pytest.raises(OutOfMemoryError) as caught:
        measure(module, data(), Settings(), MeasurementContext(batch_size=batch_size))
    assert attempts == tries
    assert str(caught.value) == (
        "memory ran out on cpu even with 1 example at once: analyse fewer parameters with --exclude, leave "
        "eigenvalues out with --eigenvalues 0, or take a machine with more memory"
    )


def test_what_does_not_fit_on_a_gpu_may_fit_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Problem:
        raise SHORTAGES["CUDA"]()

    monkeypatch.setattr(measuring, "pose", full)
    context = MeasurementContext(batch_size=1, device=torch.device("cuda", 1))
    with pytest.raises(OutOfMemoryError, match=r"^memory ran out on cuda:1 .* or try --device cpu$"):
        measure(network(), data(), Settings(), context)


class Following(NoObserver):
    """Knows which checkpoint is measured."""

    name = ""

    def start(self, name: str) -> None:
        self.name = name


def run_with(monkeypatch: pytest.MonkeyPatch, above: dict[str, float], batch_size: int | None = 16) -> FileRun:
    """A run of three checkpoints, each of which can be measured with so many examples at once."""
    observer = Following()
    resources = Resources(batch_size=batch_size)
    run = run_of_files([FIRST, MIDDLE, LAST], Settings(limit=EXAMPLES, eigenvalues=0), resources)
    forward = Problem.forward

    def limited(problem: Problem, inputs: Tensor) -> Tensor:
        Shortage(above=above.get(observer.name, math.inf))(len(inputs))
        return forward(problem, inputs)

    monkeypatch.setattr(Problem, "forward", limited)
    for _ in run.rows(observer):
        pass
    return run


def test_the_smaller_batch_is_kept_for_the_rest_of_the_run(
    monkeypatch: pytest.MonkeyPatch, attempts: list[int | None]
) -> None:
    analysis = run_with(monkeypatch, {MIDDLE.name: 6}).analysis
    assert attempts == [16, 16, 8, 4, 4]
    rows = analysis.stable_metadata()["checkpoints"]
    assert [row["batch_size"] for row in rows] == [16, 4, 4]
    assert [row["memory_ran_out_at"] for row in rows] == [None, 16, None]
    assert [len(row["notes"]) for row in rows] == [len(rows[0]["notes"]), len(rows[0]["notes"]) + 1, 1]
    assert "memory ran out at 16 examples at once: 4 were taken" in rows[1]["notes"]
    assert analysis.run_metadata()["resources"]["batch_size"] == 16
    assert [m.status for m in analysis.measurements] == [Status.OK] * 3


def test_a_run_that_is_resumed_keeps_the_smaller_batch(
    monkeypatch: pytest.MonkeyPatch, attempts: list[int | None], tmp_path: Path
) -> None:
    """D10: the size is read from the journal, also for what joins a newcomer to the row before it."""

    def rows(*files: Path) -> str:
        run = run_of_files(files, Settings(limit=EXAMPLES, eigenvalues=0), Resources(batch_size=16))
        with open_journal(tmp_path / "t.fisher", run.question) as journal:
            run.keep_in(journal)
            for _ in run:
                pass
        return to_csv(frame(MAIN, run.analysis.measurements))

    with monkeypatch.context() as patch:
        forward, limit = Problem.forward, Shortage(above=6)

        def limited(problem: Problem, inputs: Tensor) -> Tensor:
            limit(len(inputs))
            return forward(problem, inputs)

        patch.setattr(Problem, "forward", limited)
        whole = rows(FIRST, MIDDLE, LAST)
        shutil.rmtree(tmp_path / "t.fisher")
        rows(FIRST, MIDDLE)
    attempts.clear()
    assert rows(FIRST, MIDDLE, LAST) == whole
    assert attempts == [4, 4]  # the row before is evaluated again, the newcomer measured


def test_the_automatic_size_and_the_reduced_one_are_both_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis = run_with(monkeypatch, {MIDDLE.name: 10}, None).analysis
    rows = analysis.stable_metadata()["checkpoints"]
    assert [(row["batch_size"], row["memory_ran_out_at"]) for row in rows] == [(20, None), (10, 20), (10, None)]
    assert analysis.run_metadata()["resources"]["batch_size"] is None
    json.dumps(analysis.stable_metadata())


def test_a_checkpoint_for_which_nothing_helps_fails_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, attempts: list[int | None]
) -> None:
    analysis = run_with(monkeypatch, {MIDDLE.name: 0}).analysis
    assert [m.status for m in analysis.measurements] == [Status.OK, Status.FAILED, Status.OK]
    assert attempts == [16, 16, 8, 4, 2, 1, 1]
    failed = analysis.measurements[1]
    assert failed.error.startswith("memory ran out on cpu even with 1 example at once: analyse fewer parameters")
    assert (failed.trace, failed.checkpoint, failed.step) == (None, MIDDLE.name, 440)
    assert analysis.succeeded == 2


def test_modules_keep_the_smaller_batch_too(monkeypatch: pytest.MonkeyPatch, attempts: list[int | None]) -> None:
    shortage, pull_back = Shortage(1), torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (shortage(), pull_back(*a, **k))[1])
    found = analyze([network(), network()], (data().inputs, data().labels), batch_size=16, eigenvalues=0)
    assert attempts == [16, 8, 8]
    assert [m.memory_ran_out_at for m in found.measurements] == [16, None]


def test_the_shortage_is_said_in_the_summary() -> None:
    module = network()
    with planted("backward", Shortage(1), module):
        found = measure(module, data(), Settings(eigenvalues=0), MeasurementContext(batch_size=16))
    lines = "\n".join(str(part) for part in render_summary([replace(found, checkpoint="a.pt")], 100).renderables)
    assert "memory ran out at 16 examples at once: 8 were taken" in lines
