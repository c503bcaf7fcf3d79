"""A run shared out among machines: `--shard i/n` is the i-th of n contiguous shares of its checkpoints."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from fisher_cli.errors import UsageError
from fisher_cli.text import digest

_FORM: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9})", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Share `index`, counted from 1, of `of` shares."""

    index: int
    of: int

    @classmethod
    def read(cls, text: str | None) -> "Shard | None":
        """The shard that the option's text says, None without a text.

        Raises:
            UsageError: it says none.
        """
        if text is None:
            return None
        found = _FORM.fullmatch(text)
        index, of = map(int, found.groups()) if found else (0, 0)
        if not found:
            msg = f"--shard {text}: type the share's number and how many there are, as in --shard 1/3"
            raise UsageError(msg)
        last = max(of, 1)
        if not 1 <= index <= of:
            msg = f"--shard {text}: shares are counted from 1: type --shard 1/{last} to {last}/{last}"
            raise UsageError(msg)
        return cls(index, of)

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def share(self, count: int) -> range:
        """Which of so many checkpoints, in order of training; the shares differ by at most one checkpoint."""
        return range(count * (self.index - 1) // self.of, count * self.index // self.of)


@dataclass(frozen=True)
class Part:
    """What a report of a shard is a part of: a run over so many checkpoints, with the digest of their sequence."""

    shard: Shard
    checkpoints: int
    sequence: str

    @classmethod
    def of(cls, shard: Shard, files: Iterable[tuple[str, str | None]]) -> "Part":
        """The part that a shard is of the files with these names and content hashes, in order of training."""
        listed = list(files)
        return cls(shard, len(listed), digest(json.dumps(listed).encode()))

    @classmethod
    def recorded(cls, value: Any) -> "Part":
        """The part that a record says.

        Raises:
            ValueError: it says none.
        """
        try:
            shard = Shard.read(value["shard"])
            found = None if shard is None else cls(shard, int(value["checkpoints"]), str(value["sequence"]))
        except (KeyError, TypeError, UsageError) as error:
            raise ValueError(str(value)) from error
        if found is None:
            raise ValueError(str(value))
        return found

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        return {"shard": str(self.shard), "checkpoints": self.checkpoints, "sequence": self.sequence}

    @property
    def share(self) -> range:
        """Which of the whole run's rows are this part's."""
        return self.shard.share(self.checkpoints)
