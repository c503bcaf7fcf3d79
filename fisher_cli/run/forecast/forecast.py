"""What an analysis will cost, and whether this machine can make it: from a run, its journal and a probe."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from itertools import takewhile

import torch

from fisher_cli.curvature.problem.batching import memory_bytes
from fisher_cli.curvature.spectra.solver_choice import Eigensolver
from fisher_cli.curvature.torch_backend import machine_memory
from fisher_cli.errors import FisherError, OutOfMemoryError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile, load_checkpoint
from fisher_cli.results import Forecast, Refusal
from fisher_cli.run.forecast.lower_bound import LowerBound, lower_bound
from fisher_cli.run.forecast.profile_run import RunProfile, profile_run
from fisher_cli.run.preparation import FileRun
from fisher_cli.settings import Activations, Precision
from fisher_cli.storage.journal import Key

# Parts of a measurement that a row takes which was measured after another row, and one that such a row is held against.
JOINING = ("load", "pose", "movement", "eigenvalues_true")


@dataclass(frozen=True)
class RunPlan:
    """What there is to do in a run.

    Attributes:
        places: the rows to measure, by their numbers in the whole run, in order.
        kept: how many rows the journal has.
        joined: how many were measured after other rows, and are held against another one now.
        revisited: how many finished rows are evaluated again, for the next row to be held against them.
        rejected: how many files cannot be read.
        before: the row before a shard's first, which is measured besides; else None.
    """

    places: tuple[int, ...]
    kept: int
    joined: int
    revisited: int
    rejected: int
    before: int | None

    @property
    def measurements(self) -> int:
        """How many rows are measured, the one before a shard's first among them."""
        return len(self.places) + (self.before is not None)


def plan(run: FileRun, recorded: Collection[Key]) -> RunPlan:
    """What a run has to do beside what its journal has; as `sequence.py` goes through the rows."""
    first, known = run.first_place, {weights for weights, _ in recorded}
    looks_back = run.analysis.settings.looks_back and len(run.files) > 1
    places, kept, joined, revisited, rejected = list[int](), 0, 0, 0, 0
    earlier = {file.sha256 for file in _of_run(run, first) if file.error is None}
    # Of the row before: its weights, and whether its network is still there.
    previous, is_there = None, True
    for place, file in enumerate(run.share, first):
        if place > first and file.run != run.files[place - 1].run:
            previous, is_there, earlier = None, True, set()
        if file.error is not None or file.sha256 is None:
            rejected += 1
            continue
        befores = earlier if previous is None and earlier else {previous}
        if any((file.sha256, before) in recorded for before in befores):
            kept, is_there = kept + 1, False
        else:
            revisited += looks_back and not is_there
            is_there = True
            if file.sha256 in known:
                joined += 1
            else:
                places.append(place)
        previous = file.sha256
    before = _before(run, first) if looks_back and places and places[0] == first else None
    return RunPlan(tuple(places), kept, joined, int(revisited), rejected, before)


def _before(run: FileRun, first: int) -> int | None:
    """The place of the last checkpoint of its run before a shard's first that can be read."""
    between = next((i for i, file in enumerate(_of_run(run, first)) if file.error is None), None)
    return None if between is None else first - 1 - between


def _of_run(run: FileRun, place: int) -> list[CheckpointFile]:
    """The checkpoints of its run before the one of this place, the nearest one first."""
    if place >= len(run.files):
        return []
    return list(takewhile(lambda file: file.run == run.files[place].run, reversed(run.files[:place])))


def forecast(
    run: FileRun, recorded: Collection[Key], batch_size: int | None, processes: int, say: Callable[[str], None]
) -> Forecast | None:
    """Memory in bytes and time in seconds of a run, from a measurement of one checkpoint on a few examples.

    Args:
        run: made and not begun; it belongs to one process.
        recorded: the keys of its journal.
        batch_size: as asked for; None for the automatic rule.
        processes: how many such runs share the checkpoints out on this machine.
        say: told what is done meanwhile.

    Returns:
        The forecast, with the reason where this machine cannot make the run; None where nothing is left to measure.

    Raises:
        OutOfMemoryError: the probe found no memory for a single example.
        UsageError: what was asked cannot be.
        FisherError: the checkpoint that was probed cannot be measured.
    """
    todo = plan(run, recorded)
    if not todo.places:
        return None
    available, whose = available_memory(run.inputs.device)
    place = max(todo.places, key=lambda each: run.files[each].path.stat().st_size)
    refused = _refused_without_memory(run, place, available)
    if refused is not None:
        return _described(run, todo, place, (available, whose), processes, refused[0], sketch=refused[1])
    before = _before(run, place) if run.analysis.settings.looks_back and len(run.files) > 1 else None
    places = (place,) if before is None else (before, place)
    if len(run.files) > 1 and before is None and run.analysis.settings.looks_back:
        places = (place, place)
    say(f"a probe of {run.files[place].name} on a few examples")
    try:
        probed = profile_run(run, places, batch_size)
    except (UsageError, OutOfMemoryError):
        raise
    except FisherError as error:
        msg = f"{run.files[place].name}, which was to be measured as a probe: {error}"
        raise FisherError(msg) from error
    refusal = _refusal(run, probed, available, processes)
    return _described(run, todo, place, (available, whose), processes, refusal, probed=probed)


def available_memory(device: torch.device) -> tuple[int, str]:
    """Bytes of memory that there are for a run on this device, and in words whose they are."""
    if device.type == "cuda":
        return memory_bytes(device), f"the memory of {device}"
    return machine_memory.total_memory()


def _refused_without_memory(run: FileRun, place: int, available: int) -> tuple[Refusal, LowerBound] | None:
    """Whether the network alone, as its names and shapes tell, is too large; None where it may fit."""
    try:
        inputs = run.inputs
        architecture = inputs.networks.architecture(load_checkpoint(run.files[place], inputs.reading))
        found = lower_bound(architecture.build, inputs.settings, inputs.data.batch(0, 1)[0])
    except FisherError:
        return None  # told by the probe
    here = machine_memory.resident_memory()
    if found is None or found.bytes + here <= available:
        return None
    return too_large(found, here, available), found


def too_large(found: LowerBound, here: int, available: int) -> Refusal:
    """Why a network is refused before it is built, and what to type instead.

    Args:
        found: what the network takes at least.
        here: bytes that this process holds already.
        available: bytes of memory that there are.
    """
    remedies = ["analyse fewer parameters with --exclude", "take a machine with more memory"]
    for precision, words in ((Precision.BFLOAT16, "bfloat16 --eigenvalues 0"), (Precision.FLOAT32, "float32")):
        smaller = replace(found, precision=precision)
        if smaller.itemsize < found.itemsize and smaller.bytes + here <= available:
            remedies.insert(0, f"type --dtype {words}")
    ranks = found.ranks(available - here)
    if ranks is not None:
        remedies.append(f"share the examples out with torchrun among {ranks} ranks that have so much each")
    return Refusal(
        f"even one example at once takes {_gib(found.bytes + here)}, and there are {_gib(available)}: the network, "
        "the weights that it is given, the mean gradient in float64, and one example",
        tuple(remedies),
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"


def _peak(probed: RunProfile) -> int:
    return max(probed.batches_peak, probed.later_peak)


def _refusal(run: FileRun, probed: RunProfile, available: int, processes: int) -> Refusal | None:
    """Why this cannot be done here, and what can; None if it can."""
    peak, settings = _peak(probed), run.analysis.settings
    each = available // processes
    if peak <= each:
        return None
    remedies = []
    if probed.slope and probed.batches_peak > each:
        size = int(probed.batch + (each - probed.peak) / probed.slope)
        remedies.append(f"type -b {size}" if size >= 1 else "type -b 1")
    if probed.largest is not None and probed.later_peak > each:
        remedies += _less(run, probed, each)
    if probed.batches_peak > each and run.inputs.resources.activations is Activations.KEEP and not settings.eigenvalues:
        remedies.append("type --activations recompute, if what a batch saves in a deep network is what does not fit")
    if processes > 1 and peak <= available:
        few = "one process" if available < 2 * peak else f"{available // peak} processes"
        remedies.append(f"give --devices no more than {few}")
    if settings.precision is Precision.FLOAT64:
        remedies.append("type --dtype float32")
    remedies.append("analyse fewer parameters with --exclude")
    many = f"{processes} processes of " if processes > 1 else ""
    return Refusal(f"{many}{_gib(peak)}, and there are {_gib(available)}", tuple(remedies))


def _less(run: FileRun, probed: RunProfile, each: int) -> list[str]:
    """What to change where the traces may fit and what follows them does not, with so many bytes for a process."""
    found, settings = list[str](), run.analysis.settings
    assert probed.largest is not None
    room = each - (probed.later_peak - probed.largest.bytes)
    examples = math.floor(probed.problem.examples * room / probed.largest.bytes)
    by_factor = any(route in {Eigensolver.GRAM, Eigensolver.LEADING} for _, route in probed.later.routes)
    if by_factor and examples >= 1:
        found.append(f"type --limit {examples}")
    if settings.asks_for_rows:
        found.append(f"type --eigenvalues 0, which takes {_gib(probed.batches_peak)}")
    if settings.comparison is None:
        found.append("share the examples out with torchrun on several machines")
    return found


def _described(
    run: FileRun,
    todo: RunPlan,
    place: int,
    available: tuple[int, str],
    processes: int,
    refusal: Refusal | None,
    *,
    probed: RunProfile | None = None,
    sketch: LowerBound | None = None,
) -> Forecast:
    """What was found by the probe, or by the network's shapes where these were enough to refuse."""
    seconds = {} if probed is None else probed.seconds
    joining = sum(seconds.get(stage, 0.0) for stage in JOINING)
    whole = todo.measurements * sum(seconds.values()) + (todo.joined + todo.revisited) * joining
    measured = None if probed is None else probed.measurement
    trace = None if measured is None else measured.trace
    ledger = None if measured is None else measured.ledger
    size = 0 if sketch is None else sketch.analysed
    return Forecast(
        checkpoint=run.files[place].name,
        architecture="" if probed is None else probed.architecture,
        rows=len(run.share),
        kept=todo.kept,
        joined=todo.joined,
        rejected=todo.rejected,
        measurements=todo.measurements,
        parameters=size if probed is None else probed.problem.size,
        examples=len(run.inputs.data),
        classes=((sketch and sketch.outputs) or 0) if probed is None else probed.problem.outputs,
        batch_size=1 if probed is None else min(probed.problem.batch_size, probed.problem.examples),
        estimator="" if trace is None else trace.estimator,
        passes=0 if ledger is None else ledger.directions,
        routes=() if probed is None else tuple(probed.later.routes),
        seconds=tuple(seconds.items()),
        total_seconds=whole / processes,
        peak_bytes=sketch.bytes + machine_memory.resident_memory()
        if sketch is not None
        else _peak(probed)
        if probed
        else 0,
        peak_in="" if probed is None else probed.fullest,
        parts=() if probed is None else probed.parts,
        available_bytes=available[0],
        available=available[1],
        processes=processes,
        probed=0 if probed is None else probed.examples,
        refusal=refusal,
    )
