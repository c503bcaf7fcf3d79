"""One process per device; they take checkpoints from one queue, and one that dies is replaced."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import torch

from fisher_cli.errors import FisherError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.parallel.log_records import EscapedRecord
from fisher_cli.results import Measurement, Status
from fisher_cli.run.measurement import Observer
from fisher_cli.run.preparation import run_of_files
from fisher_cli.run.row import Keep, Predecessor, Source
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.atomic_write import STOPPING_SIGNALS

# A checkpoint whose process died is tried once more: another process may have taken the memory.
ATTEMPTS: Final = 2
# Taking the second half of what another worker has before it costs a measurement more: with fewer left nothing is won.
_WORTH_SHARING: Final = 3
_SAFE_PATH: Final = "PYTHONSAFEPATH"
_SECONDS_TO_END: Final = 5.0
# What a terminal or a scheduler sends to all processes of a job is answered by the one that speaks.
_NOT_FOR_WORKERS: Final = {*STOPPING_SIGNALS} - {signal.SIGTERM}


class ShareQueue:
    """Which worker measures what: contiguous shares, and who has none left takes half of the largest that is left.

    A row needs the network of the row before, so that every break in a worker's sequence costs one measurement more:
    the number of workers less one, and one for each share that is taken over.

    Args:
        places: of the rows to measure, in order of training.
        workers: how many there are.
    """

    def __init__(self, places: Sequence[int], workers: int) -> None:
        count = len(places)
        self._left = [list(places[count * i // workers : count * (i + 1) // workers]) for i in range(workers)]

    def take(self, worker: int) -> int | None:
        """What the worker measures next; None when there is nothing for it."""
        own = self._left[worker]
        if not own:
            largest = max(self._left, key=len)
            if len(largest) >= _WORTH_SHARING:
                half = len(largest) - len(largest) // 2
                own.extend(largest[half:])
                del largest[half:]
        return own.pop(0) if own else None

    def put(self, worker: int, place: int) -> None:
        """Let the worker measure this before all else."""
        self._left[worker].insert(0, place)


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker needs to know of the run; all of it is pickled.

    Attributes:
        paths: as the user named them.
        settings: what is asked.
        resources: with what, without a shard and other devices. Each worker is given a device of its own.
        files: the checkpoints of the whole run, found and hashed.
        threads: how many each worker computes with.
        log_level: of the package's log, as in this process.
    """

    paths: tuple[Path, ...]
    settings: Settings
    resources: Resources
    files: tuple[CheckpointFile, ...]
    threads: int
    log_level: int


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    place: int | None = None
    is_ready: bool = False


class WorkerPool:
    """Measures rows in other processes, one for each of the devices, and tells what comes at once.

    An executor of `fisher_cli.run`. A checkpoint whose process ends twice becomes a row that says so.

    Args:
        worker_config: what all workers are told.
        devices: a name for each worker.
    """

    is_elsewhere = True

    def __init__(self, worker_config: WorkerConfig, devices: Sequence[str]) -> None:
        self._worker_config, self._devices = worker_config, devices
        self._places = {file.path: place for place, file in enumerate(worker_config.files)}
        self._rows: dict[int, Measurement] = {}
        self._deaths = dict[int, int]()
        self._workers: list[_Worker] = []

    @property
    def threads(self) -> int:
        """Those of each worker."""
        return self._worker_config.threads

    def begin(self, places: Sequence[int], keep: Keep, observer: Observer) -> None:
        """Start as many workers as there is work for, at most one for each device.

        Args:
            places: the numbers of the rows in the whole run, in order of training.
            keep: told every row as soon as it is measured, which need not be in order.
            observer: is told nothing: several rows are under way at once.
        """
        del observer  # several rows are under way at once
        workers = max(1, min(len(self._devices), len(places)))  # a share of a worker that is not started waits for ever
        self._keep, self._queue, self._asked = keep, ShareQueue(places, workers), set(places)
        self._start_workers(len(places))

    def _start_workers(self, count: int) -> None:
        try:
            for device in self._devices[:count]:
                self._workers.append(self._started(device))
        except BaseException:
            self.close()
            raise

    def measure_row(self, source: Source, previous: Predecessor) -> Measurement:
        """The row of a checkpoint, waited for; its worker finds itself what it is held against.

        Args:
            source: a checkpoint of the run; one that `begin` was not told of is given to the first worker.
            previous: not used.

        Raises:
            FisherError: a process cannot begin, or says that the run cannot go on.
        """
        del previous
        assert isinstance(source, CheckpointFile)
        place = self._places[source.path]
        if place not in self._asked:
            self._asked.add(place)
            self._queue.put(0, place)
            if self._workers:
                self._give(0)
            else:
                self._start_workers(1)
        while place not in self._rows:
            for connection in wait([worker.connection for worker in self._workers]):
                self._hear(next(i for i, each in enumerate(self._workers) if each.connection is connection))
        return self._rows.pop(place)

    def rejoin(self, source: Source, known: Measurement, previous: Predecessor) -> Measurement | None:
        """None: this process has no network, so that the row is measured anew."""

    def learn(self, row: Measurement) -> None:
        """Do nothing: each worker learns from its own rows."""

    def close(self) -> None:
        """End all workers, by SIGTERM and after five seconds by SIGKILL."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_SECONDS_TO_END)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers.clear()

    def _started(self, device: str) -> _Worker:
        context = multiprocessing.get_context("spawn")  # CUDA cannot be used after a fork
        ours, theirs = context.Pipe()
        worker_config = replace(self._worker_config, resources=replace(self._worker_config.resources, device=device))
        process = context.Process(target=work, args=(theirs, worker_config), daemon=True)
        with _without_working_folder():
            resource_tracker.ensure_running()  # which would unblock signals if it were begun by the start below
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)  # which a new process inherits
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return _Worker(process, ours)

    def _hear(self, number: int) -> None:
        """Take what a worker says, or its end.

        Raises:
            FisherError: it says that the run cannot go on.
        """
        worker = self._workers[number]
        try:
            said = worker.connection.recv()
        except (EOFError, OSError):
            self._bury(number)
            return
        if isinstance(said, FisherError):
            raise said
        if said is not None:
            previous, found = said
            assert worker.place is not None
            self._take(worker.place, previous, found)
        worker.is_ready, worker.place = True, None
        self._give(number)

    def _take(self, place: int, previous: str | None, found: Measurement) -> None:
        self._rows[place] = found
        self._keep(self._worker_config.files[place], previous, found)

    def _give(self, number: int) -> None:
        worker = self._workers[number]
        if not worker.is_ready or worker.place is not None:
            return
        worker.place = self._queue.take(number)
        if worker.place is not None:
            lost = frozenset(place for place, deaths in self._deaths.items() if deaths >= ATTEMPTS)
            try:
                worker.connection.send((worker.place, lost))
            except OSError:
                self._bury(number)

    def _bury(self, number: int) -> None:
        """Begin anew on a device whose process is gone.

        Raises:
            FisherError: it could not even begin.
        """
        worker, device = self._workers[number], self._devices[number]
        worker.process.join(_SECONDS_TO_END)
        worker.connection.close()
        if not worker.is_ready:
            msg = (
                f"the process for {device} {_end_of(worker.process)} before it could begin; try --device {device} alone"
            )
            raise FisherError(msg)
        place = worker.place
        if place is not None:
            self._deaths[place] = self._deaths.get(place, 0) + 1
            if self._deaths[place] < ATTEMPTS:
                self._queue.put(number, place)
            else:
                self._take(place, None, self._failure(place, device, worker.process))
        self._workers[number] = self._started(device)

    def _failure(self, place: int, device: str, process: BaseProcess) -> Measurement:
        file = self._worker_config.files[place]
        text = (
            f"the process that measured it on {device} {_end_of(process)}, {ATTEMPTS} times: if memory ran out, take "
            "fewer examples at once with -b, or fewer devices"
        )
        return Measurement(
            checkpoint=file.name, status=Status.FAILED, error=text, sha256=file.sha256, step=file.step, epoch=file.epoch
        )


@contextmanager
def _without_working_folder() -> Iterator[None]:
    """Let Python look for no module beside the user in processes that begin meanwhile; by itself it looks there first.

    Yields:
        Nothing.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def _end_of(process: BaseProcess) -> str:
    code = process.exitcode
    return f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"


# --- in the worker


def work(connection: Connection, worker_config: WorkerConfig) -> None:
    """Measure the rows that are asked for over the connection until it closes: what a worker process does.

    Args:
        connection: sends None when the worker is ready, then for each place that comes the row and the content hash of
            the row before it. An error that ends the run is sent as it is.
        worker_config: what the worker needs to know.
    """
    _settle(worker_config)
    try:
        config = worker_config
        run = run_of_files(config.paths, config.settings, config.resources, files=config.files)
        connection.send(None)
        while True:
            place, lost = connection.recv()
            connection.send(run.row(place, lost))
    except EOFError:
        return
    except FisherError as error:
        connection.send(error)
    except Exception as error:
        logging.getLogger(__name__).debug("a worker failed", exc_info=True)
        connection.send(FisherError(f"unexpected {type(error).__name__} on {worker_config.resources.device}: {error}"))


def _settle(worker_config: WorkerConfig) -> None:
    """Say nothing on stdout, end with the parent however that ends, and leave the others their cores."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.dup2(2, 1)
    logging.setLogRecordFactory(EscapedRecord)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fisher_cli").setLevel(worker_config.log_level)
    torch.set_num_threads(worker_config.threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
