"""How separated values are written: for programs, for Excel, and for Excel where a number has a decimal comma."""

from dataclasses import dataclass
from enum import StrEnum

MARK = "\ufeff"  # without it, Excel takes UTF-8 for the system's own encoding


class Dialect(StrEnum):
    """The CSV of a report: plain for programs, the others for a spreadsheet that opens it by a double click."""

    PLAIN = "plain"
    EXCEL = "excel"
    EXCEL_EU = "excel-eu"


@dataclass(frozen=True)
class Separated:
    """How separated values are written.

    Attributes:
        separator: between cells.
        decimal: the decimal point.
        line_end: a line feed for programs, carriage return and line feed, as RFC 4180 has it, for spreadsheets.
        mark: what stands before all.
    """

    separator: str = ","
    decimal: str = "."
    line_end: str = "\n"
    mark: str = ""

    def number(self, value: float) -> str:
        """The shortest text that reads back exactly, with this decimal point."""
        return repr(float(value)).replace(".", self.decimal)


PLAIN = Separated()
TABS = Separated("\t")
_DIALECTS = {
    Dialect.PLAIN: PLAIN,
    Dialect.EXCEL: Separated(",", ".", "\r\n", MARK),
    Dialect.EXCEL_EU: Separated(";", ",", "\r\n", MARK),
}


def separated(form: str, dialect: Dialect = Dialect.PLAIN) -> Separated:
    """How a file of this format is written.

    Args:
        form: `csv` or `tsv`.
        dialect: of CSV; it changes nothing about tsv.
    """
    return TABS if form == "tsv" else _DIALECTS[dialect]


def recognised(header: str, suffix: str) -> Separated:
    """How a file was written, told from its first line: names of columns hold neither commas nor semicolons.

    Args:
        header: the first line.
        suffix: of the file's name; `.tsv` is enough.
    """
    if suffix == ".tsv":
        return TABS
    is_european = ";" in header and "," not in header
    return _DIALECTS[Dialect.EXCEL_EU] if is_european else PLAIN
