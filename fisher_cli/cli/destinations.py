"""Where a command's results go, and what its end is: the same for every command that prints rows."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fisher_cli.errors import OutputError, UsageError
from fisher_cli.storage.formats import Format, format_of
from fisher_cli.storage.report_files import ReportFiles
from fisher_cli.tables.dialects import Dialect

if TYPE_CHECKING:
    from fisher_cli.inputs.checkpoints.checkpoints import CheckpointFile
    from fisher_cli.reports.console import Console
    from fisher_cli.results import Inspection, Measurement

ROWS_AS_THEY_COME = {Format.CSV, Format.TSV, Format.JSONL}


def destinations(
    output: Path | None, form: Format | None, force: bool, dialect: Dialect = Dialect.PLAIN
) -> tuple[ReportFiles | None, Format | None]:
    """Where a command's results go: to the files that -o asks for, and to stdout.

    Args:
        output: as typed for -o; None without it.
        form: as typed for --format; None without it.
        force: whether files that are not an earlier report's may be replaced.
        dialect: of CSV.

    Returns:
        The files, None without -o and for `-o -`; and the format of what goes to stdout, None for nothing.

    Raises:
        UsageError: format and name do not fit together, a dialect of CSV was asked for and no CSV, or a workbook
            without what writes it.
        OutputError: something must go to stdout, and it is closed.
    """
    files, to_stdout = _report_files(output, form, force, dialect), _stdout_format(output, form)
    forms = {to_stdout, files and files.format}
    if dialect is not Dialect.PLAIN and Format.CSV not in forms:
        msg = f"--csv-dialect {dialect} is a way to write CSV: add --format csv, or name a .csv file with -o"
        raise UsageError(msg)
    if Format.XLSX in forms:
        import fisher_cli.storage.xlsx  # noqa: F401 - says now, not after hours, what must be installed
    return files, to_stdout


def _report_files(output: Path | None, form: Format | None, force: bool, dialect: Dialect) -> ReportFiles | None:
    if output is None or str(output) == "-":
        return None
    return ReportFiles(output, format_of(output, None if form is Format.TABLE else form), force, dialect=dialect)


def _stdout_format(output: Path | None, form: Format | None) -> Format | None:
    """What goes to stdout: a table on a terminal, rows when piped or for `-o -`, nothing beside a file in a pipe.

    Raises:
        UsageError: a table was asked for where rows go.
        OutputError: something must go there, and it is closed.
    """
    if sys.stdout is None and (output is None or str(output) == "-" or form is Format.TABLE):
        msg = "standard output is closed: write the table to a file with -o FILE"
        raise OutputError(msg)
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    if output is None:
        return form or (Format.TABLE if is_terminal else Format.CSV)
    if str(output) == "-":
        if form is Format.TABLE:
            msg = (
                "-o - writes rows: leave it out for a table, or choose --format csv, tsv, json, jsonl, parquet or xlsx"
            )
            raise UsageError(msg)
        return form or Format.CSV
    return Format.TABLE if form is Format.TABLE or is_terminal else None


def say_what_is_left(console: "Console", left: Sequence[Path]) -> None:
    """Say which tables of an earlier report stay beside this one, since somebody has changed them."""
    for path in left:
        console.message(f"{path} was changed after fisher wrote it; it is left as it is and belongs to the earlier run")


def why_nothing(rows: "Sequence[Measurement] | Sequence[Inspection]", said: str = "") -> str:
    """One line for a run without a good row: the reason, if all have the same one, else the first.

    Args:
        rows: at least one, none of which is good.
        said: what says the reasons already, so that none is said twice; "" where nothing does.
    """
    first, total = rows[0], len(rows)
    if said:
        which = f"none of the {total} checkpoints could" if total > 1 else "the checkpoint could not"
        return f"{which} be analysed: {said}"
    if total == 1:
        return f"{first.checkpoint}: {first.error}"
    reasons = {row.error for row in rows}
    if len(reasons) == 1:
        return f"none of the {total} checkpoints could be analysed: {first.error}"
    return f"none of the {total} checkpoints could be analysed; the first, {first.checkpoint}: {first.error}"


def say_what_is_passed_over(console: "Console", checkpoints: Sequence[Path], files: "Sequence[CheckpointFile]") -> None:
    """Say which files of the named folders are not looked at, being of other suffixes."""
    from fisher_cli.inputs.checkpoints.discovery import passed_over

    if others := passed_over(checkpoints, (file.path for file in files)):
        console.message(f"not looked at: {others}; name a file to have it read")


def exit_code(rows: "Sequence[Measurement] | Sequence[Inspection]", good: int) -> int:
    """0 when all rows are ok, 3 when some are not, 1 when none has a result.

    Args:
        rows: of the run.
        good: how many of them have a result.
    """
    if not good:
        return 1
    return 3 if any(row.error for row in rows) else 0
