"""The command `fisher`, run in this process."""

from typer.testing import CliRunner, Result

from fisher_cli.cli.app import app


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
