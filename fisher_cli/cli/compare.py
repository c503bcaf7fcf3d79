"""`fisher compare`: the commands that hold two things against each other."""

import typer

from fisher_cli.cli import compare_matrices
from fisher_cli.cli.compare_checkpoints import checkpoints
from fisher_cli.cli.help_format import PlainGroup

compare = typer.Typer(
    cls=PlainGroup,
    name="compare",
    help="Hold two things against each other: the true and the empirical Fisher, or two checkpoints.",
    no_args_is_help=True,
)
compare.command("true-vs-empirical")(compare_matrices.true_vs_empirical)
compare.command("checkpoints")(checkpoints)
