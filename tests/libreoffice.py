"""LibreOffice Calc without a window: what it makes of a file, cell by cell."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.waiting import PATIENCE

SOFFICE = shutil.which("soffice")
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
# Separator, quote, UTF-8, first line; columns by themselves; language; text is not only what is quoted; numbers of
# every notation. Source: LibreOffice help, Filter Options for CSV.
_CSV = "CSV:{},34,76,1,,{},false,true"
ENGLISH, GERMAN = 1033, 1031


@dataclass(frozen=True)
class Cell:
    """A cell: `kind` is float, string and so on, "" for an empty one."""

    kind: str
    value: str
    formula: str | None


def opened(path: Path, folder: Path, separator: str = "", language: int = ENGLISH) -> dict[str, list[list[Cell]]]:
    """The sheets of a file as LibreOffice reads it, each as rows of cells; of CSV with this separator."""
    assert SOFFICE is not None
    how = [f"--infilter={_CSV.format(ord(separator), language)}"] if separator else []
    profile = f"-env:UserInstallation={(folder / 'profile').as_uri()}"
    command = [SOFFICE, profile, "--headless", *how, "--convert-to", "fods", "--outdir", str(folder), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    root = ElementTree.parse(folder / f"{path.stem}.fods").getroot()
    return {str(sheet.get(f"{_TABLE}name")): _rows(sheet) for sheet in root.iter(f"{_TABLE}table")}


def _rows(sheet: ElementTree.Element) -> list[list[Cell]]:
    rows = []
    for row in sheet.iter(f"{_TABLE}table-row"):
        cells: list[Cell] = []
        for each in row.findall(f"{_TABLE}table-cell"):
            kind, text = each.get(f"{_OFFICE}value-type", ""), [t.text or "" for t in each.findall(f"{_TEXT}p")]
            value = each.get(f"{_OFFICE}value") or "\n".join(text)
            repeated = int(each.get(f"{_TABLE}number-columns-repeated", "1"))
            cells += [Cell(kind, value, each.get(f"{_TABLE}formula"))] * (repeated if kind else min(repeated, 200))
        rows.append(cells)
    return rows
