"""How the help shows commands: a switch needs no word for its value."""

from typing import Any

from typer.core import TyperGroup


class PlainGroup(TyperGroup):
    """A group of commands in whose help, and in that of its commands, switches stand without `<bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's own parameters."""
        return [_plain(each) for each in super().get_params(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            for each in command.get_params(ctx):
                _plain(each)
        return command


def _plain(parameter: Any) -> Any:
    """The parameter, a switch without the name of its type."""
    if getattr(parameter, "is_flag", False) and parameter.metavar is None:
        parameter.metavar = ""
    return parameter
