"""A checkpoint that comes between old rows, or goes from between them: what joins two rows is found anew, no more."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fisher_cli.run.measurement
import fisher_cli.run.movement
import fisher_cli.run.previous_row
from tests.small_run import analyze, measured_from_now_on, tables

pytestmark = pytest.mark.usefixtures("ckpts")


def swept(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is computed of a whole network from now on: sweeps for traces, eigenvalues, products of a step."""
    done: list[str] = []

    def counting(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            done.append(name)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    counting(fisher_cli.run.measurement, "sweep")
    counting(fisher_cli.run.measurement, "spectrum")
    counting(fisher_cli.run.movement, "all_outputs")
    counting(fisher_cli.run.movement, "leading_vectors")
    counting(fisher_cli.run.previous_row, "movement")
    return done


def test_a_newcomer_at_the_end_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move("ckpts/step_11.pt", "last.pt")
    analyze()
    shutil.move("last.pt", "ckpts/step_11.pt")
    measured, done = measured_from_now_on(monkeypatch), swept(monkeypatch)
    analyze()
    assert measured == ["step_11.pt"]
    assert done == ["leading_vectors", "all_outputs", "sweep", "movement", "spectrum", "spectrum"]
    resumed = tables()
    analyze("--no-resume")
    assert tables() == resumed


@pytest.mark.parametrize("eigenvalues", ["0", "1"])
def test_a_newcomer_between_old_rows_costs_itself_and_its_neighbours_movement(
    eigenvalues: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One measurement; both neighbours are evaluated once, and their leading eigenvectors found where asked for."""
    words = ("--eigenvalues", eigenvalues)
    shutil.move("ckpts/step_5.pt", "between.pt")
    analyze(*words)
    shutil.move("between.pt", "ckpts/step_5.pt")
    with monkeypatch.context() as patch:
        measured, done = measured_from_now_on(patch), swept(patch)
        analyze(*words)
        vectors, spectra = (["leading_vectors"], ["spectrum", "spectrum"]) if eigenvalues == "1" else ([], [])
        assert measured == ["step_5.pt"]
        assert done == [*vectors, "all_outputs", "sweep", "movement", *spectra, *vectors, "all_outputs", "movement"]
        done.clear()
        analyze(*words)
        assert done == []
    resumed, notes = tables(), all_notes()
    analyze(*words, "--no-resume")
    assert tables() == resumed
    assert all_notes() == notes


def test_a_row_that_is_gone_costs_the_movement_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    analyze()
    Path("ckpts/step_5.pt").unlink()
    Path("ckpts/step_0.pt").unlink()
    with monkeypatch.context() as patch:
        measured, done = measured_from_now_on(patch), swept(patch)
        analyze()
        assert measured == []
        assert done == ["leading_vectors", "all_outputs"] * 2 + ["movement"]
    resumed, notes = tables(), all_notes()
    analyze("--no-resume")
    assert tables() == resumed
    assert all_notes() == notes


def all_notes() -> list[list[str]]:
    return [each["notes"] for each in json.loads(Path("r.fisher/record.json").read_text())["checkpoints"]]
