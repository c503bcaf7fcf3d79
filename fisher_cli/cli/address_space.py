"""A limit of addresses (`ulimit -v`) under which libraries cannot be loaded: said in one line, before it ends us.

Where addresses run out while a library is loaded, or starts its threads, it often ends the process by itself.
"""

import os
import resource
from typing import Final

import typer

# What reads and draws tables; all other commands compute.
WITHOUT_TORCH: Final = frozenset({"check", "report", "plot", "merge", "models", "datasets"})
_REMEDY: Final = "type ulimit -v unlimited; systemd-run --user --scope -p MemoryMax=8G bounds memory itself"
_RESERVE: Final = 64 << 20  # bytes


def refuse_small_address_space(command: str | None) -> None:
    """Refuse a limit of addresses under which a command's libraries do not load; a copy of this process tries it.

    Raises:
        Exit: there is such a limit, which was said.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or command is None:
        return
    try:
        copy = os.fork()
    except OSError:
        copy = None
    if copy == 0:
        _try(command)
    if copy is None or os.waitpid(copy, 0)[1] != 0:
        msg = f"the limit of addresses, {limit / 1e9:.1f} GB, is too small for what this command loads; {_REMEDY}"
        typer.echo(f"error: {msg}", err=True)  # what shows errors otherwise loads NumPy, which might not load either
        raise typer.Exit(1)


def _try(command: str) -> None:
    """Load what the command needs, let its threads start, and end with 0 where that went well."""
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        import pandas as pd  # noqa: F401
        import pyarrow.parquet  # noqa: F401

        if command not in WITHOUT_TORCH:
            import torch
            import torchvision  # noqa: F401

            numbers = torch.ones(1 << 20, requires_grad=True)
            (numbers * numbers).sum().backward()  # type: ignore[no-untyped-call]
        bytearray(_RESERVE)
        code = 0
    finally:
        os._exit(code)
