"""Pages of the sample runs in a browser: quiet, whole, readable at any width, light and dark, also when heard."""

import os
import re
from pathlib import Path

import pytest

from fisher_cli.reports.charts import NAMES_OF_A_PAGE
from tests.browser import CHROMIUM, Browser, browser, installed_axe
from tests.command import fisher
from tests.long_lists import some
from tests.report_files import SAMPLES, computed

LABELS = SAMPLES / "digits-noisy" / "labels.csv"
STEPS = {"clean": (0, 66, 1760), "noisy": (0, 176, 5280), "cnn": (0, 88, 1760)}
PARTS = {"clean": 0.25, "noisy": 0.25, "cnn": 0.25}
VIEWS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
# Each page once, and each view once; all of both in the long list.
HEARD = [("clean", 1280, "light"), ("noisy", 1280, "dark"), ("cnn", 390, "light"), ("all", 390, "dark")]


def absent(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"no {what} here: .ci/run installs it")
    pytest.skip(f"no {what} here")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    if CHROMIUM is None:
        absent("chromium")
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    source = installed_axe(tmp_path_factory.mktemp("axe"))
    if source is None:
        absent("npm, or no network")
    assert source is not None
    return source


def written(reports: list[Path], page: Path) -> Path:
    fisher("report", *reports, "--data", "digits", "--labels", LABELS, "-q", "-o", page)
    return page


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each sample run, and one of all of them."""
    folder = tmp_path_factory.mktemp("pages")
    reports = {run: computed(folder, run, STEPS[run], PARTS[run]) for run in STEPS}
    found = {run: written([report], folder / f"{run}.html") for run, report in reports.items()}
    return {**found, "all": written(list(reports.values()), folder / "all.html")}


def look(opened: Browser, page: Path, width: int, scheme: str) -> None:
    """Everything that a page must be, whoever looks at it."""
    opened.show(page, width, scheme)
    assert opened.run("document.documentElement.scrollWidth") <= width
    assert opened.run("innerWidth") == width
    drawn = "[...document.querySelectorAll('figure svg')].map((s) => [s.clientWidth, s.clientHeight])"
    sizes = opened.run(drawn)
    is_noisy = "noisy" in page.stem or page.stem == "all"
    assert len(sizes) == len(NAMES_OF_A_PAGE) - (0 if is_noisy else 1)  # no example of the others is marked
    assert all(250 < w <= width and h > 150 for w, h in sizes)
    count = "s.querySelectorAll('path, use, image').length"
    assert min(opened.run(f"[...document.querySelectorAll('figure svg')].map((s) => {count})")) > 10
    loaded = opened.run("[...document.querySelectorAll('.cards img')].map((i) => i.complete && i.naturalWidth)")
    assert set(loaded) == {8}
    assert len(loaded) % 10 == 0
    assert opened.run("getComputedStyle(document.querySelector('.cards img')).imageRendering") == "pixelated"
    ink, paper = opened.run(
        "[getComputedStyle(document.querySelector('svg text')).fill, getComputedStyle(document.body).backgroundColor]"
    )
    light, dark = "rgb(255, 255, 255)", "rgb(22, 24, 28)"
    assert (ink, paper) == (("rgb(27, 27, 27)", light) if scheme == "light" else ("rgb(236, 236, 236)", dark))
    sorts(opened)
    assert opened.logged == []
    assert [url for url in opened.requested if not url.startswith("data:image/png")] == [page.as_uri()]
    assert len(opened.picture()) > 20_000


def sorts(opened: Browser) -> None:
    """A click on a heading sorts the table by it, another one the other way round."""
    column = "[...document.querySelector('table.sortable').tBodies[0].rows].map((r) => r.cells[4].innerText)"
    before = [float(each) for each in opened.run(column)]
    click = "document.querySelector('table.sortable').tHead.rows[0].cells[4].querySelector('button').click()"
    opened.run(click)
    ascending = [float(each) for each in opened.run(column)]
    assert ascending == sorted(before)
    opened.run(click)
    descending = [float(each) for each in opened.run(column)]
    assert descending == sorted(before, reverse=True) != ascending


@pytest.mark.parametrize(
    ("run", "width", "scheme"), some([(run, *view) for run in [*STEPS, "all"] for view in VIEWS], part=0.25)
)
def test_a_browser_shows_the_page(opened: Browser, pages: dict[str, Path], run: str, width: int, scheme: str) -> None:
    look(opened, pages[run], width, scheme)


POINT = """(() => {
    const svg = document.querySelector("#traces svg"), point = JSON.parse(svg.dataset.points)[0];
    svg.scrollIntoView({block: "center", behavior: "instant"});
    const at = new DOMPoint(point[1], point[2]).matrixTransform(svg.getScreenCTM());
    const marks = [...svg.querySelectorAll("[data-run='0'] use")].map((each) => each.getBoundingClientRect());
    const nearest = Math.min(...marks.map((m) => Math.hypot(m.x + m.width / 2 - at.x, m.y + m.height / 2 - at.y)));
    svg.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: at.x + 3, clientY: at.y}));
    const label = document.querySelector(".value");
    const box = label.getBoundingClientRect();
    const found = [point[3], label.hidden, label.textContent, nearest, box.left >= 0 && box.right <= innerWidth];
    document.body.dispatchEvent(new PointerEvent("pointermove", {bubbles: true, clientX: 1, clientY: 1}));
    return [...found, label.hidden];
})()"""


@pytest.mark.parametrize(("run", "width"), [("clean", 1280), ("all", 390)])
def test_the_pointer_shows_the_value_of_the_nearest_mark(
    opened: Browser, pages: dict[str, Path], run: str, width: int
) -> None:
    opened.show(pages[run], width, "light")
    text, is_hidden, said, distance, is_in_sight, is_gone = opened.run(POINT)
    name = "clean: true" if run == "all" else "true"
    assert re.fullmatch(name + r", training step 0: [\d.,]+ ± [\d.]+", text)
    assert said == text
    assert not is_hidden
    assert distance < 1.5
    assert is_in_sight
    assert is_gone
    assert opened.logged == []


def test_a_switch_shows_the_other_scale_and_the_first_one_again(opened: Browser, pages: dict[str, Path]) -> None:
    opened.show(pages["clean"], 1280, "light")
    label = "document.querySelector('#traces svg').textContent.includes('logarithmic')"
    switch = "document.querySelector('#traces .toggle')"
    shown = [opened.run(label)]
    pressed = [opened.run(f"{switch}.getAttribute('aria-pressed')")]
    for _ in range(2):
        opened.run(f"{switch}.focus(), {switch}.click()")
        shown.append(opened.run("document.querySelector('#traces svg text') && " + label))
        pressed.append(opened.run(f"{switch}.getAttribute('aria-pressed')"))
    assert shown[1] != shown[0] == shown[2]
    assert pressed == ["true" if each else "false" for each in shown]
    assert opened.run(f"document.activeElement === {switch}")
    assert opened.run("document.querySelectorAll('figure svg').length") == len(NAMES_OF_A_PAGE) - 1


def test_a_switch_hides_a_run_in_all_charts(opened: Browser, pages: dict[str, Path]) -> None:
    opened.show(pages["all"], 1280, "light")
    assert opened.run("[...document.querySelectorAll('.runs button')].map((b) => b.innerText)") == list(STEPS)
    seen = """[0, 1, 2].map((run) => [...document.querySelectorAll(`figure svg [data-run="${run}"]`)].map(
        (each) => getComputedStyle(each).visibility))"""
    before = opened.run(seen)
    assert all(len(each) > 10 and set(each) == {"visible"} for each in before)
    opened.run("document.querySelectorAll('.runs button')[0].click()")
    opened.run("document.querySelectorAll('#traces .toggle, #loss .toggle').forEach((each) => each.click())")
    after = opened.run(seen)
    assert [set(each) for each in after] == [{"hidden"}, {"visible"}, {"visible"}]
    assert not opened.run(POINT)[2].startswith("clean"), "a run that is not shown has no values"
    opened.run("document.querySelectorAll('.runs button')[0].click()")
    assert all(set(each) == {"visible"} for each in opened.run(seen))
    assert opened.logged == []


def test_without_its_script_the_page_has_no_switch(opened: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    text = pages["all"].read_text()
    (tmp_path / "still.html").write_text(re.sub(r"(?s)<script>.*</script>", "", text))
    opened.show(tmp_path / "still.html", 1280, "light")
    assert opened.run("document.querySelector('.runs').offsetHeight") == 0
    assert opened.run("document.querySelectorAll('main button').length") == 0
    assert opened.run("document.querySelectorAll('figure svg').length") == len(NAMES_OF_A_PAGE)


def test_a_browser_runs_no_other_script_than_the_page_s_own(
    opened: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    text = pages["clean"].read_text()
    (tmp_path / "other.html").write_text(text.replace("</main>", "</main><script>document.title = 'other'</script>"))
    opened.show(tmp_path / "other.html", 1280, "light")
    assert opened.run("document.title").startswith("Fisher information")
    assert opened.run("document.querySelectorAll('.toggle').length") > 0


VIOLATIONS = """axe.run({resultTypes: ["violations"]}).then((found) => found.violations.map(
    (each) => [each.id, each.nodes.map((node) => node.html.slice(0, 200))]))"""


def listen(opened: Browser, axe: str, page: Path, width: int, scheme: str) -> None:
    opened.show(page, width, scheme)
    opened.run(f"{axe}; 0")
    assert opened.run("axe.getRules().length") > 80
    assert opened.run(VIOLATIONS) == []


@pytest.mark.parametrize(("run", "width", "scheme"), HEARD)
def test_axe_finds_no_violation(
    opened: Browser, axe: str, pages: dict[str, Path], run: str, width: int, scheme: str
) -> None:
    listen(opened, axe, pages[run], width, scheme)


def test_axe_finds_what_is_wrong(opened: Browser, axe: str, pages: dict[str, Path], tmp_path: Path) -> None:
    text = pages["clean"].read_text()
    assert 'alt="example' in text
    (tmp_path / "bad.html").write_text(text.replace('alt="example', 'class="example').replace("#595959", "#bbbbbb"))
    opened.show(tmp_path / "bad.html", 1280, "light")
    opened.run(f"{axe}; 0")
    assert {name for name, _ in opened.run(VIOLATIONS)} >= {"image-alt", "color-contrast"}


@pytest.mark.long
@pytest.mark.parametrize("run", STEPS)
def test_all_checkpoints_of_a_run_in_every_view(opened: Browser, axe: str, tmp_path: Path, run: str) -> None:
    found = sorted((SAMPLES / f"digits-{run}").glob("step_*.pt"))
    report = computed(tmp_path, run, [int(path.stem.removeprefix("step_")) for path in found])
    page = written([report], tmp_path / "page.html")
    for width, scheme in VIEWS:
        look(opened, page, width, scheme)
        listen(opened, axe, page, width, scheme)
