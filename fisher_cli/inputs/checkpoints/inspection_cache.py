"""What was found in a checkpoint file, remembered by the hash of its bytes, so that it need not be decoded again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fisher_cli.inputs.checkpoints.timeline import Stated


@dataclass(frozen=True)
class Found:
    """What the bytes with this hash say of their place in training, whatever they are called; they can be used.

    `identity` holds the marks that copies of one checkpoint share, less those of its step.
    """

    sha256: str
    stated: Stated
    identity: tuple[str, ...]


@dataclass
class Acquaintance:
    """Files known by the hash of their bytes, as they were found with the same way of reading.

    `met` are those that were looked up or added since, in order: what is worth remembering for the next time.
    """

    known: Mapping[str, Found] = field(default_factory=dict)
    met: dict[str, Found] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Sequence[Found]) -> "Acquaintance":
        """That which remembers these."""
        return cls({each.sha256: each for each in found})

    def recall(self, sha256: str) -> Found | None:
        """What was found in these bytes."""
        found = self.known.get(sha256) or self.met.get(sha256)
        if found is not None:
            self.met[sha256] = found
        return found

    def add(self, found: Found) -> None:
        """Remember what was found."""
        self.met[found.sha256] = found

    @property
    def has_news(self) -> bool:
        """Whether something is to be remembered that was not known."""
        return not self.met.keys() <= self.known.keys()
