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
    r"""What lies between cells and lines, the decimal point, and what stands before all.

    Line ends are `\n` for programs and `\r\n`, as RFC 4180 has it, for spreadsheets.
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
    """How a file of this format, csv or tsv, is written; a dialect is one of CSV."""
    return TABS if form == "tsv" else _DIALECTS[dialect]


def recognised(header: str, suffix: str) -> Separated:
    """How a file was written, told from its first line: names of columns hold neither commas nor semicolons."""
    if suffix == ".tsv":
        return TABS
    is_european = ";" in header and "," not in header
    return _DIALECTS[Dialect.EXCEL_EU] if is_european else PLAIN
