"""The kernels that networks are evaluated with: those that every kind of derivative exists for, in full precision."""

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

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


BatchNorm = Callable[..., Tensor]
"""As torch.nn.functional's."""


def in_evaluation(
    original: BatchNorm, kernel: Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, float], Tensor]
) -> BatchNorm:
    """Batch norm by a kernel (x, μ, σ², γ, β, ε); the original in training and for statistics of another type."""

    def batch_norm(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if training or running_mean is None or running_var is None or input.dtype != running_var.dtype:
            return original(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return kernel(input, running_mean, running_var, weight, bias, eps)

    return batch_norm


def _evaluated(
    input: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """x ↦ x ∘ s + t with s = γ/√(σ² + ε), t = β − μ ∘ s, whose derivatives are products."""
    scale = torch.rsqrt(variance + eps)
    if weight is not None:
        scale = weight * scale
    shift = -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)
    shape = (-1, *(1,) * (input.dim() - 2))
    return torch.addcmul(shift.reshape(shape), input, scale.reshape(shape))


_batch_norm = in_evaluation(functional.batch_norm, _evaluated)

# torch's own name for what nn.MultiheadAttention projects its inputs with, where there is one.
_PROJECTION = "_in_projection_packed"
_projection: Callable[..., Sequence[Tensor]] | None = getattr(functional, _PROJECTION, None)


def _project(q: Tensor, k: Tensor, v: Tensor, w: Tensor, b: Tensor | None = None) -> Sequence[Tensor]:
    """Queries, keys and values from one packed matrix, those of self-attention as parts of one product.

    Going back, three parts are put side by side; torch takes them out of one tensor in another order, and its way back
    adds three that are zero but for a third.
    """
    assert _projection is not None
    if q is not k or k is not v:
        return _projection(q, k, v, w, b)
    return [part.contiguous() for part in functional.linear(q, w, b).chunk(3, dim=-1)]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Multiply float32 as float32 on GPUs, whatever the process has allowed: TF32 keeps 10 bits of the mantissa."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
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
def steady_arithmetic() -> Iterator[None]:
    """Run in full float32 and, on a GPU, with kernels that give the same bits every time."""
    with full_precision(), warnings.catch_warnings(), deterministic():
        yield


@contextlib.contextmanager
def reproducible_kernels() -> Iterator[None]:
    """Run with gradients, with kernels that every kind of derivative exists for, the same every time, in full float32.

    The fused attention kernels have neither forward-mode derivatives nor double backward, and the encoder's
    fast path bypasses autograd; the plain kernel computes the same function, of projections that go back cheaply.
    Batch norm's fused kernel has slow derivatives. On a GPU the deterministic kernels are taken.
    """
    previous, projection = functional.batch_norm, getattr(functional, _PROJECTION, None)
    fast_path = torch.backends.mha.get_fastpath_enabled()
    functional.batch_norm = _batch_norm
    if projection is not None:
        setattr(functional, _PROJECTION, _project)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            steady_arithmetic(),
            sdpa_kernel(SDPBackend.MATH),
            torch.inference_mode(mode=False),
            torch.enable_grad(),
        ):
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = _tf32.get()
            # Slow is what the fallback is there for; the ledger says which parameters take it.
            warnings.filterwarnings("ignore", message="There is a performance drop")
            # Autograd's thread for a GPU has no context before its first operation, and says so.
            warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA")
            yield
    finally:
        functional.batch_norm = previous
        if projection is not None:
            setattr(functional, _PROJECTION, projection)
        torch.backends.mha.set_fastpath_enabled(fast_path)
