import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torchlift.backends.pytorch import attention as module  # noqa: E402
from torchlift.backends.pytorch.attention import LONGEST, attention, shorten_attention  # noqa: E402
from torchlift.backends.pytorch.cast import move  # noqa: E402
from torchlift.backends.pytorch.program import load_program, save_program  # noqa: E402

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


class Masked(nn.Module):
    def forward(self, x):
        mask = (x[:, None, None, :, 0] - 1).expand(-1, 2, 5, -1)
        return F.scaled_dot_product_attention(*x.view(-1, 5, 2, 4).transpose(1, 2).expand(3, -1, 2, 5, 4), mask)


class Scaled(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], scale=0.3)


class Causal(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], is_causal=True)


def program(folder, network):
    rows = torch.export.Dim("batch", min=1, max=8)
    save_program(
        torch.export.export(network.eval(), (torch.randn(3, 5, 8),), dynamic_shapes=({0: rows},)), folder / "p"
    )
    return load_program(folder / "p")


def calls(made, target):
    return sum(node.target is target for node in made.graph.nodes)


@pytest.mark.parametrize("network", [Masked, Scaled])
def test_attention_is_replaced_and_answers_as_before_where_the_kernel_is_not(tmp_path, network):
    made = program(tmp_path, network())
    assert shorten_attention(made) == 1
    assert (calls(made, ATTENTION), calls(made, attention)) == (0, 1)
    for rows in (1, 4):
        x = torch.randn(rows, 5, 8)
        torch.testing.assert_close(made(x)[0], network()(x))
        compiled = torch.compile(made, dynamic=False, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x)[0], network()(x))


def test_what_is_causal_stays(tmp_path):
    made = program(tmp_path, Causal())
    assert shorten_attention(made) == 0
    assert calls(made, ATTENTION) == 1


class Reader(nn.Module):
    """Attention of texts, padded with zeros, over heads of 16."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 32)
        self.project = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.requires_grad_(False)

    def forward(self, ids):
        mask = ((ids.float().clamp(max=1.0) - 1.0) * 10000.0)[:, None, None, :].expand(-1, -1, ids.shape[1], -1)
        heads = [p(self.table(ids)).unflatten(2, (2, 16)).transpose(1, 2) for p in self.project]
        return F.scaled_dot_product_attention(*heads, mask).transpose(1, 2).flatten(2)


@pytest.fixture
def kernel(monkeypatch):
    """The lengths that the kernel was called with; PyTorch's own attention stands in for it, on the processor."""
    called = []

    def stand_in(query, key, value, bias, scale):
        called.append(key.shape[2])
        return F.scaled_dot_product_attention(query, key, value, bias, scale=scale)

    schema = "(Tensor query, Tensor key, Tensor value, Tensor? bias, float scale) -> Tensor"
    with torch.library._scoped_library("torchlift", "FRAGMENT") as library:
        library.define(f"short_attention{schema}")
        library.impl("short_attention", stand_in, "CPU")
        library.impl("short_attention", lambda query, *_: torch.empty_like(query), "Meta")
        monkeypatch.setattr(module, "DEVICE", "cpu")
        yield called


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_is_compiled_whole_and_takes_the_kernel_where_it_is_short(tmp_path, kernel, dynamic):
    axes = {0: torch.export.Dim("batch", min=1, max=16), 1: torch.export.Dim("sequence", min=2, max=100)}
    network = Reader().eval()
    traced = torch.export.export(network, (torch.ones(3, 8, dtype=torch.int64),), dynamic_shapes=(axes,))
    save_program(traced, tmp_path / "p")
    made = load_program(tmp_path / "p")
    assert shorten_attention(made) == 1
    move(made, torch.device("cpu"), torch.float16)
    compiled = torch.compile(made, dynamic=dynamic, fullgraph=True, backend="eager")
    lengths = (8, 17, LONGEST, LONGEST + 1, 100)
    for rows, length in enumerate(lengths, 2):
        ids = torch.randint(1, 50, (rows, length))
        ids[-1, length // 2 :] = 0
        torch.testing.assert_close(compiled(ids)[0].float(), network(ids), atol=5e-3, rtol=5e-3)
    assert kernel == [length for length in lengths if length <= LONGEST]


def test_float32_is_not_for_the_kernel(kernel):
    attention(*torch.randn(3, 2, 3, 8, 16))
    assert kernel == []
