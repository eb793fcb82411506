"""Recurrent networks: those of torch.nn, cells in a loop, and states that are inputs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from zoo_case import Axis, Input, case, f32, i64

SERIES = f32("x", "batch", "steps", 8)


@case("rnn", SERIES)
class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


@case("rnn", f32("x", "steps", "batch", 8))
class LstmTimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, num_layers=2)

    def forward(self, x):
        y, (h, c) = self.rnn(x)
        return y, h, c


@case("rnn", SERIES)
class BidirectionalLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 12, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.rnn(x)[0]).log_softmax(-1)


@case("rnn", SERIES)
class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True)

    def forward(self, x):
        y, h = self.rnn(x)
        return y, h


@case("rnn", SERIES)
class BidirectionalGruLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 16, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.rnn(x)[1].transpose(0, 1).flatten(1)


@case("rnn", SERIES)
class ElmanRnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(8, 16, nonlinearity="relu", batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


@case("rnn", SERIES, f32("h", 1, "batch", 16), f32("c", 1, "batch", 16))
class LstmWithState(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x, h, c):
        y, (h, c) = self.rnn(x, (h, c))
        return y, h, c


@case("rnn", SERIES, f32("h", 2, "batch", 16))
class GruWithState(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(8, 16, num_layers=2, batch_first=True)

    def forward(self, x, h):
        return self.rnn(x, h)


@case("rnn", SERIES, f32("state.0", 1, "batch", 16), f32("state.1", 1, "batch", 16))
class LstmWithNestedState(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x, state):
        y, state = self.rnn(x, state)
        return {"y": y, "state": state}


@case("rnn", SERIES)
class LstmProjected(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, proj_size=6, batch_first=True)

    def forward(self, x):
        return self.rnn(x)[0]


@case("rnn", f32("x", "batch", 8), f32("h", "batch", 16))
class GruCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(8, 16)

    def forward(self, x, h):
        return self.cell(x, h)


@case("rnn", SERIES)
class LstmCellInALoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(8, 16)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[0], 16)
        found = []
        for step in range(x.size(1)):
            h, c = self.cell(x[:, step], (h, c))
            found.append(h)
        return torch.stack(found, dim=1)


@case("rnn", f32("x", "batch", 6, 8))
class GruCellOverSixSteps(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(8, 16)

    def forward(self, x):
        h = torch.zeros(len(x), 16)
        for part in x.unbind(1):
            h = self.cell(part, h)
        return h


@case("rnn", i64("ids", "batch", "steps", below=50), i64("lengths", "batch", below=4, least=1))
class PackedLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.rnn = nn.LSTM(8, 16, batch_first=True)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=ids.shape[1])
        return y.sum(1)


@case("rnn", f32("picture", "batch", 1, 16, "width"), axes=(Axis("width", 16, 32, 72, 4),))
class Crnn(nn.Module):
    """Reads a line of text: convolutions, then an LSTM over columns, then CTC's logits."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.MaxPool2d(2)
        )
        self.rnn = nn.LSTM(48, 16, bidirectional=True)
        self.head = nn.Linear(32, 11)

    def forward(self, picture):
        x = self.features(picture)
        x = x.flatten(1, 2).permute(2, 0, 1)
        return self.head(self.rnn(x)[0]).log_softmax(2)


@case("rnn", SERIES)
class LinearRecurrence(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.rand(8))

    def forward(self, x):
        state, found = torch.zeros_like(x[:, 0]), []
        for step in range(x.shape[1]):
            state = self.decay * state + x[:, step]
            found.append(state)
        return torch.stack(found, 1)


@case("rnn", i64("source", "batch", "steps", below=40))
class GreedySequenceToSequence(nn.Module):
    """Encodes a sequence, and writes five tokens, each fed back."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 12)
        self.encoder = nn.GRU(12, 12, batch_first=True)
        self.cell = nn.GRUCell(12, 12)
        self.head = nn.Linear(12, 40)

    def forward(self, source):
        _, h = self.encoder(self.embedding(source))
        h, token = h[0], torch.zeros(source.shape[0], dtype=torch.long)
        logits = []
        for _ in range(5):
            h = self.cell(self.embedding(token), h)
            logits.append(self.head(h))
            token = logits[-1].argmax(-1)
        return torch.stack(logits, 1), token


@case("rnn", Input("x", "float32", ("batch", "steps", 4)))
class BeatTracker(nn.Module):
    """A state of the module that is set in forward and read after: the same at each call."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 8, batch_first=True)
        self.hidden = None

    def forward(self, x):
        self.hidden = torch.zeros(1, x.size(0), 8)
        y, self.hidden = self.rnn(x, self.hidden)
        return y.tanh(), self.hidden.squeeze(0)
