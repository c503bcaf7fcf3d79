"""`fisher analyze`: checkpoints and a dataset in, the table of Fisher traces and eigenvalues out."""

import contextlib
import sys
from typing import TYPE_CHECKING

import typer

from fisher_cli.cli import options
from fisher_cli.cli.streams import ROWS_AS_THEY_COME, exit_code, report_files, stdout_format, why_nothing
from fisher_cli.errors import UsageError
from fisher_cli.outputs import Format, Metadata, ReportFiles, render
from fisher_cli.settings import Estimator, LikelihoodName, Precision, Resources, Settings

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console
    from fisher_cli.run import Analysis, Run


def _positive(text: str, option: str, word: str) -> int | None:
    """The number that an option's text says, None for its word.

    Raises:
        UsageError: it is neither.
    """
    if text == word:
        return None
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        msg = f"{option} {text}: type a positive whole number, or {word}"
        raise UsageError(msg)
    return int(text)


def _count(number: int, option: str) -> int:
    """The number of an option that may be zero.

    Raises:
        UsageError: it is negative.
    """
    if number < 0:
        msg = f"{option} {number}: type a positive whole number, or 0 for none"
        raise UsageError(msg)
    return number


def _share(text: str | None) -> float | None:
    """The relative error that --target-error says.

    Raises:
        UsageError: it is no positive number.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        msg = f"--target-error {text}: type a positive number, such as 0.01 for one percent of the trace"
        raise UsageError(msg)
    return value


def analyze(
    checkpoints: options.Checkpoints,
    data: options.Data = "digits",
    data_dir: options.DataDir = None,
    split: options.Split = None,
    limit: options.Limit = "1000",
    labels: options.Labels = None,
    normalize: options.Normalize = None,
    download: options.Download = False,
    model: options.Model = None,
    model_arguments: options.ModelArguments = [],  # noqa: B006 - typer reads it, nobody writes it
    state_key: options.StateKey = None,
    estimator: options.EstimatorOption = Estimator.AUTO,
    samples: options.Samples = 5,
    target_error: options.TargetError = None,
    eigenvalues: options.EigenvalueCount = 5,
    include: options.Include = ["*"],  # noqa: B006
    exclude: options.Exclude = [],  # noqa: B006
    likelihood: options.LikelihoodOption = LikelihoodName.AUTO,
    precision: options.PrecisionOption = Precision.FLOAT32,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = "auto",
    device: options.Device = "auto",
    output: options.Output = None,
    format: options.FormatOption = None,
    layers: options.Layers = True,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Measure true and empirical Fisher traces and top eigenvalues of a sequence of checkpoints.

    Example: fisher analyze ckpts/ --data cifar10 --model resnet18 -o trend.csv
    """  # noqa: DOC501 - this text is the command's help
    settings = Settings(
        data=data,
        split=split,
        limit=_positive(limit, "--limit", "all"),
        labels=None if labels is None else str(labels),
        normalize=normalize,
        model=model,
        model_arguments=tuple(options.key_value(text) for text in model_arguments),
        state_key=state_key,
        estimator=estimator,
        samples=samples,
        target_error=_share(target_error),
        eigenvalues=_count(eigenvalues, "--eigenvalues"),
        likelihood=likelihood,
        include=tuple(include),
        exclude=tuple(exclude),
        precision=precision,
        seed=seed,
    )
    resources = Resources(
        batch_size=_positive(batch_size, "--batch-size", "auto"),
        device=device,
        data_dir=None if data_dir is None else str(data_dir),
        download=download,
    )
    files = report_files(output, format, force)
    to_stdout = stdout_format(output, format)
    if files is not None:
        files.check_writable()

    from fisher_cli.reports.console import Console
    from fisher_cli.run import Run

    console = Console(quiet=quiet)
    with contextlib.redirect_stdout(sys.stderr):  # what a network's own code prints; results go by the console
        run = Run(checkpoints, settings, resources)
        if files is not None:
            files = ReportFiles(files.main, files.format, force, tuple(file.path for file in run.files))
            files.check_writable()
        _say_what_is_analysed(console, run)
        _measure(console, run, files, to_stdout, layers)
    raise typer.Exit(_finish(console, run.analysis, files, to_stdout, layers))


def _say_what_is_analysed(console: "Console", run: "Run") -> None:
    examples = run.examples
    part = "all" if len(examples) == examples.total else f"{len(examples)} of"
    split = f" {examples.split}" if examples.split else ""
    count = "1 checkpoint" if len(run) == 1 else f"{len(run)} checkpoints"
    name = examples.normalization.name
    normalised = "not normalised" if name == "none" else f"normalised by {name}"
    console.message(
        f"{count}, {part} {examples.total} examples of {examples.name}{split}, {normalised}, on {run.device}"
    )


def _measure(console: "Console", run: "Run", files: ReportFiles | None, to_stdout: Format | None, layers: bool) -> None:
    """Go through the checkpoints; rows that can be are printed at once, and an early end loses none of them.

    Raises:
        BaseException: whatever ended the run is passed on after the finished rows were written.
    """
    from fisher_cli.tables import csv_header, csv_row, main_table, to_jsonl

    count = run.analysis.settings.eigenvalues
    separator = "\t" if to_stdout is Format.TSV else ","
    with console.progress(len(run)) as progress:
        run.observer = progress
        try:
            for order, measurement in enumerate(run):
                if to_stdout in {Format.CSV, Format.TSV}:
                    header = csv_header(count, separator) if order == 0 else ""
                    console.write(header + csv_row(measurement, order, count, separator))
                elif to_stdout is Format.JSONL:
                    console.write(to_jsonl(main_table([measurement], count, order)))
        except BaseException as error:
            _keep(console, run, files, layers, by_user=not isinstance(error, Exception))
            raise


def _keep(console: "Console", run: "Run", files: ReportFiles | None, layers: bool, *, by_user: bool) -> None:
    """Write the rows that were finished before the run was stopped, and say so."""
    done = len(run.analysis.measurements)
    writes = files is not None and run.analysis.succeeded > 0
    if files is not None and writes:
        _write(run.analysis, files, layers)
    if writes or by_user:
        where = f"are in {files.main}" if files is not None and writes else "were finished"
        console.message(f"{'interrupted' if by_user else 'stopped'}: {done} of {len(run)} checkpoints {where}")


def _write(analysis: "Analysis", files: ReportFiles, layers: bool) -> None:
    metadata = Metadata(analysis.stable_metadata(), analysis.run_metadata())
    files.write(analysis.table, analysis.layers if layers else None, metadata)


def _finish(
    console: "Console", analysis: "Analysis", files: ReportFiles | None, to_stdout: Format | None, layers: bool
) -> int:
    """Write and print what is left; the exit code: 0 all rows ok, 3 some not, 1 none.

    A run without a single result writes no file: it would only replace an earlier report.
    """
    is_table = to_stdout is Format.TABLE
    if files is not None and analysis.succeeded:
        _write(analysis, files, layers)
    if is_table and analysis.succeeded:
        console.summary(analysis.measurements, analysis.data_title)
    elif to_stdout is not None and not is_table and to_stdout not in ROWS_AS_THEY_COME:
        console.write(render(analysis.table, to_stdout, analysis.stable_metadata()))
    if not analysis.succeeded:
        console.error(why_nothing(analysis.measurements))
    elif files is not None:
        console.message(f"report: {files.main}")
    return exit_code(analysis.measurements, analysis.succeeded)
