"""Tiny networks by name, as a user's file would hold them: some that export well, and some that may not."""

import math

import torch
from torch import nn
from torch.nn import functional as F

import torchlift as tl

BATCH, EVENTS = tl.Axis("batch", 1, 3, 6), tl.Axis("events", 1, 4, 9)
ROW = tl.TensorSpec("x", "float32", ("batch", 4))
SEQUENCE = tl.TensorSpec("x", "float32", ("batch", "events"))
IMAGE = tl.TensorSpec("x", "float32", ("batch", 2, "height", "width"))
FACTOR = tl.TensorSpec("factor", "int64", (1,), bounds=(2, 9))
ON_ROWS = {"inputs": [ROW], "outputs": ["y"], "axes": [BATCH]}
ON_SEQUENCES = {"inputs": [SEQUENCE], "outputs": ["y"], "axes": [BATCH, EVENTS]}
ON_IMAGES = {
    "inputs": [IMAGE],
    "outputs": ["y"],
    "axes": [BATCH, tl.Axis("height", 8, 9, 12), tl.Axis("width", 8, 9, 12)],
}
WITH_FACTOR = {"inputs": [ROW, FACTOR], "outputs": ["y"], "axes": [BATCH]}


class Events(nn.Module):
    """Ids and ratings of events to logits [B, L, 3] and a mean [B, 16], with a normalisation and attention."""

    def __init__(self):
        super().__init__()
        self.items = nn.Embedding(50, 16)
        self.rate = nn.Linear(1, 16)
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, 3)

    def forward(self, ids, ratings):
        events = F.gelu(self.norm(self.items(ids) + self.rate(ratings.unsqueeze(-1))))
        heads = events.unflatten(-1, (2, 8)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return self.out(mixed), mixed.mean(1)


@tl.module(
    inputs=[
        tl.TensorSpec("ids", "int64", ("batch", "events"), bounds=(0, 50)),
        tl.TensorSpec("ratings", "float32", ("batch", "events")),
    ],
    outputs=["logits", "mean"],
    axes=[BATCH, EVENTS],
)
def events():
    return Events()


@tl.module(**ON_ROWS)
def tiny():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


@tl.module(**ON_ROWS)
def in_training():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    for _ in range(20):
        network(5 + 3 * torch.randn(16, 4))
    assert network.training
    return network


class Function(nn.Module):
    """A module without weights, from what its forward does."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def forward(self, x):
        return self._function(x)


class WithFactor(nn.Module):
    def __init__(self, function):
        super().__init__()
        self._function = function

    def forward(self, x, factor):
        return self._function(x, factor)


@tl.module(**WITH_FACTOR)
def factor_used():
    return WithFactor(lambda x, factor: x * factor)


@tl.module(**WITH_FACTOR)
def factor_as_number():
    return WithFactor(lambda x, factor: x * int(factor.item()))


@tl.module(**WITH_FACTOR)
def factor_ignored():
    return WithFactor(lambda x, factor: x * 2.0)


@tl.module(inputs=[tl.TensorSpec("x", "float32", ("batch", "events", 8))], outputs=["y"], axes=[BATCH, EVENTS])
def size_as_number():
    def flat(x):
        size = int(x.shape[1])
        return (2 * x[:, :size]).reshape(-1, size * 8)

    return Function(flat)


@tl.module(**ON_SEQUENCES)
def positions_as_numbers():
    table = torch.linspace(1, 2, 9)
    return Function(lambda x: x * table[: len(x[0])])


@tl.module(**ON_IMAGES)
def fixed_pool():
    return Function(lambda x: F.avg_pool2d(x, (int(x.shape[2]), int(x.shape[3]))).flatten(1))


@tl.module(**ON_IMAGES)
def patches_as_numbers():
    """As MobileViT cuts its feature map: into as many patches as Python rounds up to."""

    def patches(x):
        batch, channels, height, width = x.shape
        rows, columns = (int(math.ceil(size / 2)) for size in (height, width))  # noqa: RUF046 (of a symbol it is not)
        x = F.interpolate(x, size=(2 * rows, 2 * columns), mode="bilinear")
        x = x.reshape(batch * channels * rows, 2, columns, 2).transpose(1, 2)
        return x.reshape(batch, channels, rows * columns, 4).amax(2).flatten(1)

    return Function(patches)


@tl.module(**ON_SEQUENCES)
def branch_on_a_size():
    return Function(lambda x: x * 2 if x.shape[1] > 4 else x * 3)


@tl.module(**ON_SEQUENCES)
def branch_on_a_value():
    return Function(lambda x: x * 2 if x.sum() > 0 else x * 3)


@tl.module(**ON_ROWS)
def random():
    return Function(lambda x: x + torch.rand_like(x))


@tl.module(**ON_ROWS)
def silent():
    return Function(lambda x: x * 0)


@tl.module(**ON_ROWS)
def broken_weights():
    network = nn.Linear(4, 2)
    network.weight.data[1, 2] = math.nan
    return network


@tl.module(**ON_ROWS)
def writes_into_its_input():
    return Function(lambda x: x.add_(1) * 2)


@tl.module(**ON_ROWS)
def without_an_onnx_operator():
    return Function(lambda x: torch.special.bessel_j0(x))


@tl.module(**ON_SEQUENCES)
def doubled():
    """Its output is twice as long as its input."""
    return Function(lambda x: torch.cat([x, 2 * x], 1))


@tl.module(inputs=[ROW], outputs=["y"], axes=[tl.Axis("batch", 1, 1, 2)])
def two_sizes():
    return nn.Linear(4, 3)


class Scaled(nn.Module):
    """Rows times a factor, and the factor's square: a number without dimensions goes in, another comes out."""

    def forward(self, x, factor):
        return x * factor, factor * factor


@tl.module(inputs=[ROW, tl.TensorSpec("factor", "float32", (), bounds=(1, 3))], outputs=["y", "square"], axes=[BATCH])
def scaled():
    return Scaled()


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(6, 4)

    def forward(self, x):
        return x.unsqueeze(-1) + self.table(torch.arange(x.shape[1]))


@tl.module(**ON_SEQUENCES)
def six_positions():
    """Its table is shorter than the axis may be."""
    return Positions()


@tl.module(inputs=[IMAGE], outputs=["y"], axes=[BATCH, tl.Axis("height", 2, 9, 12), tl.Axis("width", 9, 9, 9)])
def deep_pooling():
    """Its pictures must be four pixels high."""
    return nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2))


@tl.module(**ON_SEQUENCES)
def first_six():
    """Its output follows the axis only up to six."""
    return Function(lambda x: 2 * x[:, :6])


STEPS = {
    "inputs": [tl.TensorSpec("x", "float32", ("batch", "steps", 4))],
    "outputs": ["y"],
    "axes": [tl.Axis("batch", 1, 2, 4), tl.Axis("steps", 1, 3, 8)],
}


class OverTime(nn.Module):
    """A cell in a loop over the steps."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(8, 4)

    def forward(self, x):
        state = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            state = torch.tanh(self.cell(torch.cat([x[:, step], state], 1)))
        return state


class Branch(nn.Module):
    """A branch on a value, of which each side has layers of its own."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        if x.sum() > 0:
            return self.up(x)
        return self.down(x)


class Rare(nn.Module):
    """A branch that ordinary inputs do not take."""

    def forward(self, x):
        y = x * 2
        if x.sum() > 1e3:
            return y + 1
        return y


@tl.module(**STEPS)
def a_loop_over_a_size():
    return OverTime()


@tl.module(**STEPS)
def branch_in_code():
    return Branch()


@tl.module(**STEPS)
def branch_that_no_golden_takes():
    return Rare()


class Windows(nn.Module):
    """Fills the steps up to a multiple of 8, where they are none."""

    def forward(self, x):
        if x.shape[1] % 8:
            x = F.pad(x, (0, 0, 0, 8 - x.shape[1] % 8))
        return 2 * x


class Square(nn.Module):
    """Another answer where two sizes are equal."""

    def forward(self, x, z):
        y = x.sum((1, 2)) + z.sum((1, 2))
        return y * 10 if x.shape[1] == z.shape[1] else y


class KeptPositions(nn.Module):
    """Positions that are kept from call to call, and made anew where the number of steps is another."""

    def __init__(self):
        super().__init__()
        self.positions = torch.zeros(1)

    def forward(self, x):
        if self.positions.shape[0] != x.shape[1]:
            self.positions = torch.arange(x.shape[1]).float()
        return x + self.positions[:, None]


class PartlyScripted(nn.Module):
    """A branch on a value around a layer that is scripted."""

    def __init__(self):
        super().__init__()
        self.layer = torch.jit.script(nn.Linear(4, 4))

    def forward(self, x):
        y = self.layer(x)
        return y * 10 if x.mean() > 0.9 else y


class Rescaled(nn.Module):
    """Frames by a factor that rounds otherwise at some sizes."""

    def forward(self, x):
        return F.interpolate(x.transpose(1, 2), scale_factor=1.3, mode="nearest")


LONG = {
    "inputs": [tl.TensorSpec("x", "float32", ("batch", "steps", 4))],
    "outputs": ["y"],
    "axes": [tl.Axis("batch", 1, 2, 4), tl.Axis("steps", 2, 20, 100)],
}


@tl.module(**LONG)
def windows():
    return Windows()


@tl.module(
    inputs=[
        tl.TensorSpec("x", "float32", ("batch", "steps", 4)),
        tl.TensorSpec("z", "float32", ("batch", "others", 4)),
    ],
    outputs=["y"],
    axes=[tl.Axis("batch", 2, 3, 4), tl.Axis("steps", 2, 20, 90), tl.Axis("others", 3, 30, 80)],
)
def square():
    return Square()


@tl.module(**LONG)
def kept_positions():
    return KeptPositions()


@tl.module(**LONG)
def partly_scripted():
    return PartlyScripted()


@tl.module(inputs=LONG["inputs"], outputs=["y"], axes=[tl.Axis("batch", 1, 2, 4), tl.Axis("steps", 10, 20, 100)])
def rescaled():
    return Rescaled()
