"""`--devices`: the devices of one machine that share out the checkpoints of a run."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from fisher_cli.errors import UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.parallel.worker_pool import WorkerConfig, WorkerPool
from fisher_cli.run.device import choose_device
from fisher_cli.run.preparation import FileRun, run_of_files
from fisher_cli.run.row import Inputs
from fisher_cli.settings import Resources, Settings

ALL = "all"


def choose_devices(names: Sequence[str]) -> list[str]:
    """The devices of these names, all of one type.

    Args:
        names: as `--devices` lists them: `all` alone for the CUDA devices that are there, numbers of CUDA devices, or
            names such as `cpu`. A device may be named more than once.

    Returns:
        One name for each process, such as `cuda:1`, in the same order.

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


def run_on_devices(paths: Sequence[Path], settings: Settings, resources: Resources) -> FileRun:
    """A run whose rows are measured by one process per device; this one keeps the journal and the order.

    The rows are those that one process would give.

    Args:
        paths: as for `run_of_files`.
        settings: what is asked.
        resources: with what; its `devices` share the checkpoints out.

    Returns:
        The run. Its processes begin with its first row, and `close` ends them.

    Raises:
        UsageError: one of the devices is not there, or what was asked cannot be.
        CheckpointError: there are no checkpoints.
        DataError: the data cannot be had.
    """
    devices = choose_devices(resources.devices)
    pool = partial(_worker_pool, devices=devices, paths=paths)
    return run_of_files(paths, settings, resources, devices=devices, elsewhere=pool)


def threads_of_each(devices: Sequence[str]) -> int:
    """How many threads each of several processes takes: an equal share."""
    return max(1, torch.get_num_threads() // len(devices))


def _worker_pool(
    inputs: Inputs, files: Sequence[CheckpointFile], *, devices: Sequence[str], paths: Sequence[Path]
) -> WorkerPool:
    config = WorkerConfig(
        paths=tuple(paths),
        settings=inputs.settings,
        resources=replace(inputs.resources, shard=None, devices=()),
        files=tuple(files),
        threads=threads_of_each(devices),
        log_level=logging.getLogger("fisher_cli").level,
    )
    return WorkerPool(config, devices)
