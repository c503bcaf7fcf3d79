"""`fisher compare checkpoints`: how far apart two checkpoints of one network are, in predictions and in weights."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import options
from fisher_cli.cli.destinations import destinations
from fisher_cli.cli.next_step import say_next
from fisher_cli.cli.shared_options import DATA, MODEL, NETWORK, RUNNING, SEED, asks
from fisher_cli.settings import Resources, Settings
from fisher_cli.storage.formats import Format, render
from fisher_cli.storage.identity import refuse_unlike
from fisher_cli.storage.report_files import RunRecord
from fisher_cli.tables.dialects import Dialect
from fisher_cli.tables.registry import tables_of


@asks(*DATA, *MODEL, *NETWORK, *SEED, *RUNNING)
def checkpoints(
    settings: Settings,
    resources: Resources,
    first: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint file.", show_default=False)],
    second: Annotated[
        Path, typer.Argument(metavar="B", help="A checkpoint file of the same network.", show_default=False)
    ],
    output: options.CheckpointComparisonOutput = None,
    format: options.FormatOption = None,
    csv_dialect: options.CsvDialect = Dialect.PLAIN,
    layers: options.Layers = True,
    force: options.Force = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure the distance between two checkpoints: KL divergences, the quadratic form of the Fisher, and layers.

    Example: fisher compare checkpoints ckpts/step_01000.pt ckpts/step_02000.pt --data cifar10 --model resnet18
    """
    files, to_stdout = destinations(output, format, force, csv_dialect)
    if files is not None:
        files = replace(files.holding(*tables_of("checkpoints")), inputs=(first, second))
        files.check_writable()

    from fisher_cli.reports.console import Console
    from fisher_cli.run.checkpoint_comparison import compare_checkpoints

    console = Console(quiet=quiet)
    with contextlib.redirect_stdout(sys.stderr):  # what a network's own code prints; results go by the console
        found = compare_checkpoints(first, second, settings, resources)
    if files is not None:
        refuse_unlike(files, tables_of("checkpoints")[0].word, found.stable_metadata())
        beside = found.layers if layers else None
        files.write(found.table, beside, RunRecord(found.stable_metadata(), found.run_metadata()))
    if to_stdout is Format.TABLE:
        console.checkpoint_comparison(found.found, found.run.analysis.data_title)
    elif to_stdout is not None:
        console.write(render(found.table, to_stdout, found.stable_metadata(), csv_dialect))
    if files is not None:
        console.message(f"table: {files.main}")
    say_next(console, (first, second), settings, files)
