import pytest

torch = pytest.importorskip("torch")

import programs  # noqa: E402
from torch import nn  # noqa: E402

from torchlift.backends.pytorch.cast import move  # noqa: E402
from torchlift.backends.pytorch.patches import multiply_patches, patch_product  # noqa: E402
from torchlift.backends.pytorch.program import load_program, save_program  # noqa: E402
from torchlift.backends.pytorch.rewrites import rewrite_for_gpu  # noqa: E402


def program(folder, network):
    return programs.loaded(folder, network.requires_grad_(False), torch.randn(3, 4, 12, 18))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", [6, (4, 6), (1, 2)])
def test_patches_are_multiplied_and_answer_as_before(tmp_path, kernel, bias):
    network = nn.Sequential(nn.Conv2d(4, 5, kernel, stride=kernel, bias=bias), nn.Flatten(2))
    made = program(tmp_path, network)
    assert multiply_patches(made) == 1
    assert any(node.target is patch_product for node in made.graph.nodes)
    for rows in (1, 5):
        x = torch.randn(rows, 4, 12, 18)
        torch.testing.assert_close(made(x)[0], network(x))
        compiled = torch.compile(made, dynamic=False, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x)[0], network(x))
    move(made, torch.device("cpu"), torch.float16)
    torch.testing.assert_close(made(x.half())[0].float(), network(x), atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("flat", [1, 2])
def test_views_of_patches_stay_right(tmp_path, flat):
    network = nn.Sequential(nn.Conv2d(4, 5, 6, stride=6), nn.Flatten(flat))
    made = program(tmp_path, network)
    rewrite_for_gpu(made)
    x = torch.randn(3, 4, 12, 18)
    torch.testing.assert_close(made(x)[0], network(x))
    torch.testing.assert_close(torch.compile(made, fullgraph=True, backend="eager")(x)[0], network(x))


def test_a_single_picture_stays(tmp_path):
    network = nn.Conv2d(4, 5, 6, stride=6).requires_grad_(False)
    save_program(torch.export.export(network, (torch.randn(4, 12, 18),)), tmp_path / "p")
    assert multiply_patches(load_program(tmp_path / "p")) == 0


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 4, 6, stride=3),
        nn.Conv2d(4, 4, 3, stride=3, padding=3),
        nn.Conv2d(4, 4, 3, stride=3, dilation=2),
        nn.Conv2d(4, 4, 3, stride=3, groups=2),
        nn.Conv2d(4, 4, 5, stride=5),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, (3, 2), stride=3),
    ],
)
def test_other_convolutions_stay(tmp_path, convolution):
    made = program(tmp_path, convolution)
    assert multiply_patches(made) == 0
    x = torch.randn(2, 4, 12, 18)
    torch.testing.assert_close(made(x)[0], convolution(x))
