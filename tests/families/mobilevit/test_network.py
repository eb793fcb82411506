"""The networks: the sizes that are published, and the exported ones answering as the references do."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from torchlift.errors import CheckpointError
from torchlift.families.attention import STYLES
from torchlift.families.mobilevit.architecture import PUBLISHED, architecture_of
from torchlift.families.mobilevit.exported import exported_of
from torchlift.families.mobilevit.network import MobileViT, to_map, to_tokens


def shapes_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.fixture(params=PUBLISHED)
def published(request):
    with torch.device("meta"):
        return request.param, MobileViT(PUBLISHED[request.param])


PARAMETERS = {"mobilevit-xxs": 1_331_016, "mobilevit-xs": 2_381_960, "mobilevit-s": 5_634_520}


def test_published_sizes_have_the_published_parameters_and_names(published):
    name, network = published
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    names = set(network.state_dict())
    assert len(names) == 270
    assert names >= {
        "stem.0.weight",
        "stem.0.bias",
        "stem.1.conv.0.norm_layer.running_mean",
        "stage2.1.local_representation.0.conv.weight",
        "stage2.1.transformer.layers.0.0.norm.weight",
        "stage2.1.transformer.layers.0.0.fn.to_qvk.weight",
        "stage2.1.transformer.layers.0.0.fn.w_out.weight",
        "stage2.1.transformer.layers.0.1.fn.net.0.bias",
        "stage2.1.transformer.layers.0.1.fn.net.3.weight",
        "stage2.1.fusion_block1.weight",
        "stage4.2.weight",
        "fc.weight",
    }


def test_the_architecture_is_found_from_shapes(published, tiny):
    name, network = published
    found = architecture_of(shapes_of(network))
    assert found == PUBLISHED[name]
    assert found.name == name
    assert architecture_of(shapes_of(MobileViT(tiny))) == tiny
    assert tiny.name == "mobilevit-16x20x24"


def test_other_expansions_are_found(tiny):
    for expansion in (1, 1.5, 3):
        shape = replace(tiny, expansion=expansion)
        assert architecture_of(shapes_of(MobileViT(shape))) == shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stage2.1.fusion_block2.weight"), "stage2.1.fusion_block2.weight is missing"),
        (lambda s: s.update({"fc.weight": (7,)}), r"fc.weight has shape \[7\]; it must have 2 dimensions"),
        (lambda s: s.update({"fc.weight": (0, 24)}), r"fc.weight has shape \[0, 24\]"),
    ],
)
def test_impossible_shapes_are_refused(tiny, change, message):
    shapes = shapes_of(MobileViT(tiny))
    change(shapes)
    with pytest.raises(CheckpointError, match=message):
        architecture_of(shapes)


def slow_attention(module, x):
    """Attention of each query by itself, in float64, by the formula."""
    q, k, v = (x.double() @ part.double().T for part in module.to_qvk.weight.chunk(3))
    rows = [((row @ k.mT) / x.shape[-1] ** 0.5).softmax(-1) @ v for row in q.unbind(-2)]
    return torch.stack(rows, -2) @ module.w_out.weight.double().T


def test_attention_has_one_head_and_is_scaled_by_the_width_of_the_tokens(network):
    module = network.stage2[1].transformer.layers[0][0].fn
    x = torch.randn(9, 16)
    torch.testing.assert_close(module(x).double(), slow_attention(module, x), atol=1e-5, rtol=1e-5)
    assert module.to_qvk.out_features == 3 * 32


def test_tokens_hold_one_place_of_every_patch():
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    tokens = to_tokens(x)
    assert tokens.shape == (2, 4, 6, 3)
    for place, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        expected = x[1, :, row::2, column::2].flatten(1).T
        assert torch.equal(tokens[1, place], expected)
    assert torch.equal(to_map(tokens, 4, 6), x)
    assert torch.equal(to_map(tokens.flatten(0, 1), 4, 6), x)


def test_the_stem_has_neither_norm_nor_activation_and_the_widening_has_no_activation(network):
    assert isinstance(network.stem[0], nn.Conv2d)
    widening, mixing = network.stem[1].conv[:2]
    assert isinstance(widening.act, nn.Identity)
    assert isinstance(mixing.act, nn.SiLU)


@pytest.mark.parametrize("style", STYLES)
def test_the_exported_network_answers_as_the_reference(network, images, style):
    with torch.no_grad():
        expected, found = network(images), exported_of(network, style)(images)
    assert expected.std() > 0.05, "no signal: any comparison would pass"
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("style", STYLES)
def test_that_of_transformers_too(transformers_folder, open_model, images, style):
    folder, model = transformers_folder()
    component = open_model(folder).component("model", attention=style)
    with torch.no_grad():
        expected = model(images).logits
        assert expected.std() > 0.05
        torch.testing.assert_close(component.reference(images), expected)
        scale = float(expected.abs().max())
        torch.testing.assert_close(component.exported(images), expected, atol=1e-5 * scale, rtol=0)
