"""A folder of small checkpoints, and the commands that measure it whole, in shards or on several devices."""

import json
from collections.abc import Collection
from pathlib import Path

import torch

from fisher_cli.storage.checksums import SELF_HASH
from fisher_cli.storage.report_folder import record_path
from tests.command import fisher
from tests.small_run import QUICK

# What tells how a run went, and so differs from run to run.
OF_THE_TIME = {"command", "seconds", "timings", "checks", "peak_memory_bytes", "parts", "made_of"}


def run(*words: object, code: int | None = 0) -> str:
    return fisher(*words, code=code).stderr


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
        Path(f"ckpts/step_{step}.pt").write_bytes(b"no checkpoint")
    for step in (5, 8):
        weights = torch.load(f"ckpts/step_{step}.pt", weights_only=True)
        weights["1.bias"][0] = float("nan")
        torch.save(weights, f"ckpts/step_{step}.pt")
    Path("ckpts/step_7.pt").write_bytes(b"")


def assert_equal_reports(one: str, other: str, *words: str, may_differ: Collection[str] = ()) -> None:
    """All tables the same bytes; the record the same but for the names of its tables and how it went."""
    paths = [Path(one), Path(other)]
    for word in words:
        first, second = (path.with_name(f"{path.stem}{word}{path.suffix}") for path in paths)
        assert first.read_bytes() == second.read_bytes(), first
    kind = ".spectrum" if ".spectrum" in words else ""
    records = [json.loads(record_path(path.with_name(f"{path.stem}{kind}.csv")).read_text()) for path in paths]
    tables, runs, _ = ([record.pop(name) for record in records] for name in ("tables", "run", SELF_HASH))
    assert records[0] == records[1]
    assert list(tables[0].values()) == list(tables[1].values())
    assert runs[0].keys() - runs[1].keys() <= {"parts"}
    assert runs[1].keys() - runs[0].keys() <= {"made_of"}
    assert {name for name in runs[1] if runs[0].get(name) != runs[1][name]} <= {*OF_THE_TIME, *may_differ}
