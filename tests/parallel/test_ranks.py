"""Several processes under torchrun give the numbers of one, whatever their number."""

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fisher_cli.curvature.spectra.factors import shared_out
from fisher_cli.parallel.launch import Launch, launched
from fisher_cli.storage.checksums import SELF_HASH
from fisher_cli.storage.journal import read_records
from tests.command import fisher
from tests.long_lists import draw
from tests.rank_runs import AS_LARGE, TASKS
from tests.shared_gradient_runs import as_large
from tests.torchrun import MLP, SAMPLES, assert_equal, torchrun
from tests.waiting import PATIENCE

CNN = [f"{SAMPLES}/digits-cnn/step_{step:05d}.pt" for step in (5, 1760)]
# The same words for every number of ranks. By what they show: the name of the report.
COMMANDS: dict[str, list[str]] = {
    "exact": ["analyze", *MLP, "--limit", "61", "-b", "8", "--eigenvalues", "3"],
    "exact-cnn": ["analyze", *CNN, "--limit", "37", "-b", "8", "--eigenvalues", "2"],
    "deflated": ["analyze", *MLP, "--limit", "90", "-b", "16", "--eigenvalues", "0", "--estimator", "deflated"],
    "deflated-cnn": ["analyze", *CNN, "--limit", "30", "-b", "8", "--eigenvalues", "1", "--estimator", "deflated"],
    "sampled": ["analyze", *MLP, "--limit", "50", "-b", "8", "--eigenvalues", "1", "--estimator", "sampled"],
    "sampled-cnn": ["analyze", *CNN, "--limit", "40", "-b", "8", "--eigenvalues", "0", "--estimator", "sampled"],
    "recalibrated": ["analyze", *CNN, "--limit", "10", "-b", "8", "--eigenvalues", "0", "--recalibrate-bn"],
    "one-batch": ["analyze", MLP[0], "--limit", "40"],
    "two-examples": ["analyze", *MLP[:2], "--limit", "2", "-b", "1", "--eigenvalues", "2"],
    "task2vec": ["analyze", CNN[1], "--limit", "20", "-b", "4", "--preset", "task2vec", "--eigenvalues", "0"],
    "normalised": ["analyze", MLP[0], "--limit", "90", "-b", "16", "--eigenvalues", "0", "--normalize", "auto"],
    "spectrum": ["spectrum", MLP[2], "--limit", "60", "-b", "8", "--eigenvalues", "4"],
    "per-example": ["examples", MLP[1], "--limit", "50", "-b", "8"],
    "large": [AS_LARGE, "analyze", *MLP[:2], "--limit", "33", "-b", "8", "--eigenvalues", "1"],
    # So many examples that eigenvalues come from products.
    "lanczos": ["analyze", *MLP[1:], "--limit", "700", "-b", "64", "--eigenvalues", "3", "--estimator", "deflated"],
    "large-spectrum": [AS_LARGE, "spectrum", CNN[1], "--limit", "20", "-b", "8", "--eigenvalues", "2"],
}
# What ranks go through: their number and the names of the commands. One test for each, since a start takes seconds.
RUNS: dict[str, tuple[int, tuple[str, ...]]] = {
    "some commands by 2 ranks": (2, tuple(sorted({"exact", "one-batch", *draw([*COMMANDS], 0.1)}))),
    "every command by 2 ranks": (2, tuple(COMMANDS)),
    # The others share nothing out that these do not.
    "by 3 ranks": (
        3,
        ("exact", "exact-cnn", "deflated", "sampled", "recalibrated", "one-batch", "two-examples", "large", "lanczos"),
    ),
}
SIDE_TABLES = {
    "exact": ["exact.layers"],
    "exact-cnn": ["exact-cnn.layers"],
    "deflated": ["deflated.layers"],
    "task2vec": ["task2vec.task2vec"],
    "spectrum": ["spectrum.spectrum"],
    "large": ["large.layers"],
    "large-spectrum": ["large-spectrum.spectrum"],
    "per-example": ["per-example.examples", "per-example.groups"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


_done: dict[str, tuple[Path, list[Any], str, str]] = {}


def alone(folder: Path, name: str) -> Path:
    """The folder with the reports of a command by one process."""
    here = folder / "alone"
    here.mkdir(exist_ok=True)
    if not list(here.glob(f"{name}.*")):
        command = COMMANDS[name]
        is_large = command[0] == AS_LARGE
        with contextlib.chdir(here), as_large() if is_large else contextlib.nullcontext():
            fisher(*command[is_large:], "-o", f"{name}.csv")
    return here


def together(folder: Path, run: str) -> tuple[Path, list[Any], str, str]:
    """The folder of the reports of a run, what its tasks returned, and what the ranks printed."""
    if run not in _done:
        here = folder / run
        here.mkdir()
        ranks, names = RUNS[run]
        words = [[*COMMANDS[name], "-o", f"{name}.csv"] for name in names]
        (here / "tasks.json").write_text(json.dumps([*words, *TASKS]))
        process = torchrun(ranks, "tests.rank_runs", "tasks.json", cwd=here)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        done = json.loads((here / "tasks.done").read_text())
        assert done[: len(words)] == [0] * len(words), err
        _done[run] = here, done[len(words) :], out, err
    return _done[run]


def told(folder: Path, run: str, task: str) -> Any:
    return together(folder, run)[1][list(TASKS).index(task)]


def check_that_tables_do_not_depend_on_the_number_of_ranks(folder: Path, run: str) -> None:
    for name in RUNS[run][1]:
        is_main = name not in {"spectrum", "large-spectrum", "per-example"}
        for table in [*([name] if is_main else []), *SIDE_TABLES.get(name, [])]:
            assert_equal(alone(folder, name) / f"{table}.csv", together(folder, run)[0] / f"{table}.csv")
    if "lanczos" in RUNS[run][1]:
        assert set(pd.read_csv(together(folder, run)[0] / "lanczos.csv")["eig_true_method"]) == {"lanczos"}


def check_the_record_says_how_many_ranks_there_were_and_the_question_does_not(folder: Path, run: str) -> None:
    records, folders = [], (alone(folder, "exact"), together(folder, run)[0])
    for number, here in zip((1, RUNS[run][0]), folders, strict=True):
        record = json.loads((here / "exact.fisher/record.json").read_text())
        assert record.pop("run")["resources"]["ranks"] == number
        for name in ("tables", SELF_HASH):
            record.pop(name)
        spectra = [record["checkpoints"][row].pop("spectra") for row in range(len(MLP))]
        records.append((record, [[each["method"] for each in row] for row in spectra]))
    assert records[0] == records[1], "coverage, batch sizes, notes, hashes are the same"
    questions = [read_records(here / "exact.fisher")[0] for here in folders]
    assert questions[0] == questions[1]


def check_only_rank_0_speaks(folder: Path, run: str) -> None:
    _, _, out, err = together(folder, run)
    ranks = RUNS[run][0]
    assert out == ""
    lines = [line for line in err.splitlines() if "exact.csv" in line]
    assert lines == ["table: exact.csv"]
    assert "Warning" not in err
    assert f"on cpu, {ranks} ranks" in err
    assert "the other ranks have nothing to do; -b" in err, "one batch of 40"
    idle = {2: ["one-batch"], 3: ["one-batch", "recalibrated", "two-examples"]}[ranks]  # batches: 1, 2, 2
    assert err.count("have nothing to do") == len(idle)


def check_shares_are_contiguous_complete_and_differ_by_one_at_most(folder: Path, run: str) -> None:
    found = told(folder, run, "shares")
    for index, count in enumerate((0, 1, 2, 7)):
        each = [rank[index] for rank in found]
        assert [n for share in each for n in share] == list(range(count))
        lengths = [len(share) for share in each]
        assert max(lengths) - min(lengths) <= 1
        assert lengths[0] == max(lengths)


def close(one: Sequence[float], other: Sequence[float], tolerance: float = 1e-9) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance * max(map(abs, one)))
        for a, b in zip(one, other, strict=True)
    )


def check_every_route_to_the_eigenvalues(folder: Path, run: str) -> None:
    for route, found in told(folder, run, "eigenvalues_by_every_route").items():
        assert close(found["ranks"], found["alone"]), route
    found = told(folder, run, "density")
    assert close(found["ranks"], found["alone"])


def check_the_ledger_holds_what_any_rank_has_seen(folder: Path, run: str) -> None:
    found = told(folder, run, "coverage_of_other_examples")
    assert found["ranks"][0] == found["alone"][0]
    assert all(method == "linear" for _, _, method in found["ranks"][0])
    for one, other in zip(found["ranks"][1:], found["alone"][1:], strict=True):
        assert close(one, other)


def check_sums_are_in_float64_and_the_same_bits_on_all_ranks(folder: Path, run: str) -> None:
    same, small = told(folder, run, "sums_are_the_same_bits_everywhere")
    assert same == [True] * (RUNS[run][0] - 1)
    assert small == 1.0  # rounded once, to float32


def check_what_fails_on_one_rank_fails_on_all_in_the_same_words(folder: Path, run: str) -> None:
    first, *others = told(folder, run, "an_error_of_one_rank_is_everyones")
    assert all(other == first for other in others)
    expected = [["NumericalError", "odd"], ["DataError", "no"], ["MemoryError", "full"], ["KeyError", "'key'"]]
    assert first == expected * 3


def check_when_memory_runs_out_on_one_rank_all_take_half_the_batch(folder: Path, run: str) -> None:
    first, *others = told(folder, run, "memory_runs_out_on_one_rank")
    assert all(other == first for other in others)
    size, ran_out_at, ratio, notes = first
    assert (size, ran_out_at) == (2, 4)
    assert math.isclose(ratio, 1, rel_tol=1e-12)
    assert "memory ran out at 4 examples at once: 2 were taken" in notes


def check_a_sum_that_is_scattered_is_a_sum(folder: Path, run: str) -> None:
    assert told(folder, run, "scattered_sums") == [[True] * 26] * RUNS[run][0]


def check_a_shared_mean_gradient_is_that_of_one_rank(folder: Path, run: str) -> None:
    """ḡ, its products with every example's gradient, norm, ratio and error; each rank has its part of every one."""
    for name, difference, held, size in told(folder, run, "shared_gradients"):
        assert difference <= (1e-14 if "float64" in name else 1e-7), name
        assert (len(held), sum(held)) == (RUNS[run][0], size), name


def check_a_rank_that_fails_within_a_batch_takes_all_with_it(folder: Path, run: str) -> None:
    first, *others = told(folder, run, "memory_runs_out_in_the_middle_of_a_batch")
    assert all(other == first for other in others)
    assert first == [[2, 4, True]] * 4
    assert told(folder, run, "an_error_in_the_middle_of_a_batch") == [["odd"] * 2] * RUNS[run][0]


def check_a_shared_mean_gradient_takes_a_share_of_the_memory(folder: Path, run: str) -> None:
    """To within one parameter's values and what is received of a piece of it."""
    size, told_by_ranks, alone = told(folder, run, "memory_of_a_shared_gradient")
    for held, grown in told_by_ranks:
        assert held <= size / RUNS[run][0] + 6
        assert grown == alone == 0 or grown <= alone - 8 * (size - held) + 32 * 2**20  # 0: nobody tells peaks here


def check_unlike_machines_and_unlike_files_are_refused_on_all_ranks(folder: Path, run: str) -> None:
    first, *others = told(folder, run, "unlike_machines")
    assert all(other == first for other in others)
    assert first.startswith("the ranks must be alike: rank 0 has")
    assert "1 threads, rank 1 has" in first
    first, *others = told(folder, run, "other_files")
    assert all(other == first for other in others)
    assert (
        first
        == [f"1.pt: rank {RUNS[run][0] - 1} does not see the same file as rank 0; all must see one folder, at rest"] * 2
    )


CHECKS = [
    check_that_tables_do_not_depend_on_the_number_of_ranks,
    check_the_record_says_how_many_ranks_there_were_and_the_question_does_not,
    check_only_rank_0_speaks,
    check_shares_are_contiguous_complete_and_differ_by_one_at_most,
    check_every_route_to_the_eigenvalues,
    check_the_ledger_holds_what_any_rank_has_seen,
    check_sums_are_in_float64_and_the_same_bits_on_all_ranks,
    check_what_fails_on_one_rank_fails_on_all_in_the_same_words,
    check_when_memory_runs_out_on_one_rank_all_take_half_the_batch,
    check_a_sum_that_is_scattered_is_a_sum,
    check_a_shared_mean_gradient_is_that_of_one_rank,
    check_a_rank_that_fails_within_a_batch_takes_all_with_it,
    check_a_shared_mean_gradient_takes_a_share_of_the_memory,
    check_unlike_machines_and_unlike_files_are_refused_on_all_ranks,
]


@pytest.mark.ci
@pytest.mark.parametrize(
    "run", [pytest.param(run, marks=() if run.startswith("some") else pytest.mark.long) for run in RUNS]
)
def test_so_many_ranks_give_what_one_gives(folder: Path, run: str) -> None:
    """One test for all, since tests may be spread over processes, and a run under torchrun serves all checks."""
    for check in CHECKS:
        check(folder, run)


def test_commands_that_one_process_does_alone_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fisher_cli.cli.app.launched", lambda: Launch(0, 2))
    monkeypatch.setattr("fisher_cli.cli.run_command.launched", lambda: Launch(0, 2))
    for words in (["compare", "checkpoints", *MLP[:2]], ["verify", MLP[0]], ["inspect", MLP[0]], ["datasets"]):
        assert (
            fisher(*words, code=2).stderr
            == f"error: fisher {words[0]} works in one process: type it without torchrun\n"
        )
    done = fisher("analyze", *MLP, "--follow", code=2)
    assert done.stdout == ""
    assert done.stderr == "error: --follow waits in one process: type the command without torchrun\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({}, Launch()),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Launch()),  # of something else: nobody says where to meet
        ({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "h"}, Launch()),
        ({"RANK": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "h"}, Launch()),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h"}, Launch(1, 2, 1, 2, os.getppid())),
        (
            {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "h", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
            Launch(5, 8, 1, 4, os.getppid()),
        ),
    ],
)
def test_the_place_among_the_ranks_comes_from_the_launcher(
    words: dict[str, str], expected: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    assert launched.__wrapped__() == expected


def test_work_goes_to_who_has_the_least() -> None:
    assert shared_out([5, 1, 1, 3, 1], 2) == [0, 1, 1, 1, 0]  # 5 | 3; then 1 | 1 | to the first of equals
    assert shared_out([4, 4], 3) == [0, 1]
    assert shared_out([], 2) == []
