"""`fisher analyze`: checkpoints and a dataset in, the table of Fisher traces and eigenvalues out."""

from typing import TYPE_CHECKING

import typer

from fisher_cli.cli import options
from fisher_cli.cli.numbers import count, positive, positive_number
from fisher_cli.cli.sequence import Report, go_through
from fisher_cli.cli.streams import report_files, stdout_format
from fisher_cli.outputs import Format
from fisher_cli.settings import Estimator, LikelihoodName, Precision, Resources, Settings

if TYPE_CHECKING:
    import pandas as pd

    from fisher_cli.reports.console import Console
    from fisher_cli.results import Measurement
    from fisher_cli.run import Analysis


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
        limit=positive(limit, "--limit", "all"),
        labels=None if labels is None else str(labels),
        normalize=normalize,
        model=model,
        model_arguments=tuple(options.key_value(text) for text in model_arguments),
        state_key=state_key,
        estimator=estimator,
        samples=samples,
        target_error=positive_number(target_error, "--target-error", "0.01 for one percent of the trace"),
        eigenvalues=count(eigenvalues, "--eigenvalues"),
        likelihood=likelihood,
        include=tuple(include),
        exclude=tuple(exclude),
        precision=precision,
        seed=seed,
    )
    resources = Resources(
        batch_size=positive(batch_size, "--batch-size", "auto"),
        device=device,
        data_dir=None if data_dir is None else str(data_dir),
        download=download,
    )
    report = Report(
        lambda measurement, order, form: _line(measurement, order, form, settings.eigenvalues),
        lambda analysis: _tables(analysis, layers),
        _show,
    )
    files, to_stdout = report_files(output, format, force), stdout_format(output, format)
    raise typer.Exit(go_through(checkpoints, settings, resources, report, files, to_stdout, quiet=quiet))


def _line(measurement: "Measurement", order: int, form: Format, eigenvalues: int) -> str:
    """One checkpoint's row as it is streamed, with the header before the first."""
    from fisher_cli.tables import csv_header, csv_row, main_table, to_jsonl

    if form is Format.JSONL:
        return to_jsonl(main_table([measurement], eigenvalues, order))
    separator = "\t" if form is Format.TSV else ","
    header = csv_header(eigenvalues, separator) if order == 0 else ""
    return header + csv_row(measurement, order, eigenvalues, separator)


def _tables(analysis: "Analysis", layers: bool) -> tuple["pd.DataFrame", "pd.DataFrame | None"]:
    return analysis.table, analysis.layers if layers else None


def _show(console: "Console", analysis: "Analysis") -> None:
    console.summary(analysis.measurements, analysis.data_title)
