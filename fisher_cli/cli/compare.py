"""`fisher compare`: the commands that compare two matrices or two checkpoints."""

import typer

from fisher_cli.cli import compare_matrices
from fisher_cli.cli.compare_checkpoints import checkpoints
from fisher_cli.cli.help_format import PlainCommand, PlainGroup

compare = typer.Typer(
    cls=PlainGroup,
    name="compare",
    help="Compare the true with the empirical Fisher, or two checkpoints with each other.",
    no_args_is_help=True,
)
compare.command("true-vs-empirical", cls=PlainCommand)(compare_matrices.true_vs_empirical)
compare.command("checkpoints", cls=PlainCommand)(checkpoints)
