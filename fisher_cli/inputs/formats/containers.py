"""The bytes of a checkpoint file → what was saved in it, with tensors; no code is ever run.

`decode` is the only entry point. What a file holds is described by our own reader (`recognition`), which makes plain
values and descriptions of tensors and nothing else; `tensors` makes the tensors. A file that it cannot fully read is
given to torch's own loader, which runs whatever the file says, only when `trust_pickle` asks for that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fisher_cli.errors import CheckpointError, UnsafeCheckpointError
from fisher_cli.inputs.formats.checkpoint_reader import ask
from fisher_cli.inputs.formats.contents import Content
from fisher_cli.inputs.formats.files import COPY_AGAIN, read_bytes
from fisher_cli.inputs.formats.recognition import CHECKSUMS_HOLD, NO_CHECKSUMS, SAVE_WEIGHTS
from fisher_cli.inputs.formats.tensors import content_of
from fisher_cli.inputs.formats.trusted import load_trusting
from fisher_cli.storage.decoding import ERRORS
from fisher_cli.text import clipped

__all__ = ["CHECKSUMS_HOLD", "Payload", "clipped", "decode", "read_bytes"]

_TRUST: Final = f"{SAVE_WEIGHTS}; or, if you trust whoever made it, add --trust-pickle"


@dataclass(frozen=True)
class Payload:
    """What was saved in a file.

    Attributes:
        format: the container, in words for the report.
        content: the saved object: tensors, plain values, and inert objects in place of everything else.
        metadata: the text beside it (safetensors only).
        ignored_types: the classes and functions named in the file for which inert objects stand.
        integrity: whether the file's own checksums were found to hold, or that it has none.
        identity: marks that the writer made from the content alone, whatever the file is called.
    """

    format: str
    content: object
    metadata: Mapping[str, object] = field(default_factory=dict)
    ignored_types: tuple[str, ...] = ()
    integrity: str = NO_CHECKSUMS
    identity: tuple[str, ...] = ()


def decode(data: bytes | Content, path: Path, *, trust_pickle: bool = False) -> Payload:
    """Read what the bytes hold: a torch zip archive, a torch file older than version 1.6, or safetensors.

    Structure, sizes and (where there are any: zip archives) checksums are checked first. Classes that a file names are
    never imported: see `Payload.ignored_types`.

    Args:
        data: the whole file; tensors are views of a `Content`'s memory.
        path: of the file; it appears in messages only.
        trust_pickle: whether torch files that name such classes, or that cannot be read without running code, are
            loaded by running it.

    Raises:
        CheckpointError: The bytes are damaged, or of another format.
        UnsafeCheckpointError: Reading the bytes would mean running code that they contain.
    """
    where = clipped(path, 500)
    try:
        content = Content.of(data) if isinstance(data, bytes) else data
        return _read(content, trust_pickle)
    except CheckpointError as error:
        text = str(error)
        if ";" not in text:  # what to type next
            text = f"{text}; {_TRUST if isinstance(error, UnsafeCheckpointError) else COPY_AGAIN}"
        msg = f"{where}: {text}"
        raise type(error)(msg) from error
    except MemoryError as error:
        msg = f"{where}: asks for more memory than there is; {SAVE_WEIGHTS}"
        raise CheckpointError(msg) from error
    except Exception as error:  # what torch refuses to make
        msg = f"{where}: truncated or damaged ({type(error).__name__}); {COPY_AGAIN}"
        raise CheckpointError(msg) from error


def _read(content: Content, trust_pickle: bool) -> Payload:
    answer = ask("checkpoint", content)
    refusal, ignored_types = answer["refusal"], tuple(answer["ignored_types"])
    trusted = _trusted(content, must=refusal is not None) if trust_pickle and (refusal or ignored_types) else None
    if trusted is not None:
        return Payload(answer["format"], trusted[0], integrity=answer["integrity"], identity=tuple(answer["identity"]))
    if refusal is not None:
        raise ERRORS[refusal[0]](refusal[1])
    return Payload(
        answer["format"],
        content_of(answer, content.data),
        answer["metadata"],
        ignored_types,
        answer["integrity"],
        tuple(answer["identity"]),
    )


def _trusted(content: Content, *, must: bool) -> tuple[object] | None:
    """Return what torch's own loader finds in a file whose user trusts it.

    None where it cannot, and need not: a file's classes may not be here, but its weights are.

    Raises:
        UnsafeCheckpointError: It cannot, and must.
    """
    try:
        return (load_trusting(content.data[:]),)
    except UnsafeCheckpointError:
        if must:
            raise
        return None
