import pytest

torch = pytest.importorskip("torch")

import programs  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torchlift.backends.pytorch import attention as module  # noqa: E402
from torchlift.backends.pytorch.attention import LONGEST, attention, shorten_attention  # noqa: E402
from torchlift.backends.pytorch.cast import move  # noqa: E402
from torchlift.backends.pytorch.program import load_program  # noqa: E402
from torchlift.backends.pytorch.rewrites import rewrite_for_gpu  # noqa: E402

EXPAND = torch.ops.aten.expand.default
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


def calls(made, target):
    return sum(node.target is target for node in made.graph.nodes)


@pytest.mark.parametrize("network", [Masked, Scaled])
def test_attention_is_replaced_and_answers_as_before_where_the_kernel_is_not(tmp_path, network):
    made = programs.loaded(tmp_path, network())
    assert shorten_attention(made) == 1
    assert (calls(made, ATTENTION), calls(made, attention)) == (0, 1)
    for rows in (1, 4):
        x = torch.randn(rows, 5, 8)
        torch.testing.assert_close(made(x)[0], network()(x))
        compiled = torch.compile(made, dynamic=False, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x)[0], network()(x))


def test_what_is_causal_stays(tmp_path):
    made = programs.loaded(tmp_path, Causal())
    assert shorten_attention(made) == 0
    assert calls(made, ATTENTION) == 1


@pytest.fixture
def kernel(monkeypatch):
    """The lengths that the kernel was called with; PyTorch's own attention stands in for it, on the processor, with
    answers that lie as the kernel's do.
    """
    called = []

    def stand_in(query, key, value, bias, scale):
        called.append(key.shape[2])
        mixed = F.scaled_dot_product_attention(query, key, value, bias, scale=scale)
        return mixed.transpose(1, 2).contiguous().transpose(1, 2)

    schema = "(Tensor query, Tensor key, Tensor value, Tensor? bias, float scale) -> Tensor"
    with torch.library._scoped_library("torchlift", "FRAGMENT") as library:
        library.define(f"short_attention{schema}")
        library.impl("short_attention", stand_in, "CPU")
        library.impl(
            "short_attention", lambda query, *_: torch.empty_like(query.transpose(1, 2)).transpose(1, 2), "Meta"
        )
        monkeypatch.setattr(module, "DEVICE", "cpu")
        yield called


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_is_compiled_whole_and_takes_the_kernel_where_it_is_short(tmp_path, kernel, dynamic):
    made = load_program(programs.write_reader(tmp_path / "p"))
    rewrite_for_gpu(made)
    assert calls(made, attention) == 1
    assert calls(made, EXPAND) == 0
    move(made, torch.device("cpu"), torch.float16)
    compiled = torch.compile(made, dynamic=dynamic, fullgraph=True, backend="eager")
    network, lengths = programs.Reader(), (8, 17, LONGEST, LONGEST + 1, 100)
    for rows, length in enumerate(lengths, 2):
        ids = programs.texts(rows, length)
        torch.testing.assert_close(compiled(ids)[0].float(), network(ids), atol=5e-3, rtol=5e-3)
    assert kernel == [length for length in lengths if length <= LONGEST]


def heads(queries=5, keys=7, width=16, count=2, dtype=torch.float16):
    shapes = ((3, 2, queries, width), (3, count, keys, width), (3, count, keys, width))
    return [torch.randn(shape).to(dtype) for shape in shapes]


def test_the_kernel_takes_masks_of_fewer_axes(kernel):
    query, key, value = heads()
    for mask in (torch.zeros(7), torch.zeros(5, 7), torch.zeros(3, 1, 1, 7)):
        found = attention(query, key, value, mask.half())
        torch.testing.assert_close(found, F.scaled_dot_product_attention(query, key, value), atol=2e-3, rtol=2e-3)
    assert len(kernel) == 3


@pytest.mark.parametrize(
    ("given", "mask"),
    [
        (heads(dtype=torch.float32), None),
        (heads(queries=LONGEST + 1), None),
        (heads(keys=LONGEST + 1), None),
        (heads(width=24), None),
        (heads(), torch.ones(5, 7, dtype=torch.bool)),
        (heads(count=1), None),
        ([t.transpose(2, 3).contiguous().transpose(2, 3) for t in heads()], None),
    ],
    ids=["float32", "queries", "keys", "width", "boolean", "shared heads", "strided"],
)
def test_what_the_kernel_does_not_take_is_torchs(kernel, given, mask):
    wanted = F.scaled_dot_product_attention(*given, mask)
    torch.testing.assert_close(attention(*given, mask), wanted)
    assert kernel == []


class Expanded(nn.Module):
    """One query for all, as learnt queries are, whose answer is then cut by heads."""

    def forward(self, x):
        query = x[:, None, :1].expand(-1, -1, 4, -1)
        return F.scaled_dot_product_attention(query, x[:, None], x[:, None]).reshape(-1, 2, 2, 8)


class Merged(nn.Module):
    """Heads and texts become one axis, which is a view of what PyTorch's attention returns."""

    def forward(self, x):
        heads = x.unflatten(2, (2, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads).reshape(-1, 5, 4)


@pytest.mark.parametrize("network", [Expanded, Merged])
def test_what_is_made_of_queries_and_answers_stays_right(tmp_path, kernel, network):
    made = programs.loaded(tmp_path, network())
    rewrite_for_gpu(made)
    move(made, torch.device("cpu"), torch.float16)
    x = torch.randn(3, 5, 8)
    found = torch.compile(made, fullgraph=True, backend="eager")(x.half())[0]
    assert found.shape == network()(x).shape
    torch.testing.assert_close(found.float(), network()(x), atol=5e-3, rtol=5e-3)
