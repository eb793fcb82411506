import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torchlift.backends.pytorch.attention import attention, shorten_attention  # noqa: E402
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
