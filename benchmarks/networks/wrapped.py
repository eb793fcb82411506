"""Modules that are more than a module: scripted, traced, compiled, in parallel, quantised, in other dtypes, hooked."""

from __future__ import annotations

import functools

import torch
import torch.ao.quantization as quantization
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from zoo_case import ZOO, case, f32, i64

ROWS = f32("x", "batch", 8)
PICTURE = f32("x", "batch", 3, "height", "width")


class Small(nn.Module):
    """Two layers and a choice by size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x).relu())


class Branches(nn.Module):
    """A branch on a value, for scripting."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        if bool(y.sum() > 0):
            y = y * 2
        else:
            y = y - 1
        return y


class Loops(nn.Module):
    """A loop over a varying size, for scripting."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.zeros(x.size(0), 6)
        for step in range(x.size(1)):
            h = self.cell(x[:, step], h)
        return h


SERIES = f32("x", "batch", "steps", 8)
ZOO.add("wrapped", "scripted", lambda: torch.jit.script(Small().eval()), ROWS)
ZOO.add("wrapped", "scripted-branch", lambda: torch.jit.script(Branches().eval()), f32("x", "rows", 8))
ZOO.add("wrapped", "scripted-loop", lambda: torch.jit.script(Loops().eval()), SERIES)
ZOO.add("wrapped", "traced", lambda: torch.jit.trace(Small().eval(), torch.zeros(2, 8)), ROWS)
ZOO.add("wrapped", "frozen-script", lambda: torch.jit.freeze(torch.jit.script(Small().eval())), ROWS)
ZOO.add("wrapped", "compiled", lambda: torch.compile(Small().eval(), backend="eager"), ROWS)
ZOO.add("wrapped", "data-parallel", lambda: nn.DataParallel(Small()).eval(), ROWS)
ZOO.add("wrapped", "exported-program", lambda: _program().module(), ROWS)
ZOO.add("wrapped", "symbolic-trace", lambda: torch.fx.symbolic_trace(Small().eval()), ROWS)


def _program() -> torch.export.ExportedProgram:
    dims = ({0: torch.export.Dim("batch", min=1, max=64)},)
    return torch.export.export(Small().eval(), (torch.zeros(3, 8),), dynamic_shapes=dims)


@case("wrapped", SERIES)
class PartlyScripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.loops, self.head = torch.jit.script(Loops()), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.loops(x))


@case("wrapped", ROWS)
class PartlyCompiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = torch.compile(Small(), backend="eager"), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.body(x))


@case("wrapped", ROWS)
class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Small()

    def forward(self, x):
        return checkpoint(self.body, x, use_reentrant=False)


@case("wrapped", ROWS)
def hooked():
    network = Small()
    network.a.register_forward_hook(lambda module, given, answer: answer * 1.5 + 0.1)
    network.register_forward_pre_hook(lambda module, given: (given[0] - 0.2,))
    return network


@case("wrapped", ROWS)
class UnderNoGrad(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Small()

    @torch.no_grad()
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.body(x)


@case("wrapped", ROWS)
class GradientInside(nn.Module):
    """An energy model: the answer is a gradient."""

    def __init__(self):
        super().__init__()
        self.body = Small()

    def forward(self, x):
        return torch.func.grad(lambda t: self.body(t).square().sum())(x)


@case("wrapped", ROWS)
class MappedOverRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Small()

    def forward(self, x):
        return torch.vmap(lambda row: self.body(row) * row.sum())(x)


class Clamp(torch.autograd.Function):
    """A function with a gradient of its own."""

    @staticmethod
    def forward(context, x):
        """Rounds to quarters."""
        return (x * 4).round() / 4

    @staticmethod
    def backward(context, gradient):
        """Passes the gradient."""
        return gradient


@case("wrapped", ROWS)
class OwnAutogradFunction(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x):
        return Clamp.apply(self.a(x))


@case("wrapped", f32("x", "batch", 1, 12, 12))
class LazyLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
        self.net(torch.zeros(1, 1, 12, 12))

    def forward(self, x):
        return self.net(x)


@case("wrapped", ROWS)
class SparseBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mix", (torch.rand(8, 8) * (torch.rand(8, 8) > 0.6)).to_sparse())

    def forward(self, x):
        return torch.sparse.mm(self.mix, x.t()).t()


@case("wrapped", ROWS)
class ComplexParameter(nn.Module):
    """A diagonal state space, as in S4: complex weights inside, real outside."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.complex(torch.rand(8), torch.rand(8)))

    def forward(self, x):
        powers = self.a[None] ** torch.arange(4)[:, None]
        return (x[:, None].to(torch.cfloat) * powers).real.sum(1)


@case("wrapped", ROWS)
class FunctionsAsLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.act = functools.partial(F.gelu, approximate="tanh")

    def forward(self, x):
        return functools.reduce(lambda y, layer: self.act(layer(y)), [self.a, self.b, self.a], x)


@case("dtypes", ROWS)
class HalfInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16).half(), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(self.a(x.half()).float().relu())


@case("dtypes", ROWS)
class Bfloat16Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x):
        return (self.a(x).to(torch.bfloat16) * 3).float()


@case("dtypes", ROWS)
class AutocastInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.a(x)
        return y.float()


@case("dtypes", ROWS)
class DoubleInside(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 4).double()

    def forward(self, x):
        return torch.linalg.norm(self.a(x.double()), dim=-1).float()


@case("dtypes", i64("ids", "batch", 6, below=30))
class IntegerArithmetic(nn.Module):
    def forward(self, ids):
        digits = (ids[..., None] // torch.tensor([1, 2, 4, 8, 16])) % 2
        return digits.sum((1, 2)), digits.to(torch.uint8), (ids * 2654435761) % 97


@case("quantised", f32("x", "batch", 3, "height", "width", within=(-2, 2)), tolerance=0.05)
def fake_quantised():
    """A graph in FP32 may leave the rounding out: the tolerance is some steps of 256. The ranges that were observed are
    wider than what is drawn, so that nothing is cut off at their ends.
    """
    network = _ConvNet()
    network.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    network = quantization.prepare_qat(network.train())
    for _ in range(3):
        network(torch.rand(4, 3, 40, 40) * 5 - 2.5)
    network.apply(quantization.disable_observer)
    return network


@case("quantised", PICTURE)
def int8_converted():
    network = _ConvNet().eval()
    network.qconfig = quantization.get_default_qconfig("fbgemm")
    network = quantization.prepare(network)
    network(torch.randn(4, 3, 20, 20))
    return quantization.convert(network)


ZOO.add(
    "quantised",
    "int8-dynamic-linear",
    lambda: quantization.quantize_dynamic(Small().eval(), {nn.Linear}, dtype=torch.qint8),
    ROWS,
)


class _ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3, stride=2)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.dequant(self.b(self.relu(self.a(self.quant(x)))))


@case("quantised", ROWS)
class WeightsInInt8(nn.Module):
    """Weights kept as bytes with a scale a row, as large language models are shipped."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(16, 8)
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype) * self.scale)


@case("quantised", ROWS)
class RoundedActivations(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        h = torch.fake_quantize_per_tensor_affine(self.a(x).relu(), 0.02, 0, 0, 255)
        return self.b(h)
