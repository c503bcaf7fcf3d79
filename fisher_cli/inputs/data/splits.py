"""Words for the parts of a dataset: `val`, `valid` and `validation` are one, as `train` and `training` are."""

from collections.abc import Iterable, Sequence
from typing import Final

from fisher_cli.errors import UsageError
from fisher_cli.text import clipped

_SYNONYMS: Final = (("train", "training"), ("val", "valid", "validation", "dev", "eval"), ("test", "testing"))

SPLIT_WORDS: Final = frozenset(word for words in _SYNONYMS for word in words)


def in_order(splits: Iterable[str]) -> list[str]:
    """Return the splits in the order train, val, test, others by name: files keep them in any."""
    ranks = {word: rank for rank, words in enumerate(_SYNONYMS) for word in words}
    return sorted(splits, key=lambda name: (ranks.get(name.lower(), len(_SYNONYMS)), name))


def find_split(asked: str, there: Sequence[str]) -> str | None:
    """Return the split that a word means: itself in any case, else the only one there with the same meaning."""
    if asked in there:
        return asked
    word = asked.lower()
    alike = {word}.union(*(words for words in _SYNONYMS if word in words))
    found = [name for name in there if name.lower() == word] or [name for name in there if name.lower() in alike]
    return found[0] if len(found) == 1 else None


def choose_split(asked: str | None, there: Sequence[str], name: str) -> str | None:
    """Return the split to read: the one asked for, else `train` where there is one, else the first; None without any.

    Raises:
        UsageError: The dataset has no such split.
    """
    if asked is None:
        return find_split("train", there) or next(iter(there), None)
    found = find_split(asked, there)
    if found is None:
        has = f"there are {clipped(', '.join(there))}" if there else "it has only one part; leave --split out"
        msg = f"--split {clipped(asked)}: {name} has no such split; {has}"
        raise UsageError(msg)
    return found
