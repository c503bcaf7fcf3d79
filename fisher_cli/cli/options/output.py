"""Where results go, and in which form."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fisher_cli.cli.options.panels import OUTPUT
from fisher_cli.storage.formats import Format
from fisher_cli.tables.dialects import Dialect


def _table_file(beside: str) -> Any:
    """The option -o of a command, by what it writes beside the table."""
    return typer.Option(
        "-o",
        "--output",
        metavar="FILE|-",
        help=f"Write the table to FILE (.csv .parquet .xlsx …){beside}; - writes rows to stdout.",
        show_default=False,
        rich_help_panel=OUTPUT,
    )


Output = Annotated[Path | None, _table_file(", with a table of layers and a record beside it")]
InspectionOutput = Annotated[Path | None, _table_file(", with tables of parameters and tensors beside it")]
Tensors = Annotated[
    bool,
    typer.Option(
        "--tensors",
        metavar="",
        help="List the tensors: names, shapes, types, values, and the layer that each looks like.",
        rich_help_panel=OUTPUT,
    ),
]
SpectrumOutput = Annotated[Path | None, _table_file(" as NAME.spectrum, with NAME.density and a record beside it")]
ComparisonOutput = Annotated[
    Path | None, _table_file(" as NAME.compare, with NAME.compare.layers and a record beside it")
]
CheckpointComparisonOutput = Annotated[
    Path | None, _table_file(" as NAME.checkpoints, with NAME.checkpoints.layers and a record beside it")
]
VerifyOutput = Annotated[Path | None, _table_file(" as NAME.verify, with NAME.expansion and a record beside it")]
ExamplesOutput = Annotated[Path | None, _table_file(" as NAME.examples, with NAME.groups and a record beside it")]
ComparisonLayers = Annotated[
    bool | None,
    typer.Option(
        "--layers/--no-layers",
        metavar="",
        help="Compare each parameter tensor as well: of the last checkpoint on screen, of all in NAME.compare.layers.",
        show_default="in the file only",
        rich_help_panel=OUTPUT,
    ),
]
FailRatioBelow = Annotated[
    str | None,
    typer.Option(
        "--fail-ratio-below",
        metavar="X",
        help="Exit with code 4 if tr F̂/tr F of any checkpoint is below X.",
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
        help="Show only the N examples of each checkpoint with the largest true trace.",
        show_default="all in files and pipes, 10 on a terminal",
        rich_help_panel=OUTPUT,
    ),
]
PerExample = Annotated[
    bool,
    typer.Option(
        "--per-example",
        metavar="",
        help="Write NAME.examples beside the table, with one row per checkpoint and example.",
        rich_help_panel=OUTPUT,
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Format of the output on stdout: table, csv, tsv, json, jsonl, parquet or xlsx.",
        show_default="table on a terminal, csv when piped",
        rich_help_panel=OUTPUT,
    ),
]
CsvDialect = Annotated[
    Dialect,
    typer.Option(
        "--csv-dialect",
        metavar="NAME",
        help="Dialect of CSV files: plain, excel (opens with a double click), or excel-eu (with decimal commas).",
        rich_help_panel=OUTPUT,
    ),
]
Long = Annotated[
    bool,
    typer.Option(
        "--long",
        metavar="",
        help="Write one row per checkpoint, layer and quantity, to NAME.long or, without -o, to stdout.",
        rich_help_panel=OUTPUT,
    ),
]
Layers = Annotated[
    bool,
    typer.Option(
        "--layers/--no-layers",
        metavar="",
        help="Write the table of layers beside the table.",
        rich_help_panel=OUTPUT,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar="",
        help="Replace an output file that fisher did not write, that was edited, or that has other settings.",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume/--no-resume",
        metavar="",
        help="Keep the checkpoints that an earlier run of the same command finished, or measure all of them again.",
        rich_help_panel=OUTPUT,
    ),
]
