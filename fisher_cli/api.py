"""Fisher from Python: sequences of files or of modules → their Analysis; what the commands do, without printing."""

import collections
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fisher_cli.curvature.problem.problem import TensorData
from fisher_cli.errors import DataError, UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.inputs.data.datasets import check_limit, selected
from fisher_cli.run.analysis import Analysis
from fisher_cli.run.preparation import run_of_files, run_of_modules
from fisher_cli.run.sequence import Run
from fisher_cli.settings import PRESETS, ComparisonSettings, Resources, Settings, settings_of
from fisher_cli.storage.formats import Format, format_of
from fisher_cli.storage.identity import refuse_unlike
from fisher_cli.storage.journal import journal_folder, open_journal
from fisher_cli.storage.report_files import ReportFiles, RunRecord
from fisher_cli.tables.registry import Table, tables_of


def analyze(
    checkpoints: str | Path | nn.Module | Iterable[str | Path] | Iterable[nn.Module],
    data: str | tuple[Tensor, Tensor] = "digits",
    *,
    batch_size: int | None = None,
    device: str = "auto",
    data_dir: str | None = None,
    download: bool = False,
    preset: str | None = None,
    output: str | Path | None = None,
    **settings: Any,
) -> Analysis:
    """Fisher traces and eigenvalues of a sequence of checkpoints or modules: `.table` and `.layers` are DataFrames.

    Args:
        checkpoints: files, folders, or modules (given order is kept; they are given back as they came). Each module of
            a generator is measured before the next one is asked for: it may load further weights into one object.
        data: a dataset's name as for `--data`; with modules also a pair (inputs (N, …), labels (N,)), of which all are
            taken unless a `limit` is given.
        batch_size: examples at once; None for the automatic rule.
        device: auto, cpu, cuda or cuda:N.
        data_dir: where named datasets lie; None for the usual folder.
        download: whether a missing dataset may be downloaded.
        preset: settings of a published paper, by a name of `fisher_cli.settings.PRESETS`; those given here win.
        output: a file for the table, with the per-layer table, the record and the journal beside it, as `fisher analyze
            -o` writes them. What was finished when a run was stopped is not measured again: files and modules are known
            by their content, modules besides by their outputs on the first examples. None to write nothing.
        **settings: the fields of `Settings`, such as `limit=None`, `eigenvalues=10`, `model="resnet18"`.

    Returns:
        Analysis with one row per checkpoint; a file that cannot be analysed is a row that says why. Losses are in nats,
        and traces and eigenvalues are of means over the examples.

    Raises:
        UsageError: modules and paths are mixed, a list holds one module twice, tensors are given as the data of files,
            or a setting cannot be.
        CheckpointError: there are no checkpoints.
        DataError: the data cannot be had, or there are not as many labels as inputs.
        ArchitectureError: the function that `model` names cannot be imported or fails.
        LockedError: another process is writing this output.
        RecordError: the output was made with other settings, data or versions.
        OutputError: it cannot be written.
        Exception: a module cannot be analysed; rows that were finished are in the journal.
    """
    given = _given(checkpoints)
    held = given if isinstance(given, list) else []
    is_modules = held is not given or (bool(held) and all(isinstance(item, nn.Module) for item in held))
    is_paths = not (is_modules or isinstance(checkpoints, Mapping)) and all(isinstance(i, (str, Path)) for i in held)
    is_tensors = isinstance(data, Sequence) and len(data) == 2 and all(isinstance(item, Tensor) for item in data)
    if not (is_modules or is_paths) or not (isinstance(data, str) or (is_modules and is_tensors)):
        msg = (
            "analyze takes either paths with a dataset's name, or torch modules with a dataset's name or a pair "
            f"(inputs, labels) of tensors, not {_kinds(held or [checkpoints])} with data {_kinds([data])}"
        )
        raise UsageError(msg)
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size {batch_size}: give a positive whole number, or None for the automatic rule"
        raise UsageError(msg)
    try:
        asked = settings_of(preset, {"data": data if isinstance(data, str) else "tensors", **settings})
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error
    resources = Resources(
        batch_size=batch_size, device=device, data_dir=None if data_dir is None else str(data_dir), download=download
    )
    if is_modules:
        # A limit that nobody has given is one of datasets.
        has_limit = "limit" in settings or (preset is not None and "limit" in PRESETS[preset].settings)
        asked = asked if has_limit or isinstance(data, str) else replace(asked, limit=None)
        tensors = None if isinstance(data, str) else _selected(*data, asked)
        return _measured(run_of_modules(given, tensors, asked, resources, is_kept=output is not None), output)
    return _measured(run_of_files([Path(item) for item in held], asked, resources), output)


def compare(
    checkpoints: str | Path | nn.Module | Iterable[str | Path] | Iterable[nn.Module],
    data: str | tuple[Tensor, Tensor] = "digits",
    *,
    damping: float | None = None,
    draws: int = 10,
    **words: Any,
) -> Analysis:
    """tr F̂/tr F, ‖F̂ − F‖/‖F‖, cosines and overlaps beside their nulls: `.comparison`, `.comparison_layers`.

    Args:
        checkpoints: as for `analyze`.
        data: as for `analyze`.
        damping: α of the natural gradients (F + αI)⁻¹ḡ, in 1/weight²; None for a thousandth of the largest eigenvalue
            of F.
        draws: how many sets of labels are drawn from the model for the nulls without a closed form.
        **words: all else that `analyze` takes, but no `output`: the data frames can be saved.

    Returns:
        Analysis whose measurements have a `comparison` with its verdict.

    Raises:
        UsageError: as for `analyze`, or a number is out of its range.
    """
    try:
        asked = ComparisonSettings(damping=damping, draws=draws)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return analyze(checkpoints, data, comparison=asked, **words)


def verify(
    checkpoints: str | Path | nn.Module | Iterable[str | Path] | Iterable[nn.Module],
    data: str | tuple[Tensor, Tensor] = "digits",
    *,
    precision: str = "float64",
    **others: Any,
) -> Analysis:
    """Identities that Fisher's different forms must fulfil, on these networks and data: `.identities`, `.verified`.

    Args:
        checkpoints: as for `analyze`.
        data: as for `analyze`.
        precision: of our side; the independent one is in float64 always.
        **others: as for `analyze`, but no `output`; where no `limit` is given, 32 examples of a dataset are taken,
            which are enough: the independent side is slow.

    Returns:
        Analysis; `.identities` has one row per checkpoint and identity, `.verified` says that none fails. Errors are
        those of `analyze`; an identity that fails is none.
    """
    words = {"limit": 32, **others} if isinstance(data, str) else others
    return analyze(checkpoints, data, precision=precision, verify=True, **words)


def _given(checkpoints: object) -> list[Any] | Iterator[Any]:
    """What was given; of a generator of modules they are still to come, since it may load weights into one object.

    Raises:
        UsageError: one module stands twice in what was given at once.
    """
    if not isinstance(checkpoints, Iterable) or isinstance(checkpoints, (str, nn.Module)):
        return [checkpoints]
    if isinstance(checkpoints, Mapping):
        return []
    items = iter(checkpoints)
    given = list(itertools.islice(items, 1))
    if given and isinstance(given[0], nn.Module) and not isinstance(checkpoints, Collection):
        return itertools.chain(given, items)
    given += items
    places: dict[int, int] = {}
    for place, item in enumerate(given):
        before = places.setdefault(id(item), place)
        if before != place and isinstance(item, nn.Module):
            msg = (
                f"modules {before} and {place} are one object, with the weights that it was given last: pass a "
                "generator that loads weights and yields the module, or make each with copy.deepcopy"
            )
            raise UsageError(msg)
    return given


def _kinds(items: Sequence[object]) -> str:
    return " and ".join(dict.fromkeys(type(item).__name__ for item in items))


def _selected(inputs: Tensor, labels: Tensor, settings: Settings) -> TensorData:
    """Those examples of two tensors that a dataset's `limit` would select.

    Raises:
        DataError: there are not as many labels as inputs.
    """
    if len(inputs) != len(labels):
        msg = f"{len(inputs)} inputs and {len(labels)} labels: give one label per input"
        raise DataError(msg)
    check_limit(settings.limit)
    if settings.limit is None or settings.limit >= len(inputs):
        return TensorData(inputs, labels)
    places = selected(len(inputs), settings.limit, settings.seed)
    return TensorData(inputs[places.to(inputs.device)], labels[places.to(labels.device)])


def _measured(run: Run[Any], output: str | Path | None) -> Analysis:
    """Go through the rows of a run; with a file named, those finished before are taken from its journal.

    Raises:
        UsageError: what is asked has other tables than `analyze` writes.
        LockedError: another process is writing this report.
        RecordError: the report there was made otherwise.
        OutputError: the files cannot be written.
    """
    analysis = run.analysis
    if output is None:
        collections.deque(run, maxlen=0)
        return analysis
    files = _report_files(Path(output), run)
    with open_journal(journal_folder(files.main), run.question) as journal:
        run.keep_in(journal)
        try:
            collections.deque(run, maxlen=0)
        finally:
            if analysis.succeeded:
                record = RunRecord(analysis.stable_metadata(), analysis.run_metadata())
                tables = {table: analysis.frame(table.name) for table in _tables(analysis.settings)}
                made = {files.path(table): rows for table, rows in tables.items() if len(rows) or not table.if_any}
                files.write(made.pop(files.main), None, record, made)
    return analysis


def _tables(settings: Settings) -> tuple[Table, ...]:
    """Those of `fisher analyze` that these settings ask for."""
    return tables_of("main", task2vec=settings.task2vec, long=False)


def _report_files(output: Path, run: Run[Any]) -> ReportFiles:
    """The files that `fisher analyze -o` writes.

    Raises:
        UsageError: what is asked has other tables.
        OutputError: they could not be written after hours of computation.
    """
    settings = run.analysis.settings
    if settings.comparison is not None or settings.spectrum is not None or settings.verify:
        msg = "output names the tables of analyze: those of compare and verify are data frames, to be saved by to_csv"
        raise UsageError(msg)
    inputs = tuple(file.path for file in run.files if isinstance(file, CheckpointFile))
    files = ReportFiles(output, format_of(output, None), inputs=inputs)
    files = files.holding(*_tables(settings))
    if files.format is Format.XLSX:
        import fisher_cli.storage.xlsx  # noqa: F401 - says now, not after hours, what must be installed
    files.check_writable()
    refuse_unlike(files, _tables(settings)[0].word, run.subject())
    return files
