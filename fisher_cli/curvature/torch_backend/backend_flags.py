"""The kernels that networks are evaluated with: those that every kind of derivative exists for, in full precision."""

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from fisher_cli.curvature.torch_backend.patches import KERNELS, Patches, patched

_NOT_DETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")
_without_determinism: set[str] = set()


def without_determinism() -> list[str]:
    """The operations so far whose last digits may differ between runs, since the GPU has no other kernel for them."""
    return sorted(_without_determinism)


def make_deterministic() -> None:
    """What must be set before a GPU is first used for its matrix products to be the same every time."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def deterministic() -> contextlib.AbstractContextManager[None]:
    """Take deterministic kernels once a GPU is in use; within a caller's `warnings.catch_warnings`."""
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return _deterministic() if in_use else contextlib.nullcontext()


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
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


@contextlib.contextmanager
def full_precision(*, tf32: bool = False) -> Iterator[None]:
    """Multiply float32 as float32 on GPUs, whatever the process has allowed: TF32 keeps 10 bits of the mantissa."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


_tf32: ContextVar[bool] = ContextVar("fisher_tf32", default=False)


@contextlib.contextmanager
def tf32_products(*, wanted: bool = True) -> Iterator[None]:
    """Let networks multiply in TF32 on a GPU while the context is open; everything outside of them stays float32."""
    token = _tf32.set(wanted)
    try:
        yield
    finally:
        _tf32.reset(token)


def network_is_in_tf32() -> bool:
    """Whether `tf32_products` is open."""
    return _tf32.get()


@contextlib.contextmanager
def steady_arithmetic(*, tf32: bool = False) -> Iterator[None]:
    """Run in full float32, or TF32, and, on a GPU, with kernels that give the same bits every time."""
    with full_precision(tf32=tf32), warnings.catch_warnings(), deterministic():
        yield


@contextlib.contextmanager
def reproducible_kernels(*more: Patches) -> Iterator[None]:
    """Run with gradients, with kernels that every kind of derivative exists for, the same every time, in full float32.

    The fused attention kernels have neither forward-mode derivatives nor double backward, and the encoder's
    fast path bypasses autograd; the plain kernel computes the same function, of projections that go back cheaply.
    Batch norm's fused kernel has slow derivatives. On a GPU the deterministic kernels are taken. `more` functions are
    patched together with these.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            patched(KERNELS, *more),
            steady_arithmetic(tf32=_tf32.get()),
            sdpa_kernel(SDPBackend.MATH),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
        ):
            # Slow is what the fallback is there for; the ledger says which parameters take it.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            # Autograd's thread for a GPU has no context before its first operation, and says so.
            warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
