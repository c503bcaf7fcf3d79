"""The Typer application and the one place where errors become a line and an exit code."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fisher_cli import __version__
from fisher_cli.cli import analyze, names
from fisher_cli.errors import FisherError, UsageError

DEBUG_VARIABLE = "FISHER_DEBUG"


class Boundary(TyperGroup):
    """Turns our own errors into one line on stderr: exit code 2 for wrong usage, 1 for all else."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Returns:
            What the command returned.

        Raises:
            FisherError: only with --debug.
            Exit: the command failed in a way that was said in one line.
        """
        try:
            return super().invoke(ctx)
        except FisherError as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            from fisher_cli.reports.console import Console

            Console().error(str(error))
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
        except BrokenPipeError:
            # The reader has seen enough (`| head`). Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


app = typer.Typer(
    cls=Boundary,
    name="fisher",
    help="Fisher information of saved classifier checkpoints.",
    epilog="Example: fisher analyze ckpts/ --data cifar10 --model resnet18 -o trend.csv",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("analyze")(analyze.analyze)
app.command("models")(names.models)
app.command("datasets")(names.datasets)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fisher {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[  # noqa: ARG001 - acted upon by its callback
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Fisher information of saved classifier checkpoints."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def main() -> None:
    """Run the command line."""
    app()
