"""`--long`: a report's rows melted, beside its files or, where there are none, in place of its rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from fisher_cli.cli.run_command import CommandReport
from fisher_cli.storage.formats import Format
from fisher_cli.tables.dialects import Dialect

if TYPE_CHECKING:
    import pandas as pd

    from fisher_cli.results import Measurement
    from fisher_cli.run.analysis import Analysis

WORD = "long"


def beside(report: CommandReport) -> CommandReport:
    """The same report with the long form of its main table and that of layers as a table more."""

    def further(analysis: "Analysis") -> "dict[str, pd.DataFrame]":
        return {**report.further(analysis), WORD: _long(*_whole(report, analysis))}

    return replace(report, further=further)


def instead(
    report: CommandReport, rows: "Callable[[Measurement, int], pd.DataFrame]", dialect: Dialect
) -> CommandReport:
    """The same report, its main rows in the long form; `rows` makes one checkpoint's wide row."""

    def lines(measurement: "Measurement", order: int, form: Format) -> str:
        from fisher_cli.tables.build import rows_text

        return rows_text(_long(rows(measurement, order)), form, dialect, order == 0)

    def tables(analysis: "Analysis") -> "tuple[pd.DataFrame, None]":
        return _long(_whole(report, analysis)[0]), None

    return replace(report, lines=lines, tables=tables)


def _whole(report: CommandReport, analysis: "Analysis") -> "tuple[pd.DataFrame, pd.DataFrame | None]":
    main, layers = report.tables(analysis)
    assert main is not None  # only reports with a main table have a long form
    return main, layers


def _long(main: "pd.DataFrame", layers: "pd.DataFrame | None" = None) -> "pd.DataFrame":
    from fisher_cli.tables.long_form import long_table

    return long_table(main, layers)
