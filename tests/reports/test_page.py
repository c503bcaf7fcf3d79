"""The page of a report: whole, true to the report's numbers, harmless, and the same every time."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fisher_cli.reports.charts import NAMES_OF_A_PAGE, draw
from fisher_cli.reports.numbers import number_text
from fisher_cli.reports.page import render_page
from fisher_cli.reports.reported_run import read_run
from fisher_cli.storage.formats import format_of, render
from fisher_cli.storage.readers import read_table
from fisher_cli.storage.report_folder import record_path
from fisher_cli.storage.single_file import sealed
from fisher_cli.tables.build import make_table, to_csv
from fisher_cli.tables.registry import MAIN, SPECTRUM
from tests.command import fisher
from tests.effort import Effort
from tests.report_files import computed, made

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&{{ 7*7 }}$\\frac{{a}}$\"'{}"


class Page(HTMLParser):
    """The page's elements with their attributes, its tables, and whether all tags are closed in order."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.within: list[str] = []
        self.figure = ""
        self.paths: dict[str, int] = {}
        self.cells: dict[str, list[str]] = {}
        self.script = ""
        self.text = ""
        self.feed(content.decode())
        self.close()
        assert self.within == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._count(tag, dict(attrs))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if tag not in VOID:
            self.within.append(tag)
        if tag == "figure":
            self.figure = found.get("id") or ""
        if tag == "data":
            self.cells.setdefault(self.figure, []).append(found.get("value") or "")
        self._count(tag, found)

    def handle_endtag(self, tag: str) -> None:
        assert self.within.pop() == tag
        if tag == "figure":
            self.figure = ""

    def handle_data(self, data: str) -> None:
        if self.within and self.within[-1] == "script":
            self.script += data
        elif "style" not in self.within:
            self.text += data

    def _count(self, tag: str, attributes: dict[str, str | None]) -> None:
        drawn = (tag == "path" and len(attributes.get("d") or "") > 3) or tag in {"use", "image"}
        self.paths[self.figure] = self.paths.get(self.figure, 0) + drawn


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return computed(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def content(report: Path) -> bytes:
    return render_page([read_run(report)])


def test_every_chart_is_there_with_its_finding_its_drawing_and_its_numbers(content: bytes, report: Path) -> None:
    page, main = Page(content), read_table(report)
    names = [name for name in NAMES_OF_A_PAGE if name != "memorisation"]  # no example is marked noisy
    assert [attributes["id"] for tag, attributes in page.elements if tag == "figure"] == names
    for name in names:
        assert page.paths[name] > 10, name
    for name, columns in {
        "traces": ("trace_true", "trace_true_se", "trace_empirical"),
        "ratio": ("trace_ratio",),
        "loss": ("loss", "accuracy"),
        "eigenvalues": ("eig_true_1", "eig_true_5", "eig_empirical_2"),
        "movement": ("kl_step", "kl_step_quadratic"),
        "snr": ("gradient_snr",),
    }.items():
        for column in columns:
            values = [repr(value) for value in main[column].dropna().tolist()]
            assert values
            assert set(values) <= set(page.cells[name]), (name, column)
    compared = read_table(report.with_name("clean.compare.csv"))
    for column in ("matrix_cosine", "matrix_cosine_null", "matrix_difference", "matrix_difference_null_sd"):
        assert {repr(value) for value in compared[column].dropna().tolist()} <= set(page.cells["comparison"]), column
    shares = read_table(report.with_name("clean.layers.csv"))["share"].tolist()
    assert sorted(page.cells["layers"]) == sorted(map(repr, shares))
    largest = read_table(report.with_name("clean.spectrum.csv"))["eigenvalue"][0]
    assert repr(float(largest)) in page.cells["spectrum"]


def test_its_words_are_those_of_the_run(content: bytes) -> None:
    text = Page(content).text.replace("\N{NO-BREAK SPACE}", " ")
    assert re.search(r"The true trace rises from .* to .* at step 66", text)
    assert re.search(r"The true trace is largest at step 66 \([\d.]+ ± [\d.]+\) and ends at", text)
    assert re.search(r"10 of 64 examples carry \d+% of the true trace at step 1760\.", text)
    assert "All 6 parameter tensors are in the trace, by: linear." in text
    assert re.search(r"fisher analyze .*step_00000.pt .*-o", text)
    for fact in ("digits train", "64 of 1400", "digits-mlp", "6,570"):
        assert fact in text


def test_nothing_outside_of_the_file_is_named(content: bytes) -> None:
    assert b"//" not in re.sub(rb"data:image/png;base64,[A-Za-z0-9+/=\s]*", b"", content)
    page = Page(content)
    for tag, attributes in page.elements:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "xlink:href"):
            if name in attributes:
                assert (attributes[name] or "").startswith(("#", "data:image/png;base64,")), attributes
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    used = {(attributes.get("xlink:href") or "#")[1:] for tag, attributes in page.elements if tag == "use"}
    assert used <= set(identifiers)
    clips = set(re.findall(rb"url\(#([^)]*)\)", content))
    assert clips
    assert clips <= {each.encode() for each in identifiers if each}


def test_its_policy_names_the_hash_of_its_one_script(content: bytes) -> None:
    page = Page(content)
    (policy,) = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in (policy or "")


def test_each_value_in_sight_has_its_text_beside_its_place(content: bytes, report: Path) -> None:
    main = read_table(report)
    (drawn,) = [
        json.loads(attributes["data-points"] or "")
        for tag, attributes in Page(content).elements
        if tag == "svg" and str(attributes["aria-labelledby"]).startswith("ratio-") and "data-points" in attributes
    ]
    values, errors = main["trace_ratio"].tolist(), main["trace_ratio_se"].tolist()
    said = [
        f"measured, training step {step:,}: {number_text(value, error)}"
        for step, value, error in zip(main["step"].tolist(), values, errors, strict=True)
    ]
    assert [text for *_, text in drawn] == said
    places = [x for _, x, *_ in drawn]
    assert places == sorted(set(places))


def test_it_is_the_same_every_time_and_says_nothing_of_the_day(content: bytes, report: Path) -> None:
    assert render_page([read_run(report)]) == content
    assert not re.search(rb"20[2-9]\d-\d\d-\d\d", content)


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    report = made(tmp_path / "a.csv", 6, 3, HOSTILE)
    run = read_run(report)
    content = render_page([run])
    page, plain = Page(content), Page(render_page([read_run(made(tmp_path / "b.csv", 6, 3))]))
    assert [tag for tag, _ in page.elements if tag == "script"] == ["script"]
    assert page.script == plain.script
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "img" not in {tag for tag, _ in page.elements}
    assert "{{ 7*7 }}" in page.text
    assert "alert(1)" in page.text


@pytest.mark.ci
def test_a_large_report_makes_a_small_page_with_little_work(tmp_path: Path) -> None:
    report = made(tmp_path / "large.csv", 50, 60)
    effort = Effort()
    with effort.counting_calls():
        content = render_page([read_run(report)])
    assert effort.calls < 10_000_000
    assert len(content) < 2_000_000
    assert len(Page(content).cells["layers"]) == 3000


def test_several_runs_are_drawn_together(tmp_path: Path) -> None:
    runs = [read_run(made(tmp_path / f"{name}.csv", 8, 2)) for name in ("clean", "noisy")]
    page = Page(render_page(runs))
    assert "clean: the true trace is largest at" in page.text
    assert "noisy: the true trace is largest at" in page.text
    assert "clean: true" in page.text
    assert "noisy: empirical" in page.text
    shares = [read_table(run_path)["share"].tolist() for run_path in tmp_path.glob("*.layers.csv")]
    assert sorted(page.cells["layers"]) == sorted(repr(value) for each in shares for value in each)
    assert page.text.count("share of the true trace") + page.text.count("most of the true trace") == 2


def test_several_runs_show_their_last_spectra_in_one_chart(report: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other.csv", 3, 2)
    rows = [
        {"checkpoint": "step_20.pt", "order": 2, "matrix": "true Fisher", "index": i, "eigenvalue": 8.0 / i}
        for i in (1, 2, 3)
    ]
    (tmp_path / "other.spectrum.csv").write_text(to_csv(make_table(rows, SPECTRUM.columns)))
    runs = [read_run(report), read_run(other), read_run(made(tmp_path / "none.csv", 3, 2))]
    chart = draw("spectrum", runs)
    assert chart is not None
    lines = {line.get_label(): line for line in chart.figure.axes[0].lines}
    assert set(lines) == {"clean, step 1760", "other, step 20"}
    assert list(lines["other, step 20"].get_ydata()) == [8.0, 4.0, 8.0 / 3]
    table = read_table(report.with_name("clean.spectrum.csv"))
    last = table[(table["order"] == 3) & (table["matrix"] == "true Fisher")]["eigenvalue"]
    assert lines["clean, step 1760"].get_ydata()[0] == last.iloc[0]
    assert [line.partition(":")[0] for line in chart.finding.splitlines()] == ["clean", "other"]
    assert {row[0] for row in chart.rows} == {"clean", "other"}


def test_damage_and_bad_rows_are_said_first(tmp_path: Path) -> None:
    report = made(tmp_path / "a.csv", 4, 2)
    report.write_text(report.read_text().replace("step_2.pt", "step_9.pt"))
    text = Page(render_page([read_run(report)])).text
    assert "a.csv is not as it was written: run `fisher check a.csv`" in text
    assert text.index("Before you read on") < text.index("Along training")
    record_path(report).unlink()
    assert "a.fisher/record.json is missing or damaged" in Page(render_page([read_run(report)])).text


def test_the_command_writes_the_page_and_spares_other_files(
    report: Path, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    assert fisher("report", report, "-o", page).stderr == f"page: {page}\n"
    assert page.read_bytes() == sealed(content, ".html")
    monkeypatch.setattr("fisher_cli.reports.page.render_page", lambda _: b"new")
    fisher("report", report, "-o", page, "-q")  # a page of ours is replaced
    assert page.read_bytes() == sealed(b"new", ".html")
    page.write_text("<p>by hand")
    assert "is not as this command wrote it" in fisher("report", report, "-o", page, code=1).stderr
    assert page.read_text() == "<p>by hand"
    fisher("report", report, "-o", page, "--force")
    assert page.read_bytes() == sealed(b"new", ".html")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["clean.csv", "-o", "page.txt"], 2, "the suffix must be .html or .htm: type -o page.html"),
        (["nothing.csv", "-o", "page.html"], 1, "nothing.csv: no such table"),
        (["clean.layers.csv", "-o", "page.html"], 1, "not the main table that"),
        (["clean.csv", "-o", "no/page.html"], 1, "there is no folder no: mkdir -p no"),
        (["clean.csv"] * 5 + ["-o", "page.html"], 2, "name at most 4"),
    ],
)
def test_refusals_say_what_to_type(
    report: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(report.parent)
    done = fisher("report", *arguments, code=code)
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def failed(order: int, checkpoint: str = "a.pt", **more: object) -> dict[str, object]:
    return {"checkpoint": checkpoint, "order": order, "status": "failed", "error": "weights are <NaN>", **more}


@pytest.mark.parametrize(
    "rows",
    [
        [failed(0), failed(1)],
        [failed(0, step=3), failed(1, status="ok", error="", trace_true=0.0, trace_empirical=0.0)],
        [failed(i, status="ok", error="", trace_true=1e150 * i, step=5, phase=HOSTILE) for i in range(3)],
        [failed(i, status="ok", error="", trace_true=1e-300, step=-5 + i, kl_step=1e-320) for i in range(3)],
        [failed(i, status="strange", trace_true=1.0, step=10**i, eig_true_1=0.0) for i in range(9)],
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_poor_and_odd_reports_still_make_a_page(tmp_path: Path, rows: list[dict[str, object]], form: str) -> None:
    path = tmp_path / f"poor.{form}"
    path.write_bytes(render(make_table(rows, MAIN.with_eigenvalues(1).columns), format_of(path)))
    text = Page(render_page([read_run(path)])).text
    assert "poor.fisher/record.json is missing or damaged" in text
    if any(row["error"] for row in rows):
        assert "weights are <NaN>" in text
    assert "Loss and accuracy" in text


def test_a_page_and_a_figure_have_the_reports_name_unless_told_otherwise(tmp_path: Path) -> None:
    table = made(tmp_path / "trend.csv", 3, 2)
    fisher("report", table)
    fisher("plot", table)
    assert (tmp_path / "trend.html").read_bytes().startswith(b"<!doctype html>")
    assert b"The true trace is largest at" in (tmp_path / "trend.traces.svg").read_bytes()
