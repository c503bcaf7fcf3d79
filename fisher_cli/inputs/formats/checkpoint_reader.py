"""What is asked of the process that reads checkpoints: it maps the memory that a file's bytes lie in."""

from collections.abc import Mapping
from typing import Any, Final

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.decoders import DECODERS
from fisher_cli.storage.reader_process import ReaderOwner

OWNER: Final = ReaderOwner("fisher_cli.inputs.formats.decoders", lambda: DECODERS, is_mapped=True)


def ask(decoder: str, content: Content) -> Mapping[str, Any]:
    """Return what a decoder makes of a file's bytes, as the tree that it is for.

    Args:
        decoder: its name in `decoders.DECODERS`.
        content: the file.

    Raises:
        CheckpointError: Why it cannot.
    """
    descriptors = None if content.descriptor is None else [content.descriptor]
    answers = OWNER.ask(decoder, None, [content.data], descriptors, lambda text, _: CheckpointError(text))
    try:
        found: Mapping[str, Any] = next(answers)[0]
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return found
