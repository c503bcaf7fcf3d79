"""Words that are something else than what a command takes: what they are, and what to type with them."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fisher_cli.errors import CheckpointError, OutputError
from fisher_cli.storage.formats import Format
from fisher_cli.storage.report_folder import record_path

_TABLES: Final = frozenset(f".{each}" for each in Format if each is not Format.TABLE)
_CHECKPOINTS: Final = frozenset({".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors"})


def refuse_tables(checkpoints: Sequence[Path]) -> None:
    """Refuse a table of ours where a checkpoint is meant.

    Raises:
        CheckpointError: one of the paths is a table, with the command that takes it.
    """
    for path in checkpoints:
        if path.suffix.lower() in _TABLES and os.path.lexists(record_path(path)):
            msg = f"{path}: a table of fisher, not a checkpoint; to make a page of it: {_command('report', path)}"
            raise CheckpointError(msg)


def refuse_checkpoints(tables: Sequence[Path]) -> None:
    """Refuse a checkpoint, or a folder of them, where a table is meant.

    Raises:
        OutputError: one of the paths is no table, with the command that makes one of it.
    """
    for path in tables:
        if holds_checkpoints(path):
            what = "a folder of checkpoints" if path.is_dir() else "a checkpoint"
            msg = f"{path}: {what}, not a table; measure first: {_command('analyze', path)} -o trend.csv"
            raise OutputError(msg)


def holds_checkpoints(path: Path) -> bool:
    """Whether a path is named as a checkpoint, or is a folder with a file that is."""
    try:
        names = os.listdir(path) if path.is_dir() else [path.name] if path.exists() else []
    except (OSError, ValueError):
        return False
    return any(Path(name).suffix.lower() in _CHECKPOINTS for name in names)


def instead_of(command: str, said: str) -> str | None:
    """What to type where a path stands in the place of a command.

    Args:
        command: that was being parsed, `fisher` or `fisher compare`.
        said: by the parser of the words.

    Returns:
        None where no path does.
    """
    found = re.fullmatch(r"No such command '(.+)'", said)
    if not found or not os.path.lexists(found[1]):
        return None
    path = Path(found[1])
    if command.endswith("compare"):
        place = shlex.quote(str(path))
        return f"fisher compare checkpoints {place} OTHER, or fisher compare true-vs-empirical {place}"
    return _command("analyze" if holds_checkpoints(path) else "report", path)


def _command(name: str, path: Path) -> str:
    return f"fisher {name} {shlex.quote(str(path))}"
