"""The measurements of a long run, held in little memory: those beyond the first thousand as bytes."""

import marshal
from collections.abc import Iterable, MutableSequence
from dataclasses import replace
from typing import Any, Final

from fisher_cli.compact import compact, restored
from fisher_cli.results import Ledger, Measurement

# A measurement of four layers takes some seven thousand bytes as it is, and one and a half packed.
UNPACKED: Final = 1000


class PackedMeasurements(MutableSequence[Measurement]):
    """A list of measurements; one that replaces another is packed, every float comes back bit by bit.

    Ledgers are held as they are, since checkpoints mostly share one.
    """

    def __init__(self, measurements: Iterable[Measurement] = ()) -> None:
        self._rows: list[Measurement | tuple[bytes, Ledger | None]] = list(measurements)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        found = self._rows[index]
        return [_unpacked(each) for each in found] if isinstance(found, list) else _unpacked(found)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._rows[index] = value if index < UNPACKED else _packed(value)

    def __delitem__(self, index: Any) -> None:
        del self._rows[index]

    def insert(self, index: int, value: Measurement) -> None:
        """Put a measurement before another one, as it is."""
        self._rows.insert(index, value)


# These bytes never leave the process, so that marshal, which trusts what it reads, may read them: a sixth of the time
# that JSON takes.
def _packed(measurement: Measurement) -> tuple[bytes, Ledger | None]:
    return marshal.dumps(compact(replace(measurement, ledger=None))), measurement.ledger


def _unpacked(row: Measurement | tuple[bytes, Ledger | None]) -> Measurement:
    if isinstance(row, Measurement):
        return row
    content, ledger = row
    return replace(restored(Measurement, marshal.loads(content)), ledger=ledger)
