"""`fisher demo`: the sample runs written to a folder, and one of them analysed as anybody's run would be."""

import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

import fisher_cli
from fisher_cli.cli import options
from fisher_cli.errors import OutputError, UsageError
from fisher_cli.storage.regular_files import read_regular

if TYPE_CHECKING:
    from fisher_cli.reports.console import Console

SAMPLES: Final = "sample_checkpoints"
RUN: Final = f"{SAMPLES}/digits-clean"


def demo(
    context: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder for the samples, the table and the page.")
    ] = Path("fisher-demo"),
    debug: options.Debug = False,  # noqa: ARG001 - acted upon by its callback
) -> None:
    """Write the sample runs to a folder, analyse one of them, and make a page if matplotlib is installed.

    Example: fisher demo
    """
    from fisher_cli.reports.console import Console

    console = Console()
    copied = copy_samples(folder)
    console.message(f"sample runs: {copied}")
    table, page = folder / "digits-clean.csv", folder / "digits-clean.html"
    _run(context, console, "analyze", str(folder / RUN), "--format", "table", "--no-resume", "-o", str(table))
    has_page = importlib.util.find_spec("matplotlib") is not None
    if has_page:
        _run(context, console, "report", str(table), "-o", str(page))
    else:
        console.message("no page: it needs matplotlib, pip install 'fisher-cli[report]'")
    console.message(f"look at {page if has_page else table}")
    console.message(f"your own run: {activation()}fisher analyze CHECKPOINTS --data DATA -o trend.csv")


def copy_samples(folder: Path) -> Path:
    """Copy the sample runs that came with the program.

    Args:
        folder: gets a folder `sample_checkpoints`; files that are there already stay, and must be the same.

    Returns:
        That folder.

    Raises:
        UsageError: the samples are not there, as in a source tree that was taken apart.
        OutputError: the folder cannot be written, or holds another file of such a name.
    """
    found = _samples()
    try:
        for path in found:
            target, content = folder / SAMPLES / path.parent.name / path.name, path.read_bytes()
            target.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(target):
                target.write_bytes(content)
            elif read_regular(target) != content:
                msg = f"{target} exists and is not a sample file: name another folder, fisher demo FOLDER"
                raise OutputError(msg)
    except OSError as error:
        msg = f"cannot write {folder}: {error.strerror or error}; name another folder: fisher demo FOLDER"
        raise OutputError(msg) from error
    return folder / SAMPLES


def _samples() -> list[Path]:
    """The files of the sample runs: beside the package in a source tree, else where the wheel has put them.

    Raises:
        UsageError: they are in neither place.
    """
    beside = Path(fisher_cli.__file__).parents[1] / SAMPLES
    found = sorted(beside.glob("*/*"))
    if not found:
        try:
            installed = importlib.metadata.files("fisher-cli") or []
        except importlib.metadata.PackageNotFoundError:
            installed = []
        found = sorted(Path(str(each.locate())) for each in installed if each.parts[-3:-2] == (SAMPLES,))
    if not found:
        msg = f"the sample runs are missing: copy the folder {SAMPLES} from the source of fisher"
        raise UsageError(msg)
    return found


def _run(context: typer.Context, console: "Console", *words: str) -> None:
    """Run a command as if it had been typed.

    Raises:
        Exit: it failed, with its code.
    """
    console.message(f"$ fisher {shlex.join(words)}")
    code = context.find_root().command.main(list(words), prog_name="fisher", standalone_mode=False)
    if code:
        raise typer.Exit(code)


def activation() -> str:
    """How the environment that this runs in is activated, where `fisher` alone is not found."""
    if shutil.which("fisher") is not None or sys.prefix == sys.base_prefix:
        return ""
    return f"source {shlex.quote(str(Path(sys.prefix) / 'bin' / 'activate'))} && "
