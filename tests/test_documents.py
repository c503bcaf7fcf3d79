"""Every command in docs/ runs, what is shown below it is what it prints, and links lead somewhere."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import typer

from fisher_cli.cli.app import app
from fisher_cli.tables.registry import TABLES
from tests.documents import ROOT, blocks, check_shown, furnish, run, run_python

DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
WITH_CODE = [path for path in DOCUMENTS if blocks(path, "console", "python")]
NAMED = re.compile(r"# (\w+\.py)\n")


def follow(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *, long: bool) -> None:
    """Do what a document says, from the first block to the last."""
    furnish(folder, monkeypatch)
    later = []
    for block in blocks(path, "console", "python"):
        if block.is_long and not long:
            continue
        if block.language == "python":
            named = NAMED.match(block.text)
            if named:
                (folder / named[1]).write_text(block.text)
            else:
                later.append(block.text)
            continue
        for command, shown in block.commands():
            if command.startswith(("make ", "pip ", "git ")):
                continue
            check_shown(command, shown, run(command, shown, folder))
    for code in later:  # they read what the commands write
        run_python(code, folder, monkeypatch)


@pytest.mark.parametrize("path", WITH_CODE, ids=lambda path: path.stem)
def test_a_document_does_what_it_says(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(path, tmp_path, monkeypatch, long=False)


@pytest.mark.long
@pytest.mark.parametrize("path", [path for path in WITH_CODE if "<!-- long -->" in path.read_text()], ids=str)
def test_the_long_commands_of_a_document(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    follow(path, tmp_path, monkeypatch, long=True)


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCUMENTS], ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("page", ["commands", "columns", "formats"])
@pytest.mark.parametrize("width", [40, 200])
def test_the_reference_is_what_the_code_says_at_any_width(
    page: str, width: int, reference: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(name, str(width))
    written = {"commands": reference.commands, "columns": reference.glossary, "formats": reference.formats}[page]()
    assert f"-->\n{written}<!-- [[[end]]]" in (ROOT / "docs" / f"{page}.md").read_text(), "make docs writes it anew"


def test_every_command_and_option_has_a_help_and_every_command_is_told_of(reference: ModuleType) -> None:
    told = "".join(path.read_text() for path in [ROOT / "README.md", *DOCUMENTS] if path.name != "commands.md")
    for words, command in reference.walk(typer.main.get_command(app), "fisher"):
        assert command.help, words
        assert words in told
        assert all(each.help for each in command.params), words


def test_every_column_of_a_table_is_in_the_glossary() -> None:
    text = (ROOT / "docs" / "columns.md").read_text()
    for table in TABLES.values():
        section = text.partition(f"\n## {table.title}\n")[2].partition("\n## ")[0]
        assert [each.name for each in table.columns if f"| `{each.name}` |" not in section] == [], table.name


def test_a_wrong_line_below_a_command_is_found() -> None:
    printed = "tr F is 31.1 ± 0.6 there\nand 7 others"
    check_shown("x", ["tr F is 31.2 ± 0.6 there", "…", "and 7 others"], printed)
    for wrong in ("tr F is 35.1 ± 0.6 there", "tr F was 31.1 ± 0.6 there", "and 8 others"):
        with pytest.raises(AssertionError, match="does not print"):
            check_shown("x", [wrong], printed)


def test_the_methods_name_their_source_and_label_every_formula_and_identity() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    assert "Ziyu Ye, Chaoqi Wang, Zixin Ding and Yuxin Chen" in text
    for statement in ("Definition A.1", "Lemma A.1", "Corollary A.1", "Corollary A.2", "Remark A.1"):
        assert f"| {statement} |" in text
    listed = text.partition("## The identities T1–T20")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (T\d+) \|", listed, flags=re.MULTILINE) == [f"T{i}" for i in range(1, 21)]
    labels = [int(each) for each in re.findall(r"\(M(\d+)\)", text)]
    assert list(dict.fromkeys(labels)) == list(range(1, max(labels) + 1))
    sources = " ".join(path.read_text() for path in (ROOT / "fisher_cli/curvature/identities").glob("*.py"))
    verified = set(re.findall(r"^\| (T\d+) \|.*verify", listed, flags=re.MULTILINE))
    assert {each for each in re.findall(r'"[^"]*"', sources) for each in re.findall(r"\bT\d+\b", each)} == verified
