"""Opening a file of a dataset: a regular one, without waiting for a pipe's other end, and no larger than memory."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from fisher_cli.curvature.torch_backend.machine_memory import total_memory
from fisher_cli.errors import DataError
from fisher_cli.inputs.formats.files import one_line, open_without_waiting

# What the examples of a run, or one file that must be held whole, may take of the memory.
MEMORY_SHARE: Final = 0.5


def shown(path: Path | str) -> str:
    """Return the path in one line: a file name can hold line breaks."""
    return one_line(path, 500)


def available_memory() -> int:
    """Return how many bytes examples may take: half of the memory that this process may use."""
    return int(total_memory()[0] * MEMORY_SHARE)


def open_regular(path: Path | str, longest: int | None = None) -> BinaryIO:
    """Return the file opened for reading bytes.

    Raises:
        DataError: It is missing, not regular, not permitted, empty, or longer than `longest` bytes.
    """
    where = shown(path)
    try:
        descriptor = open_without_waiting(path)
    except FileNotFoundError as error:
        msg = f"{where}: there is no such file; check the path"
        raise DataError(msg) from error
    except (OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or error).lower()
        msg = f"{where}: cannot be opened ({reason}); check what it is with: ls -l"
        raise DataError(msg) from error
    status = os.fstat(descriptor)
    fault = None
    if not stat.S_ISREG(status.st_mode):
        fault = "not a regular file; name a file that holds examples"
    elif status.st_size == 0:
        fault = "the file is empty: its writing was cut short; copy or download it again"
    elif longest is not None and status.st_size > longest:
        fault = f"{status.st_size} bytes, and at most {longest} are read here; is it the right file?"
    if fault is not None:
        os.close(descriptor)
        msg = f"{where}: {fault}"
        raise DataError(msg)
    return open(descriptor, "rb")
