"""What concerns a whole run, before its first row: checkpoints found, data loaded, network and device there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fisher_cli.curvature.problem.problem import Data, TensorData
from fisher_cli.curvature.problem.process_group import ALONE, ProcessGroup
from fisher_cli.curvature.torch_backend.malloc import manage_freed_memory
from fisher_cli.curvature.torch_backend.out_of_memory import is_out_of_memory, release_memory
from fisher_cli.errors import CheckpointError, FisherError, RanksError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile, ReadOptions, find_checkpoints
from fisher_cli.inputs.checkpoints.follow import FollowedPaths, FollowRequest
from fisher_cli.inputs.checkpoints.inspection_cache import InspectionCache
from fisher_cli.inputs.data.datasets import Examples, load_examples
from fisher_cli.inputs.networks.architectures import Architecture
from fisher_cli.inputs.networks.networks import Networks
from fisher_cli.inputs.networks.shapes import takes_one_channel
from fisher_cli.run.analysis import Analysis
from fisher_cli.run.device import choose_device
from fisher_cli.run.modules import GivenModule, content_hash, examples_hash, given_modules
from fisher_cli.run.normalization import choose_from_first_batch
from fisher_cli.run.option_checks import refuse_recomputed, refuse_rounded, refuse_tf32_on
from fisher_cli.run.row import Executor, Inputs, ThisProcess
from fisher_cli.run.sequence import Run
from fisher_cli.settings import Resources, Settings, ShardPart

FileRun = Run[CheckpointFile]


def refuse_other_files(files: Sequence[CheckpointFile], process_group: ProcessGroup) -> None:
    """Make sure that all ranks have found the same checkpoints.

    Raises:
        CheckpointError: they have not.
    """
    first, *others = process_group.exchange([[file.run, file.name, file.sha256] for file in files])
    for rank, seen in enumerate(others, 1):
        if odd := next((one or other for one, other in zip_longest(first, seen) if one != other), None):
            msg = f"{odd[1]}: rank {rank} does not see the same file as rank 0; all must see one folder, at rest"
            raise CheckpointError(msg)


# Normalised inputs up to this size are made once and kept on the device for the whole run.
RESIDENT_BYTES = 2**30


def resident(examples: Examples, device: torch.device) -> Data:
    """The examples normalised once and kept on the device, where they take at most 1 GiB there; else as they are."""
    inputs, _ = examples.batch(0, min(1, len(examples)))
    if inputs.numel() * inputs.element_size() * len(examples) > RESIDENT_BYTES:
        return examples
    try:
        inputs, labels = examples.batch(0, len(examples))
        return TensorData(inputs.to(device), labels.to(device))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    return examples


def run_of_files(
    paths: Sequence[Path],
    settings: Settings,
    resources: Resources,
    *,
    following: FollowRequest | None = None,
    files: Sequence[CheckpointFile] | None = None,
    process_group: ProcessGroup = ALONE,
    devices: Sequence[str] = (),
    elsewhere: Callable[[Inputs, Sequence[CheckpointFile]], Executor] | None = None,
    network: Architecture | None = None,
    tensors: TensorData | None = None,
) -> FileRun:
    """A run over the checkpoints below these paths, or over a shard of them.

    Everything that concerns the whole run is checked here: checkpoints found, data loaded, device there.

    Args:
        paths: files and folders.
        settings: what is asked.
        resources: with what; its `shard` chooses the rows.
        following: goes on with checkpoints that come later; None to end with those that are there.
        files: the checkpoints of the whole run, where another process has found them already.
        process_group: ranks that go through the same checkpoints, in step; only rank 0 has a journal.
        devices: those of other processes that measure the rows, all of one type; this one measures none.
        elsewhere: makes what measures the rows there.
        network: that of the checkpoints, where a caller made it; None for the one that the settings name.
        tensors: the examples, where a caller gave them; None for those that the settings name.

    Returns:
        The run; nothing is measured yet.

    Raises:
        UsageError: what was asked cannot be.
        CheckpointError: there are none, or other ranks see others.
        DataError: the data cannot be had.
        ArchitectureError: the function that `--model` names cannot be imported or fails.
        RanksError: another rank is gone.
    """
    refuse_rounded(settings)
    refuse_recomputed(settings, resources.activations)
    device = choose_device(devices[0] if devices else process_group.own_device(resources.device))
    refuse_tf32_on(device.type, settings)
    reading = ReadOptions.of(settings, resources)
    cache = InspectionCache()
    manage_freed_memory(large=True)  # until a network is there: what files leave behind would be in its way
    watch = None if following is None else FollowedPaths(paths, reading, cache, following)
    found = list(files) if files is not None else _found(paths, reading, cache, watch)
    refuse_other_files(found, process_group)
    networks = Networks(settings.model, dict(settings.model_arguments), network)
    if tensors is not None:
        inputs = Inputs(settings, resources, device, reading, networks, tensors, None, *_described(tensors))
    else:
        own = torch.device("cpu") if devices else device
        asked = partial(_takes_one_channel, found, networks, reading, process_group)
        examples = load_examples(settings, resources, asked)
        if examples.candidates and (module := _last_network(found, networks, reading, process_group)) is not None:
            examples = choose_from_first_batch(examples, module, settings, own, process_group)
        data = examples if devices else resident(examples, own)
        words = examples.describe(), examples.describe(with_choice=False)
        inputs = Inputs(settings, resources, device, reading, networks, data, examples, *words)
    looks_back = settings.looks_back and (len(found) > 1 or watch is not None)
    executor: Executor = ThisProcess(inputs, looks_back=looks_back, process_group=process_group)
    return Run(
        inputs,
        found,
        executor if elsewhere is None else elsewhere(inputs, found),
        _analysis(inputs, ", ".join(devices) or str(device), found),
        more=None if watch is None else partial(_newcomers, watch),
        process_group=process_group,
    )


def _described(tensors: TensorData, *, is_kept: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Examples that a caller gave in words, and with the hash of their content where rows are kept by it."""
    described: dict[str, Any] = {"name": "tensors", "examples": len(tensors)}
    return described, {**described, "identity": examples_hash(tensors)} if is_kept else described


def _found(
    paths: Sequence[Path], reading: ReadOptions, cache: InspectionCache, watch: FollowedPaths | None
) -> list[CheckpointFile]:
    """The checkpoints that are there; none are needed yet in a folder that is followed."""
    if watch is None:
        return find_checkpoints(paths, reading, cache)
    is_empty = paths and all(path.is_dir() for path in paths) and not watch.there()
    return watch.begin([] if is_empty else find_checkpoints(paths, reading, cache))


def _newcomers(watch: FollowedPaths, waiting: Callable[[], None]) -> Iterator[CheckpointFile]:
    """The checkpoints that come, until the last one to wait for is measured in each run."""
    while not watch.is_over:
        waiting()
        watch.following.pause(watch.following.between)
        yield from watch.newcomers()


def _last_network(
    files: Sequence[CheckpointFile], networks: Networks, reading: ReadOptions, process_group: ProcessGroup
) -> nn.Module | None:
    """The network of the last checkpoint that can be used; None where there is no checkpoint yet.

    Raises:
        FisherError: what is wrong with the last checkpoint, when none can be used.
        RanksError: another rank is gone.
    """
    last: FisherError | None = None
    for file in reversed(files):
        try:
            with process_group.in_step():
                return networks.of(file, reading)[2]
        except RanksError:
            raise
        except FisherError as error:
            last = last or error
    if last is not None:
        raise last
    return None


def _takes_one_channel(
    files: Sequence[CheckpointFile],
    networks: Networks,
    reading: ReadOptions,
    process_group: ProcessGroup,
    sides: tuple[int, int],
) -> bool:
    """Whether the network of the last checkpoint that can be used takes images of one channel.

    Raises:
        RanksError: another rank is gone.
    """
    try:
        module = _last_network(files, networks, reading, process_group)
    except RanksError:
        raise
    except FisherError:  # each row says what is wrong with its checkpoint
        return False
    return module is not None and takes_one_channel(module, sides)


def _analysis(inputs: Inputs, device: str, files: Sequence[CheckpointFile] = ()) -> Analysis:
    """The analysis that the rows are to be added to."""
    shard = inputs.resources.shard
    part = None if shard is None else ShardPart.of(shard, ((file.run, file.name, file.sha256) for file in files))
    start = 0 if part is None else part.share.start
    order = sum(file.run == files[start].run for file in files[:start]) if start < len(files) else 0
    return Analysis(inputs.settings, inputs.resources, device, inputs.described, part=part, first_order=order)


def run_of_modules(
    modules: Sequence[nn.Module] | Iterator[object],
    tensors: TensorData | None,
    settings: Settings,
    resources: Resources,
    *,
    is_kept: bool = False,
    names: Sequence[str] = (),
) -> Run[GivenModule]:
    """A run over modules: of a generator each is measured before the next one is asked for.

    Args:
        modules: in order of training; they are given back as they came.
        tensors: the examples; None for those that the settings name.
        settings: what is asked.
        resources: with what.
        is_kept: whether rows are kept in a journal, for which every module's content is hashed.
        names: of the modules of a list; none where nobody named them.

    Returns:
        The run; nothing is measured yet.

    Raises:
        UsageError: constants are to be chosen for the last module of a generator, or the device is not here.
        DataError: the data cannot be had.
    """
    device, is_list = choose_device(resources.device), isinstance(modules, Sequence)
    data: Data
    if tensors is not None:
        data, examples = tensors, None
        described, identity = _described(tensors, is_kept=is_kept)
    else:
        examples = load_examples(settings, resources)
        if examples.candidates:
            if not isinstance(modules, Sequence):
                msg = (
                    "normalize 'auto' asks the last module, which a generator has not made yet: pass a list, or name it"
                )
                raise UsageError(msg)
            examples = choose_from_first_batch(examples, modules[-1], settings, device)
        data, described = resident(examples, device), examples.describe()
        identity = examples.describe(with_choice=False)
    reading, networks = ReadOptions.of(settings, resources), Networks(None, {})
    inputs = Inputs(settings, resources, device, reading, networks, data, examples, described, identity)

    def coming(modules: Iterable[object]) -> Iterator[GivenModule]:
        for each in given_modules(modules, are_reused=not is_list, names=names):
            yield replace(each, sha256=content_hash(each.module, data, settings, device)) if is_kept else each

    files = list(coming(modules)) if is_list else []
    executor = ThisProcess(inputs, looks_back=settings.looks_back and len(files) != 1)
    return Run(
        inputs,
        files,
        executor,
        _analysis(inputs, str(device)),
        more=None if is_list else lambda _waiting: coming(modules),
    )
