"""What can be asked of the reader of foreign bytes, by name: bytes of a file → a tree of JSON values, or why not."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from fisher_cli.errors import CheckpointError, NoWeightsError, UnsafeCheckpointError
from fisher_cli.inputs.formats.answers import Tree, answer
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.files import FileBytes
from fisher_cli.inputs.formats.recognition import SAVE_WEIGHTS, describe

_MEMORY: Final = f"asks for more memory than there is; {SAVE_WEIGHTS}"
ERRORS: Final = {error.__name__: error for error in (CheckpointError, UnsafeCheckpointError, NoWeightsError)}

DECODERS: Final[dict[str, Callable[[FileBytes], dict[str, Tree]]]] = {
    "checkpoint": lambda data: answer(describe(data)),
}


def ask(decoder: str, content: Content) -> Mapping[str, Any]:
    """Return what a decoder makes of a file's bytes, as the tree that it is for.

    Raises:
        CheckpointError: Why it cannot.
    """
    found: dict[str, Any] = decoded(decoder, content.data)
    if "error" in found:
        kind, text = found["error"]
        raise ERRORS[kind](text)
    answered: Mapping[str, Any] = found["answer"]
    return answered


def decoded(decoder: str, data: FileBytes) -> dict[str, Tree]:
    """Return what the decoder makes of the bytes, under `answer`; or the class and text of an error, under `error`."""
    try:
        return {"answer": DECODERS[decoder](data)}
    except CheckpointError as error:
        return refusal(error)
    except MemoryError:
        return refusal(CheckpointError(_MEMORY))
    except Exception as error:  # bytes out of place: an index, a key, a text that is none
        return refusal(CheckpointError(f"truncated or damaged ({type(error).__name__})"))


def refusal(error: CheckpointError) -> dict[str, Tree]:
    """Return an error in the form of an answer."""
    return {"error": [type(error).__name__, str(error)]}
