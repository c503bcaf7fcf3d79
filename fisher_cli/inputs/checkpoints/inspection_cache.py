"""What was found in a checkpoint file, remembered by the hash of its bytes, so that it need not be decoded again.

It is remembered within a run alone: what lies on a disk may be anybody's, and would be believed.
"""

from dataclasses import dataclass, field

from fisher_cli.inputs.checkpoints.timeline import StatedPoint


@dataclass(frozen=True)
class InspectedFile:
    """What the bytes with this hash say of their place in training; they are of a checkpoint that can be used.

    Attributes:
        sha256: of the bytes, as `sha256:<hex>`.
        stated: step and epoch as the file states them, whatever it is called.
        identity: marks that copies of one checkpoint share, less those of its step.
    """

    sha256: str
    stated: StatedPoint
    identity: tuple[str, ...]


@dataclass
class InspectionCache:
    """Files known by the hash of their bytes, as they were found with the same way of reading.

    Attributes:
        met: what was found, by `sha256:<hex>`.
    """

    met: dict[str, InspectedFile] = field(default_factory=dict)

    def recall(self, sha256: str) -> InspectedFile | None:
        """Look up what was found in the bytes with this hash, `sha256:<hex>`; None where they are not known."""
        return self.met.get(sha256)

    def add(self, found: InspectedFile) -> None:
        """Remember what was found in a file."""
        self.met[found.sha256] = found
