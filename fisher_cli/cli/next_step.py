"""What to type after a command: said on stderr where a person is looking at it."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fisher_cli.settings import Settings
from fisher_cli.storage.report_files import ReportFiles, table_path

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console

_LONGEST: Final = 200  # characters of a command that is typed again


def say_next(console: "Console", checkpoints: Sequence[Path], settings: Settings, files: ReportFiles | None) -> None:
    """Propose the page of a table that was written, the analysis beside another table, or the same with a file.

    Args:
        console: on which it is said.
        checkpoints: as they were typed.
        settings: of the run.
        files: those that were written; None for none.
    """
    if files is not None:
        main = table_path(files.main, "", files.own_word)
        console.next_step(page_of(main) if os.path.lexists(main) else analysis_of(checkpoints, settings, main))
    elif not {"-o", "--output"}.intersection(sys.argv):
        again = same_command()
        console.next_step(f"{again} -o trend.csv" if len(again) < _LONGEST else "the same with -o trend.csv")


def page_of(table: Path) -> str:
    """The command that makes a page of a table."""
    return f"fisher report {shlex.quote(str(table))}"


def analysis_of(checkpoints: Sequence[Path], settings: Settings, table: Path = Path("trend.csv")) -> str:
    """The command that analyses these checkpoints as these settings say."""
    paths = shlex.join(map(str, checkpoints))
    asked = {"--data": settings.data, "--labels": settings.labels, "--model": settings.model}
    words = [word for option, value in asked.items() if value is not None for word in (option, value)]
    words += [word for pair in settings.model_arguments for word in ("--model-arg", "=".join(pair))]
    short = paths if len(paths) < _LONGEST else "CHECKPOINTS"
    return f"fisher analyze {short} {shlex.join([*words, '-o', str(table)])}"


def same_command(*without: str) -> str:
    """The command that was typed, less some of its words."""
    return shlex.join(["fisher", *(word for word in sys.argv[1:] if word not in without)])
