"""The command `fisher`, run in this process."""

from functools import cache

import typer.main
import typer.testing
from typer import Typer
from typer.testing import CliRunner, Result

from fisher_cli.cli.app import app


@cache
def _made(app: Typer, callbacks: tuple[object, ...]) -> object:  # noqa: ARG001 - with another command it is another
    return typer.main.get_command(app)


# The runner makes the parser anew for each command, which takes longer than many a command.
setattr(  # noqa: B010 - a name of its own
    typer.testing, "_get_command", lambda app: _made(app, tuple(each.callback for each in app.registered_commands))
)


def fisher(*words: object, code: int | None = 0, **environment: str) -> Result:
    """Run the command; it must end with this exit code, or with any for None. Its exceptions are raised."""
    result = CliRunner(env=environment).invoke(app, [str(word) for word in words], prog_name="fisher")
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert "Traceback" not in result.output
    assert code is None or result.exit_code == code, result.output
    return result


def error_line(result: Result) -> str:
    """The last line of stderr, which says what went wrong; no other one does."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == lines[0]
    return lines[0].removeprefix("error: ")
