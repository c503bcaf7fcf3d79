"""A planted error: a slip a developer could make, as a small edit of one module of the curvature package."""

from collections.abc import Sequence
from dataclasses import dataclass

PACKAGE = "fisher_cli.curvature"
# The modules whose `check` looks at every trace as it is made.
CHECKS = ("gradient_norms.verification", "consistency")


class StaleMutationError(Exception):
    """The text that an edit replaces does not occur exactly once."""


@dataclass(frozen=True)
class Mutation:
    """A planted error: edits (original, replacement) of one module, and the file or test that is to catch it."""

    name: str
    module: str
    edits: tuple[tuple[str, str], ...]
    tests: str

    @property
    def is_in_a_check(self) -> bool:
        """Whether the error is in one of the run-time checks, which must then be on."""
        return self.module in CHECKS

    def applied(self, source: str) -> str:
        """The source with the error in it.

        Raises:
            StaleMutationError: an original text is gone, or there are several of it.
        """
        for original, replacement in self.edits:
            if source.count(original) != 1:
                msg = f"{self.name}: {source.count(original)} times in {self.module}: {original!r}"
                raise StaleMutationError(msg)
            source = source.replace(original, replacement)
        return source


def pairs(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Edits (original, replacement) of texts that take turns."""
    return tuple(zip(texts[::2], texts[1::2], strict=True))
