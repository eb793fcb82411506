import programs
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchlift.backends.pytorch.cast import move
from torchlift.backends.pytorch.projections import fuse_projections

LINEAR = torch.ops.aten.linear.default


class Attention(nn.Module):
    """Query, key and value of one input, as attention has them; ``also`` reads what they read, without a bias."""

    def __init__(self, tied=False):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value = (nn.Linear(8, width) for width in (8, 8, 16))
        self.also = nn.Linear(8, 4, bias=False)
        self.out = nn.Linear(16, 8)
        if tied:
            self.key.weight = self.query.weight
        self.requires_grad_(False)

    def forward(self, x):
        mixed = F.scaled_dot_product_attention(self.query(x)[:, None], self.key(x)[:, None], self.value(x)[:, None])
        return self.out(mixed[:, 0]) + self.also(x).sum(-1, keepdim=True)


def linears(made):
    return [node for node in made.graph.nodes if node.target is LINEAR]


def test_layers_of_one_input_become_one_with_the_same_answers(tmp_path):
    network = Attention()
    made = programs.loaded(tmp_path, network)
    assert len(linears(made)) == 5
    assert fuse_projections(made) == 3
    assert len(linears(made)) == 3
    for rows in (1, 4):
        x = torch.randn(rows, 5, 8)
        torch.testing.assert_close(made(x)[0], network(x))


def test_a_weight_is_held_once(tmp_path):
    made = programs.loaded(tmp_path, Attention())
    before = sum(p.numel() for p in made.parameters())
    fuse_projections(made)
    assert sum(p.numel() for p in made.parameters()) == before


def test_weights_that_others_read_stay_apart(tmp_path):
    made = programs.loaded(tmp_path, Attention(tied=True))
    joined = fuse_projections(made)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(made(x)[0], Attention(tied=True)(x))
    assert joined < 3


def test_nothing_to_fuse_changes_nothing(tmp_path):
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False)
    made = programs.loaded(tmp_path, network)
    assert fuse_projections(made) == 0
    assert len(linears(made)) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_was_joined_is_cast_with_the_rest(tmp_path, dtype):
    network = Attention()
    made = programs.loaded(tmp_path, network)
    fuse_projections(made)
    move(made, torch.device("cpu"), dtype)
    x = torch.randn(2, 5, 8)
    found = made(x.to(dtype))[0]
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), network(x), atol=0.05, rtol=0.05)
