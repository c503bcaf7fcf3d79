"""How the help shows commands: the options that most runs need, and with --help-all every one."""

from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

# The parameters that only --help-all shows, in commands that have it.
RARE: Final = frozenset(
    {
        *("data_dir", "normalize", "resize", "crop", "grayscale", "data_arguments", "download"),
        *("model_arguments", "state_key", "use_ema", "trust_pickle"),
        *(
            "preset",
            "estimator",
            "samples",
            "target_error",
            "include",
            "exclude",
            "likelihood",
            "recalibrate_bn",
            "precision",
        ),
        *("weights_only", "without_head", "seed", "method", "damping", "draws", "probes", "steps"),
        *("batch_size", "activations", "devices", "shard", "until"),
        *("csv_dialect", "long", "layers", "per_example", "fail_ratio_below", "resume", "force", "debug"),
    }
)
_EVERYTHING: Final = "fisher.help_all"


def show_everything(context: typer.Context, wanted: bool) -> None:
    """Print a command's help with all of its options, and stop.

    Raises:
        Exit: it was printed.
    """
    if wanted:
        context.meta[_EVERYTHING] = True
        typer.echo(context.get_help())
        raise typer.Exit


class PlainCommand(TyperCommand):
    """A command whose help leaves out rare options, and in which switches stand without `<bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's parameters."""
        return [_plain(each) for each in super().get_params(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, without the rare options unless all were asked for."""
        parameters: list[Any] = self.params
        is_short = any(each.name == "help_all" for each in parameters) and not ctx.meta.get(_EVERYTHING)
        rare = [each for each in parameters if is_short and each.name in RARE]
        for each in rare:
            each.hidden = True
        try:
            super().format_help(ctx, formatter)
        finally:
            for each in rare:
                each.hidden = False


class PlainGroup(TyperGroup):
    """A group of commands in whose help switches stand without `<bool>`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The group's own parameters."""
        return [_plain(each) for each in super().get_params(ctx)]


def _plain(parameter: Any) -> Any:
    """The parameter, a switch without the name of its type."""
    if getattr(parameter, "is_flag", False) and parameter.metavar is None:
        parameter.metavar = ""
    return parameter
