"""One self-contained HTML page about a run, or about several beside each other."""

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fisher_cli.reports.accuracy_note import accuracy_note
from fisher_cli.reports.charts import NAMES_OF_A_PAGE, SCALED, draw
from fisher_cli.reports.drawing import PAGE_TEXT, VARIABLES, Chart, colour_of, drawn_values, inline_svg
from fisher_cli.reports.numbers import finite
from fisher_cli.reports.reported_run import ReportedRun, last_examples, numbers
from fisher_cli.reports.run_sentences import run_sentences
from fisher_cli.reports.thumbnails import Card, cards
from fisher_cli.reports.trend import left_out_rows, verdict
from fisher_cli.results import Measurement
from fisher_cli.storage.identity import TableIdentity
from fisher_cli.text import one_line, visible

START = b"<!doctype html>\n<!-- made by fisher report -->\n"
# Of more runs the tables are folded.
_MOST_OPEN = 4
_LONG = 30  # characters of a cell that needs room to wrap
_MAIN = (
    *("checkpoint", "step", "loss", "accuracy", "trace_true", "trace_true_se", "trace_empirical"),
    *("trace_ratio", "eig_true_1", "gradient_snr", "phase", "status"),
)
_EXAMPLE = (
    *("rank", "index", "label", "label_name", "predicted", "predicted_name", "noisy", "loss"),
    *("trace_true", "trace_empirical", "share"),
)
_GROUP = (
    "grouping",
    "group",
    "examples",
    "trace_true",
    "trace_true_se",
    "trace_empirical",
    "loss",
    "accuracy",
    "share",
)
_COMPARED = (
    *("checkpoint", "step", "trace_ratio", "trace_ratio_low", "trace_ratio_high", "trace_ratio_null_sd"),
    *("matrix_difference", "matrix_difference_null", "matrix_cosine", "matrix_cosine_null"),
    *("eigenspace_overlap", "natural_gradient_cosine", "finding"),
)
_IDENTITY = ("checkpoint", "identity", "formula", "verdict", "identity_error", "tolerance", "reason")


@dataclass(frozen=True)
class Listing:
    """A table of a page, with what it says.

    Attributes:
        heading: above it.
        finding: what it shows, in one sentence; "" for nothing.
        columns: names of the columns that are shown.
        rows: a cell per column.
        is_open: whether it is unfolded when the page opens.
        cards: pictures of the examples that it lists.
        about: the data and the examples that its numbers are of, in words.
    """

    heading: str
    finding: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    is_open: bool = True
    cards: Sequence[Card] = ()
    about: str = ""


def render_page(runs: Sequence[ReportedRun]) -> bytes:
    """The page as UTF-8: header, verdict, charts, tables, how to make it again; nothing in it varies between calls.

    Args:
        runs: the reports to show, at least one; several share the charts.
    """
    found = [chart for what in NAMES_OF_A_PAGE if (chart := draw(what, runs, text=PAGE_TEXT)) is not None]
    figures = [(chart, Markup(inline_svg(chart.figure, chart.what)), _other_scale(chart, runs)) for chart in found]
    script = _environment().get_template("page.js").render()
    text = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=", ".join(dict.fromkeys(run.report or run.name for run in runs)),
            runs=_abouts(runs),
            figures=figures,
            about=_examples_of(runs),
            listings=[listing for run in runs for listing in _listings(run, runs)],
            commands=list(dict.fromkeys(command for run in runs for command in run.commands())),
            several=len(runs) > 1,
            between=_between(runs),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )
    return START + text.encode("utf-8", "backslashreplace")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fisher_cli.reports"),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["is_long"] = lambda value: isinstance(value, str) and len(value) > _LONG
    environment.filters["is_number"] = _is_number
    return environment


def _finalized(value: object) -> object:
    """Whatever the page is given to show, without characters that a browser would act on or hide."""
    if isinstance(value, Markup):
        return Markup(visible(value))
    return visible(value) if isinstance(value, str) else value


def _other_scale(chart: Chart, runs: Sequence[ReportedRun]) -> dict[str, Any] | None:
    """The same chart with its axis of values linear instead of logarithmic, or the reverse where all are positive."""
    axes = chart.figure.axes[0]
    is_logarithmic = axes.get_yscale() != "log"
    values = [each.y for each in drawn_values(chart.figure) if each.axes is axes]
    if chart.what not in SCALED or (is_logarithmic and not (values and min(values) > 0)):
        return None
    other = draw(chart.what, runs, text=PAGE_TEXT, is_logarithmic=is_logarithmic)
    if other is None or (other.figure.axes[0].get_yscale() == "log") != is_logarithmic:
        return None
    picture = inline_svg(other.figure, chart.what, f"{chart.what}-other")
    return {"picture": Markup(picture), "is_logarithmic": is_logarithmic}  # matplotlib has escaped its texts


def _swatch(place: int) -> Markup:
    """The colour of a run, as the page calls it."""
    colour = colour_of(place)
    return Markup(f"var(--{VARIABLES[colour]})" if colour in VARIABLES else colour)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _cell(value: object) -> str | Markup:
    """A cell for reading; numbers keep all their digits beside the few that are shown."""
    if isinstance(value, float):
        if finite(value) is None:
            return ""
        return Markup('<data value="{}">{}</data>').format(repr(float(value)), f"{value:.4g}")
    if isinstance(value, int):
        return Markup('<data value="{}">{}</data>').format(value, value)
    return one_line(value) if isinstance(value, str) else ""


def _abouts(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """What stands above all of each run; of further runs of a report only the facts in which they differ."""
    found = []
    first: dict[str, list[tuple[str, str]]] = {}
    for place, run in enumerate(runs):
        about = _about(run) | {"swatch": _swatch(place)}
        known = first.setdefault(run.report, about["facts"])
        if known is not about["facts"]:
            about["facts"] = [fact for fact in about["facts"] if fact not in known]
        found.append(about)
    return found


def _about(run: ReportedRun) -> dict[str, Any]:
    """What stands above all: data, network, settings, verdict, warnings."""
    data, settings = (_mapping(run.record.get(name)) for name in ("data", "settings"))  # data may be a title alone
    normalization = data.get("normalization") or {}
    facts = {
        "data": " ".join(str(data[key]) for key in ("name", "split") if data.get(key)),
        "examples": f"{data['examples']} of {data['of']}"
        if "of" in data and "examples" in data
        else _unique(run, "examples"),
        "classes": _unique(run, "classes"),
        "model": _unique(run, "architecture"),
        "parameters": _unique(run, "parameters"),
        "weights": _unique(run, "weights"),
        "normalisation": str(normalization.get("name", "")),
        "estimator": _unique(run, "trace_estimator"),
        "precision": str(settings.get("precision", "")),
        "seed": str(settings.get("seed", "")),
        "checkpoints": str(len(run.main)),
    }
    changed = {"labels", "include", "exclude", "preset", "recalibrate_bn", "model"}
    plain: tuple[object, ...] = (None, False, [], ["*"])
    facts |= {key: str(settings[key]) for key in sorted(changed & set(settings)) if settings[key] not in plain}
    facts["conventions"] = str(run.record.get("conventions", ""))
    return {
        "name": run.name,
        "facts": [(key, one_line(value)) for key, value in facts.items() if value],
        "verdict": " ".join([verdict(run.measurements), *left_out_rows(run.measurements, run.command)]),
        "warnings": [*run.damage, *accuracy_note(run.measurements)[1:], *run.warnings()],
    }


def _between(runs: Sequence[ReportedRun]) -> list[str]:
    """What differs between runs of the same examples, told by their hash."""
    groups: dict[str, dict[str, Sequence[Measurement]]] = {}
    for run in runs:
        identity = TableIdentity.of(run.record)
        groups.setdefault(str(identity.sha256 or run.report), {})[run.name] = run.measurements
    said = [sentence for group in groups.values() for sentence in run_sentences(group)]
    if len(groups) > 1:
        said.append("Runs of different examples are not compared.")
    return said


def _examples_of(runs: Sequence[ReportedRun]) -> str:
    """Which data and how many of its examples the charts are of; of several reports each, where they differ."""
    found = {run.name: run.about for run in runs if run.about}
    titles = list(dict.fromkeys(found.values()))
    return titles[0] if len(titles) == 1 else "; ".join(f"{name}: {title}" for name, title in found.items())


def _unique(run: ReportedRun, name: str) -> str:
    """What all rows have in common."""
    values = list(dict.fromkeys(run.main[name].dropna().tolist())) if name in run.main else []
    return ", ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in values[:3])


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _listings(run: ReportedRun, runs: Sequence[ReportedRun]) -> list[Listing]:
    """The tables: all checkpoints, the comparison, examples and groups, identities, the coverage ledger."""
    of = f" ({run.name})" if len(runs) > 1 else ""
    said, is_open = "Click a heading to sort by it.", len(runs) <= _MOST_OPEN
    found = [_listing(f"All checkpoints{of}", said, run.main, _MAIN, is_open=is_open)]
    if (compared := run.sides.get("compare")) is not None:
        last = compared["verdict"].dropna().tolist() if "verdict" in compared else []
        said = f"{last[-1][:1].upper()}{last[-1][1:]}." if last else ""
        found.append(_listing(f"True against empirical Fisher{of}", said, compared, _COMPARED))
    found += _examples(run, of)
    if (identities := run.sides.get("verify")) is not None:
        counts = identities["verdict"].dropna().value_counts().to_dict()
        said = ", ".join(f"{counts.get(each, 0)} {each}" for each in ("pass", "fail", "undecided", "not applicable"))
        found.append(_listing(f"Identities checked on this network{of}", f"{said}.", identities, _IDENTITY))
    is_first = next(each for each in runs if each.records is run.records) is run
    ledger = _ledger(run, of) if is_first else []
    return [*(replace(each, about=run.about) for each in found), *_apart(run, of), *ledger]


# What a table is called and shown with that is of other examples than the report, by its word.
_APART = {
    "compare": ("True against empirical Fisher", _COMPARED),
    "spectrum": ("Eigenvalues", ("checkpoint", "matrix", "index", "eigenvalue", "eigenvalue_se", "trace_share")),
    "density": ("Density of the eigenvalues", ("checkpoint", "matrix", "lambda", "density")),
    "examples": ("The examples that carry the trace", ("checkpoint", *_EXAMPLE)),
    "groups": ("Groups of examples", ("checkpoint", *_GROUP)),
    "verify": ("Identities checked on this network", _IDENTITY),
}
_MOST_APART = 100


def _apart(run: ReportedRun, of: str) -> list[Listing]:
    """The tables that are of other things than the report, each with what it is of in its heading."""
    found = []
    for each in run.apart:
        heading, names = _APART[each.word]
        table = each.table.sort_values("rank") if "rank" in each.table else each.table
        said = f"{each.why}." + (f" The first {_MOST_APART} rows." if len(table) > _MOST_APART else "")
        about = f": {each.about}" if each.about else ""
        listing = _listing(f"{heading}{about}{of}", said, table.head(_MOST_APART), names, is_open=False)
        found.append(replace(listing, about=each.about))
    return found


def _listing(heading: str, finding: str, table: pd.DataFrame, names: Sequence[str], *, is_open: bool = True) -> Listing:
    shown = [name for name in names if name in table and table[name].notna().any()]
    columns = [table[name].tolist() for name in shown]
    return Listing(heading, finding, shown, list(zip(*columns, strict=True)), is_open)


def _examples(run: ReportedRun, of: str) -> list[Listing]:
    """The examples that carry the trace of the last checkpoint, and its groups."""
    found = []
    if (last := last_examples(run)) is not None:
        order, top, count = last
        carried = math.fsum(share for share in numbers(top, "share") if math.isfinite(share))
        said = f"{len(top)} of {count} examples carry {carried:.0%} of the true trace at {_place(run, order)}."
        pictures = cards(run, _rows(top))
        if any(each.is_wrong for each in pictures):
            said += " Orange above a picture: another class is predicted than its label."
        names = [name for name in _EXAMPLE if not _is_said_by_name(top, name)]
        found.append(
            replace(_listing(f"The examples that carry the trace{of}", said, top, names), cards=pictures),
        )
    groups = run.sides.get("groups")
    if groups is not None and groups["trace_true"].notna().any():
        order = int(groups["order"][groups["trace_true"].notna()].max())
        part = groups[(groups["order"] == order).fillna(False)]
        by = "By class and by noise" if (part["grouping"] == "noise").any() else "By class"
        heading = f"{by}, {_place(run, order)}{of}"
        found.append(_listing(heading, "Means over each group.", part, _GROUP))
    return found


def _is_said_by_name(table: pd.DataFrame, name: str) -> bool:
    """Whether a class is shown by its name already, or its column is that of a name nobody knows."""
    return f"{name}_name" in table and bool(table[f"{name}_name"].notna().any())


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as Python values, None where a cell is empty."""
    columns = [[None if pd.isna(value) else value for value in table[name].tolist()] for name in table.columns]
    return [dict(zip(map(str, table.columns), row, strict=True)) for row in zip(*columns, strict=True)]


def _place(run: ReportedRun, order: int) -> str:
    return run.places[order] if order < len(run.places) else "the last checkpoint"


def _ledger(run: ReportedRun, of: str) -> list[Listing]:
    """Which rule computed which parameter's part."""
    ledgers = run.record.get("ledgers", [])
    parameters = ledgers[0].get("parameters", []) if ledgers else []
    if not parameters:
        return []
    names = ("name", "values", "method")
    rows = [[each.get(name) for name in names] for each in parameters]
    methods = list(dict.fromkeys(str(row[2]) for row in rows))
    said = f"All {len(rows)} parameter tensors are in the trace, by: {', '.join(methods)}."
    return [Listing(f"Coverage{of}", said, ["parameter", "weights", "method"], rows, is_open=False)]
