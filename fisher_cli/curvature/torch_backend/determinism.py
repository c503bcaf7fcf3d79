"""The same numbers from a GPU every time, and which operations have no kernel for that."""

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")
_without_determinism: set[str] = set()


def without_determinism() -> list[str]:
    """The operations so far whose last digits may differ between runs, since the GPU has no other kernel for them."""
    return sorted(_without_determinism)


def make_deterministic() -> None:
    """What must be set before a GPU is first used for its matrix products to be the same every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Take deterministic kernels once a GPU is in use; within a caller's `warnings.catch_warnings`."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        yield
        return
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    filling = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    before = cudnn.deterministic, cudnn.benchmark
    asked = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    warnings.filterwarnings("always", message=_NOT_DETERMINISTIC.pattern)
    warnings.showwarning = _noting(warnings.showwarning)
    cudnn.deterministic, cudnn.benchmark = True, False
    memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warns)
        memory.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
        cudnn.deterministic, cudnn.benchmark = before


def _noting(show: Callable[..., None]) -> Callable[..., None]:
    """A `warnings.showwarning` that keeps the operations without a deterministic kernel and hands on all else."""

    def showwarning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
        found = _NOT_DETERMINISTIC.match(str(message))
        if found:
            _without_determinism.add(found.group(1))
        else:
            show(message, category, filename, lineno, *rest)

    return showwarning
