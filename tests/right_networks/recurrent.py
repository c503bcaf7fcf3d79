"""Recurrent networks: layers and cells, packed, stacked, projected, both ways, and loops of one's own."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.cases import Case, classes, normal

STEPS, WIDTH = 4, 3


def tokens() -> Tensor:
    """Four sequences of three to five ids, padded with zeros."""
    ids = torch.randint(1, 6, (4, 5))
    for row, length in enumerate((3, 5, 4, 5)):
        ids[row, length:] = 0
    return ids


class Layered(nn.Module):
    """A recurrent layer over (batch, steps, features), its last output into a head."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.layer.batch_first else x.transpose(0, 1)
        out = self.layer(x)[0]
        return self.head(out[:, -1] if self.layer.batch_first else out[-1])


class Initialised(nn.Module):
    """The first state is made of zeros in torch's own precision, or learned."""

    def __init__(self, kind: type[nn.RNNBase], *, learned: bool) -> None:
        super().__init__()
        self.layer, self.head = kind(2, WIDTH, batch_first=True), nn.Linear(WIDTH, 3)
        self.state = nn.Parameter(torch.randn(1, 1, WIDTH)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        if self.state is None:
            first = torch.zeros(1, len(x), WIDTH, dtype=x.dtype)
        else:
            first = self.state.expand(-1, len(x), -1).contiguous()
        given = (first, torch.zeros_like(first)) if isinstance(self.layer, nn.LSTM) else first
        return self.head(self.layer(x, given)[0].mean(1))


class Packed(nn.Module):
    """Padded sequences, packed by their lengths; the last output of each, or the last state."""

    def __init__(self, kind: type[nn.RNNBase], *, bidirectional: bool = False, last: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 3, padding_idx=0)
        self.layer = kind(3, WIDTH, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(WIDTH * (1 + bidirectional), 3)
        self.last = last

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids != 0).sum(1)
        packed = pack_padded_sequence(self.embed(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, state = self.layer(packed)
        if self.last:
            state = state[0] if isinstance(state, tuple) else state
            return self.head(state.transpose(0, 1).flatten(1))
        unpacked, _ = pad_packed_sequence(out, batch_first=True, total_length=ids.shape[1])
        return self.head(unpacked.sum(1) / lengths.unsqueeze(1))


class Cells(nn.Module):
    """A cell, stepped by a loop, with a layer norm of the state after each step."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.norm, self.head = cell, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        cells = x.new_zeros(len(x), WIDTH)
        for step in range(x.shape[1]):
            if isinstance(self.cell, nn.LSTMCell):
                state, cells = self.cell(x[:, step], (state, cells))
            else:
                state = self.cell(x[:, step], state)
            state = self.norm(state)
        return self.head(state)


class MinimalGate(nn.Module):
    """A gated unit of one's own: one linear layer used at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Linear(2 + WIDTH, WIDTH), nn.Linear(2 + WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), WIDTH)
        for step in range(x.shape[1]):
            both = torch.cat([x[:, step], state], 1)
            share = torch.sigmoid(self.gate(both))
            state = (1 - share) * state + share * torch.tanh(self.candidate(both))
        return self.head(state)


class Attending(nn.Module):
    """An encoder and a decoder cell that looks back at every state of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(2, WIDTH, batch_first=True), nn.GRUCell(WIDTH, WIDTH)
        self.query, self.head = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(2 * WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.encoder(x)
        state = last[0]
        for _ in range(2):
            weights = torch.softmax(torch.bmm(states, self.query(state).unsqueeze(2)), 1)
            context = (weights * states).sum(1)
            state = self.decoder(context, state)
        return self.head(torch.cat([state, context], 1))


class Diagonal(nn.Module):
    """A diagonal state space: its decay is a parameter's sigmoid, its states a sum of powers."""

    def __init__(self) -> None:
        super().__init__()
        self.inwards, self.outwards = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 3)
        self.decay = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        powers = torch.arange(x.shape[1] - 1, -1, -1).to(x).unsqueeze(1)
        return self.outwards((self.inwards(x) * torch.sigmoid(self.decay) ** powers).sum(1))


def layered(kind: type[nn.RNNBase], *, width: int = WIDTH, **options: object) -> Callable[[], nn.Module]:
    return lambda: Layered(kind(2, WIDTH, **options), width)


SEQUENCES = normal(4, STEPS, 2)

CASES = [
    Case("RNN", layered(nn.RNN, batch_first=True), SEQUENCES, classes(3, 4)),
    Case("RNN with ReLU, time first", layered(nn.RNN, nonlinearity="relu"), SEQUENCES, classes(3, 4)),
    Case("LSTM", layered(nn.LSTM, batch_first=True), SEQUENCES, classes(3, 4)),
    Case("LSTM, time first, without bias", layered(nn.LSTM, bias=False), SEQUENCES, classes(3, 4)),
    Case("LSTM of two layers, both ways", layered(nn.LSTM, width=2 * WIDTH, num_layers=2, bidirectional=True,
                                                  batch_first=True), SEQUENCES, classes(3, 4)),
    Case("LSTM, projected", layered(nn.LSTM, width=2, proj_size=2, batch_first=True), SEQUENCES, classes(3, 4)),
    Case("GRU, time first", layered(nn.GRU), SEQUENCES, classes(3, 4)),
    Case("GRU of two layers with dropout between", layered(nn.GRU, num_layers=2, dropout=0.3, batch_first=True),
         SEQUENCES, classes(3, 4)),
    Case("GRU both ways, one logit", lambda: nn.Sequential(Layered(nn.GRU(2, WIDTH, bidirectional=True), 2 * WIDTH),
                                                           nn.Linear(3, 1)), SEQUENCES, classes(2, 4), "sigmoid"),
    Case("GRU from zeros", lambda: Initialised(nn.GRU, learned=False), SEQUENCES, classes(3, 4)),
    Case("GRU from a learned state", lambda: Initialised(nn.GRU, learned=True), SEQUENCES, classes(3, 4)),
    Case("LSTM from a learned state", lambda: Initialised(nn.LSTM, learned=True), SEQUENCES, classes(3, 4)),
    Case("GRU of packed sequences", lambda: Packed(nn.GRU), tokens, classes(3, 4)),
    Case("LSTM of packed sequences, both ways", lambda: Packed(nn.LSTM, bidirectional=True), tokens, classes(3, 4)),
    Case("RNN of packed sequences, unpacked", lambda: Packed(nn.RNN, last=False), tokens, classes(3, 4)),
    Case("RNN cell", lambda: Cells(nn.RNNCell(2, WIDTH)), SEQUENCES, classes(3, 4)),
    Case("LSTM cell", lambda: Cells(nn.LSTMCell(2, WIDTH)), SEQUENCES, classes(3, 4)),
    Case("GRU cell", lambda: Cells(nn.GRUCell(2, WIDTH)), SEQUENCES, classes(3, 4)),
    Case("gated unit of one's own", MinimalGate, SEQUENCES, classes(3, 4)),
    Case("attending decoder", Attending, SEQUENCES, classes(3, 4)),
    Case("diagonal state space", Diagonal, SEQUENCES, classes(3, 4)),
]  # fmt: skip
