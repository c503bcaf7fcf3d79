"""Ranks within shards: each shard's examples are shared out, and what is merged are the numbers of one process."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fisher_cli.parallel.launch import Launch
from fisher_cli.storage.journal import read_records
from tests.command import fisher
from tests.torchrun import MLP, SAMPLES, assert_equal, torchrun
from tests.waiting import PATIENCE

CKPTS = [*MLP[:2], f"{SAMPLES}/digits-clean/step_00704.pt", MLP[2]]
WORDS = [*CKPTS, "--limit", "61", "-b", "8", "--eigenvalues", "2"]
FEW = [*CKPTS[:1], "--limit", "12", "-b", "4", "--eigenvalues", "0"]


@pytest.mark.ci
def test_two_shards_of_two_ranks_each_are_one_process(workdir: Path) -> None:
    """As two machines with torchrun would make them; the second is gone on with once it is finished."""
    shards = [["analyze", *WORDS, "--shard", f"{index}/2", "-o", f"part-{index}.csv"] for index in (1, 2)]
    # With one checkpoint the first of two shards is empty.
    empty = [["analyze", *FEW, "--shard", f"{index}/2", "-o", f"few-{index}.csv"] for index in (1, 2)]
    Path("tasks.json").write_text(json.dumps([*shards, shards[1], *empty]))
    process = torchrun(2, "tests.rank_runs", "tasks.json", cwd=workdir)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert json.loads(Path("tasks.done").read_text()) == [0] * 5, err
    assert err.count("shard 2/2: 2 of 4 checkpoints, 61 of 1400 examples") == 2
    assert err.count("2 of 2 checkpoints were finished before and are kept") == 1
    assert len(read_records(Path("part-2.fisher"))[1]) == 2
    for name, words in (("part", WORDS), ("few", FEW)):
        fisher("merge", f"{name}-1.csv", f"{name}-2.csv", "-o", f"{name}.csv")
        fisher("analyze", *words, "-o", f"{name}-alone.csv")
        for table in (".csv", ".layers.csv"):
            assert_equal(Path(f"{name}-alone{table}"), Path(f"{name}{table}"))
    fisher("check", "part.csv")
    # The number of ranks is in no question, so that each machine has as many as it likes.
    fisher(*shards[0][:-1], "single.csv")
    fisher("merge", "single.csv", "part-2.csv", "-o", "mixed.csv")
    assert_equal(Path("part-alone.csv"), Path("mixed.csv"))
    first = pd.read_csv("part.csv")["kl_step"]
    assert first.isna().tolist() == [True, False, False, False], "movement goes on from shard to shard"


def test_devices_under_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fisher_cli.cli.app.launched", lambda: Launch(0, 2))
    monkeypatch.setattr("fisher_cli.cli.run_command.launched", lambda: Launch(0, 2))
    error = fisher("analyze", *MLP, "--devices", "cpu,cpu", code=2).stderr
    assert error == (
        "error: --devices starts processes of its own, and torchrun has started these: leave one of the two out\n"
    )
