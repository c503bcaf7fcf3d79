"""The functions of `fisher_cli`: files or modules and examples → a Result, as the commands do it, without printing."""

import collections
import difflib
import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Unpack

from torch import nn

from fisher_cli.api.examples_given import Data, examples_given, is_given
from fisher_cli.api.keywords import Keywords, speaks_of_keywords
from fisher_cli.api.result import FileSurvey, Result, main_table, report_files
from fisher_cli.curvature.problem.problem import TensorData
from fisher_cli.errors import UsageError
from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
from fisher_cli.inputs.networks.architectures import Architecture, network_given
from fisher_cli.results import Measurement
from fisher_cli.run.modules import in_order
from fisher_cli.run.per_example import with_summary
from fisher_cli.run.preparation import run_of_files, run_of_modules
from fisher_cli.run.sequence import Run
from fisher_cli.run.survey import Survey
from fisher_cli.settings import (
    PRESETS,
    Activations,
    ComparisonSettings,
    MatrixName,
    Resources,
    Settings,
    SpectrumMethod,
    SpectrumSettings,
    settings_of,
)
from fisher_cli.storage.identity import refuse_unlike
from fisher_cli.storage.journal import open_journal
from fisher_cli.storage.report_folder import journal_folder
from fisher_cli.tables.registry import EXAMPLES

T = TypeVar("T")
Checkpoints = str | Path | nn.Module | Iterable[str | Path] | Iterable[nn.Module] | Mapping[str, nn.Module]


@speaks_of_keywords()
def analyze(
    checkpoints: Checkpoints,
    data: Data = "digits",
    *,
    output: str | Path | None = None,
    resume: bool = True,
    force: bool = False,
    **keywords: Unpack[Keywords],
) -> Result:
    """Fisher traces and eigenvalues of a sequence of checkpoints or modules: `.table` and `.layers` are DataFrames.

    Args:
        checkpoints: files and folders, or modules, which are given back as they came. Modules stand in the order of
            training; of a dict the numbers in its names tell it. Each module of a generator is measured before the
            next one is asked for: it may load further weights into one object.
        data: a dataset's name as for `--data`, a pair (inputs (N, …), labels (N,)) of tensors or arrays, a Dataset, or
            a DataLoader that does not shuffle. Of those that are no name all examples are taken, unless a `limit` is
            given.
        output: a file for the table, with the per-layer table, the record and the journal beside it, as `fisher analyze
            -o` writes them. What was finished when a run was stopped is not measured again: files and modules are known
            by their content, modules besides by their outputs on the first examples. None to write nothing.
        resume: whether rows that the journal has are taken from there; else it is begun anew.
        force: whether files that fisher did not write may be replaced.
        **keywords: those of `fisher_cli.api.keywords.Keywords`, such as `limit=None`, `eigenvalues=10`,
            `model="resnet18"`, `dtype="float64"`.

    Returns:
        Result with one row per checkpoint; a file that cannot be analysed is a row that says why. Losses are in nats,
        and traces and eigenvalues are of means over the examples.

    Raises:
        UsageError: modules and paths are mixed, a list holds one module twice, or a keyword or its value cannot be.
        CheckpointError: there are no checkpoints.
        DataError: the data cannot be had, shuffle, or there are not as many labels as inputs.
        ArchitectureError: the function that `model` names cannot be imported or fails.
        LockedError: another process is writing this output.
        RecordError: the output was made with other settings, data or versions.
        OutputError: it cannot be written.
        Exception: a module cannot be analysed; rows that were finished are in the journal.

    Example:
        >>> import torch
        >>> from fisher_cli import analyze
        >>> network = torch.nn.Linear(3, 2)
        >>> result = analyze(network, (torch.eye(3), torch.tensor([0, 1, 0])), eigenvalues=0)
        >>> result.table["trace_true"].notna().tolist()
        [True]
    """
    return _measured(_Asked.of(checkpoints, data, {**keywords}), output, resume=resume, force=force)


@speaks_of_keywords()
def compare(
    checkpoints: Checkpoints,
    data: Data = "digits",
    *,
    damping: float | None = None,
    draws: int = 10,
    output: str | Path | None = None,
    resume: bool = True,
    force: bool = False,
    **keywords: Unpack[Keywords],
) -> Result:
    """tr F̂/tr F, ‖F̂ − F‖/‖F‖, cosines and overlaps beside their nulls: `.comparison`, `.comparison_layers`.

    Args:
        checkpoints: as for `analyze`.
        data: as for `analyze`.
        damping: α of the natural gradients (F + αI)⁻¹ḡ, in 1/weight²; None for a thousandth of the largest eigenvalue
            of F.
        draws: how many sets of labels are drawn from the model for the nulls without a closed form.
        output: as for `analyze`; the table is `NAME.compare.csv`.
        resume: as for `analyze`.
        force: as for `analyze`.
        **keywords: as for `analyze`.

    Returns:
        Result whose measurements have a `comparison` with its verdict. Errors are those of `analyze`.

    Example:
        >>> import torch
        >>> from fisher_cli import compare
        >>> result = compare(torch.nn.Linear(3, 2), (torch.eye(3), torch.tensor([0, 1, 0])), draws=0)
        >>> result.comparison["trace_ratio"].notna().tolist()
        [True]
    """
    asked = _made(ComparisonSettings, damping=damping, draws=draws)
    found = _Asked.of(checkpoints, data, {**keywords, "comparison": asked})
    return _measured(found, output, resume=resume, force=force)


@speaks_of_keywords(eigenvalues=10)
def spectrum(
    checkpoints: Checkpoints,
    data: Data = "digits",
    *,
    matrix: Literal["true", "empirical", "both"] = "both",
    method: Literal["auto", "whole", "density"] = "auto",
    damping: float | None = None,
    probes: int = 5,
    steps: int = 40,
    output: str | Path | None = None,
    resume: bool = True,
    force: bool = False,
    **keywords: Unpack[Keywords],
) -> Result:
    """All eigenvalues of F and F̂, or the leading ones and the density of the rest: `.frame("spectrum")`.

    Args:
        checkpoints: as for `analyze`.
        data: as for `analyze`.
        matrix: true, empirical or both.
        method: whole for all eigenvalues, density for the leading ones and the density; auto by the size.
        damping: λ of the effective dimension, in 1/weight²; None for a thousandth of the largest eigenvalue.
        probes: random vectors of the density.
        steps: of Lanczos from each of them.
        output: as for `analyze`; the table is `NAME.spectrum.csv`.
        resume: as for `analyze`.
        force: as for `analyze`.
        **keywords: as for `analyze`, with 10 `eigenvalues` where none are given.

    Returns:
        Result whose `.asked` has one row per checkpoint, matrix and eigenvalue. Errors are those of `analyze`.

    Raises:
        UsageError: there is no such matrix or method, or another number cannot be.

    Example:
        >>> import torch
        >>> from fisher_cli import spectrum
        >>> result = spectrum(torch.nn.Linear(3, 2), (torch.eye(3), torch.tensor([0, 1, 0])), matrix="true")
        >>> set(result.asked["matrix"])
        {'true Fisher'}
    """
    if matrix not in list(MatrixName) or method not in list(SpectrumMethod):
        msg = (
            f"matrix={matrix!r}, method={method!r}: there are the matrices {', '.join(MatrixName)} and the methods "
            f"{', '.join(SpectrumMethod)}"
        )
        raise UsageError(msg)
    asked = _made(
        SpectrumSettings,
        matrix=MatrixName(matrix),
        method=SpectrumMethod(method),
        damping=damping,
        probes=probes,
        steps=steps,
    )
    found = _Asked.of(checkpoints, data, {"eigenvalues": 10, **keywords, "spectrum": asked})
    return _measured(found, output, resume=resume, force=force)


@speaks_of_keywords(eigenvalues=0)
def examples(
    checkpoints: Checkpoints,
    data: Data = "digits",
    *,
    output: str | Path | None = None,
    resume: bool = True,
    force: bool = False,
    **keywords: Unpack[Keywords],
) -> Result:
    """Each example's share of both traces, the largest first by `rank`: `.frame("examples")`, `.frame("groups")`.

    Args:
        checkpoints: as for `analyze`.
        data: as for `analyze`.
        output: as for `analyze`; the table is `NAME.examples.csv`.
        resume: as for `analyze`.
        force: as for `analyze`.
        **keywords: as for `analyze`.

    Returns:
        Result whose `.asked` has one row per checkpoint and example. Errors are those of `analyze`.

    Example:
        >>> import torch
        >>> from fisher_cli import examples
        >>> result = examples(torch.nn.Linear(3, 2), (torch.eye(3), torch.tensor([0, 1, 0])))
        >>> sorted(result.asked["rank"].tolist())
        [1, 2, 3]
    """
    found = _Asked.of(checkpoints, data, {**keywords, "eigenvalues": 0, "movement": False})
    return _measured(found, output, resume=resume, force=force)


@speaks_of_keywords(limit=32, dtype="float64")
def verify(
    checkpoints: Checkpoints,
    data: Data = "digits",
    *,
    output: str | Path | None = None,
    resume: bool = True,
    force: bool = False,
    **keywords: Unpack[Keywords],
) -> Result:
    """Identities that Fisher's different forms must fulfil, on these networks and data: `.identities`, `.verified`.

    Args:
        checkpoints: as for `analyze`.
        data: as for `analyze`.
        output: as for `analyze`; the table is `NAME.verify.csv`.
        resume: as for `analyze`.
        force: as for `analyze`.
        **keywords: as for `analyze`. Where no `limit` is given, 32 examples of a named dataset are taken, which are
            enough: the independent side is slow. `dtype` is that of our side, float64 unless given; the independent
            one is in float64 always.

    Returns:
        Result; `.identities` has one row per checkpoint and identity, `.verified` says that none fails. Errors are
        those of `analyze`; an identity that fails is none.

    Example:
        >>> import torch
        >>> from fisher_cli import verify
        >>> verify(torch.nn.Linear(3, 2), (torch.eye(3), torch.tensor([0, 1, 0]))).verified
        True
    """
    first: dict[str, Any] = {"limit": 32} if isinstance(data, str) else {}
    first |= {} if "precision" in keywords else {"dtype": "float64"}
    found = _Asked.of(checkpoints, data, {**first, **keywords, "verify": True})
    return _measured(found, output, resume=resume, force=force)


@speaks_of_keywords(limit=8, eigenvalues=0)
def inspect(
    checkpoints: str | Path | Iterable[str | Path],
    data: Data | None = None,
    *,
    tensors: bool = False,
    **keywords: Unpack[Keywords],
) -> FileSurvey:
    """What checkpoint files hold: format, weights, step and network; with data also the method per parameter.

    Args:
        checkpoints: files and folders.
        data: as for `analyze`; None to look at the files alone.
        tensors: whether each tensor of the files is summed up: shape, type, values, and the layer that it looks like.
        **keywords: as for `analyze`, with a `limit` of 8 where none is given.

    Returns:
        FileSurvey: `.table` has one row per file, `.coverage` with data one per parameter tensor, `.tensors` one per
        tensor of each file. A file that cannot be analysed is a row that says why. Errors are those of `analyze`.

    Raises:
        UsageError: modules are given, which are no files.

    Example:
        >>> import tempfile, torch
        >>> from fisher_cli import inspect
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(torch.nn.Linear(3, 2).state_dict(), f"{folder}/step_10.pt")
        ...     survey = inspect(folder, model=torch.nn.Linear(3, 2))
        >>> survey.table[["checkpoint", "step", "status"]].values.tolist()
        [['step_10.pt', 10, 'ok']]
    """
    asked = _Asked.of(checkpoints, "digits" if data is None else data, {"limit": 8, **keywords, "eigenvalues": 0})
    if asked.is_modules:
        msg = "inspect looks at checkpoint files: give paths, and for modules call analyze"
        raise UsageError(msg)
    run = None if data is None else asked.run(is_kept=False)
    survey = Survey(list(asked.items), asked.settings, asked.resources, run, asked.network, with_tensors=tensors)
    collections.deque(survey, maxlen=0)
    return FileSurvey(survey)


@dataclass(frozen=True)
class _Asked:
    """What a function was asked, as a run takes it: modules or paths, examples, settings and resources."""

    items: Sequence[Any] | Iterator[Any]
    names: tuple[str, ...]
    is_modules: bool
    tensors: TensorData | None
    network: Architecture | None
    settings: Settings
    resources: Resources

    @classmethod
    def of(cls, checkpoints: Any, data: Any, words: dict[str, Any]) -> "_Asked":
        """Tell apart what was given.

        Raises:
            UsageError: it does not go together, or a keyword or its value cannot be.
        """
        names: tuple[str, ...] = ()
        if isinstance(checkpoints, Mapping) and all(isinstance(each, nn.Module) for each in checkpoints.values()):
            named = in_order({str(name): module for name, module in checkpoints.items()})
            if len(named) < len(checkpoints):
                msg = f"two modules have one name among {', '.join(map(repr, checkpoints))}: give each its own"
                raise UsageError(msg)
            names, checkpoints = tuple(named), list(named.values())
        given = _given(checkpoints)
        held = given if isinstance(given, list) else []
        is_modules = held is not given or (bool(held) and all(isinstance(item, nn.Module) for item in held))
        is_mapping = isinstance(checkpoints, Mapping)
        is_paths = not (is_modules or is_mapping) and all(isinstance(item, (str, Path)) for item in held)
        if not (is_modules or is_paths) or not (isinstance(data, str) or is_given(data)):
            msg = (
                "give paths or torch modules, and as data a dataset's name, a pair (inputs, labels) of tensors or "
                f"arrays, a Dataset or a DataLoader, not {_kinds(held or [checkpoints])} with data {_kinds([data])}"
            )
            raise UsageError(msg)
        settings, resources, network = _understood(words, data)
        if network is not None and is_modules:
            msg = "model= is for checkpoint files: modules are analysed as they are, so leave it out"
            raise UsageError(msg)
        tensors = None if isinstance(data, str) else examples_given(data, settings)
        items = given if is_modules else [Path(item) for item in held]
        return cls(items, names, is_modules, tensors, network, settings, resources)

    def run(self, *, is_kept: bool) -> Run[Any]:
        """The run; nothing is measured yet."""
        if self.is_modules:
            return run_of_modules(
                self.items, self.tensors, self.settings, self.resources, is_kept=is_kept, names=self.names
            )
        return run_of_files(list(self.items), self.settings, self.resources, network=self.network, tensors=self.tensors)


def _understood(words: dict[str, Any], data: object) -> tuple[Settings, Resources, Architecture | None]:
    """Settings, resources and the network that was given as an object.

    Raises:
        UsageError: a keyword or its value cannot be.
    """
    _refuse_unknown(words)
    words = {("precision" if name == "dtype" else name): value for name, value in words.items()}
    of_resources = {name: words.pop(name) for name in list(words) if name in Resources.__dataclass_fields__}
    preset, model, network = words.pop("preset", None), words.get("model"), None
    if isinstance(model, nn.Module) or callable(model):
        network = network_given(model, dict(words.get("model_arguments", {})))
        kind = f" {hashlib.sha256(repr(model).encode()).hexdigest()[:12]}" if isinstance(model, nn.Module) else ""
        words["model"] = network.name + kind
    # A limit that nobody has given is one of named datasets.
    has_limit = isinstance(data, str) or (preset in PRESETS and "limit" in PRESETS[preset].settings)
    first: dict[str, Any] = {"data": data} if isinstance(data, str) else {"data": "tensors"}
    first |= {} if has_limit else {"limit": None}
    size = of_resources.get("batch_size")
    if size is not None and size < 1:
        msg = f"batch_size {size}: give a positive whole number, or None for the automatic rule"
        raise UsageError(msg)
    activations = of_resources.get("activations", Activations.KEEP)
    if activations not in list(Activations):
        msg = f"activations={activations!r}: there are {', '.join(Activations)}"
        raise UsageError(msg)
    if of_resources.get("data_dir") is not None:
        of_resources["data_dir"] = str(of_resources["data_dir"])
    try:
        asked = settings_of(preset, {**first, **words})
        return asked, Resources(**{**of_resources, "activations": Activations(activations)}), network
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _refuse_unknown(words: Mapping[str, object]) -> None:
    """Refuse a keyword that is none, with the nearest one.

    Raises:
        UsageError: there is one.
    """
    names = [*Keywords.__annotations__, "output", "resume", "force"]
    taken = {*names, *Settings.__dataclass_fields__, *Resources.__dataclass_fields__}
    for unknown in words.keys() - taken:
        near = difflib.get_close_matches(unknown, names, n=1)
        guess = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        msg = f"unknown argument {unknown!r}; {guess}"
        raise UsageError(msg)


def _made(kind: Callable[..., T], **values: Any) -> T:
    """Settings of this kind.

    Raises:
        UsageError: a value is none of those that are possible.
    """
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


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


def _measured(asked: _Asked, output: str | Path | None, *, resume: bool, force: bool) -> Result:
    """Go through the rows of a run; with a file named, those finished before are taken from its journal.

    Raises:
        LockedError: another process is writing this report.
        RecordError: the report there was made otherwise.
        OutputError: the files cannot be written.
    """
    run = asked.run(is_kept=output is not None)
    inputs = tuple(file.path for file in run.files if isinstance(file, CheckpointFile))
    if output is None:
        collections.deque(_summarised(run), maxlen=0)
        return Result.of(run.analysis, inputs)
    files = report_files(Path(output), run.analysis.settings, inputs, force=force)
    refuse_unlike(files, main_table(run.analysis.settings).word, run.subject())
    with open_journal(journal_folder(files.main), run.question, fresh=not resume, force=force) as journal:
        run.keep_in(journal)
        try:
            collections.deque(_summarised(run), maxlen=0)
        finally:
            result = Result.of(run.analysis, inputs)
            if files.if_worth_writing(result.succeeded):
                result.write(files)
    return result


def _summarised(run: Run[Any]) -> Iterator[Measurement]:
    """The rows, with what their examples say together where that was asked for."""
    of_examples = main_table(run.analysis.settings) is EXAMPLES
    for row in run.rows():
        if of_examples:
            run.analysis.measurements[-1] = with_summary(row)
        yield row
