"""`--dry-run`: what an analysis will cost, from a network without memory and a probe of seconds; writes nothing."""

import contextlib
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fisher_cli.cli.destinations import why_nothing
from fisher_cli.cli.next_step import same_command
from fisher_cli.errors import OutOfMemoryError, UsageError
from fisher_cli.parallel.launch import launched
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.formats import Format
from fisher_cli.storage.report_files import ReportFiles
from fisher_cli.text import json_lines

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console
    from fisher_cli.run.preparation import FileRun
    from fisher_cli.storage.journal import Key

# Exit code for what does not fit into memory: a check that fails.
DOES_NOT_FIT = 4


def show_forecast(
    checkpoints: Sequence[Path],
    settings: Settings,
    resources: Resources,
    files: ReportFiles | None,
    form: Format | None,
    quiet: bool,
    resume: bool = True,
    follows: bool = False,
) -> int:
    """Print what the same command without --dry-run will take, as lines, or as JSON with --format json.

    Args are those of `run_command`; `follows` says whether the run waits for checkpoints that come later.

    Returns:
        The exit code: 0 if it fits, 4 if it does not, 1 if no checkpoint can be read.

    Raises:
        UsageError: this is not told of several ranks, or of a run that waits, or not in this format.
    """
    if launched().size > 1:
        msg = "--dry-run estimates one process: type it without torchrun"
        raise UsageError(msg)
    if follows:
        msg = "--dry-run with --follow: the number of checkpoints is not known yet; leave one of the two out"
        raise UsageError(msg)
    if form not in {None, Format.TABLE, Format.JSON}:
        msg = f"--dry-run prints lines, or JSON: leave --format {form} out, or type --format json"
        raise UsageError(msg)

    from fisher_cli.reports.console import Console

    console = Console(quiet=quiet)
    with contextlib.redirect_stdout(sys.stderr):
        refused = _refused_at_sight(checkpoints, settings)
        if refused is not None:
            console.error(refused)
            return DOES_NOT_FIT
        try:
            return _told(console, checkpoints, settings, resources, files, form, resume)
        except OutOfMemoryError as error:
            console.error(f"does not fit: {error}")
            return DOES_NOT_FIT


def _refused_at_sight(checkpoints: Sequence[Path], settings: Settings) -> str | None:
    """Why this cannot be, by the sizes of the files and of a network that a function of the user's makes."""
    from fisher_cli.curvature.torch_backend import machine_memory
    from fisher_cli.inputs.networks.architectures import find_factory
    from fisher_cli.run.forecast.forecast import too_large
    from fisher_cli.run.forecast.lower_bound import largest_checkpoint, lower_bound

    available, whose = machine_memory.total_memory()
    largest = largest_checkpoint(checkpoints)
    if largest + machine_memory.resident_memory() > available:
        return (
            f"a file of {largest / 2**30:,.1f} GiB is read whole, and {whose} is {available / 2**30:,.1f} GiB: "
            "save the weights alone, without the optimizer, or take a machine with more memory"
        )
    factory = find_factory(settings.model, dict(settings.model_arguments))
    found = None if factory is None else lower_bound(factory.build, settings)
    if found is None or found.bytes + machine_memory.resident_memory() <= available:
        return None
    refusal = too_large(found, machine_memory.resident_memory(), available)
    return f"{refusal.reason}: {', or '.join(refusal.remedies)}"


def _told(
    console: "Console",
    checkpoints: Sequence[Path],
    settings: Settings,
    resources: Resources,
    files: ReportFiles | None,
    form: Format | None,
    resume: bool,
) -> int:
    from fisher_cli.parallel.devices import choose_devices, threads_of_each
    from fisher_cli.reports.forecast import forecast_lines
    from fisher_cli.run.forecast.forecast import forecast
    from fisher_cli.run.preparation import run_of_files

    devices = choose_devices(resources.devices) if resources.devices else []
    if devices:
        resources = replace(resources, device=devices[0], devices=())
    run = run_of_files(checkpoints, settings, resources)
    question = run.question
    if devices and question["threads"] is not None:
        question["threads"] = threads_of_each(devices)
    recorded = _recorded(question, files, resume=resume)
    # On GPUs each process has a memory of its own.
    processes = 1 if run.inputs.device.type == "cuda" else max(1, len(devices))
    found = forecast(run, recorded, resources.batch_size, processes, console.message)
    if found is None:
        return _nothing_to_do(console, run)
    if form is Format.JSON:
        console.write(f"{json_lines(asdict(found))}\n")
    else:
        console.lines(forecast_lines(found))
    if found.refusal is None:
        console.next_step(same_command("--dry-run"))
        return 0
    console.error(f"does not fit: {found.refusal.reason}: {', or '.join(found.refusal.remedies)}")
    return DOES_NOT_FIT


def _recorded(question: Mapping[str, Any], files: ReportFiles | None, *, resume: bool) -> "Collection[Key]":
    """What the journal of the report has for this question; nothing where it would be begun anew."""
    from fisher_cli.storage.journal import kept_keys
    from fisher_cli.storage.report_folder import journal_folder

    if files is None or files.force or not resume:
        return ()
    return kept_keys(journal_folder(files.main), question)


def _nothing_to_do(console: "Console", run: "FileRun") -> int:
    """Say why there is no measurement to make; the exit code."""
    from fisher_cli.results import Measurement, Status

    broken = [
        Measurement(checkpoint=file.name, status=Status.REJECTED, error=str(file.error))
        for file in run.share
        if file.error is not None
    ]
    if broken and len(broken) == len(run.share):
        console.error(why_nothing(broken))
        return 1
    console.write("nothing is left to measure\n")
    return 0
