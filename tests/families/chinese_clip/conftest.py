"""Tiny random Chinese-CLIP models, as files in either format."""

from pathlib import Path

import pytest
import torch

from torchlift.families.base import LoadOptions
from torchlift.families.chinese_clip import ChineseClip
from torchlift.families.chinese_clip.architecture import Architecture, Bert, ResNet, VisionTransformer
from torchlift.families.chinese_clip.names import to_original
from torchlift.families.chinese_clip.towers import expected_shapes

TEXT = Bert(width=64, layers=2, heads=1, feed_forward=96, vocabulary=120, positions=40)
VIT = Architecture(32, 48, VisionTransformer(width=128, layers=3, heads=2, feed_forward=256, patch=16), TEXT)
RESNET = Architecture(32, 64, ResNet(width=8, layers=(1, 2, 1, 1), heads=4), TEXT)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def random_weights(architecture, seed=0):
    """Weights by transformers' names, scaled so that signals neither vanish nor explode."""
    draw = torch.Generator().manual_seed(seed)

    def tensor(name, shape):
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        if name == "logit_scale":
            return torch.tensor(4.6052)
        if name.endswith("running_var"):
            return 0.5 + torch.rand(shape, generator=draw)
        values = torch.randn(shape, generator=draw)
        if len(shape) == 1:
            return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
        return values * (1.4 / max(1, values[0].numel()) ** 0.5)

    return {name: tensor(name, shape) for name, shape in expected_shapes(architecture).items()}


def vocabulary_of(rows):
    return "\n".join(SPECIAL + [f"t{i}" for i in range(rows - len(SPECIAL))]).encode() + b"\n"


def original_file(folder, architecture, *, name="clip.pt", prefix="module.", seed=0, change=None, wrap=True, **options):
    """Write a checkpoint of the original format with its vocabulary beside it; ``change`` edits the state_dict."""
    state = to_original(random_weights(architecture, seed))
    if change is not None:
        state = change(state) or state
    state = {prefix + key: value for key, value in state.items()}
    content = (
        {"epoch": 3, "step": 100, "name": "tiny", "state_dict": state, "optimizer": {"lr": 0.1}} if wrap else state
    )
    file = Path(folder) / name
    torch.save(content, file, **options)
    (file.parent / "vocab.txt").write_bytes(vocabulary_of(architecture.text.vocabulary))
    return file


def load(source, **options):
    return ChineseClip().load(str(source), LoadOptions(**options))


@pytest.fixture
def vit():
    return VIT


@pytest.fixture
def resnet():
    return RESNET


@pytest.fixture(params=["vit", "resnet"])
def architecture(request):
    return {"vit": VIT, "resnet": RESNET}[request.param]


@pytest.fixture
def write(tmp_path):
    """Write an original checkpoint into the test's folder and return its path."""
    return lambda architecture, **options: original_file(tmp_path, architecture, **options)


@pytest.fixture
def weights_of():
    return random_weights


@pytest.fixture
def open_model():
    """Load a source as the family does: ``open_model(source, resolution=..., axes=...)``."""
    return load


@pytest.fixture
def vocabulary():
    return vocabulary_of


@pytest.fixture
def transformers_folder(tmp_path):
    """Save a random transformers model; returns its folder and the model."""
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    def save(name="saved", heads=4, **options):
        text = {
            "vocab_size": TEXT.vocabulary,
            "hidden_size": TEXT.width,
            "num_hidden_layers": TEXT.layers,
            "num_attention_heads": heads,
            "intermediate_size": TEXT.feed_forward,
            "max_position_embeddings": TEXT.positions,
        }
        vision = {
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": heads,
            "intermediate_size": 256,
            "image_size": 48,
            "patch_size": 16,
        }
        torch.manual_seed(0)
        model = ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).eval()
        folder = tmp_path / name
        model.save_pretrained(folder, **options)
        (folder / "vocab.txt").write_bytes(vocabulary_of(TEXT.vocabulary))
        return folder, model

    return save


@pytest.fixture
def texts():
    """Ids int64 [5, 11], right-padded."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, TEXT.vocabulary, (5, 11), generator=draw)
    ids[1, 4:], ids[2, 1:], ids[3, 10:] = 0, 0, 0
    return ids


@pytest.fixture
def images():
    """Maker of images float32 [batch, 3, resolution, resolution]."""
    return lambda resolution, batch=3: torch.randn(
        batch, 3, resolution, resolution, generator=torch.Generator().manual_seed(2)
    )
