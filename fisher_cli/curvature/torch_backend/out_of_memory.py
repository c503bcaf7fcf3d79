"""Running out of memory: which errors say so, and giving back what is still held."""

import gc
from collections.abc import Iterator

import torch

# What torch and the libraries below it say, in lower case. Only torch's own CUDA allocator has a type for it.
_SIGNS = (
    "out of memory",
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # DefaultCPUAllocator, other platforms
    "bad_alloc",  # C++, as oneDNN passes it on
    "_status_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE
    "could not create a memory",  # oneDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error, or the one that it was raised from, says that an allocation failed."""
    return any(_says_so(each) for each in _causes(error))


def raise_if_out_of_memory(error: Exception) -> None:
    """Raise an error again if it says that an allocation failed: a slower way would not cure that.

    For callers that take errors as "torch cannot do this".

    Raises:
        Exception: the error itself, if it says that an allocation failed.
    """
    if is_out_of_memory(error):
        raise error


def _says_so(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def release_memory() -> None:
    """Collect cycles of Python objects, and free torch's cached blocks on the GPU."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
