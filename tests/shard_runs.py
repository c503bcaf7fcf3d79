"""A folder of small checkpoints, and the commands that measure it whole, in shards or on several devices."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fisher_cli.cli.app import app
from fisher_cli.run.row import Predecessor, Source, ThisProcess
from fisher_cli.storage.checksums import SEAL
from tests.run.test_resume import NET

QUICK = ("--limit", "8", "--eigenvalues", "1", "--model", "./net.py:make")
# What tells how a run went, and so differs from run to run.
OF_THE_TIME = {"command", "seconds", "timings", "checks", "peak_memory_bytes", "parts", "made_of"}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with twelve small checkpoints; forked processes may not share threads."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    Path("net.py").write_text(NET)
    Path("ckpts").mkdir()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 10))
    for step in range(12):
        torch.save(network.state_dict(), f"ckpts/step_{step:02}.pt")
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    yield tmp_path
    torch.set_num_threads(threads)


def run(*words: object, code: int | None = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words)], prog_name="fisher")
    assert code is None or done.exit_code == code, done.output
    return done.stderr


def analyze(*words: object, code: int | None = 0) -> str:
    return run("analyze", "ckpts", *QUICK, *words, code=code)


def parts(count: int, suffix: str = "csv", *words: object, code: int | None = 0) -> list[str]:
    names = [f"part-{index}.{suffix}" for index in range(1, count + 1)]
    for index, name in enumerate(names, start=1):
        analyze("--shard", f"{index}/{count}", "-o", name, *words, code=code)
    return names


def spoil() -> None:
    """Checkpoints that cannot be used where shards begin and end; the first shard of four has nothing else."""
    for step in (0, 1, 2):
        Path(f"ckpts/step_{step:02}.pt").write_bytes(b"no checkpoint")
    for step in (5, 8):
        weights = torch.load(f"ckpts/step_{step:02}.pt", weights_only=True)
        weights["1.bias"][0] = float("nan")
        torch.save(weights, f"ckpts/step_{step:02}.pt")
    Path("ckpts/step_07.pt").write_bytes(b"")


def assert_equal_reports(one: str, other: str, *words: str, may_differ: Collection[str] = ()) -> None:
    """All tables the same bytes; the record the same but for the names of its tables and how it went."""
    paths = [Path(one), Path(other)]
    for word in words:
        first, second = (path.with_name(f"{path.stem}{word}{path.suffix}") for path in paths)
        assert first.read_bytes() == second.read_bytes(), first
    kind = ".spectrum" if ".spectrum" in words else ""
    records = [json.loads(path.with_name(f"{path.stem}{kind}.meta.json").read_text()) for path in paths]
    tables, runs, _ = ([record.pop(name) for record in records] for name in ("tables", "run", SEAL))
    assert records[0] == records[1]
    assert list(tables[0].values()) == list(tables[1].values())
    assert runs[0].keys() - runs[1].keys() <= {"parts"}
    assert runs[1].keys() - runs[0].keys() <= {"made_of"}
    assert {name for name in runs[1] if runs[0].get(name) != runs[1][name]} <= {*OF_THE_TIME, *may_differ}


def measured_from_now_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    real = ThisProcess.measure_row

    def measure(self: ThisProcess, source: Source, previous: Predecessor) -> Any:
        found.append(source.name)
        return real(self, source, previous)

    monkeypatch.setattr(ThisProcess, "measure_row", measure)
    return found
