"""What can be asked of the reader of foreign bytes, by name: bytes of a file → a tree of JSON values, or why not."""

from collections.abc import Callable
from typing import Final

from fisher_cli.errors import CheckpointError, NoWeightsError, UnsafeCheckpointError
from fisher_cli.inputs.formats.answers import Tree, answer
from fisher_cli.inputs.formats.distributed_metadata import as_tree, read_metadata
from fisher_cli.inputs.formats.files import FileBytes
from fisher_cli.inputs.formats.recognition import SAVE_WEIGHTS, describe

WITHOUT_MEMORY: Final = f"asks for more memory than there is; {SAVE_WEIGHTS}"
ERRORS: Final = {error.__name__: error for error in (CheckpointError, UnsafeCheckpointError, NoWeightsError)}

DECODERS: Final[dict[str, Callable[[FileBytes], dict[str, Tree]]]] = {
    "checkpoint": lambda data: answer(describe(data)),
    "distributed metadata": lambda data: as_tree(read_metadata(data)),
}


def decoded(decoder: str, data: FileBytes) -> dict[str, Tree]:
    """Return what the decoder makes of the bytes, under `answer`; or the class and text of an error, under `error`."""
    try:
        return {"answer": DECODERS[decoder](data)}
    except CheckpointError as error:
        return refusal(error)
    except MemoryError:
        return refusal(CheckpointError(WITHOUT_MEMORY))
    except Exception as error:  # bytes out of place: an index, a key, a text that is none
        return refusal(CheckpointError(f"truncated or damaged ({type(error).__name__})"))


def refusal(error: CheckpointError) -> dict[str, Tree]:
    """Return an error in the form of an answer."""
    return {"error": [type(error).__name__, str(error)]}
