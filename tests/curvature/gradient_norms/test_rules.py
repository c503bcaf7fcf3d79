"""The rules of recurrent layers, embeddings by index, bags, and weights that are computed from parameters."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from fisher_cli.curvature.gradient_norms import engine
from fisher_cli.curvature.gradient_norms.call_recorder import recorded_calls
from fisher_cli.curvature.problem.problem import TensorData, pose
from fisher_cli.curvature.torch_backend.activation_checkpointing import blocks_of
from fisher_cli.curvature.traces.traces import sweep
from tests.cases import hash_of
from tests.long_lists import some
from tests.parts import Network, compare, compare_in_single_precision, draw

EXAMPLES, STEPS = 6, 5
Build = Callable[[], nn.Module]


def read_out(net: Network, x: Tensor) -> Tensor:
    """All outputs and all states of a recurrent layer, examples first."""
    steps = x.reshape(len(x), STEPS, 3)
    found, last = net.inner(steps if net.inner.batch_first else steps.transpose(0, 1))
    states = last if isinstance(last, tuple) else (last,)
    found = found.mean(1) if net.inner.batch_first else found.mean(0)
    return net.head(torch.cat([found, *(state.transpose(0, 1).flatten(1) for state in states)], 1))


def recurrent(kind: Callable[..., nn.RNNBase], **more: Any) -> nn.Module:
    layer = kind(3, 4, **more)
    directions, width = 1 + layer.bidirectional, layer.proj_size or layer.hidden_size
    states = layer.num_layers * directions * (width + (layer.hidden_size if isinstance(layer, nn.LSTM) else 0))
    return Network(read_out, inner=layer, head=nn.Linear(width * directions + states, 3))


def with_given_state(net: Network, x: Tensor) -> Tensor:
    """The first state is computed from the example."""
    h = torch.tanh(net.start(x)).reshape(1, len(x), 4)
    return net.head(net.inner(x.reshape(len(x), STEPS, 3), (h, h.sin()))[0].flatten(1))


def cells(net: Network, x: Tensor) -> Tensor:
    """Cells one after the other, whose weights are used at every step."""
    h, c, g, r = (x.new_zeros(len(x), 4) for _ in range(4))
    for step in x.reshape(len(x), STEPS, 3).unbind(1):
        h, c = net.lstm(step, (h, c))
        g, r = net.gru(h, g), net.rnn(torch.sin(c), r)
    return net.head(g + c * r)


def one_layer_twice(net: Network, x: Tensor) -> Tensor:
    steps = x.reshape(len(x), STEPS, 3)
    once, _ = net.inner(steps)
    return net.head(net.inner(once[:, :, :3].flip(1))[0][:, -1])


def windows_of_examples(net: Network, x: Tensor) -> Tensor:
    """Two sequences of each example, one behind the other in the batch."""
    steps = torch.cat([x, x.flip(1)], 1).reshape(2 * len(x), STEPS, 3)
    return net.head(net.inner(steps)[0].mean(1).reshape(len(x), 8))


def packed(net: Network, x: Tensor) -> Tensor:
    lengths = (x[:, 0].abs() * 10).long() % STEPS + 1
    steps = nn.utils.rnn.pack_padded_sequence(
        x.reshape(len(x), STEPS, 3), lengths, batch_first=True, enforce_sorted=False
    )
    return net.head(net.inner(steps)[1].squeeze(0))


RECURRENT: dict[str, tuple[Build, str]] = {
    "LSTM": (lambda: recurrent(nn.LSTM, batch_first=True), "lstm"),
    "LSTM, time first": (lambda: recurrent(nn.LSTM), "lstm"),
    "LSTM, deep, both ways": (lambda: recurrent(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True), "lstm"),
    "LSTM, projected": (lambda: recurrent(nn.LSTM, num_layers=2, proj_size=2, bidirectional=True), "lstm"),
    "LSTM, no bias": (lambda: recurrent(nn.LSTM, bias=False, dropout=0.3, num_layers=2), "lstm"),
    "LSTM, projected, no bias": (lambda: recurrent(nn.LSTM, bias=False, proj_size=3, batch_first=True), "lstm"),
    "GRU": (lambda: recurrent(nn.GRU, batch_first=True), "gru"),
    "GRU, deep, both ways": (lambda: recurrent(nn.GRU, num_layers=2, bidirectional=True), "gru"),
    "GRU, no bias": (lambda: recurrent(nn.GRU, bias=False), "gru"),
    "RNN": (lambda: recurrent(nn.RNN, num_layers=2, batch_first=True), "rnn"),
    "RNN, ReLU": (lambda: recurrent(nn.RNN, nonlinearity="relu", bidirectional=True), "rnn"),
    "given state": (
        lambda: Network(
            with_given_state,
            inner=nn.LSTM(3, 4, batch_first=True),
            start=nn.Linear(15, 4),
            head=nn.Linear(4 * STEPS, 3),
        ),
        "lstm",
    ),
    "one layer twice": (
        lambda: Network(one_layer_twice, inner=nn.GRU(3, 4, batch_first=True), head=nn.Linear(4, 3)),
        "gru ×2",
    ),
    "two sequences of an example": (
        lambda: Network(windows_of_examples, inner=nn.LSTM(3, 4, batch_first=True), head=nn.Linear(8, 3)),
        "lstm",
    ),
    "packed": (
        lambda: Network(packed, inner=nn.GRU(3, 4, batch_first=True), head=nn.Linear(4, 3)),
        "per-example",
    ),
}


def signals(name: str, build: Build) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(hash_of(name))
    network = build().double().eval()
    return settled(network), torch.randn(EXAMPLES, 3 * STEPS, dtype=torch.float64), torch.randint(0, 3, (EXAMPLES,))


def settled(network: nn.Module) -> nn.Module:
    """The network, with computed weights that hooks left among the attributes cut off: it can be copied then."""
    for module in network.modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                vars(module)[name] = value.detach()
    return network


@pytest.mark.parametrize(("name", "batch_size"), some(product(RECURRENT, [1, 3, 5]), part=0.4))
def test_recurrent_layers_equal_the_oracle_and_have_a_rule(name: str, batch_size: int) -> None:
    build, word = RECURRENT[name]
    words = compare(*signals(name, build), batch_size)
    for parameter, found in words.items():
        if parameter.startswith("inner."):
            assert found == ("linear" if "weight_hr" in parameter else word), parameter


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_are_right_in_single_precision(name: str) -> None:
    compare_in_single_precision(*signals(name, RECURRENT[name][0]), 4)


@pytest.mark.parametrize("name", RECURRENT)
def test_an_unrolled_layer_computes_what_torch_does(name: str) -> None:
    network, x, _ = signals(name, RECURRENT[name][0])
    expected = network(x)
    with recorded_calls(dict(network.named_parameters())):
        found = network(x)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)
    assert torch.equal(network(x), expected), "torch's own function was not put back"


def test_cells_equal_the_oracle_and_have_a_rule() -> None:
    parts = {"lstm": nn.LSTMCell(3, 4), "gru": nn.GRUCell(4, 4), "rnn": nn.RNNCell(4, 4), "head": nn.Linear(4, 3)}
    network, x, y = signals("cells", lambda: Network(cells, **parts))
    words = compare(network, x, y, 3)
    for kind in ("lstm", "gru", "rnn"):
        assert words[f"{kind}.weight_hh"] == words[f"{kind}.bias_ih"] == f"{kind} ×{STEPS}"


@pytest.mark.parametrize("frozen", ["inner.weight_ih_l0", "inner.weight_hh_l0", "inner.bias"])
def test_frozen_parts_of_a_recurrent_layer_are_left_out(frozen: str) -> None:
    network, x, y = signals("LSTM", RECURRENT["LSTM"][0])
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    words = compare(network, x, y, 3)
    assert words
    assert {word for name, word in words.items() if name.startswith("inner.")} == {"lstm"}


def turned(net: Network, x: Tensor) -> Tensor:
    """Weights that multiply from the right, as transformers' Conv1D does: over positions, with and without a bias."""
    y = torch.addmm(net.shift, x.reshape(-1, 3), net.first).reshape(len(x), STEPS, 4)
    return (torch.tanh(y) @ net.second).mean(1) + torch.mm(x, net.third) + x.matmul(net.third.sin())


def test_weights_that_multiply_from_the_right_have_the_rule_of_linear_layers() -> None:
    parts = {"shift": draw(4), "first": draw(3, 4), "second": draw(4, 3), "third": draw(15, 3)}
    network, x, y = signals("turned", lambda: Network(turned, **parts))
    assert compare(network, x, y, 3) == {
        "shift": "linear",
        "first": "linear",
        "second": "linear",
        "third": "linear + parametrized-linear ×2",
    }
    compare_in_single_precision(network, x, y, 4)


# --- embeddings ---------------------------------------------------------------------------------------------------


def rows_by_index(net: Network, ids: Tensor) -> Tensor:
    taken = net.table[ids].sum(1) + torch.index_select(net.other, 0, ids.reshape(-1)).reshape(len(ids), -1, 4).mean(1)
    taken = taken + net.numbers[ids].mean(1, keepdim=True)
    return net.head(torch.tanh(taken + net.table[-1 - ids[:, 0]] + net.wide[ids.T].sum((0, 3))))


def one_matrix_of_many(net: Network, ids: Tensor) -> Tensor:
    """A stack of matrices of which a number picks one, and a filter that is complex."""
    x = functional.linear(net.rows(ids).mean(1), net.stack[torch.tensor(1)])
    filtered = torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(net.filter), n=4)
    return net.head(torch.tanh(filtered))


def rows_of_a_scaled_table(net: Network, ids: Tensor) -> Tensor:
    return net.head(torch.tanh(functional.embedding(ids, net.table * net.scale).sum(1)))


def in_bags(net: Network, ids: Tensor) -> Tensor:
    made = [net.mean(ids), net.sum(ids), net.max(ids)]
    weights = (ids.double() + 1).to(net.head.weight.dtype).sin()
    made.append(functional.embedding_bag(ids, net.weighted, mode="sum", per_sample_weights=weights, padding_idx=-3))
    return net.head(torch.tanh(torch.stack(made).sum(0)))


def in_uneven_bags(net: Network, ids: Tensor) -> Tensor:
    """Bags of an example's first few ids, one of them empty, behind each other."""
    lengths = ids[:, 0] % 4
    chosen = torch.cat([row[:length] for row, length in zip(ids, lengths.tolist(), strict=True)])
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    uneven = functional.embedding_bag(chosen, net.table, starts, include_last_offset=True, mode="mean")
    return net.head(torch.tanh(uneven + functional.embedding_bag(chosen, net.other, starts[:-1], mode="max")))


EMBEDDINGS: dict[Callable[[Network, Tensor], Tensor], tuple[Callable[[], dict[str, Any]], dict[str, str]]] = {
    rows_by_index: (
        lambda: {
            "table": draw(6, 4),
            "other": draw(6, 4),
            "wide": draw(6, 4, 2),
            "numbers": draw(6),
            "head": nn.Linear(4, 3),
        },
        {"table": "embedding ×2", "other": "embedding", "wide": "embedding", "numbers": "embedding"},
    ),
    one_matrix_of_many: (
        lambda: {
            "rows": nn.Embedding(6, 4),
            "stack": draw(2, 4, 4),
            "filter": draw(3, 2),
            "head": nn.Linear(4, 3),
        },
        {"rows.weight": "embedding", "stack": "parametrized-linear", "filter": "per-example"},
    ),
    rows_of_a_scaled_table: (
        lambda: {"table": draw(6, 4), "scale": draw(6, 1), "head": nn.Linear(4, 3)},
        {"table": "parametrized-embedding", "scale": "parametrized-embedding"},
    ),
    in_bags: (
        lambda: {
            "mean": nn.EmbeddingBag(6, 4, padding_idx=2),
            "sum": nn.EmbeddingBag(6, 4, mode="sum"),
            "max": nn.EmbeddingBag(6, 4, mode="max"),
            "weighted": draw(6, 4),
            "head": nn.Linear(4, 3),
        },
        dict.fromkeys(["mean.weight", "sum.weight", "max.weight", "weighted"], "embedding-bag"),
    ),
    in_uneven_bags: (
        lambda: {"table": draw(6, 4), "other": draw(6, 4), "head": nn.Linear(4, 3)},
        {"table": "embedding-bag", "other": "embedding-bag"},
    ),
}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("body", EMBEDDINGS, ids=lambda body: body.__name__)
def test_embeddings_equal_the_oracle_and_have_a_rule(
    body: Callable[[Network, Tensor], Tensor], batch_size: int
) -> None:
    parts, words = EMBEDDINGS[body]
    torch.manual_seed(hash_of(body.__name__))
    network = Network(body, **parts()).double().eval()
    ids, y = torch.randint(0, 6, (EXAMPLES, 5)), torch.randint(0, 3, (EXAMPLES,))
    found = compare(network, ids, y, batch_size)
    assert {name: found[name] for name in words} == words
    compare_in_single_precision(network, ids, y, batch_size)


# --- weights computed from parameters -----------------------------------------------------------------------------


class Masked(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", (torch.rand(shape) > 0.4).double())

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask.to(weight.dtype)


class LowRank(nn.Module):
    """W + B A, as LoRA has it."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(draw(2, columns)), nn.Parameter(draw(rows, 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def parametrized(layer: nn.Module, parametrization: nn.Module) -> nn.Module:
    return torch.nn.utils.parametrize.register_parametrization(layer, "weight", parametrization)


def standardised(net: Network, x: Tensor) -> Tensor:
    """Weight standardisation (Qiao et al. 2019, arXiv:1903.10520) of a convolution."""
    w = net.conv.weight
    w = (w - w.mean((1, 2), keepdim=True)) / w.std((1, 2), keepdim=True)
    return net.head(torch.tanh(functional.conv1d(x.unsqueeze(1), w, net.conv.bias)).flatten(1))


def sliced(net: Network, x: Tensor) -> Tensor:
    """One tensor that holds three weights and a bias, and positions cut to length."""
    first, second, third = net.packed.split(4, 0)
    y = functional.linear(x, first, net.shift[0]) + functional.linear(x.sin(), second) + functional.linear(x, third)
    return net.head(torch.tanh(y.reshape(len(x), 2, 2) + net.positions[:, :2]).flatten(1) * torch.exp(net.gain))


def queries_of_others(net: Network, x: Tensor) -> Tensor:
    """Attention of one sequence to another one, whose packed projection is cut into parts."""
    return net.head(
        net.attention(x.reshape(len(x), 3, 5)[:, :, :4], *(x.reshape(len(x), 3, 5)[:, :, 1:],) * 2)[0].mean(1)
    )


def chained(*layers: nn.Module) -> Build:
    return lambda: nn.Sequential(*layers)


def made_of(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(15, 5), nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 3))


PARAMETRIZED: dict[str, tuple[Build, dict[str, str]]] = {
    "weight norm": (
        lambda: made_of(parametrizations.weight_norm(nn.Linear(5, 4))),
        {"2.parametrizations.weight.original0": "parametrized-linear"},
    ),
    "weight norm by a hook": (
        lambda: made_of(nn.utils.weight_norm(nn.Linear(5, 4))),
        {"2.weight_g": "parametrized-linear", "2.weight_v": "parametrized-linear", "2.bias": "linear"},
    ),
    "weight norm of a convolution": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (3, 5)),
            parametrizations.weight_norm(nn.Conv1d(3, 4, 3, padding=1), dim=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(20, 3),
        ),
        {"1.parametrizations.weight.original1": "parametrized-convolution"},
    ),
    "spectral norm": (
        lambda: made_of(parametrizations.spectral_norm(nn.Linear(5, 4))),
        {"2.parametrizations.weight.original": "parametrized-linear"},
    ),
    "orthogonal": (
        lambda: made_of(parametrizations.orthogonal(nn.Linear(5, 4))),
        {"2.parametrizations.weight.original": "parametrized-linear"},
    ),
    "masked": (
        lambda: made_of(parametrized(nn.Linear(5, 4), Masked((4, 5)))),
        {"2.parametrizations.weight.original": "parametrized-linear"},
    ),
    "low rank": (
        lambda: made_of(parametrized(nn.Linear(5, 4), LowRank(4, 5))),
        {"2.parametrizations.weight.0.up": "parametrized-linear"},
    ),
    "scaled by a number": (
        lambda: Network(
            lambda net, x: net.head(functional.linear(x, net.scale * net.weight)) * torch.exp(net.temperature),
            scale=draw(1)[0],
            weight=draw(4, 15),
            temperature=draw(1)[0],
            head=nn.Linear(4, 3),
        ),
        {
            "scale": "parametrized-linear",
            "weight": "parametrized-linear",
            "temperature": "parametrized-multiplied",
            "head.weight": "linear",
        },
    ),
    "standardised": (
        lambda: Network(standardised, conv=nn.Conv1d(1, 4, 3), head=nn.Linear(52, 3)),
        {"conv.weight": "parametrized-convolution", "conv.bias": "convolution"},
    ),
    "sliced": (
        lambda: Network(
            sliced,
            packed=draw(12, 15),
            shift=draw(2, 4),
            positions=draw(1, 5, 2),
            gain=draw(4),
            head=nn.Linear(4, 3),
        ),
        {
            "packed": "parametrized-linear ×3",
            "positions": "parametrized-added",
            "gain": "parametrized-multiplied",
            "head.weight": "linear",
        },
    ),
    "cross-attention": (
        lambda: Network(
            queries_of_others, attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3)
        ),
        {"attention.in_proj_weight": "parametrized-linear ×2"},
    ),
    "weight norm of a recurrent layer": (
        lambda: Network(
            lambda net, x: net.head(net.inner(x.reshape(len(x), STEPS, 3))[1].squeeze(0)),
            inner=nn.utils.weight_norm(nn.GRU(3, 4, batch_first=True), "weight_hh_l0"),
            head=nn.Linear(4, 3),
        ),
        {"inner.weight_hh_l0_g": "parametrized-gru", "inner.weight_ih_l0": "gru"},
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("batch_size", [3, 6])
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_weights_computed_from_parameters_equal_the_oracle_and_have_a_rule(name: str, batch_size: int) -> None:
    build, words = PARAMETRIZED[name]
    network, x, y = signals(name, build)
    found = compare(network, x, y, batch_size)
    assert {name: found[name] for name in words} == words


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_weights_computed_from_parameters_are_right_one_by_one_and_in_single_precision(name: str) -> None:
    network, x, y = signals(name, PARAMETRIZED[name][0])
    compare(network, x, y, 1)
    compare_in_single_precision(settled(network), x, y, 4)


def hypernetwork(net: Network, x: Tensor) -> Tensor:
    """Weights that depend on the example: no parametrization, and every example has its own."""
    made = [functional.linear(row, torch.tanh(net.maker(row)).reshape(4, 15)) for row in x]
    return net.head(torch.stack(made))


def test_weights_computed_from_an_example_are_no_parametrization() -> None:
    network, x, y = signals("hyper", lambda: Network(hypernetwork, maker=nn.Linear(15, 60), head=nn.Linear(4, 3)))
    for batch_size in (1, 3):
        assert "parametrized-linear" not in compare(network, x, y, batch_size).values()


# --- elsewhere ----------------------------------------------------------------------------------------------------

SOME = {
    "LSTM, projected": RECURRENT["LSTM, projected"][0],
    "GRU": RECURRENT["GRU"][0],
    "weight norm": PARAMETRIZED["weight norm"][0],
    "orthogonal": PARAMETRIZED["orthogonal"][0],
    "cross-attention": PARAMETRIZED["cross-attention"][0],
}


@pytest.mark.parametrize("name", SOME)
def test_blocks_that_go_forward_anew_give_the_same_traces_by_the_same_rules(name: str) -> None:
    layer, x, y = signals(name, SOME[name])
    network = nn.Sequential(nn.Sequential(layer, nn.Tanh()), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)))
    problem = pose(network.double(), TensorData(x, y), batch_size=3)
    again = replace(problem, blocks=blocks_of(network, x[:1]))
    assert again.blocks
    kept, anew = (sweep(each).trace.layers for each in (problem, again))
    assert [each.method for each in kept] == [each.method for each in anew]
    assert [each.true.value for each in anew] == pytest.approx([each.true.value for each in kept], rel=1e-13)


@pytest.mark.parametrize("name", SOME)
def test_devices_that_run_behind_get_the_same_norms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "runs_behind", lambda _device: True)
    compare(*signals(name, SOME[name]), 3)
