"""`--follow`: every checkpoint that a training run saves is measured once, whole; inputs in motion harm nothing."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import safetensors.torch
import torch

import fisher_cli.inputs.checkpoints.follow as following
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile, find_checkpoints
from fisher_cli.inputs.checkpoints.follow import FollowedPaths, FollowRequest
from fisher_cli.inputs.checkpoints.inspection_cache import InspectionCache
from fisher_cli.inputs.formats.reading import ReadOptions
from fisher_cli.storage.readers import read_table
from tests.command import fisher
from tests.long_lists import some
from tests.small_run import QUICK, analyze, measured_from_now_on, tables

pytestmark = pytest.mark.usefixtures("ckpts")


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((40, 10), float(step)), "bias": torch.zeros(40)}


def save_file(path: Path, step: int) -> None:
    torch.save(weights(step), path)


def save_legacy(path: Path, step: int) -> None:
    torch.save(weights(step), path, _use_new_zipfile_serialization=False)


def save_safetensors(path: Path, step: int) -> None:
    safetensors.torch.save_file(weights(step), path)


def save_folder(path: Path, step: int) -> None:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    save_safetensors(path / "model.safetensors", step)


KINDS = {
    "zip": (save_file, "step_{}.pt"),
    "legacy": (save_legacy, "step_{}.pt"),
    "safetensors": (save_safetensors, "step_{}.safetensors"),
    "folder": (save_folder, "checkpoint-{}"),
}


@dataclass
class Desk:
    """A folder that is watched, with a checkpoint of step 10 in it; time passes only by looks."""

    folder: Path
    kind: str
    now: float = 0.0
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.save(10)
        way = FollowRequest(say=self.said.append, clock=lambda: self.now, patience=5.0)
        self.watch = FollowedPaths([self.folder], ReadOptions(), InspectionCache(), way)
        assert len(self.watch.begin(find_checkpoints([self.folder]))) == 1

    def path(self, step: int) -> Path:
        return self.folder / KINDS[self.kind][1].format(step)

    def save(self, step: int, as_if: int | None = None) -> None:
        KINDS[self.kind][0](self.path(step), step if as_if is None else as_if)

    def payload(self, step: int) -> Path:
        """The file with the numbers."""
        return self.path(step) / "model.safetensors" if self.kind == "folder" else self.path(step)

    def look(self, times: int = 1) -> list[CheckpointFile]:
        found = []
        for _ in range(times):
            self.now += 1
            found += list(self.watch.newcomers())
        return found

    def remove(self, step: int) -> None:
        shutil.rmtree(self.path(step)) if self.path(step).is_dir() else self.path(step).unlink()


def steps(found: list[CheckpointFile]) -> list[int | None]:
    assert all(file.error is None for file in found)
    return [file.step for file in found]


def appears(desk: Desk) -> None:
    desk.save(20)
    assert desk.look() == []  # it may still be growing
    assert steps(desk.look(5)) == [20]
    desk.save(40)
    desk.save(30)
    assert steps(desk.look(5)) == [30, 40]


def vanishes(desk: Desk) -> None:
    desk.save(20)
    desk.look()
    desk.remove(20)
    desk.remove(10)
    assert desk.look(8) == []


def gets_its_name_by_a_rename(desk: Desk) -> None:
    desk.save(20)
    hidden = desk.folder / f"tmp-{desk.path(20).name}"
    desk.path(20).rename(hidden)
    assert desk.look(4) == []
    hidden.rename(desk.path(20))
    assert steps(desk.look(5)) == [20]


def is_renamed_afterwards(desk: Desk) -> None:
    desk.save(20)
    assert steps(desk.look(2)) == [20]
    desk.path(20).rename(desk.path(25))
    assert desk.look(5) == []
    assert any("renamed" in text for text in desk.said)


def is_replaced_afterwards(desk: Desk) -> None:
    desk.save(20)
    assert steps(desk.look(2)) == [20]
    desk.remove(20)
    desk.save(20, as_if=21)
    assert desk.look(5) == []
    assert sum("was replaced after it was measured" in text for text in desk.said) == 1


def is_half_written_then_completed(desk: Desk) -> None:
    desk.save(20)
    whole = desk.payload(20).read_bytes()
    for part in (0.2, 0.5, 0.9):
        desk.payload(20).write_bytes(whole[: int(part * len(whole))])
        assert desk.look(2) == []
    desk.payload(20).write_bytes(whole)
    assert steps(desk.look(5)) == [20]


def stays_half_written(desk: Desk) -> None:
    desk.save(20)
    desk.payload(20).write_bytes(desk.payload(20).read_bytes()[:-200])
    assert desk.look(5) == []
    found = desk.look(5)
    assert [file.error is None for file in found] == [False]  # a row that says so, once
    assert desk.look(5) == []


def is_truncated_while_it_is_read(desk: Desk) -> None:
    desk.save(20)
    whole, real = desk.payload(20).read_bytes(), following.inspected

    def inspected(*arguments: object) -> CheckpointFile:
        found = real(*arguments)  # type: ignore[arg-type]
        desk.payload(20).write_bytes(whole[:300])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "inspected", inspected)
        assert desk.look(2) == []
    desk.payload(20).write_bytes(whole)
    assert steps(desk.look(5)) == [20]


def comes_late(desk: Desk) -> None:
    desk.save(5)
    assert desk.look(5) == []
    assert sum("comes before" in text and "next run" in text for text in desk.said) == 1
    desk.save(20)
    assert steps(desk.look(5)) == [20]


def loses_its_folder(desk: Desk) -> None:
    desk.save(20)
    desk.look()
    shutil.rmtree(desk.folder)
    assert desk.look(3) == []
    desk.folder.mkdir()
    assert desk.look(3) == []
    desk.save(30)
    assert steps(desk.look(5)) == [30]


MOTIONS = (
    *(appears, vanishes, gets_its_name_by_a_rename, is_renamed_afterwards, is_replaced_afterwards),
    *(is_half_written_then_completed, stays_half_written, is_truncated_while_it_is_read, comes_late, loses_its_folder),
)


def test_inputs_in_motion(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """D8: ten motions of four kinds of checkpoints."""
    right = 0
    for kind in KINDS:
        for motion in MOTIONS:
            motion(Desk(tmp_path / f"{kind}-{motion.__name__}", kind))
            right += 1
    record_property("D8", f"{right}/40")
    assert right == 40


def test_a_look_reads_no_bytes_of_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk(tmp_path / "run", "zip")
    read: list[Path] = []
    monkeypatch.setattr(following, "inspected", lambda path, *_: read.append(path))
    desk.look(20)
    assert read == []


def test_further_copies_are_left_and_named_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "run", "zip")
    for step in (20, 30):
        desk.save(step)
        shutil.copy(desk.path(step), desk.folder / "last.pt")
        assert steps(desk.look(5)) == [step]
    assert [text.partition(":")[0] for text in desk.said] == ["last.pt is left for the next run"]


def scripted(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], object]) -> list[int]:
    """Each wait does the next act; after the last one the user types Ctrl-C. The waits are counted."""
    waits: list[int] = []

    def pause(_: float) -> None:
        waits.append(1)
        if len(waits) > len(acts):
            raise KeyboardInterrupt
        acts[len(waits) - 1]()

    monkeypatch.setattr(following, "FollowRequest", partial(FollowRequest, pause=pause))
    return waits


def nothing() -> None:
    pass


def test_a_run_that_follows_ends_as_one_that_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    analyze()
    expected = tables()
    shutil.rmtree("r.fisher")
    shutil.move("ckpts", "all")
    Path("ckpts").mkdir()
    bring = [partial(shutil.copy, f"all/step_{step}.pt", "ckpts") for step in range(12)]
    measured = measured_from_now_on(monkeypatch)
    acts = (*bring[:3], nothing, nothing, *bring[3:], nothing, nothing, nothing)
    waits = scripted(monkeypatch, *acts)
    said = analyze("--follow", "--until", "11", "--force")
    assert "Traceback" not in said
    assert measured == [f"step_{step}.pt" for step in range(12)]
    assert len(waits) < len(acts)
    assert tables() == expected
    scripted(monkeypatch)
    analyze("--follow", "--until", "11")
    assert len(measured) == 12


def test_ctrl_c_leaves_a_report_of_all_that_came(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move("ckpts/step_11.pt", "last.pt")
    scripted(monkeypatch, partial(shutil.move, "last.pt", "ckpts/step_11.pt"), nothing, nothing)
    said = analyze("--follow", code=130)
    assert "interrupted: 12 of 12 checkpoints are in r.csv; the same command continues from there" in said
    fisher("check", Path("r.csv").absolute())
    resumed = tables()
    analyze("--no-resume")
    assert tables() == resumed


def test_the_report_is_there_while_the_run_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    shutil.move("ckpts/step_11.pt", "last.pt")

    def count() -> None:
        rows.append(len(Path("r.csv").read_text().splitlines()) - 1)
        fisher("check", Path("r.csv").absolute())

    scripted(monkeypatch, count, partial(shutil.move, "last.pt", "ckpts/step_11.pt"), nothing, nothing, count)
    analyze("--follow", code=130)
    assert rows == [11, 12]


@pytest.mark.parametrize("form", some(["csv", "json", "jsonl", "parquet"], part=0.5))
def test_rows_of_examples_are_there_while_the_run_waits(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Parquet, whose index stands at the end of the file, they come with the end of the run."""
    shutil.move("ckpts/step_11.pt", "later.pt")
    seen = []

    def count() -> None:
        path = Path(f"r.examples.{form}")
        seen.append(len(read_table(path)) if path.exists() else None)
        assert len(read_table(Path(f"r.{form}"))) == 11
        fisher("check", Path(f"r.{form}").absolute())

    scripted(monkeypatch, count, lambda: shutil.move("later.pt", "ckpts/step_11.pt"), nothing, nothing)
    analyze("-o", f"r.{form}", "--per-example", "--follow", "--until", "11")
    assert seen == [None if form == "parquet" else 88]
    assert len(read_table(Path(f"r.examples.{form}"))) == 96
    followed = Path(f"r.examples.{form}").read_bytes()
    analyze("-o", f"r.{form}", "--per-example", "--no-resume")
    assert Path(f"r.examples.{form}").read_bytes() == followed
    assert not list(Path().glob(".*.tmp"))


def test_a_polite_kill_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        scripted(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        said = analyze("--follow", code=143)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "12 of 12 checkpoints are in r.csv" in said


def test_words_that_do_not_fit() -> None:
    assert "--until 5 says when to stop waiting: add --follow" in analyze("--until", "5", code=2)
    assert "there is no such file or folder" in fisher("analyze", "nowhere", *QUICK, "--follow", code=1).stderr
