"""The Typer application and the one place where errors become a line and an exit code."""

import atexit
import contextlib
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Annotated, Any, cast

import typer

from fisher_cli._version import __version__
from fisher_cli.cli import (
    analyze,
    check,
    compare,
    demo,
    examples,
    inspect,
    known_names,
    merge,
    options,
    plot,
    report,
    spectrum,
    verify,
)
from fisher_cli.cli.address_space import refuse_small_address_space
from fisher_cli.cli.help_format import PlainCommand, PlainGroup
from fisher_cli.cli.misplaced_paths import instead_of
from fisher_cli.errors import FisherError, LockedError, UsageError
from fisher_cli.parallel.launch import launched
from fisher_cli.parallel.log_records import EscapedRecord
from fisher_cli.storage.atomic_write import STOPPING_SIGNALS
from fisher_cli.text import clipped

# What Typer raises on words it cannot parse; it exports only this kind of it.
UnparsableError = cast("type[Exception]", typer.BadParameter.__bases__[0])


# What to begin with; `fisher` alone prints it.
START = """\
fisher demo                             analyse a sample run: a table and a page
fisher inspect CHECKPOINTS              see what your checkpoint files hold
fisher analyze CHECKPOINTS --data DATA  with --data cifar10, folder:DIR, …
fisher report TABLE                     make a page of a table that -o wrote
fisher --help                           list all commands
"""


class Boundary(PlainGroup):
    """Turns errors into one line on stderr: exit code 2 for wrong usage, 5 for a locked table, 1 for all else."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words before the command's own.

        Returns:
            What is left of them.

        Raises:
            Exit: there were none, and what to begin with was printed.
        """
        if not args and not ctx.resilient_parsing:
            typer.echo(START, nl=False)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line and exit.

        Returns:
            The exit code, if the caller wants to go on (`standalone_mode` False).
        """
        try:
            result = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            code = result if isinstance(result, int) else 0
        except UnparsableError as error:
            _say_unparsable(error)
            code = 2
        except OSError as error:  # the help or the version did not reach its reader; commands explain themselves
            _abandon_stdout()
            _say(f"cannot write to standard output: {error.strerror}")
            code = 1
        if standalone_mode:
            sys.exit(code)
        return code

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Returns:
            What the command returned.

        Raises:
            Exit: the command failed in a way that was said in one line.
            Exception: as it is, with --debug.
        """
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a closed pipe is expected
        except BrokenPipeError:
            _abandon_stdout()  # the reader has seen enough (`| head`)
            raise typer.Exit(0) from None
        except Exception as error:
            if ctx.meta.get(options.DEBUG_KEY) or isinstance(error, (typer.Exit, typer.Abort, UnparsableError)):
                raise
            _say(_explained(error))
            raise typer.Exit(_exit_code(error)) from None
        return result


def _exit_code(error: Exception) -> int:
    """Wrong usage, a table that another process is writing, or any other failure."""
    return next((code for kind, code in ((UsageError, 2), (LockedError, 5)) if isinstance(error, kind)), 1)


def _abandon_stdout() -> None:
    """Discard what is still to be written, or Python would complain again when it flushes at exit."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, sys.stdout.fileno())
    os.close(sink)


def _say(text: str) -> None:
    from fisher_cli.reports.console import Console

    Console().error(text)


def _explained(error: Exception) -> str:
    """An error of ours says everything itself, one of the system names a path; any other is a defect of ours."""
    if isinstance(error, FisherError):
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{clipped(error.filename)}: {error.strerror.lower()}; check the path"
    if isinstance(error, MemoryError):
        return "memory ran out; use a larger machine, or raise the limit that ulimit -v shows"
    return f"unexpected {type(error).__name__}: {clipped(error)}; add --debug to see where, and please report it"


def _show_traceback(error: Exception) -> None:
    """Say with --debug where an error came from, as Python does, but without control characters."""
    from fisher_cli.reports.console import Console

    Console().traceback("".join(traceback.format_exception(error)))


# What Typer proposes for an option that there is not.
_MEANT = re.compile(r"\.? \(Possible options: (.+)\)")


def _say_unparsable(error: Any) -> None:
    """Typer's message on one line, with what to type where that is known, else with the help that explains more."""
    text = str(error.format_message()).replace("Value error, ", "").strip().rstrip(".")
    text = _MEANT.sub(lambda found: f"; did you mean {found[1].replace(', ', ' or ')}?", text)
    if not text:
        return
    command = error.ctx.command_path if error.ctx else "fisher"
    example = _example(error.ctx.command) if error.ctx and text.startswith("Missing ") else None
    if better := instead_of(command, text):
        hint = f"; type {better}"
    elif example:
        hint = f"; for example: {example}"
    else:
        hint = f"{'' if text.endswith('?') else ';'} see {command} --help"
    _say(f"{text[0].lower()}{text[1:]}{hint}")


def _example(command: Any) -> str | None:
    """The command line that a command's help shows; None where it shows none."""
    found = re.search(r"Example: (.+)", command.help or "")
    return found and found[1].strip()


app = typer.Typer(
    cls=Boundary,
    name="fisher",
    help="Fisher information of saved classifier checkpoints.",
    epilog="Example: fisher analyze ckpts/ --data cifar10 --model resnet18 -o trend.csv",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "analyze": analyze.analyze,
    "spectrum": spectrum.spectrum,
    "examples": examples.examples,
    "verify": verify.verify,
    "inspect": inspect.inspect,
    "report": report.report,
    "plot": plot.plot,
    "check": check.check,
    "merge": merge.merge,
    "models": known_names.models,
    "datasets": known_names.datasets,
    "demo": demo.demo,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, cls=PlainCommand)(_command)
app.add_typer(compare.compare)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fisher {__version__}")
        raise typer.Exit


# What several ranks can do together.
SHARED = {"analyze", "spectrum", "examples"}


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback acts
        bool,
        typer.Option("--version", callback=_version, is_eager=True, metavar="", help="Print the version and stop."),
    ] = False,
    debug: options.Debug = False,  # noqa: ARG001 - likewise
) -> None:
    """Fisher information of saved classifier checkpoints."""
    _refuse_ranks(context.invoked_subcommand)
    refuse_small_address_space(context.invoked_subcommand)


def _refuse_ranks(command: str | None) -> None:
    """Refuse several ranks where each would do the whole work.

    Raises:
        UsageError: there are several.
    """
    if launched().size > 1 and command not in SHARED:
        msg = f"fisher {command} works in one process: type it without torchrun"
        raise UsageError(msg)


def _be_silent() -> None:
    """Let nothing of this process reach the terminal, not even from libraries: rank 0 speaks."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        if stream == 1 or "--debug" not in sys.argv:
            os.dup2(sink, stream)
    os.close(sink)


def _stop(number: int, _: FrameType | None) -> None:
    """End as a shell reports it, but in an orderly way: what is finished is written.

    Raises:
        SystemExit: 128 + the signal's number.
    """
    raise SystemExit(128 + number)


class _Ending:
    """Ends the process without taking libraries apart, for which Python needs a second of the processor after torch."""

    code = 1

    def __call__(self) -> None:
        """Flush what was printed, and leave."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or never there
                stream.flush()
        os._exit(self.code)


def command_line() -> None:
    """Run the command line as all that its process does.

    Raises:
        SystemExit: with the exit code.
    """
    ending = _Ending()
    if launched().size == 1:  # ranks part in their own order
        atexit.register(ending)  # before all that is imported later, so that it is called after all that
    try:
        main()
    except SystemExit as stop:
        ending.code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        raise


def main() -> None:
    """Run the command line and exit with a code that docs/formats.md explains."""
    logging.setLogRecordFactory(EscapedRecord)
    if launched().size > 1:
        # What torch's own network code says when another rank is gone takes dozens of lines.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not launched().speaks:
        _be_silent()
    if not sys.warnoptions:  # python -W shows them; what a user must know is a message of ours
        warnings.simplefilter("ignore")
    for number in STOPPING_SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:  # not Ctrl-C's; and nohup ignores SIGHUP, so it stays
            signal.signal(number, _stop)
    try:
        app()
    except KeyboardInterrupt:  # while the commands are made, before there is one that could end in its own way
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        _show_traceback(error)
        sys.exit(1)
