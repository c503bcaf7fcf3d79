"""The words of README, help and documents: plain ones, words of the field, and few others, each with its reason.

`tests/words/plain.txt` has the commonest English words in base form (SCOWL, size 10; see NOTICE), `field.txt` those of
statistics, machine learning and computing. Any other word needs a line in `argued.txt` that says why it stays.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.documents import ROOT

LISTS = Path(__file__).parent / "words"
PLAIN, FIELD = (frozenset((LISTS / f"{name}.txt").read_text().split()) for name in ("plain", "field"))
ARGUED = dict(line.split(": ", 1) for line in (LISTS / "argued.txt").read_text().splitlines())
# The help of every command is in docs/commands.md.
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What is no prose: comments, code, links' targets, paths, names with signs or digits.
NO_PROSE = (
    r"<!--.*?-->",
    r"```.*?```",
    r"^ {4}.*$",
    r"`[^`]*`",
    r"(?<=\])\([^)]*\)",
    r"\S*[/_=@<>\\|]\S*",
    r"\b\w+\.[a-z]{2,5}\b",
    r"(?<!\w)--?[a-z]\S*",
    r"\b\w*\d\w*\b",
)
# An ending, and what may have stood in its place.
ENDINGS = {
    "'s": ("",),
    "s": ("",),
    "es": ("", "e"),
    "ies": ("y",),
    "ied": ("y",),
    "ed": ("", "e"),
    "ing": ("", "e"),
    "ings": ("", "e"),
    "ly": ("", "le"),
    "er": ("", "e"),
    "est": ("", "e"),
    "ness": ("",),
    "able": ("", "e"),
    "ation": ("e",),
}


def prose(text: str) -> str:
    for pattern in NO_PROSE:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE if pattern[0] in "<`" else re.MULTILINE)
    return text


def words_of(text: str) -> Counter[str]:
    """The words of three letters or more that are written small: names and sentences' first words are left out."""
    return Counter(
        each
        for each in re.findall(r"[^\W\d_]+(?:'s)?", prose(text))
        if len(each) > 2 and each.islower() and each.isascii()
    )


def simpler(word: str) -> Iterator[str]:
    """The words of which this may be a form."""
    for ending, befores in ENDINGS.items():
        if word.endswith(ending) and len(stem := word.removesuffix(ending)) > 1:
            yield from (stem + before for before in befores)
            if len(stem) > 2 and stem[-1] == stem[-2]:
                yield stem[:-1]
    for prefix in ("un", "re", "mis", "non"):
        if word.startswith(prefix):
            yield word.removeprefix(prefix)


def is_of(word: str, known: Callable[[str], bool], depth: int = 3) -> bool:
    """Whether a word is known, or a form of one that is."""
    return known(word) or (depth > 0 and any(is_of(each, known, depth - 1) for each in simpler(word)))


def odd_words(text: str) -> set[str]:
    return {each for each in words_of(text) if not is_of(each, lambda word: word in PLAIN or word in FIELD)}


def test_every_odd_word_was_argued_for(record_property: Callable[[str, object], None]) -> None:
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    odd = odd_words(text)
    record_property("distinct words, and those outside the lists", f"{len(words_of(text))}, {len(odd)}")
    new = {each for each in odd if not is_of(each, ARGUED.__contains__)}
    assert not new, "say it with a plainer word, or argue for it in tests/words/argued.txt"


def test_what_is_argued_for_is_still_used() -> None:
    odd = odd_words("\n".join(path.read_text() for path in DOCUMENTS))
    assert {each for each in ARGUED if not any(is_of(word, {each}.__contains__) for word in odd)} == set()
    assert all(len(reason) >= 8 for reason in ARGUED.values())


def test_the_lists_hold_about_three_thousand_words() -> None:
    assert 2000 <= len(PLAIN | FIELD) <= 3200
    assert not PLAIN & FIELD
    assert not ARGUED.keys() & (PLAIN | FIELD)
    assert len(ARGUED) <= 60


@pytest.mark.parametrize("odd", ["foretold", "disowns", "merciless", "rivals", "mended"])
def test_an_odd_word_is_noticed(odd: str) -> None:
    assert odd_words(f"The trace {odd} the `gradient` of nobody's [network](merciless.md).") == {odd}


def test_code_and_names_are_no_prose() -> None:
    assert not odd_words("Hutchinson `merciless` foretold.csv --foretold [it](foretold.md)\n```text\nrivals\n```")
