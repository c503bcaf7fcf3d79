"""What a run found, in a sentence or two and as a fragment of HTML: how notebooks show it."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fisher_cli.reports.closing_lines import of_comparison, of_examples, of_files, of_run, of_spectra
from fisher_cli.reports.examples import finding
from fisher_cli.reports.identities import verdict_of
from fisher_cli.reports.run_sentences import run_sentences
from fisher_cli.results import Inspection, Measurement, by_run
from fisher_cli.text import one_line, visible

if TYPE_CHECKING:
    import pandas as pd

# By the name of the table: the columns that a person reads first. All of them are in the data frame.
_COLUMNS: Final = {
    "main": (
        *("checkpoint", "step", "loss", "accuracy", "trace_true", "trace_true_se", "trace_empirical", "trace_ratio"),
        *("eig_true_1", "phase", "status"),
    ),
    "comparison": (
        *("checkpoint", "step", "trace_ratio", "trace_ratio_null_sd", "matrix_difference", "matrix_difference_null"),
        *("eigenspace_overlap", "natural_gradient_cosine", "finding", "status"),
    ),
    "spectrum": ("checkpoint", "step", "matrix", "rank", "eigenvalue", "residual", "status"),
    "examples": ("checkpoint", "step", "rank", "index", "label", "predicted", "loss", "trace_true", "share", "status"),
    "identities": ("checkpoint", "step", "identity", "verdict", "identity_error", "tolerance", "reason"),
    "files": ("checkpoint", "step", "architecture", "parameters", "format", "weights_key", "status", "error"),
}
_ROWS: Final = 20
_NOTHING: Final = "No checkpoint gave a result: the column error says why."


def headline(table: str, measurements: Sequence[Measurement]) -> str:
    """What runs say in a sentence or two each, those that their command prints last, and how they differ.

    Args:
        table: the name of the main table.
        measurements: run by run, in order of training.
    """
    runs = by_run(measurements)
    said = [_plain(_of_one_run(table, rows)) for rows in runs.values()]
    if len(runs) > 1:
        said = [f"{one_line(name)}: {text}" for name, text in zip(runs, said, strict=True)]
    return _plain([*said, *(run_sentences(runs) if table == "main" else [])] or [_NOTHING])


def _of_one_run(table: str, measurements: Sequence[Measurement]) -> list[str]:
    if table == "comparison":
        said = of_comparison([(each, each.comparison) for each in measurements if each.comparison is not None])
    elif table == "spectrum":
        found = [(each, spectrum) for each in measurements for spectrum in each.spectra]
        said = of_spectra([pair for pair in found if pair[1].matrix == found[0][1].matrix])
    elif table == "examples":
        last = next((each for each in reversed(measurements) if each.example_summary is not None), None)
        summary = None if last is None else last.example_summary
        said = [] if last is None or summary is None else of_examples(last, summary, finding(last))
    elif table == "identities":
        pairs = [(each, each.verification) for each in measurements if each.verification is not None]
        said = [verdict_of(pairs)] if pairs else []
    else:
        said = of_run(measurements)
    return said or [_NOTHING]


def headline_of_files(inspections: Sequence[Inspection]) -> str:
    """How many files can be analysed, and with which network."""
    return _plain(of_files(inspections))


def fragment(title: str, said: str, name: str, table: "pd.DataFrame", files: Sequence[Path]) -> str:
    """The headline, the first rows of the table and the files that were written, as HTML whose texts are escaped.

    Args:
        title: above it.
        said: the headline.
        name: of the table.
        table: the data frame.
        files: those that were written.
    """
    runs = ["run"] if "run" in table and table["run"].nunique() > 1 else []
    shown = [column for column in (*runs, *_COLUMNS[name]) if column in table and table[column].notna().any()]
    rows = table[shown].head(_ROWS)
    cells = rows.to_html(index=False, escape=True, na_rep="", float_format=lambda value: f"{value:.4g}", border=0)
    more = len(table) - len(rows)
    below = [f"{more:,} more rows, and all columns, are in the data frame."] if more else []
    below += [where(files)] if files else []
    parts = [f"<p><b>{_escaped(title)}</b></p>", f"<p>{_escaped(said)}</p>", cells]
    return visible("\n".join(["<div>", *parts, *(f"<p>{_escaped(each)}</p>" for each in below), "</div>"]))


def where(files: Sequence[Path]) -> str:
    """Where a table was written, and how many files are beside it."""
    beside = len(files) - 1
    return one_line(f"table: {files[0]}" + (f", with {beside} more beside it" if beside else ""))


def _escaped(text: str) -> str:
    return html.escape(one_line(text))


def _plain(sentences: Sequence[str]) -> str:
    return " ".join(sentences).replace("\N{NO-BREAK SPACE}", " ")
