"""Single figures: every chart in every format, at a paper's width, the same bytes every time."""

import math
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from PIL import Image

from fisher_cli.cli.plot import Drawing
from fisher_cli.reports.charts import MOST_ROWS, NAMES, blocks, draw, traces
from fisher_cli.reports.drawing import picture
from fisher_cli.reports.reported_run import read_run, read_runs
from tests.command import error_line, fisher
from tests.report_files import made

MADE_WITHOUT = {"spectrum", "comparison", "memorisation"}  # no such table beside the made report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("report") / "run.csv", 7, 3)


def plot(report: Path, what: str, figure: Path, *more: str) -> str:
    return fisher("plot", report, "--what", what, "-o", figure, *more).stderr


def test_the_names_of_the_option_are_those_of_the_charts() -> None:
    assert tuple(Drawing) == NAMES


@pytest.mark.parametrize("what", sorted(set(NAMES) - MADE_WITHOUT))
def test_every_chart_is_a_figure_with_text_that_stays_text(report: Path, tmp_path: Path, what: str) -> None:
    said = plot(report, what, tmp_path / "a.svg")
    root = ElementTree.fromstring((tmp_path / "a.svg").read_text())
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(3.35 * 72, abs=0.01)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}text"))) > 5
    assert len(said.splitlines()) == 2  # where it is, and what it shows
    plot(report, what, tmp_path / "b.svg", "-q")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("form", ["svg", "pdf", "png"])
def test_formats_are_reproducible_and_replaced_only_if_ours(report: Path, tmp_path: Path, form: str) -> None:
    figure = tmp_path / f"a.{form}"
    plot(report, "traces", figure, "--width", "two-columns", "-q")
    first = figure.read_bytes()
    plot(report, "traces", figure, "--width", "two-columns", "-q")
    assert figure.read_bytes() == first
    assert not re.search(rb"20[2-9]\d-\d\d-\d\d|D:20\d\d", first)
    if form == "png":
        with Image.open(figure) as image:
            assert image.width == round(6.9 * 300)
    figure.write_bytes(b"mine")
    fisher("plot", report, "--what", "traces", "-o", figure, code=1)
    assert figure.read_bytes() == b"mine"


def test_the_curve_goes_through_the_numbers(report: Path) -> None:
    run = read_run(report)
    chart = draw("traces", [run])
    assert chart is not None
    drawn = {str(line.get_label()): line for line in chart.figure.axes[0].lines}
    for label, column in (("true", "trace_true"), ("empirical", "trace_empirical")):
        assert list(drawn[label].get_xdata()) == run.column("step")
        assert list(drawn[label].get_ydata()) == run.column(column)
    band = chart.figure.axes[0].collections[0].get_paths()[0].vertices
    peak = max(run.column("trace_true"))
    assert band[:, 1].max() == pytest.approx(peak + 2 * 0.5)
    marked = next(line for line in chart.figure.axes[0].lines if line.get_marker() == "v")
    assert list(marked.get_ydata()) == [peak]


def test_what_a_report_lacks_is_said_with_what_makes_it(report: Path, tmp_path: Path) -> None:
    done = fisher("plot", report, "--what", "spectrum", "-o", tmp_path / "a.svg", code=1)
    assert done.stderr.count("\n") == 1
    assert "run `fisher spectrum` with the same -o" in done.stderr


def test_one_checkpoint_and_rows_without_numbers_are_drawn(tmp_path: Path) -> None:
    report = made(tmp_path / "one.csv", 1, 1)
    for what in ("traces", "ratio", "loss", "eigenvalues", "layers", "snr"):
        plot(report, what, tmp_path / f"{what}.svg", "-q")
    chart = traces([read_run(report)])
    assert chart is not None
    assert chart.finding.startswith("The true trace is ")
    assert picture(chart.figure, "svg")


@pytest.mark.parametrize("command", [["report"], ["plot", "--what", "traces"]])
def test_without_matplotlib_one_line_says_what_to_install(report: Path, tmp_path: Path, command: list[str]) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from fisher_cli.cli.app import main; main()"
    figure = tmp_path / ("a.html" if command == ["report"] else "a.svg")
    done = subprocess.run(
        [sys.executable, "-c", code, *command, str(report), "-o", str(figure)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: figures need matplotlib: pip install 'fisher-cli[report]'\n"


# --- axes and maps of real networks


@pytest.mark.parametrize(
    ("true", "empirical", "words", "scale"),
    [
        ((5.0, 80.0, 8.0), (5.0, 60.0, 1.0), (), "linear"),  # that the empirical trace falls to nothing is to be seen
        ((5.0, 900.0, 8.0), (5.0, 60.0, 1.0), (), "log"),
        ((5.0, 80.0, 8.0), (5.0, 6000.0, 1.0), (), "log"),
        ((5.0, 80.0, 8.0), (5.0, 60.0, 1.0), ("--log",), "log"),
        ((5.0, 900.0, 8.0), (5.0, 60.0, 1.0), ("--linear",), "linear"),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), ("--log",), "linear"),  # nothing has a logarithm
        ((0.0, 900.0, 8.0), (5.0, 60.0, 1.0), (), "linear"),
        ((0.0, 900.0, 8.0), (5.0, 60.0, 1.0), ("--log",), "log"),
    ],
)
def test_an_axis_is_logarithmic_where_values_span_more_than_a_factor_of_twenty(
    true: tuple[float, ...], empirical: tuple[float, ...], words: tuple[str, ...], scale: str, tmp_path: Path
) -> None:
    report = made(tmp_path / "run.csv", 3, 1)
    table = pd.read_csv(report)
    table["trace_true"], table["trace_empirical"] = true, empirical
    table.to_csv(report, index=False)
    wanted = {"--log": True, "--linear": False}.get(words[0]) if words else None
    chart = traces([read_run(report)], is_logarithmic=wanted)
    assert chart is not None
    assert chart.figure.axes[0].get_yscale() == scale
    assert ("logarithmic" in chart.figure.axes[0].get_ylabel()) == (scale == "log")
    plot(report, "traces", tmp_path / "a.svg", *words)


def test_a_chart_that_has_no_such_axis_says_which_have_one(report: Path, tmp_path: Path) -> None:
    done = fisher("plot", report, "--what", "ratio", "--log", "-o", tmp_path / "a.svg", code=2)
    assert error_line(done) == "--log is for --what loss or snr or traces: leave it out"


def test_a_doubted_row_is_hollow_and_outside_of_the_range(tmp_path: Path) -> None:
    report = made(tmp_path / "run.csv", 4, 1)
    table = pd.read_csv(report)
    table["trace_true"] = [4000.0, 20.0, 80.0, 10.0]
    table["loss"], table["accuracy"], table["classes"] = [9.0, 2.0, 1.0, 0.5], [0.1, 0.4, 0.6, 0.8], 10
    table["examples"] = 1000
    table.to_csv(report, index=False)
    run = read_run(report)
    assert run.doubted == [True, False, False, False]
    chart = traces([run])
    assert chart is not None
    axes = chart.figure.axes[0]
    assert axes.get_ylim()[1] < 200
    hollow = [each for each in axes.get_children() if getattr(each, "get_fillstyle", str)() == "none"]
    assert 4000.0 in [float(each.get_ydata()[0]) for each in hollow if each.get_marker() == "o"]
    assert "4000" not in chart.finding
    assert "largest at step" in chart.finding


def test_a_map_of_a_large_network_has_a_row_for_each_block() -> None:
    names = [
        "conv1.weight",
        *(f"layer{i}.{j}.conv{k}.weight" for i in range(1, 5) for j in range(3) for k in (1, 2, 3)),
    ]
    shares = {name: [1.0, math.nan] for name in names}
    found = blocks(shares)
    assert list(found) == ["conv1.weight", *(f"layer{i}.{j}" for i in range(1, 5) for j in range(3))]
    assert all(row[0] == (1.0 if name == "conv1.weight" else 3.0) for name, row in found.items())
    assert all(math.isnan(row[1]) for row in found.values())
    small = {name: [1.0] for name in names[:MOST_ROWS]}
    assert blocks(small) == small
    assert len(blocks({str(i): [1.0] for i in range(99)})) == 99  # names without parts


def test_the_legend_covers_nothing(report: Path) -> None:
    chart = draw("traces", [read_run(report)])
    assert chart is not None
    chart.figure.draw_without_rendering()
    axes = chart.figure.axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y0 >= axes.get_window_extent().y1


def test_where_every_row_is_doubted_all_are_hollow_and_in_range(tmp_path: Path) -> None:
    report = made(tmp_path / "run.csv", 2, 1)
    table = pd.read_csv(report)
    table["loss"], table["accuracy"], table["classes"], table["examples"] = 23.0, 0.0, 10, 1000
    table.to_csv(report, index=False)
    for what in ("traces", "loss", "ratio", "snr"):
        plot(report, what, tmp_path / f"{what}.svg")
    chart = draw("loss", [read_run(report)])
    assert chart is not None
    assert chart.figure.axes[0].get_ylim()[1] > 23
    assert all(line.get_fillstyle() == "none" for line in chart.figure.axes[0].lines)


@pytest.mark.parametrize("count", [4, 5])
def test_bands_are_left_out_where_they_would_cover_each_other(tmp_path: Path, count: int) -> None:
    runs = read_runs([made(tmp_path / f"r{i}.csv", 5, 2) for i in range(count)])
    chart = draw("traces", runs)
    assert chart is not None
    bands = [each for each in chart.figure.axes[0].collections if isinstance(each, PolyCollection)]
    assert len(bands) == (2 * count if count == 4 else 0)
    assert ("no bands are drawn" in chart.note) == (count > 4)
    assert len(chart.figure.axes[0].lines) >= 2 * count
    column = list(chart.columns).index("trace_true_se")
    assert {row[column] for row in chart.rows} == {0.5}
