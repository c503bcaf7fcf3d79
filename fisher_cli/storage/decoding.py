"""Decoders of foreign bytes: files → answers, each a tree of JSON values and the numbers that come with it."""

from collections.abc import Callable, Iterator, Sequence
from mmap import mmap
from typing import Any, BinaryIO, Final, TypeAlias

from fisher_cli import errors

Source: TypeAlias = "BinaryIO | bytes | mmap"
Answer: TypeAlias = "tuple[Any, bytes | bytearray]"
# (files, what is wanted of them) → answers, one after the other.
Decoder: TypeAlias = Callable[[Sequence[Any], Any], Iterator[Answer]]

# What a decoder may raise, by name: it is raised again in the process that asked.
ERRORS: Final[dict[str, type[Exception]]] = {
    **{each.__name__: each for each in vars(errors).values() if isinstance(each, type)},
    **{each.__name__: each for each in (ValueError, MemoryError)},
}


def decoded(decoder: Decoder, sources: Sequence[Source], about: Any) -> Iterator[Answer]:
    """Yield what the decoder makes of files, each under `answer`; or at last an error's name and text, under `error`.

    Args:
        decoder: what reads them.
        sources: the files.
        about: what is wanted of them.
    """
    try:
        for tree, numbers in decoder(sources, about):
            yield {"answer": tree}, numbers
    except Exception as error:
        is_known = type(error).__name__ in ERRORS
        yield refusal(error if is_known else ValueError(f"damaged ({type(error).__name__})")), b""


def refusal(error: Exception) -> dict[str, list[str]]:
    """Return an error in the form of an answer."""
    return {"error": [type(error).__name__, str(error)]}


def answered(answer: Answer) -> Answer:
    """Return an answer.

    Raises:
        Exception: It is an error of a decoder.
    """
    tree, numbers = answer
    if "error" in tree:
        kind, text = tree["error"]
        raise ERRORS[kind](text)
    return tree["answer"], numbers


def refuse_inflated(size: int, cells: int, unpacked: int) -> None:
    """Refuse a table of which much more is made than its bytes can hold of numbers, which compress little.

    Args:
        size: of the file, in bytes.
        cells: how many it says that there are.
        unpacked: to how many bytes it says that it unpacks.

    Raises:
        ValueError: it is one.
    """
    if not 0 <= cells <= 2**22 + 16 * size or not 0 <= unpacked <= 2**24 + 50 * size:
        msg = f"{cells:,} cells, {unpacked:,} bytes unpacked, are too much for {size:,} bytes"
        raise ValueError(msg)
