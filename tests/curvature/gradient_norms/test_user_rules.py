"""Rules that a user registers in the file of the network: found, used, held against autograd, refused where wrong."""

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fisher_cli.cli.app import app
from fisher_cli.curvature.gradient_norms import rules
from fisher_cli.curvature.gradient_norms.call_recorder import recorded_calls
from fisher_cli.curvature.gradient_norms.rules import registry
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.traces.traces import sweep
from fisher_cli.errors import ArchitectureError, VerificationError
from fisher_cli.inputs.user_code import import_factory
from tests.parts import compare, compare_in_single_precision

ROOT = Path(__file__).parents[3]
Imported = Callable[[str], nn.Module]

SNAKE = """
import torch
from torch import nn
from fisher_cli.curvature.gradient_norms.rules import OuterProducts, rule

def gradient(x, a):
    return x * torch.sin(2 * a * x) / a - torch.sin(a * x).square() / a**2

def activation(x, a):
    return x + torch.sin(a * x).square() / a
"""
RULE = """
def snake(arguments, x, cotangents):
    return {"a": cotangents * gradient(x, arguments["a"])}
"""
LAYER = """
class Snake(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.rand(5) + 0.5)

    def forward(self, x):
        return FORWARD

def make():
    return nn.Sequential(nn.Linear(4, 5), Snake(), nn.Linear(5, 3))
"""
FUNCTION = """
class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, x):
        ctx.save_for_backward(x, a)
        return activation(x, a)

    @staticmethod
    def backward(ctx, u):
        x, a = ctx.saved_tensors
        return (u * gradient(x, a)).sum(0), u * (1 + torch.sin(2 * a * x))
"""
SET_UP_APART = """
class Function(torch.autograd.Function):
    @staticmethod
    def forward(x, a):
        return activation(x, a)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, u):
        x, a = ctx.saved_tensors
        return u * (1 + torch.sin(2 * a * x)), (u * gradient(x, a)).sum(0)
"""


def file(forward: str, decorator: str, before: str = "", rule: str = RULE) -> str:
    return SNAKE + before + LAYER.replace("FORWARD", forward) + decorator + rule


FILES = {
    "a class of modules": file("activation(x, self.a)", '@rule(Snake, parameters=("a",))'),
    "a function": file("activation(x, self.a)", '@rule(activation, parameters=("a",))'),
    "an autograd function": file("Function.apply(self.a, x)", '@rule(Function, parameters=("a",))', FUNCTION),
    "an autograd function with its context apart": file(
        "Function.apply(x, self.a)",
        '@rule(Function, parameters=("a",))',
        SET_UP_APART,
    ),
}
TWO_INPUTS = """
import torch
from torch import nn
from fisher_cli.curvature.gradient_norms.rules import OuterProducts, rule

def product(first, second, weight):
    return (first * second) @ weight

class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.weight = nn.Linear(4, 5), nn.Linear(4, 5), nn.Parameter(torch.randn(5, 3))

    def forward(self, x):
        return product(self.left(x), second=self.right(x), weight=self.weight)

def both(arguments):
    return torch.stack([arguments["first"], arguments["second"]], 1)

@rule(product, parameters=("weight",), inputs=both, name="gated")
def of_product(arguments, inputs, cotangents):
    a = (inputs[:, 0] * inputs[:, 1])[:, None, :, None]
    return {"weight": OuterProducts(a, cotangents[:, :, None, :, None], transposed=True)}

make = Gated
"""


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Imported]:
    """What imports a file with a network and its rules, which are forgotten after the test."""
    before = copy.copy(registry.WATCHED)
    monkeypatch.chdir(tmp_path)

    def import_file(text: str) -> nn.Module:
        Path("net.py").write_text(text)
        network = import_factory("./net.py:make")[1]()
        assert isinstance(network, nn.Module)
        return network.double().eval()

    yield import_file
    registry.WATCHED.clear()
    registry.WATCHED.update(before)


def data(width: int = 4) -> TensorData:
    return TensorData(torch.randn(7, width, dtype=torch.float64), torch.randint(0, 3, (7,)))


@pytest.mark.parametrize("kind", FILES)
def test_a_rule_of_the_users_serves_what_it_names_and_has_the_oracles_numbers(kind: str, imported: Imported) -> None:
    network, few = imported(FILES[kind]), data()
    assert compare(network, few.inputs, few.labels, 3)["1.a"] == "snake"
    compare_in_single_precision(network, few.inputs, few.labels, 4)


def test_a_rule_may_need_several_inputs_and_give_factors(imported: Imported) -> None:
    network, few = imported(TWO_INPUTS), data()
    words = compare(network, few.inputs, few.labels, 3)
    assert words["weight"] == "gated"
    assert words["left.weight"] == "linear"


def test_a_rule_serves_several_rows_of_an_example(imported: Imported) -> None:
    network = imported(FILES["a class of modules"])
    windows = nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Flatten(0, 1), network, nn.Unflatten(0, (-1, 2)), nn.Flatten())
    few = data(8)
    assert compare(windows, few.inputs, few.labels, 3)["2.1.a"] == "snake"


def test_calls_for_which_a_rule_is_not_exact_go_through_per_example_gradients(imported: Imported) -> None:
    text = FILES["a function"].replace('("a",)', '("a",), exact=lambda arguments: len(arguments["a"]) > 5')
    few = data()
    assert compare(imported(text), few.inputs, few.labels, 3)["1.a"] == "per-example"


WRONG = {
    "a factor": ("cotangents * gradient", "1.01 * cotangents * gradient"),
    "a sign": ("cotangents * gradient", "-cotangents * gradient"),
    "the order of entries": (
        'cotangents * gradient(x, arguments["a"])',
        '(cotangents * gradient(x, arguments["a"])).flip(2)',
    ),
    "another example": ("cotangents * gradient", "cotangents.roll(1, 1) * gradient"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_rule_is_refused_by_its_name(fault: str, dtype: torch.dtype, imported: Imported) -> None:
    """By their norms, or where these are the same by the gradients themselves."""
    text = FILES["a class of modules"]
    assert text.count(WRONG[fault][0]) == 1
    network, few = imported(text.replace(*WRONG[fault])).to(dtype), data()
    with pytest.raises(VerificationError, match=r"parameter 1\.a.*the rule snake of net\.py is wrong"):
        sweep(pose(network, TensorData(few.inputs.to(dtype), few.labels)))


@pytest.mark.parametrize(
    ("original", "replacement", "said"),
    [
        ("cotangents * gradient", "unknown * gradient", "NameError"),
        ("cotangents * gradient", "cotangents.sum(1) * gradient", r"has shape \(2, 5\), \(2, 2, 5\) is wanted"),
        ('{"a":', '{"b":', "gives no gradient of a"),
    ],
)
def test_a_rule_that_fails_is_named(original: str, replacement: str, said: str, imported: Imported) -> None:
    network, few = imported(FILES["a function"].replace(original, replacement)), data()
    with pytest.raises(ArchitectureError, match=rf"the rule snake of net\.py failed \(.*{said}"):
        sweep(pose(network, few))


@pytest.mark.parametrize("function", [lambda x, a: x * a, "torch.nn.functional.relu"])
def test_what_cannot_be_watched_is_refused_where_it_is_registered(function: object) -> None:
    with pytest.raises(ValueError, match=r"no module has this function|needs an argument that is no parameter"):
        registry.rule(function, parameters=("input", "inplace"))(lambda *_: {})


@pytest.mark.parametrize("kind", FILES)
def test_what_is_watched_is_given_back(kind: str, imported: Imported) -> None:
    network, few = imported(FILES[kind]), data()
    place = next(place for place in registry.WATCHED if "net" in str(getattr(place[0], "__module__", place[0])))
    before = dict(vars(place[0]))
    with recorded_calls(dict(network.named_parameters())) as calls:
        assert getattr(*place) is not before.get(place[1])
        network(few.inputs)
    assert dict(vars(place[0])) == before
    assert [call.rule.name for call in calls] == ["linear", "snake", "linear"]


def test_the_command_takes_the_rules_of_the_model_file(imported: Imported) -> None:
    """The example of the documentation, as a person uses it, with the same numbers as without the rule."""
    section = (ROOT / "docs" / "architecture.md").read_text().partition("## To add a layer rule")[2]
    text = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    network = imported(text)
    torch.save(network.state_dict(), "weights.pt")
    rows = []
    for name in ("net", "without"):
        Path(f"{name}.py").write_text(text.replace("@rule(", "(lambda *_, **__: lambda f: f)(") if rows else text)
        words = ("--model", f"./{name}.py:make", "--data", "digits", "--limit", "20", "--eigenvalues", "0")
        found = CliRunner().invoke(app, ["analyze", "weights.pt", *words, "-o", f"{name}.csv"])
        assert found.exit_code == 0, found.stderr
        rows.append(pd.read_csv(f"{name}.layers.csv").set_index("layer").loc["2.weight"])
        registry.WATCHED.pop((nn.functional, "prelu"), None)
    assert [row["method"] for row in rows] == ["prelu", "per-example"]
    assert rows[0]["trace_true"] == pytest.approx(rows[1]["trace_true"], rel=1e-5)


def test_every_module_of_rules_is_found_and_has_one() -> None:
    found = {each.rule.contributions.__module__ for each in (*registry.WATCHED.values(), *registry.OPERATORS.values())}
    found |= {each.__module__ for each in registry.DECOMPOSITIONS.values()}
    (folder,) = rules.__path__
    names = {path.stem for path in Path(folder).glob("*.py")} - {"__init__", "registry"}
    assert {f"{rules.__name__}.{name}" for name in names} == found
