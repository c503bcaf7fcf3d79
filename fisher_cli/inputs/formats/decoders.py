"""What can be asked of the reader of checkpoints, by name: bytes of a file → a tree of JSON values, or why not."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.answers import Tree, answer
from fisher_cli.inputs.formats.distributed_metadata import as_tree, read_metadata
from fisher_cli.inputs.formats.files import FileBytes
from fisher_cli.inputs.formats.recognition import SAVE_WEIGHTS, describe
from fisher_cli.storage.decoding import Answer, Decoder

WITHOUT_MEMORY: Final = f"asks for more memory than there is; {SAVE_WEIGHTS}"


def _one(decode: Callable[[FileBytes], dict[str, Tree]]) -> Decoder:
    """Return the decoder that gives what a function makes of one file's bytes."""

    def decoder(sources: Sequence[Any], _: Any) -> Iterator[Answer]:
        try:
            yield decode(sources[0]), b""
        except CheckpointError:
            raise
        except MemoryError:
            raise CheckpointError(WITHOUT_MEMORY) from None
        except Exception as error:  # bytes out of place: an index, a key, a text that is none
            msg = f"truncated or damaged ({type(error).__name__})"
            raise CheckpointError(msg) from error

    return decoder


DECODERS: Final[dict[str, Decoder]] = {
    "checkpoint": _one(lambda data: answer(describe(data))),
    "distributed metadata": _one(lambda data: as_tree(read_metadata(data))),
}
