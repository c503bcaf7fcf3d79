"""Where results go, and in which form."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fisher_cli.cli.options.panels import OUTPUT
from fisher_cli.storage.formats import Format
from fisher_cli.tables.dialects import Dialect


def _report_file(beside: str) -> Any:
    """The option -o of a command, by what it writes besides the rows."""
    return typer.Option(
        "-o",
        "--output",
        metavar="FILE|-",
        help=f"Report file (.csv .tsv .json .jsonl .parquet .xlsx){beside}; or - for rows on stdout.",
        show_default=False,
        rich_help_panel=OUTPUT,
    )


Output = Annotated[Path | None, _report_file("; a table of layers and a record go beside it")]
InspectionOutput = Annotated[Path | None, _report_file("; with --data a table of parameters goes beside it")]
SpectrumOutput = Annotated[
    Path | None, _report_file(", written as NAME.spectrum with NAME.density and a record beside it")
]
ComparisonOutput = Annotated[
    Path | None, _report_file(", written as NAME.compare with NAME.compare.layers and a record beside it")
]
CheckpointComparisonOutput = Annotated[
    Path | None, _report_file(", written as NAME.checkpoints with NAME.checkpoints.layers and a record beside it")
]
VerifyOutput = Annotated[
    Path | None, _report_file(", written as NAME.verify with NAME.expansion and a record beside it")
]
ExamplesOutput = Annotated[
    Path | None, _report_file(", written as NAME.examples with NAME.groups and a record beside it")
]
ComparisonLayers = Annotated[
    bool | None,
    typer.Option(
        "--layers/--no-layers",
        metavar="",
        help="Per parameter tensor as well: a table of the last checkpoint, and one of all beside a report file.",
        show_default="beside a file only",
        rich_help_panel=OUTPUT,
    ),
]
FailRatioBelow = Annotated[
    str | None,
    typer.Option(
        "--fail-ratio-below",
        metavar="X",
        help="End with exit code 4 if tr F̂/tr F of a checkpoint is below.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        "--top",
        metavar="N",
        min=1,
        help="Only the N examples of each checkpoint that carry most of the true trace, the largest first.",
        show_default="all in files and pipes, 10 on a terminal",
        rich_help_panel=OUTPUT,
    ),
]
PerExample = Annotated[
    bool,
    typer.Option(
        "--per-example",
        metavar="",
        help="Write a row per checkpoint and example, NAME.examples, beside a report file.",
        rich_help_panel=OUTPUT,
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Of what goes to stdout: table, csv, tsv, json, jsonl, parquet or xlsx.",
        show_default="table on a terminal, csv when piped",
        rich_help_panel=OUTPUT,
    ),
]
CsvDialect = Annotated[
    Dialect,
    typer.Option(
        "--csv-dialect",
        metavar="NAME",
        help="Of CSV: plain, excel (opened by a double click), or excel-eu (the same with decimal commas).",
        rich_help_panel=OUTPUT,
    ),
]
Long = Annotated[
    bool,
    typer.Option(
        "--long",
        metavar="",
        help="A row per checkpoint, layer and quantity: as NAME.long beside a report file, else instead of the rows.",
        rich_help_panel=OUTPUT,
    ),
]
Layers = Annotated[
    bool,
    typer.Option(
        "--layers/--no-layers",
        metavar="",
        help="Write the per-layer table beside a report file.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar="",
        help="Replace an output file that is not a report of fisher, was edited, or was made otherwise.",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        metavar="",
        help="Keep the checkpoints that an earlier run of the same command finished; or measure all of them again.",
        rich_help_panel=OUTPUT,
    ),
]
