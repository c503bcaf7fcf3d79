"""`fisher merge`: the tables of all shards → the table of the whole run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fisher_cli.cli import options
from fisher_cli.cli.destinations import exit_code, say_what_is_left
from fisher_cli.cli.next_step import page_of
from fisher_cli.errors import UsageError
from fisher_cli.storage.formats import format_of


def merge(
    parts: Annotated[
        list[Path],
        typer.Argument(metavar="PART...", help="Tables made with --shard, in any order.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the joined table to this file (.csv .tsv .json .jsonl .parquet), with its record beside it.",
            show_default=False,
        ),
    ],
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Join the tables of all shards into the table that one run over all checkpoints would have written.

    Example: fisher merge part-1.csv part-2.csv part-3.csv -o trend.csv
    """  # noqa: DOC501 - this text is the command's help
    if str(output) == "-":
        msg = "-o -: the joined table has files beside it; name it, for example -o trend.csv"
        raise UsageError(msg)
    form = format_of(output)

    from fisher_cli.parallel.merge import merge as join
    from fisher_cli.reports.console import Console

    console, code = Console(quiet=quiet), 0
    for merged in join(parts, output, form, force=force):
        found = merged.measurements
        if not merged.word and sys.stdout is not None and sys.stdout.isatty():
            console.summary(found, " ".join(str(merged.data[key]) for key in ("name", "split") if merged.data.get(key)))
        say_what_is_left(console, merged.left)
        console.message(f"table: {merged.main}, {len(found)} checkpoints")
        code = max(code, exit_code(found, sum(each.trace is not None or bool(each.spectra) for each in found)))
    if output.exists():
        console.next_step(page_of(output))
    raise typer.Exit(code)
