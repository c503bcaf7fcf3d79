"""`--dry-run`: what it foretells is what a run takes, it writes nothing, and refuses what cannot be."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.torch_backend import machine_memory
from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.networks.shapes import hollow
from fisher_cli.parallel.launch import Launch
from fisher_cli.reports.forecast import duration
from fisher_cli.run.forecast.forecast import RunPlan, plan
from fisher_cli.run.forecast.lower_bound import lower_bound
from fisher_cli.settings import Settings
from tests.command import fisher
from tests.live_memory import LiveMemory
from tests.small_run import in_child

ROOT = Path(__file__).parents[2]
CLEAN = ROOT / "sample_checkpoints" / "digits-clean"
MEBIBYTE = 2**20
# The promise: the peak within this share of the measured one.
TOLERANCE = 0.15
NETWORKS = '''
import torch
from torch import nn
from torchvision.models import VisionTransformer


class Coloured(nn.Module):
    """The digits with three equal channels."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x.expand(-1, 3, -1, -1))


def vit(width, layers, heads):
    network = VisionTransformer(8, 2, layers, heads, width, 4 * width, num_classes=10)
    nn.init.normal_(network.heads.head.weight, std=0.05)
    return Coloured(network)


def cnn(width, layers):
    parts = [nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(layers):
        parts += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def vit_1(): return vit(144, 4, 4)
def vit_10(): return vit(416, 5, 8)
def vit_100(): return vit(960, 9, 15)
def cnn_1(): return cnn(160, 4)
def cnn_10(): return cnn(384, 8)
def cnn_100(): return cnn(960, 12)
def huge(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 2**20), nn.Linear(2**20, 2**20), nn.Linear(2**20, 10))
'''
LIBRARIES = 500 * MEBIBYTE


def in_a_process(folder: Path, *words: str) -> tuple[str, int]:
    """What a command prints, and its peak memory in bytes, in a forked process.

    Memory is what tensors take there. What the system calls resident depends on what else runs there: that is held to
    the same promise by `benchmarks.resident`.
    """

    def work() -> None:
        os.chdir(folder)
        memory = LiveMemory()

        def begin_peak() -> bool:
            memory.peak = memory.now
            return True

        patch = pytest.MonkeyPatch()
        patch.setattr(machine_memory, "resident_memory", lambda: LIBRARIES + memory.now)
        patch.setattr(machine_memory, "peak_memory", lambda: LIBRARIES + memory.peak)
        patch.setattr(machine_memory, "begin_peak", begin_peak)
        with memory:
            done = fisher(*words)
        Path("done.json").write_text(json.dumps([done.stdout, LIBRARIES + memory.peak]))

    assert in_child(work) == 0
    said, peak = json.loads((folder / "done.json").read_text())
    return said, peak


def make(folder: Path, name: str) -> None:
    """Two checkpoints of a network with random weights."""
    (folder / "net.py").write_text(NETWORKS)
    space: dict[str, Any] = {}
    exec(NETWORKS, space)
    (folder / name).mkdir()
    for step in range(2):
        torch.manual_seed(step)
        torch.save(space[name]().state_dict(), folder / name / f"step_{step}.pt")


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_1", ("--limit", "8", "-b", "4", "--eigenvalues", "0")),
        *(
            pytest.param(name, words, marks=pytest.mark.long)
            for name, words in (
                ("cnn_1", ("--limit", "6", "-b", "3", "--eigenvalues", "2")),
                ("cnn_1", ("--limit", "200", "--eigenvalues", "0", "-b", "160")),
                ("cnn_1", ("--limit", "32")),
                ("cnn_1", ("--limit", "200")),
                ("vit_1", ("--limit", "64", "--eigenvalues", "0")),
                ("vit_1", ("--limit", "32")),
                ("vit_1", ("--limit", "200")),
                ("cnn_10", ("--limit", "16", "--eigenvalues", "0")),
                ("vit_10", ("--limit", "32", "--eigenvalues", "0")),
                ("cnn_10", ("--limit", "4", "--eigenvalues", "2")),
                ("vit_10", ("--limit", "16", "--eigenvalues", "2")),
                ("cnn_100", ("--limit", "2", "--eigenvalues", "0")),
                ("vit_100", ("--limit", "4", "--eigenvalues", "0")),
                ("vit_100", ("--limit", "4", "--eigenvalues", "2")),
            )
        ),
    ],
)
def test_memory_is_foretold(
    name: str, words: Sequence[str], tmp_path: Path, record_property: Callable[..., None]
) -> None:
    hold_against_a_run(("analyze",), name, words, tmp_path, record_property)


OTHERS = [
    ("spectrum", "cnn_1", "--limit 32"),
    ("spectrum", "vit_1", "--limit 100 --method density --eigenvalues 5 --probes 2 --steps 20"),
    ("compare true-vs-empirical", "cnn_1", "--limit 32"),
    ("compare true-vs-empirical", "vit_1", "--limit 100"),
    ("examples", "cnn_1", "--limit 64"),
]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("command", "name", "words"), OTHERS)
def test_memory_of_other_commands_is_foretold(
    command: str, name: str, words: str, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    hold_against_a_run(command.split(), name, words.split(), tmp_path, record_property)


def hold_against_a_run(
    command: Sequence[str], name: str, words: Sequence[str], folder: Path, record_property: Callable[..., None]
) -> None:
    make(folder, name)
    # A network with batch norm alone: forward-mode differentiation of one, which the movement from a row to the next
    # takes, ends torch where operations are counted.
    is_alone = name.startswith("cnn") and command[0] in {"analyze", "examples"}
    asked = (*command, f"{name}/step_0.pt" if is_alone else name, "--model", f"net.py:{name}", *words)
    said, _ = in_a_process(folder, *asked, "--dry-run", "--format", "json")
    foretold = json.loads(said)
    _, peak = in_a_process(folder, *asked, "-o", "r.csv")
    ratio = foretold["peak_bytes"] / peak
    record_property(
        " ".join((*command, name, *words)),
        f"{foretold['parameters']:,} parameters, {', '.join(dict(foretold['routes']).values()) or 'no eigenvalues'}: "
        f"measured {peak / MEBIBYTE:,.0f} MiB, foretold {foretold['peak_bytes'] / MEBIBYTE:,.0f}, ratio {ratio:.2f}",
    )
    assert abs(ratio - 1) <= TOLERANCE, (ratio, foretold["parts"])
    assert sum(size for _, size in foretold["parts"]) == foretold["peak_bytes"]
    million = int(name.rpartition("_")[2])
    assert 0.85 < foretold["parameters"] / 1e6 / million < 1.15
    assert foretold["measurements"] == (1 if is_alone else 2)


# --- in this process, whose memory is that of all tests before


def run(*words: object, code: int = 0) -> tuple[str, str]:
    done = fisher(*words, code=code)
    return done.stdout, done.stderr


QUICK = (CLEAN, "--limit", "20", "-b", "8", "--eigenvalues", "1")


def foretold(*words: object, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("analyze", *QUICK, *words, "--dry-run", "--format", "json", code=code)[0])
    return found


def test_nothing_is_written_and_what_the_journal_has_is_not_counted(workdir: Path) -> None:
    assert foretold("-o", "r.csv")["measurements"] == 14
    assert list(workdir.iterdir()) == []
    few = sorted(CLEAN.glob("*.pt"))[:3]
    run("analyze", *few, *QUICK[1:], "-o", "r.csv")
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    found = foretold("-o", "r.csv")
    assert (found["rows"], found["kept"], found["measurements"]) == (14, 3, 11)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before
    assert foretold("-o", "r.csv", "--no-resume")["measurements"] == 14
    assert run("analyze", *few, *QUICK[1:], "-o", "r.csv", "--dry-run")[0] == "nothing is left to measure\n"
    # Other words are another question, for a run and so here.
    error = run("analyze", *QUICK, "--seed", "3", "-o", "r.csv", "--dry-run", code=1)[1]
    assert "settings.seed was 0 and is 3" in error


def test_a_shard_measures_the_checkpoint_before_it_too() -> None:
    found = foretold("--shard", "2/3", "-o", "part.csv")
    assert (found["rows"], found["measurements"]) == (5, 6)
    assert foretold("--shard", "1/3", "-o", "part.csv")["measurements"] == 4


def test_people_get_lines_with_what_they_are_read_off() -> None:
    out, err = run("analyze", *QUICK, "--dry-run")
    assert "14 checkpoints" in out
    assert "1 forward and 9 backward passes per example (exact)" in out
    assert "true Fisher by gram, empirical Fisher by gram" in out
    assert "a measurement of 16 examples of step_" in out
    assert "probe" in err
    words = ["0.4 s", "50 s", "10 min", "2 h 7 min", "3 d 11 h"]
    assert [duration(seconds) for seconds in (0.44, 50, 600, 7600, 3e5)] == words


@pytest.mark.parametrize(
    ("command", "words", "lines"),
    [
        ("spectrum", ("--eigenvalues", "2"), ("true Fisher by gram, empirical Fisher by gram",)),
        ("spectrum", ("--matrix", "empirical"), ("eigenvalues   empirical Fisher by gram",)),
        ("compare true-vs-empirical", (), ("true Fisher by gram, empirical Fisher by gram", "MiB")),
        ("examples", (), ("1 forward and 9 backward passes per example (exact)", "while traces are found")),
    ],
)
def test_other_commands_foretell_with_the_same_lines_and_refuse_alike(
    command: str, words: Sequence[str], lines: Sequence[str], workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (*command.split(), CLEAN, "--limit", "20", "-b", "8", *words, "-o", "r.csv", "--dry-run")
    out, _ = run(*asked)
    assert "14 checkpoints" in out
    for line in lines:
        assert line in out
    assert list(workdir.iterdir()) == []
    found = json.loads(run(*asked, "--format", "json")[0])
    assert sum(size for _, size in found["parts"]) == found["peak_bytes"]
    assert any(name.startswith("eigenvalues") for name, _ in found["seconds"]) == (command == "spectrum")
    monkeypatch.setattr(machine_memory, "total_memory", lambda: (found["peak_bytes"] // 2, "the machine's memory"))
    monkeypatch.setattr(machine_memory, "resident_memory", lambda: 0)
    error = run(*asked, code=4)[1].splitlines()[-1]
    assert error.startswith("error: does not fit: ")
    assert "--exclude" in error
    assert "--eigenvalues 0" not in error


def test_ways_that_go_by_products_and_densities_have_their_own_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (CLEAN / "step_00000.pt", "--limit", "20", "-b", "8", "--dry-run", "--format", "json")
    monkeypatch.setattr(
        "fisher_cli.run.forecast.profile_matrices.choose_eigensolver", lambda *_, **__: Eigensolver.LANCZOS
    )
    # No column is left out for being small.
    monkeypatch.setattr("fisher_cli.run.forecast.profile_matrices.WHOLE_ROWS", -1)
    density = json.loads(run("spectrum", *asked, "--method", "density")[0])
    assert {dict(density["routes"])[name] for name in ("true", "empirical")} == {"lanczos"}
    monkeypatch.setattr("fisher_cli.run.forecast.profile_matrices.score_gram.is_affordable", lambda _: False)
    compared = json.loads(run("compare", "true-vs-empirical", *asked)[0])
    assert "norms and directions" in dict(compared["seconds"])
    assert dict(compared["routes"])["true"] == "lanczos"


def test_what_does_not_fit_is_refused_with_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (CLEAN / "step_00000.pt", "--limit", "1400", "--dry-run", "--format", "json")
    words = (*whole, "--eigenvalues", "0", "--model", "digits-mlp", "-b", "1400")
    needed = json.loads(run("analyze", *words)[0])
    # This process has the memory of other tests, which is not to be taken for a network's.
    monkeypatch.setattr(machine_memory, "resident_memory", lambda: 0)
    monkeypatch.setattr(machine_memory, "total_memory", lambda: (needed["peak_bytes"] // 2, "the machine's memory"))
    out, err = run("analyze", *words, code=4)
    assert json.loads(out)["refusal"]["remedies"]
    assert err.splitlines()[-1].startswith("error: does not fit: ")
    assert "--exclude" in err


def test_two_processes_take_the_memory_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    one = foretold("--devices", "cpu,cpu")
    assert one["processes"] == 2
    assert one["total_seconds"] == pytest.approx(7 * sum(seconds for _, seconds in one["seconds"]), rel=1e-6)
    monkeypatch.setattr(machine_memory, "total_memory", lambda: (int(1.5 * one["peak_bytes"]), "the machine's memory"))
    out, err = run("analyze", *QUICK, "--devices", "cpu,cpu", "--dry-run", code=4)
    assert "2 processes of" in out
    assert "give --devices no more than one process" in err


@pytest.mark.usefixtures("workdir")
def test_a_network_that_is_too_large_is_refused_before_it_is_built() -> None:
    """A trillion parameters in a linear layer: built in earnest they would take four terabytes."""
    Path("net.py").write_text(NETWORKS)
    torch.save({"0.weight": torch.zeros(1)}, "a.pt")
    error = run("analyze", "a.pt", "--model", "net.py:huge", "--dry-run", code=4)[1]
    assert error.startswith("error: even one example at once takes 1")
    assert "GiB" in error
    assert "--exclude" in error
    assert len(error.splitlines()) == 1


def test_the_outline_of_a_network_has_its_sizes() -> None:
    build = lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))  # noqa: E731
    found = lower_bound(build, Settings(data="none"), torch.zeros(5, 4))
    assert found is not None
    assert (found.tensors, found.analysed, found.values, found.outputs) == (23, 23, 4 + 3 + 3 + 2, 2)
    assert found.bytes == 4 * 23 + 8 * 23 + found.batch(1)
    assert lower_bound(build, Settings(data="none", precision="bfloat16", exclude="0.*")).bytes == 23 * (4 + 2)  # type: ignore[arg-type,union-attr]
    assert all(each.is_meta for each in hollow(build).parameters())

    def fails() -> torch.nn.Module:
        raise KeyError

    assert lower_bound(fails, Settings(data="none")) is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--follow",), "--dry-run with --follow"),
        (("--format", "csv"), "--dry-run prints lines, or JSON"),
    ],
)
def test_what_cannot_be_foretold_is_refused(words: tuple[str, ...], reason: str) -> None:
    error = run("analyze", *QUICK, *words, "--dry-run", code=2)[1]
    assert reason in error
    assert len(error.splitlines()) == 1


def test_ranks_are_not_foretold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fisher_cli.cli.dry_run.launched", lambda: Launch(0, 2))
    error = run("analyze", *QUICK, "--dry-run", code=2)[1]
    assert error.startswith("error: --dry-run estimates one process")


def test_no_file_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"no checkpoint")
    error = run("analyze", tmp_path, "--dry-run", code=1)[1]
    assert error.startswith("error: a.pt:")


@pytest.mark.usefixtures("workdir")
def test_what_the_probe_meets_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that no row could be made of, and memory that is not even enough for one example."""
    Path("net.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    torch.save({"1.weight": torch.full((10, 64), float("nan")), "1.bias": torch.zeros(10)}, "a.pt")
    error = run("analyze", "a.pt", "--model", "net.py:make", "--dry-run", code=1)[1].splitlines()[-1]
    assert error.startswith("error: a.pt, which was to be measured as a probe: NaN or infinite weights in ")

    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("fisher_cli.run.measurement.sweep", fails)
    error = run("analyze", *QUICK, "--dry-run", code=4)[1].splitlines()[-1]
    assert error.startswith("error: does not fit: memory ran out on cpu even with 1 example at once")


def planned(letters: str, recorded: Sequence[tuple[str, str | None]], share: slice = slice(None)) -> RunPlan:
    """The plan of a run over checkpoints named by letters; an x cannot be read, capital letters are another run."""
    broken = CheckpointError("no checkpoint")
    files = [
        SimpleNamespace(sha256=each, error=broken if each in "xX" else None, run="B" if each.isupper() else "a")
        for each in letters
    ]
    settings = SimpleNamespace(looks_back=True)
    analysis = SimpleNamespace(settings=settings)
    run: Any = SimpleNamespace(files=files, share=files[share], analysis=analysis, first_place=share.start or 0)
    return plan(run, recorded)


@pytest.mark.parametrize(
    ("letters", "recorded", "share", "expected"),
    [
        ("abc", [], slice(None), RunPlan((0, 1, 2), 0, 0, 0, 0, None)),
        ("axc", [], slice(None), RunPlan((0, 2), 0, 0, 0, 1, None)),
        # The row before a new one is evaluated again.
        ("abc", [("a", None), ("b", "a")], slice(None), RunPlan((2,), 2, 0, 1, 0, None)),
        # One that came between: it is measured, the one after it joined to it.
        ("abc", [("a", None), ("c", "a")], slice(None), RunPlan((1,), 1, 1, 1, 0, None)),
        # A shard measures the last one before it that can be read; not where its first row is finished.
        ("abxcd", [], slice(3, 5), RunPlan((3, 4), 0, 0, 0, 0, 1)),
        ("abxcd", [("c", "b")], slice(3, 5), RunPlan((4,), 1, 0, 1, 0, None)),
        # The first of another run is held against none.
        ("abCD", [("C", None)], slice(None), RunPlan((0, 1, 3), 1, 0, 1, 0, None)),
        ("abCD", [], slice(2, 4), RunPlan((2, 3), 0, 0, 0, 0, None)),
        ("abCXD", [], slice(4, 5), RunPlan((4,), 0, 0, 0, 0, 2)),
    ],
)
def test_what_is_left_to_do(
    letters: str, recorded: list[tuple[str, str | None]], share: slice, expected: RunPlan
) -> None:
    assert planned(letters, recorded, share) == expected
