"""A run whose checkpoints are shared out among the devices of one machine: one process writes, the others measure."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fisher_cli.errors import UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.parallel.shard_run import SharedRun
from fisher_cli.parallel.worker_pool import WorkerConfig, WorkerPool
from fisher_cli.results import Measurement, Status
from fisher_cli.run.device import choose_device
from fisher_cli.run.previous_row import PreviousRow
from fisher_cli.run.resume import ResumedRows
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.journal import JournalRecord

ALL = "all"


def choose_devices(names: Sequence[str]) -> list[str]:
    """The devices of these names, all of one type; `all` are the CUDA devices that are there, a number is one of them.

    Raises:
        UsageError: there is no such device here, or they are of different types.
    """
    if list(names) == [ALL]:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            msg = "--devices all: no CUDA device is here; name what to use, as in --devices cpu,cpu"
            raise UsageError(msg)
        return [f"cuda:{number}" for number in range(count)]
    named = [f"cuda:{name}" if name.isdecimal() else name for name in names]
    types = {choose_device(name).type for name in named}
    if len(types) > 1:
        kinds = " and ".join(sorted(types))
        msg = f"--devices {','.join(names)}: results differ between {kinds} in the last digits: name one type"
        raise UsageError(msg)
    return named


class DeviceRun(SharedRun):
    """The same rows as those of one process, measured by one per device; this one keeps the journal and the order."""

    def __init__(
        self, paths: Sequence[Path], settings: Settings, resources: Resources, before: Path | None = None
    ) -> None:
        self.devices = choose_devices(resources.devices)
        super().__init__(paths, settings, replace(resources, device="cpu"), before=before)
        self.device = torch.device(self.devices[0])  # what the rows answer; nothing of this process lies there
        self.analysis.resources, self.analysis.device = resources, ", ".join(self.devices)
        self._worker_config = WorkerConfig(
            paths=tuple(paths),
            settings=settings,
            resources=replace(resources, shard=None, devices=()),
            files=tuple(self.files),
            threads=max(1, torch.get_num_threads() // len(self.devices)),
            log_level=logging.getLogger("fisher_cli").level,
        )
        self._places = {file.path: place for place, file in enumerate(self.files)}
        self._worker_pool: WorkerPool | None = None

    def _rows_after(self, previous_row: PreviousRow | None) -> ResumedRows:
        return _ArrivingRows(self._settings, previous_row, lambda file: self.measure(file), self._revisited)

    def __iter__(self) -> Iterator[Measurement]:
        journal, first = self._rows.journal, self.analysis.first_order
        known = set() if journal is None else {weights for weights, _ in journal.keys}
        places = [first + i for i, file in enumerate(self.share) if file.sha256 not in known]
        self._worker_pool = WorkerPool(self._worker_config, self.devices, places, self._arrived) if places else None
        yield from super().__iter__()

    def close(self) -> None:
        """End the processes."""
        if self._worker_pool is not None:
            self._worker_pool.close()

    def approach(self, index: int) -> None:
        """Know what row `index` is held against, as far as the journal does."""
        recorded = () if self._rows.journal is None else self._rows.journal.keys
        weights = self.files[index].sha256
        earlier = reversed(self.files[:index])
        before = next((file for file in earlier if weights and (weights, file.sha256) in recorded), None)
        self._rows.stand_after(before, is_traced=False)

    def measure(self, file: CheckpointFile) -> Measurement:
        """The row as it comes from one of the processes."""
        place = self._places[file.path]
        if self._worker_pool is None:
            self._worker_pool = WorkerPool(self._worker_config, self.devices, [place], self._arrived)
        return self._worker_pool.row(place)

    def _arrived(self, place: int, previous: str | None, found: Measurement) -> None:
        """Keep a row as soon as it is there, whichever rows before it are not."""
        file, journal = self.files[place], self._rows.journal
        if journal is None or found.status not in {Status.OK, Status.NOT_CONVERGED} or file.sha256 is None:
            return
        journal.append(JournalRecord(file.sha256, previous, found))


class _ArrivingRows(ResumedRows):
    """Rows that others measure, and that are kept as they arrive."""

    def _joined_anew(self, file: CheckpointFile) -> None:
        del file  # no network is here

    def measured_anew(self, file: CheckpointFile) -> Measurement:
        """The row, waited for."""
        found = self._measure(file)
        if found.status in {Status.OK, Status.NOT_CONVERGED} and file.sha256 is not None:
            self.stand_after(file, is_traced=False)
        return found
