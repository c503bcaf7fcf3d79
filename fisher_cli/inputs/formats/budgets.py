"""How much a file may ask for: entries, text, names and keys; what is beyond that is in no checkpoint.

A file of a kilobyte can describe a structure without end, since pickles refer to what they have made before. So what
is hashed, copied or put together of values found in a file is counted where it is done.
"""

from typing import Final, NoReturn

from fisher_cli.errors import CheckpointError
from fisher_cli.inputs.formats.stand_ins import StandIn

MOST_ENTRIES: Final = 1_000_000
_MOST_TEXT: Final = 64 << 20  # characters may take four times the bytes that they have in the file
_MOST_SHARED: Final = 4  # times its size: tensors may share what is stored
_LONGEST_KEY: Final = 10_000
_MOST_PARTS: Final = 1_000_000  # between the dots of all names; large networks have a tenth of it
_MOST_ODD_KEYS: Final = 1000  # keys other than text and usual numbers; their hashes could be made to collide
_LARGEST_KEY: Final = 100  # what one tuple used as a key may hold, in all of its levels
_USUAL_NUMBER: Final = 1 << 60


class Budget:
    """What is left to one file.

    Args:
        size: of the file, in bytes.
        most_entries: how many things may be made of it.
    """

    __slots__ = ("_entries", "_most_entries", "_numbers", "_odd_keys", "_parts", "_text")

    def __init__(self, size: int = 0, most_entries: int = MOST_ENTRIES) -> None:
        self._most_entries = most_entries
        self._entries = self._text = self._odd_keys = self._parts = 0
        self._numbers = _MOST_SHARED * size + _MOST_TEXT

    def spend_entries(self, count: int) -> None:
        """Count things made.

        Raises:
            CheckpointError: They are too many.
        """
        self._entries += count
        if self._entries > self._most_entries:
            excessive(f"more than {self._most_entries} entries")

    def spend_text(self, count: int) -> None:
        """Count characters of text made, or bytes copied.

        Raises:
            CheckpointError: They are too many.
        """
        self._text += count
        if self._text > _MOST_TEXT:
            excessive(f"more than {_MOST_TEXT >> 20} MiB of text")

    def spend_numbers(self, count: int) -> None:
        """Count bytes of stored numbers that are looked through, each time that they are.

        Raises:
            CheckpointError: They are far more than the file has.
        """
        self._numbers -= count
        if self._numbers < 0:
            excessive("far more numbers than bytes")

    def check_name(self, name: str) -> None:
        """Refuse a name that is too long, or that has too many parts together with those before it.

        Raises:
            CheckpointError: It is so.
        """
        if len(name) > _LONGEST_KEY:
            excessive(f"a name of {len(name)} characters")
        self._parts += name.count(".")
        if self._parts > _MOST_PARTS:
            excessive(f"names of more than {_MOST_PARTS} parts")

    def check_key(self, key: object) -> None:
        """Refuse keys that are too long, or too many whose hashes might collide, before they are hashed.

        A stand-in is only equal to itself.

        Raises:
            CheckpointError: It is such a key.
        """
        if type(key) is str:
            self.check_name(key)
        elif not (isinstance(key, StandIn) or (type(key) is int and abs(key) < _USUAL_NUMBER)):
            self._odd_keys += 1
            if self._odd_keys > _MOST_ODD_KEYS:
                excessive(f"more than {_MOST_ODD_KEYS} odd keys")
            if isinstance(key, tuple | frozenset):
                self._check_contents(key)

    def _check_contents(self, key: object) -> None:
        """Refuse a key of many parts: tuples do not remember their hash, and shared parts are hashed each time."""
        waiting, met = [key], 0
        while waiting:
            value = waiting.pop()
            if type(value) is str:
                self.check_name(value)
            elif isinstance(value, tuple | frozenset):
                met += len(value)
                if met > _LARGEST_KEY:
                    excessive(f"a key of more than {_LARGEST_KEY} parts")
                waiting.extend(value)


def excessive(what: str) -> NoReturn:
    """Refuse what no checkpoint holds.

    Raises:
        CheckpointError: Always.
    """
    msg = f"holds {what}, which no checkpoint does"
    raise CheckpointError(msg)
