"""Several folders are several runs in one command: each has its own order, movement, phases and path, as if alone."""

import contextlib
import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from fisher_cli.inputs.checkpoints.follow import FollowRequest
from fisher_cli.reports.page import render_page
from fisher_cli.reports.reported_run import read_runs
from fisher_cli.results import Measurement
from fisher_cli.run.preparation import run_of_files
from fisher_cli.run.row import Predecessor, Source, ThisProcess
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.readers import read_table
from tests.command import fisher
from tests.shard_runs import assert_equal_reports
from tests.small_run import NET, in_child, measured_from_now_on

QUICK = ("--limit", "8", "--eigenvalues", "1", "--model", "./net.py:make", "-q")
FEW = ("--limit", "4", "--eigenvalues", "0", "--model", "./net.py:make", "-q")
TABLES = ("", ".layers")
SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
MANY = [2, 3, 30]


def write_run(folder: Path, steps: Sequence[int], seed: int, hidden: int = 4) -> Path:
    """A folder of small checkpoints, each a step from the one before it."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))
    folder.mkdir(parents=True)
    for step in steps:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        torch.save(network.state_dict(), folder / f"step_{step}.pt")
    return folder


@pytest.fixture
def runs(workdir: Path) -> Path:
    """Three runs of 4, 2 and 3 checkpoints; the second has a file that cannot be used."""
    (workdir / "net.py").write_text(NET)
    write_run(workdir / "runs" / "a", (0, 1, 2, 3), 1)
    write_run(workdir / "runs" / "b", (0, 5), 2)
    (workdir / "runs" / "b" / "step_3.pt").write_bytes(b"no checkpoint")
    write_run(workdir / "runs" / "c", (1, 2, 10), 3)
    return workdir / "runs"


@pytest.fixture(scope="module", params=MANY)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """How many runs of two checkpoints there are below runs/ of the folder, with their report all.csv."""
    folder = tmp_path_factory.mktemp("many")
    with contextlib.chdir(folder):
        Path("net.py").write_text(NET)
        for number in range(request.param):
            write_run(Path("runs") / f"r{number}", (0, 10), number)
        fisher("analyze", "runs", *FEW, "-o", "all.csv")
    return request.param, folder


@pytest.fixture
def many(measured: tuple[int, Path], workdir: Path) -> int:
    shutil.copytree(measured[1], workdir, dirs_exist_ok=True)
    return measured[0]


def files(stem: str = "all") -> dict[str, bytes]:
    return {word: Path(f"{stem}{word}.csv").read_bytes() for word in TABLES}


def of_run(table: pd.DataFrame, run: str) -> pd.DataFrame:
    """The rows of a run, as they would be in its own report."""
    rows = table[table["run"] == run].reset_index(drop=True)
    return rows.assign(checkpoint=rows["checkpoint"].str.removeprefix(f"{run}/"))


@pytest.mark.usefixtures("runs")
def test_each_run_is_what_it_is_alone() -> None:
    fisher("analyze", "runs", *QUICK, "-o", "all.csv", code=3)
    assert read_table(Path("all.csv"))["run"].tolist() == [*"aaaa", *"bbb", *"ccc"]
    for run in "abc":
        fisher("analyze", f"runs/{run}", *QUICK, "-o", f"{run}.csv", code=None)
        for word in TABLES:
            alone, among = read_table(Path(f"{run}{word}.csv")), of_run(read_table(Path(f"all{word}.csv")), run)
            pd.testing.assert_frame_equal(among, alone, check_exact=True)
    fisher("analyze", "runs/a", "runs/b", "runs/c", *QUICK, "-o", "named.csv", code=3)
    assert files("named") == files()


@pytest.mark.usefixtures("runs")
def test_rows_that_are_piped_are_those_of_the_report() -> None:
    fisher("analyze", "runs", *QUICK, "-o", "all.csv", code=3)
    piped = Path("piped.csv")
    piped.write_text(fisher("analyze", "runs", *QUICK, code=3).stdout)
    expected = read_table(Path("all.csv"))
    pd.testing.assert_frame_equal(read_table(piped).drop(columns="phase"), expected.drop(columns="phase"))


@pytest.mark.usefixtures("runs")
def test_other_commands_take_several_runs() -> None:
    for command, words in (("spectrum", QUICK), ("examples", (*QUICK[:2], *QUICK[4:]))):
        fisher(command, "runs", *words, "-o", "all.csv", code=3)
        table = read_table(Path(f"all.{command}.csv"))
        assert set(table[["run", "order"]].itertuples(index=False, name=None)) == {
            (run, order) for run, count in (("a", 4), ("b", 3), ("c", 3)) for order in range(count)
        }
    fisher("inspect", "runs", "--model", "./net.py:make", "-q", "-o", "files.csv", code=3)
    assert read_table(Path("files.csv"))["order"].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]


@pytest.mark.ci
def test_shards_join_to_the_whole(many: int) -> None:
    """Their borders fall within runs and between them."""
    shards = 3 if many == 3 else 4
    for index in range(1, shards + 1):
        fisher("analyze", "runs", *FEW, "--shard", f"{index}/{shards}", "-o", f"part-{index}.csv")
    parts = [f"part-{index}.csv" for index in range(1, shards + 1)]
    fisher("merge", *reversed(parts), "-o", "merged.csv")
    assert_equal_reports("merged.csv", "all.csv", *TABLES, ".runs")
    assert all(line.startswith("ok") for line in fisher("check", "merged.csv").output.splitlines())


def test_a_killed_run_goes_on_to_the_same_bytes(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("analyze", "runs", *FEW, "-o", "all.csv")
    whole = files()
    shutil.rmtree("all.fisher")
    for path in Path().glob("all.*"):
        path.unlink()

    rows = 2 * many
    last = random.Random(many).randrange(1, rows)
    real = ThisProcess.measure_row

    def killed(self: ThisProcess, source: Source, previous: Predecessor) -> Measurement:
        nonlocal last
        if last == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        last -= 1
        return real(self, source, previous)

    def work() -> None:
        monkeypatch.setattr(ThisProcess, "measure_row", killed)
        fisher(*words)

    kept = last
    assert in_child(work) == -signal.SIGKILL
    measured = measured_from_now_on(monkeypatch)
    fisher(*words)
    assert files() == whole
    # Where the kill came within a run, the row before is evaluated, or measured, once more.
    assert rows - kept <= len(measured) <= rows - kept + 1


@pytest.mark.usefixtures("runs")
def test_rows_are_the_same_in_whatever_order_processes_ask_for_them() -> None:
    """As `--devices` does."""
    settings = Settings(limit=8, eigenvalues=1, model="./net.py:make")

    def made() -> list[Measurement]:
        return list(run_of_files([Path("runs")], settings, Resources()))

    run, expected = run_of_files([Path("runs")], settings, Resources()), made()
    for place in (4, 5, 0, 1, 7, 2, 3, 6, 9, 8):
        _, row = run.row(place)
        known = expected[place]
        assert (row.movement, row.trace, row.eigenvalues_true) == (known.movement, known.trace, known.eigenvalues_true)


class Training:
    """Two runs whose checkpoints come in turn; time is what the run waits."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.time, self.to_come = folder, 0.0, ["b/step_0.pt", "a/step_1.pt", "b/step_1.pt", "b/step_2.pt"]

    def pause(self, seconds: float) -> None:
        self.time += seconds
        if self.to_come and self.time % 3 < 1:
            name = self.to_come.pop(0)
            (self.folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(f"runs/{name}", self.folder / name)


def test_runs_that_grow_are_followed_side_by_side(workdir: Path) -> None:
    """Each row is held against the one before it in its run, and the wait ends when every run has come to its end."""
    (workdir / "net.py").write_text(NET)
    for seed, run in enumerate("ab"):
        write_run(workdir / "runs" / run, (0, 1, 2), seed)
    Path("runs/a/step_2.pt").unlink()
    Path("growing/a").mkdir(parents=True)
    shutil.copy("runs/a/step_0.pt", "growing/a/step_0.pt")
    training = Training(workdir / "growing")
    request = FollowRequest(until=1, pause=training.pause, clock=lambda: training.time, between=1.0)
    settings = Settings(limit=8, eigenvalues=1, model="./net.py:make")
    run = run_of_files([Path("growing")], settings, Resources(), following=request)
    came = [(row.run, row.step) for row in run]
    assert came == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    whole = run.analysis.whole()
    assert [(row.run, row.step) for row in whole.measurements] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    Path("runs/b/step_2.pt").unlink()
    expected = run_of_files([Path("runs")], settings, Resources())
    for _ in expected:
        pass
    pd.testing.assert_frame_equal(whole.table, expected.analysis.table)


def test_a_folder_of_several_networks_has_no_trend(workdir: Path) -> None:
    (workdir / "mixed").mkdir()
    for run, step in (("clean", 0), ("cnn", 5), ("clean", 66), ("cnn", 88)):
        shutil.copy(SAMPLES / f"digits-{run}" / f"step_{step:05}.pt", "mixed")
    words = ("mixed", "--limit", "8", "--eigenvalues", "0", "-q")
    said = " ".join(fisher("analyze", *words, "--format", "table", "-o", "t.csv").stdout.split())
    sentence = "The checkpoints are of 2 networks (digits-mlp, digits-cnn), whose traces have no trend"
    assert sentence in said
    assert "The true trace" not in said
    table = read_table(Path("t.csv"))
    assert table["trace_true"].notna().all()
    assert table["phase"].isna().all()
    assert table["kl_step"].isna().all()
    page = render_page(read_runs([Path("t.csv")])).decode()
    assert sentence in page
    assert "the true trace is largest" not in page


@pytest.mark.usefixtures("runs")
def test_the_table_of_each_run_stands_under_its_name() -> None:
    said = fisher("analyze", "runs", *QUICK, "--format", "table", code=3).stdout
    places = [said.index(f"run {run}\n") for run in "abc"]
    assert places == sorted(places)
    assert said.count("The true trace") == 3
    one = fisher("analyze", "runs/a", *QUICK, "--format", "table").stdout
    assert "run a" not in one


@pytest.mark.ci
def test_a_page_shows_the_runs_beside_each_other(many: int) -> None:
    runs = read_runs([Path("all.csv")])
    assert [run.name for run in runs] == [f"r{number}" for number in range(many)]
    page = render_page(runs)
    assert len(page) < 2_000_000
    text = page.decode()
    assert "<title>Fisher information: all</title>" in text
    for number in range(many):
        assert f"<h2>r{number}</h2>" in text
        assert f">r{number}" in text.partition('<figure id="traces"')[2].partition("</figure>")[0]  # the legend
        assert f"All checkpoints (r{number})" in text


def test_runs_that_begin_with_one_checkpoint_are_paired_on_a_page(workdir: Path) -> None:
    """The journal has the row of both once, under the name that it was measured by."""
    (workdir / "net.py").write_text(NET)
    for seed, run in enumerate("ab"):
        write_run(workdir / "runs" / run, (0, 1), seed)
    shutil.copy("runs/a/step_0.pt", "runs/b/step_0.pt")
    fisher("analyze", "runs", *FEW, "-o", "all.csv")
    page = render_page(read_runs([Path("all.csv")])).decode()
    assert "Errors of these differences are paired by example;" in page
    assert set(read_table(Path("all.runs.csv"))["pairing"]) == {"paired"}
