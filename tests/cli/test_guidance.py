"""What helps somebody who begins: five lines, short helps, examples, the next command, completion, and a question."""

import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from fisher_cli.cli import completion
from fisher_cli.cli.app import app
from fisher_cli.cli.help_format import RARE
from fisher_cli.inputs.data.catalogue import known_datasets
from fisher_cli.inputs.networks.cifar_resnets import cifar_resnet
from fisher_cli.inputs.networks.families import BUILT_IN
from fisher_cli.inputs.networks.torchvision_models import INDEX
from fisher_cli.reports.console import Console
from fisher_cli.settings import PRESETS
from tests.command import error_line, fisher
from tests.small_run import QUICK, write_checkpoints

pytestmark = pytest.mark.usefixtures("workdir")
COMMANDS = ["analyze", "spectrum", "examples", "verify", "inspect", "report", "plot", "check", "merge", "demo"]
COMPARISONS = ["compare true-vs-empirical", "compare checkpoints"]


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_fisher_alone_shows_five_commands_to_begin_with() -> None:
    lines = fisher(code=2).stdout.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("fisher ") and len(line) <= 80 for line in lines)
    for line in lines[:-1]:
        fisher(line.split()[1], "--help")


@pytest.mark.parametrize("words", [*COMMANDS, *COMPARISONS])
def test_the_help_of_a_command_is_shorter_than_sixty_lines(words: str) -> None:
    shown = fisher(*words.split(), "--help").stdout.splitlines()
    assert len(shown) < 60
    assert max(map(len, shown)) <= 80


def test_help_all_adds_the_options_that_the_help_leaves_out() -> None:
    usual, everything = (fisher("analyze", option).stdout for option in ("--help", "--help-all"))
    for option in ("--data", "--limit", "--model", "--eigenvalues", "--output", "--help-all"):
        assert option in usual, option
    for option in ("--normalize", "--state-key", "--dtype", "--shard", "--resume", "--debug"):
        assert f"{option} " not in usual, option
        assert f"{option} " in everything, option
    assert len(everything.splitlines()) > len(usual.splitlines()) + 60
    assert fisher("analyze", "--help").stdout == usual, "one help changes the next one"


def test_every_rare_option_is_one_of_some_command() -> None:
    import typer

    commands = typer.main.get_command(app)
    found = {each.name for command in commands.commands.values() for each in command.params}  # type: ignore[attr-defined]
    found |= {each.name for command in commands.commands["compare"].commands.values() for each in command.params}  # type: ignore[attr-defined]
    assert found >= RARE


@pytest.mark.parametrize("words", ["analyze", "compare true-vs-empirical", "compare checkpoints a.pt", "merge a.csv"])
def test_a_missing_word_is_answered_with_an_example(words: str) -> None:
    said = error_line(fisher(*words.split(), code=2))
    assert said.startswith("missing ")
    assert f"; for example: fisher {' '.join(words.split()[:2] if 'compare' in words else words.split()[:1])} " in said


@pytest.fixture
def cifar() -> Path:
    Path("ckpts").mkdir()
    for step in (0, 10, 20):
        torch.manual_seed(step)
        torch.save(cifar_resnet("resnet20-cifar").state_dict(), f"ckpts/step_{step}.pt")
    return Path("ckpts")


def test_a_network_that_the_digits_do_not_fit_gets_a_question(cifar: Path) -> None:
    result = fisher("analyze", cifar, code=2)
    assert error_line(result).startswith("which data? without --data fisher takes digits, which do not fit step_0.pt: ")
    assert "for example --data cifar10 or --data folder:DIR" in error_line(result)
    assert result.stderr.count("step_0.pt: failed") == 1
    assert "step_10.pt" not in result.stderr
    assert result.stdout == ""


def test_who_names_the_digits_gets_rows_that_say_why(cifar: Path) -> None:
    said = error_line(fisher("analyze", cifar, "--data", "digits", "--limit", 4, code=1))
    assert said.startswith("none of the 3 checkpoints could be analysed: the network does not accept inputs of shape")
    assert said.endswith("check --model and --data, or give images another size with --resize HxW")


def test_another_number_of_classes_gets_the_question_too() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))
    torch.save(network.state_dict(), "seven.pt")
    Path("net.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))"
    )
    said = error_line(fisher("analyze", "seven.pt", "--model", "./net.py:make", code=2))
    assert "it has 7 outputs, and digits has 10 classes" in said


def following(monkeypatch: pytest.MonkeyPatch, words: Sequence[object]) -> str | None:
    """What is proposed after a command whose stderr a person looks at."""
    proposed: list[str] = []
    monkeypatch.setattr(Console, "next_step", lambda _, command: proposed.append(command))
    monkeypatch.setattr(sys, "argv", ["fisher", *map(str, words)])
    fisher(*words)
    assert len(proposed) <= 1
    return proposed[0] if proposed else None


def test_each_command_ends_with_one_that_can_be_typed_next(monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoints(2)
    first = following(monkeypatch, ["analyze", "ckpts", *QUICK])
    assert first == "fisher analyze ckpts --limit 8 --eigenvalues 1 --model ./net.py:make -o trend.csv"
    comparison = following(monkeypatch, ["compare", "checkpoints", "ckpts/step_0.pt", "ckpts/step_1.pt", *QUICK[4:]])
    assert comparison is not None
    for words in (
        ["inspect", "ckpts", *QUICK[4:]],
        ["analyze", "ckpts", *QUICK, "--dry-run"],
        ["examples", "ckpts", "--limit", "8", *QUICK[4:], "-o", "other.csv"],
    ):
        proposed = following(monkeypatch, words)
        assert proposed is not None
        assert proposed.startswith("fisher analyze ckpts "), words
    page = following(monkeypatch, first.split()[1:])
    assert page == "fisher report trend.csv"
    assert following(monkeypatch, first.split()[1:]) == page, "a run that was finished before"
    assert following(monkeypatch, ["check", "trend.csv"]) == page
    figure = following(monkeypatch, page.split()[1:])
    assert figure == "fisher plot trend.csv --what ratio"
    assert following(monkeypatch, figure.split()[1:]) == page
    assert following(monkeypatch, ["datasets"]) == "fisher analyze CHECKPOINTS --data NAME -o trend.csv"
    assert following(monkeypatch, ["analyze", "ckpts", *QUICK, "-o", "-"]) is None


def test_the_next_command_is_said_to_a_person_alone() -> None:
    for stderr, quiet, said in (
        (Terminal(), False, "next: fisher report t.csv\n"),
        (Terminal(), True, ""),
        (io.StringIO(), False, ""),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NO_COLOR", "1")
            patch.setenv("TERM", "dumb")
            Console(quiet=quiet, stdout=io.StringIO(), stderr=stderr, width=12).next_step("fisher report t.csv")
        assert stderr.getvalue() == said


def completed(*words: str) -> list[str]:
    """What the shell proposes for the last of the words."""
    line = {"COMP_WORDS": " ".join(("fisher", *words)), "COMP_CWORD": str(len(words))}
    return fisher(_FISHER_COMPLETE="complete_bash", **line).stdout.splitlines()


def test_the_shell_proposes_models_data_and_presets() -> None:
    assert "resnet18" in completed("analyze", "--model", "resnet1")
    assert completed("analyze", "--preset", "ye") == ["ye2022"]
    assert completed("analyze", "--data", "cifar") == ["cifar10", "cifar100"]
    assert completed("plot", "--what", "ra") == ["ratio"]
    assert completed("anal") == ["analyze"]
    assert set(completed("analyze", "--preset", "")) == set(PRESETS)
    built_in = {name for family in BUILT_IN for name in family.names()}
    assert set(completion.models("")) == built_in.union(*INDEX.values())
    assert set(completion.data("")) == {*known_datasets(), "folder:", "hf:"}


def test_the_shell_proposes_files_that_may_hold_data_or_a_network() -> None:
    Path("pictures/train").mkdir(parents=True)
    for name in ("arrays.npz", "net.py", "notes.txt", ".hidden.npz"):
        Path(name).touch()
    assert completion.data("a") == ["arrays.npz"]
    assert completion.data("folder:p") == ["folder:pictures/"]
    assert completion.data("folder:pictures/") == ["folder:pictures/train/"]
    assert completion.models("./n") == ["./net.py"]
    assert completion.data("nowhere/") == []
    assert "notes.txt" not in completion.data("n")


SLOW = ("torchvision", "torch._dynamo", "sympy", "triton", "pandas", "pyarrow", "matplotlib", "transformers")
FIRST_MESSAGE = f"""
import sys
from fisher_cli.cli.app import main
from fisher_cli.reports.console import Console
def message(self, text, style=""):
    print("imported:", [name for name in {SLOW} if name in sys.modules], file=sys.__stdout__)
    raise SystemExit(0)
Console.message = message
sys.argv = ["fisher", "analyze", "ckpts", "--limit", "8", "--model", "./net.py:make"]
main()
"""


def test_a_run_says_its_first_line_before_it_imports_what_takes_long() -> None:
    write_checkpoints(1)
    done = subprocess.run([sys.executable, "-c", FIRST_MESSAGE], capture_output=True, text=True, check=True)
    assert done.stdout == "imported: []\n", done.stderr


@pytest.mark.parametrize(("words", "code"), [("models", 0), ("models --frobnicate", 2), ("check nothing.csv", 1)])
def test_a_process_that_ends_at_once_has_said_everything_and_keeps_its_exit_code(words: str, code: int) -> None:
    command = [sys.executable, "-m", "fisher_cli", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert (done.stdout.splitlines() == completion.MODELS.split()) is (code == 0)
    assert done.stderr.endswith("\n")


def test_a_full_disk_is_an_error_of_a_process_that_ends_at_once() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fisher_cli", "models"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "no space left on device" in done.stderr.lower()
