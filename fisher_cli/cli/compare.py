"""`fisher compare`: the commands that hold two things against each other."""

import typer

compare = typer.Typer(
    name="compare",
    help="Hold two things against each other: the true and the empirical Fisher, or two checkpoints.",
    no_args_is_help=True,
)
