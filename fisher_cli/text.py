r"""Text cells: how text from outside (file names, tensor names, error texts) is made safe to write, and back.

Two things are done, and both can be undone. Characters that a terminal would act on, or that no UTF-8 file can
hold, are written as backslash escapes (`\x1b`, `\u202e`, `\udc80`). Text that a spreadsheet would take for a
formula gets a leading apostrophe.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

# What a message shows of a value: entries of a container (a shape has up to 32), and how deep it goes.
_MOST_SHOWN = 40
_DEEPEST_SHOWN = 2

_CODE = r"(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U000[0-9a-f]{5}|U0010[0-9a-f]{4})"
_LITERAL_CODE = re.compile(rf"(\\+)(?={_CODE})")
_WRITTEN_CODE = re.compile(rf"(\\+)({_CODE})")

# A formula can begin where a spreadsheet can begin a cell: at the start, on a new line, and after any separator that
# it may be told to split at, whatever the file was written with. A tab is not among them: text cells hold none.
_BLANK = r"[\s'\"]*?"
_FORMULA = r"[=+\-@\t\r＝＋－＠]"
_CELL_START = r"(?:^|(?<=[,;|\n\r\v\f\x1c-\x1e\x85\u2028\u2029]))"
_UNGUARDED = re.compile(rf"{_CELL_START}(?={_BLANK}{_FORMULA})")
_GUARDED = re.compile(rf"{_CELL_START}'(?={_BLANK}{_FORMULA})")


def is_unprintable(character: str) -> bool:
    """Whether a terminal might act on the character or hide it: controls, bidirectional marks, surrogates."""
    return not character.isprintable()


def is_surrogate(character: str) -> bool:
    """Whether the character is half of a pair, as in file names that are not UTF-8."""
    return "\ud800" <= character <= "\udfff"


def escape(text: str, hidden: Callable[[str], bool] = is_unprintable) -> str:
    r"""Write each hidden character as `\xNN`, `\uNNNN` or `\UNNNNNNNN`; `unescape` gives the text back.

    A backslash stays as it is, except where it would be read as such an escape: there it is doubled.

    Args:
        text: any text.
        hidden: says which of the unprintable characters to escape; by default all of them.

    Returns:
        Text without hidden characters; a text that has neither hidden characters nor backslashes is unchanged.
    """
    if text.isprintable() and "\\" not in text:
        return text
    parts: list[str] = []
    for character in _LITERAL_CODE.sub(r"\1\1", text):
        if not hidden(character):
            parts.append(character)
            continue
        for position in range(len(parts) - 1, -1, -1):  # the backslashes just before it are doubled
            if parts[position] != "\\":
                break
            parts[position] = "\\\\"
        parts.append(_code(ord(character)))
    return "".join(parts)


def unescape(text: str) -> str:
    """Give back the text that `escape` was given; of any other text a part that reads as an escape is read as one."""

    def original(match: re.Match[str]) -> str:
        slashes, code = match.groups()
        kept = "\\" * (len(slashes) // 2)
        return kept + (chr(int(code[1:], 16)) if len(slashes) % 2 else code)

    return _WRITTEN_CODE.sub(original, text)


def guard(text: str) -> str:
    """Put an apostrophe before everything that a spreadsheet could take for a formula.

    Quoting does not help: a quoted `=1+1` is still computed.
    Source: OWASP, CSV injection, https://owasp.org/www-community/attacks/CSV_Injection.

    Returns:
        The text; what needs no guard is unchanged.
    """
    return _UNGUARDED.sub("'", text)


def unguard(text: str) -> str:
    """Give back the text that `guard` was given."""
    return _GUARDED.sub("", text)


def one_line(text: str) -> str:
    """Put a text on one line, without what a terminal would act on; for people to read, not to be read back.

    Returns:
        The lines without the blanks around them and without empty ones, joined by single blanks.
    """
    return escape(" ".join(part.strip() for part in re.split(r"[\r\n]+", text) if part.strip()))


def clipped(text: object, limit: int = 200) -> str:
    """The text with control characters and lone surrogates escaped, cut at `limit` characters; for messages.

    Of values other than text only a bounded part is put into words: a file of a kilobyte can describe a tuple whose
    whole text would have 2⁶⁰ characters.
    """
    shown = _in_words(text, limit, 0)[: limit + 1]
    if not shown.isprintable():
        shown = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown
        )
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"


def _in_words(value: object, limit: int, depth: int) -> str:
    if isinstance(value, str):
        return repr(value[: limit + 1]) if depth else value[: limit + 1]
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value[: limit + 1]))
    if isinstance(value, list | tuple):
        if depth > _DEEPEST_SHOWN:
            return "…"
        shown = [_in_words(entry, limit, depth + 1) for entry in value[:_MOST_SHOWN]]
        shown += ["…"] if len(value) > _MOST_SHOWN else []
        inner = ", ".join(shown)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, dict | set | frozenset):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, BaseException) and not all(isinstance(each, str | int | None) for each in value.args):
        return " ".join([type(value).__name__, *(_in_words(each, limit, 1) for each in value.args[:1])])
    return str(value)


def visible(text: str) -> str:
    """Escape what a terminal or a browser would act on or hide, in text that is laid out: lines and blanks are kept.

    This is the last thing done before text leaves: what is printable passes unchanged, so that it may be done twice.

    Returns:
        The text; unlike `escape`, it cannot be read back.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in _LAYOUT else _code(ord(each)) for each in text)


_LAYOUT = "\n\N{NO-BREAK SPACE}"


def digest(content: "bytes | hashlib._Hash") -> str:
    """The SHA-256 of bytes, in the one form that records, journals and tables have it.

    Args:
        content: the bytes, or a hash object that has been given them, which is not changed.

    Returns:
        `sha256:` and 64 hexadecimal digits.
    """
    return f"sha256:{(hashlib.sha256(content) if isinstance(content, bytes) else content).hexdigest()}"


def encodable(text: str) -> str:
    """The text with half surrogates escaped, so that UTF-8 can hold it; `unescape` gives it back."""
    return escape(text, is_surrogate)


def json_text(value: Any, *, sort_keys: bool = True) -> str:
    """Write a value as JSON for every reader and every terminal: no NaN, no half surrogates, no raw control characters.

    Args:
        value: numbers that are not finite become null, enumerations their values, and all other objects, such as paths,
            their text.
        sort_keys: whether entries of objects are in order of their keys, or as they come.

    Returns:
        The JSON text on one line, without a line end.
    """
    return _harmless((_SORTED if sort_keys else _UNSORTED)(_plain(value)))


_SORTED = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False).encode
_UNSORTED = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def json_lines(value: Any) -> str:
    """Write a value as `json_text` does, with every entry of an object and every item of a list on a line of its own.

    Returns:
        The JSON text, indented by two blanks a level, without a line end; an item of a list is one line.
    """
    return _harmless(_laid_out(_plain(value), 1))


def _laid_out(value: Any, depth: int) -> str:
    indent, end = "  " * depth, "\n" + "  " * (depth - 1)
    if isinstance(value, dict) and value:
        entries = (f"{indent}{_SORTED(key)}: {_laid_out(value[key], depth + 1)}" for key in sorted(value))
        return "{\n" + ",\n".join(entries) + end + "}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"{indent}{_SORTED(each)}" for each in value) + end + "]"
    return _SORTED(value)


def _harmless(text: str) -> str:
    # What a terminal would act on is written as JSON's own escapes.
    return text if text.isprintable() else re.sub(r"[^\n -~]", _json_character, text)


def _json_character(match: re.Match[str]) -> str:
    """A character of a JSON text, escaped if unprintable."""
    character = match[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _plain(value: Any) -> Any:
    """The value in JSON's own types."""
    kind = type(value)  # most values are of these types, and telling an abstract one takes longer
    if kind is str:
        return value if value.isprintable() and "\\" not in value else encodable(value)
    if kind is float:
        return value if math.isfinite(value) else None
    if kind is int or value is None or kind is bool:
        return value
    if kind is dict:
        return {_key(key) if type(key) is str else encodable(str(key)): _plain(each) for key, each in value.items()}
    if kind is list or kind is tuple:
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {encodable(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return encodable(str(value))


@lru_cache
def _key(text: str) -> str:
    """`encodable` of a key: the same few come again in every object."""
    return encodable(text)


def _code(number: int) -> str:
    """The backslash escape of a character's number."""
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
