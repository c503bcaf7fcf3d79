"""A journal and what befalls it: records to append, and steps on the disk that fail or are the last."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from fisher_cli.results import Estimate, Measurement, Predictions, Status
from fisher_cli.storage import atomic_write
from fisher_cli.storage.journal import JournalRecord, Key, open_journal

ASKED = {"settings": {"limit": 100, "data": "digits"}, "data": {"identity": "sha256:ab"}, "torch": "2.14"}
PRIMITIVES = ("create", "create_folder", "write", "sync", "rename", "remove", "sync_folder")


def record(index: int, loss: float = 0.5) -> JournalRecord:
    predictions = Predictions(Estimate(loss, 0.1), None, Estimate(1 / 3))
    measurement = Measurement(checkpoint=f"{index}.pt", status=Status.OK, predictions=predictions, step=index)
    return JournalRecord(f"sha256:{index:04}", f"sha256:{index - 1:04}" if index else None, measurement)


def records_up_to(count: int) -> dict[Key, JournalRecord]:
    return {record(index).key: record(index) for index in range(count)}


def filled(folder: Path, count: int = 3) -> dict[Key, JournalRecord]:
    with open_journal(folder, ASKED) as journal:
        for index in range(count):
            journal.append(record(index))
        return dict(journal.records)


def die_at(at: int, *, after: bool) -> None:
    left = [at]

    def dying(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            is_last = left[0] == 0  # a step may consist of others
            if is_last and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = real(*arguments)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        return call

    for name in PRIMITIVES:
        setattr(atomic_write, name, dying(getattr(atomic_write, name)))


def fail_at(patch: pytest.MonkeyPatch, at: int, code: int, *, persistent: bool) -> None:
    left, real_write = [at], atomic_write.write

    def failing(name: str, real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == 0 or (persistent and left[0] < 0):
                if name == "write":
                    real_write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(code, os.strerror(code))
            return real(*arguments)

        return call

    for name in PRIMITIVES:
        patch.setattr(atomic_write, name, failing(name, getattr(atomic_write, name)))
