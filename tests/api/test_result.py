"""What `analyze` returns: said in short, drawn, paged and saved as the commands do it."""

import ast
import html
import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from typer.testing import CliRunner

import fisher_cli
from fisher_cli import FisherError, analyze, compare, verify
from fisher_cli.api.keywords import in_keywords
from fisher_cli.api.result import Result
from fisher_cli.cli.app import app
from fisher_cli.errors import OutputError, UsageError

CLEAN = Path(__file__).parents[2] / "sample_checkpoints" / "digits-clean"
FIRST, LAST = CLEAN / "step_00000.pt", CLEAN / "step_01760.pt"
PACKAGE = Path(fisher_cli.__file__).parent


@pytest.fixture(scope="module")
def found() -> Result:
    return analyze([FIRST, LAST], limit=20, eigenvalues=0)


def test_a_result_is_said_in_a_few_lines(found: Result) -> None:
    text = repr(found)
    assert text.splitlines()[0] == "Fisher information of 2 checkpoints on digits train (20 examples)"
    assert "The true trace" in text
    assert len(text) < 500
    assert len(text.splitlines()) == 2


def test_a_notebook_shows_the_sentence_the_table_and_the_files(tmp_path: Path) -> None:
    found = analyze([FIRST, LAST], limit=20, eigenvalues=0)
    assert "table:" not in found._repr_html_()
    found.save(tmp_path / "t.csv")
    shown = found._repr_html_()
    assert html.escape(found.headline) in shown
    assert re.findall(r"<td>(step_\d+\.pt)</td>", shown) == [FIRST.name, LAST.name]
    assert f"table: {tmp_path / 't.csv'}, with 2 more beside it" in shown
    assert f"table: {tmp_path / 't.csv'}" in repr(found)


def test_two_runs_are_each_said_and_compared(tmp_path: Path) -> None:
    for run, files in {"slow": [FIRST], "fast": [FIRST, LAST]}.items():
        (tmp_path / run).mkdir()
        for file in files:
            (tmp_path / run / file.name).write_bytes(file.read_bytes())
    found = analyze([tmp_path / "slow", tmp_path / "fast"], limit=20, eigenvalues=0)
    assert re.match(
        r"slow: The true trace is .* fast: The true trace is largest .* slow against fast: the true trace ",
        found.headline,
    ), found.headline
    assert "<th>run</th>" in found._repr_html_()


def test_no_name_acts_in_a_notebook(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\x1b[2J"
    (tmp_path / f"{name}.pt").write_bytes(FIRST.read_bytes())
    found = analyze(tmp_path / f"{name}.pt", limit=5, eigenvalues=0)
    shown = found._repr_html_()
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert "\x1b" not in shown + repr(found)


def test_each_kind_of_result_has_its_own_sentence_and_columns() -> None:
    words = {"limit": 10}
    compared, verified = compare(LAST, **words), verify(LAST, **words)
    assert repr(compared).startswith("True against empirical Fisher of 1 checkpoint")
    assert "matrix_difference" in compared._repr_html_()
    assert "identities hold" in verified.headline
    assert "tolerance" in verified._repr_html_()


def test_a_run_without_a_result_says_so_and_saves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_text("no checkpoint\n" * 20)
    found = analyze(tmp_path / "bad.pt", limit=5, eigenvalues=0)
    assert "No checkpoint gave a trace" in repr(found)
    with pytest.raises(UsageError, match="nothing to save"):
        found.save(tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_saving_writes_what_the_command_writes(found: Result, tmp_path: Path) -> None:
    words = ["analyze", str(FIRST), str(LAST), "--limit", "20", "--eigenvalues", "0", "-q"]
    assert CliRunner().invoke(app, [*words, "-o", str(tmp_path / "command.csv")]).exit_code == 0
    assert found.save(tmp_path / "saved.csv") == tmp_path / "saved.csv"
    for suffix in ("csv", "layers.csv"):
        assert (tmp_path / f"saved.{suffix}").read_bytes() == (tmp_path / f"command.{suffix}").read_bytes()
    assert CliRunner().invoke(app, ["check", str(tmp_path / "saved.csv")]).exit_code == 0


def test_saving_replaces_its_own_files_and_no_others(found: Result, tmp_path: Path) -> None:
    for name in ("t.csv", "u.parquet"):
        assert found.save(tmp_path / name) == found.save(tmp_path / name)
    (tmp_path / "mine.csv").write_text("mine\n")
    for path in ("mine.csv", "none/t.csv", "t", "t.doc"):
        with pytest.raises(FisherError, match=r"path=|there is no folder"):
            found.save(tmp_path / path)
    assert (tmp_path / "mine.csv").read_text() == "mine\n"
    found.save(tmp_path / "mine.csv", force=True)
    assert "trace_true" in (tmp_path / "mine.csv").read_text()


def test_a_chart_is_a_figure_and_a_file_where_a_path_is_given(found: Result, tmp_path: Path) -> None:
    figure = found.plot()
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert isinstance(found.plot("ratio", tmp_path / "ratio.svg", width=3.35), Figure)
    found.save(tmp_path / "t.csv")
    words = ["plot", str(tmp_path / "t.csv"), "--what", "ratio", "-o", str(tmp_path / "command.svg"), "-q"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert (tmp_path / "ratio.svg").read_bytes() == (tmp_path / "command.svg").read_bytes()
    (tmp_path / "mine.svg").write_text("mine")
    with pytest.raises(OutputError, match="choose another name for path=, or replace it with force=True"):
        found.plot("ratio", tmp_path / "mine.svg")


def test_a_chart_that_cannot_be_drawn_is_refused(found: Result) -> None:
    with pytest.raises(UsageError, match="what='trace': there are traces, ratio, comparison"):
        found.plot("trace")
    with pytest.raises(UsageError, match=r"no numbers for this chart: call spectrum\(\.\.\.\)"):
        found.plot("spectrum")
    with pytest.raises(UsageError, match="log=True is for what='loss' or 'snr' or 'traces'"):
        found.plot("ratio", log=True)


def test_the_page_is_that_of_the_table(tmp_path: Path) -> None:
    found = analyze([FIRST, LAST], limit=20, eigenvalues=0)
    found.save(tmp_path / "t.csv")
    assert found.report(tmp_path / "own.html") == tmp_path / "own.html"
    assert CliRunner().invoke(app, ["report", str(tmp_path / "t.csv"), "-q"]).exit_code == 0
    own, other = ((tmp_path / name).read_text() for name in ("own.html", "t.html"))
    for heading in re.findall(r"<h2[^>]*>.*?</h2>", other, re.DOTALL):
        assert heading in own
    with pytest.raises(UsageError, match=r"path='.*page\.pdf': the suffix must be \.html or \.htm"):
        found.report(tmp_path / "page.pdf")


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("--limit 0: type a number, or all", "limit=0: type a number, or all"),
        ("leave out --use-ema, or name it with --state-key", "leave out use_ema=True, or name it with state_key="),
        ("type --dtype float32", "pass dtype='float32'"),
        ("check --model and --data", "check model= and data="),
        ("pass --model ./net.py:make, or", "pass model='./net.py:make', or"),
        ("type --limit all", "pass limit=None"),
        ("folder:DIR --normalize imagenet", "folder:DIR normalize='imagenet'"),
        ("without --data fisher takes digits", "without data= fisher takes digits"),
        ("--resize would make it 8", "resize= would make it 8"),
        ("-o t.foo: the suffix", "output='t.foo': the suffix"),
        ("another name for -o, or --force", "another name for output=, or force=True"),
        ("--model-arg stride_in=2, --model-arg a=b", "model_arguments={'stride_in': 2}, model_arguments={'a': 'b'}"),
        ("python zero_to_fp32.py --tag step", "python zero_to_fp32.py --tag step"),
        ("a well-known one - and x--y", "a well-known one - and x--y"),
    ],
)
def test_options_become_keywords(said: str, meant: str) -> None:
    assert in_keywords(said) == meant


def texts_of_the_rooms_below() -> set[str]:
    """Every text of the package that names an option, but those of the command line."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in {"cli", "parallel", "tables"}:
            tree = ast.parse(path.read_text())
            found |= {
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
            }
    return {text for text in found if re.search(r"(?<![\w-])--[a-z]", text)}


def test_no_message_of_a_room_below_keeps_an_option() -> None:
    texts = texts_of_the_rooms_below()
    assert len(texts) > 50
    of_other_commands = {"devices", "format", "shard", "tag", "what"}  # no function has them
    for text in texts:
        left = set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", in_keywords(text)))
        assert left <= of_other_commands, text


def test_an_error_from_python_names_keywords() -> None:
    with pytest.raises(UsageError, match=r"limit=0: at least 1 example is needed"):
        analyze(FIRST, limit=0)
    with pytest.raises(FisherError, match=r"check data=, labels= and"):
        analyze(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (torch.zeros(3, 4), torch.tensor([0, 1, 9])))
