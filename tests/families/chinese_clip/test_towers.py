import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchlift.families.chinese_clip import to_original
from torchlift.families.chinese_clip.towers import build_image, fill, resize_positions


def close(left, right, tolerance=2e-6):
    assert right.abs().mean() > 0.05, "features without signal: any comparison would pass"
    assert left.shape == right.shape
    assert (left - right).abs().max() <= tolerance * max(1.0, float(right.abs().max()))


class SlowTransformer(nn.Module):
    """A pre-norm vision transformer over torch's own attention, with parameters named as in an original checkpoint."""

    def __init__(self, width, layers, heads, feed_forward, patch, tokens, embedding):
        super().__init__()
        self.heads, self.layers, self.width = heads, layers, width
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embedding))
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(map(self._block, [feed_forward] * layers))})

    def _block(self, feed_forward):
        mlp = {"c_fc": nn.Linear(self.width, feed_forward), "c_proj": nn.Linear(feed_forward, self.width)}
        return nn.ModuleDict(
            {
                "ln_1": nn.LayerNorm(self.width),
                "attn": nn.MultiheadAttention(self.width, self.heads, batch_first=True),
                "ln_2": nn.LayerNorm(self.width),
                "mlp": nn.ModuleDict(mlp),
            }
        )

    def forward(self, image):
        patches = self.conv1(image).flatten(2).mT
        states = torch.cat([self.class_embedding.expand(len(image), 1, -1), patches], 1) + self.positional_embedding
        states = self.ln_pre(states)
        for block in self.transformer["resblocks"]:
            normal = block["ln_1"](states)
            states = states + block["attn"](normal, normal, normal)[0]
            inner = block["mlp"]["c_fc"](block["ln_2"](states))
            states = states + block["mlp"]["c_proj"](inner * torch.sigmoid(1.702 * inner))
        return self.ln_post(states)[:, 0] @ self.proj


def slow_pool(weights, x, heads):
    """Attention pooling of every token by torch's functional form, of which the first is kept."""
    x = x.flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(0, keepdim=True), x]) + weights["positional_embedding"][:, None]
    return F.multi_head_attention_forward(
        x,
        x,
        x,
        x.shape[-1],
        heads,
        None,
        torch.cat([weights[f"{p}_proj.bias"] for p in "qkv"]),
        None,
        None,
        False,
        0.0,
        weights["c_proj.weight"],
        weights["c_proj.bias"],
        training=False,
        use_separate_proj_weight=True,
        q_proj_weight=weights["q_proj.weight"],
        k_proj_weight=weights["k_proj.weight"],
        v_proj_weight=weights["v_proj.weight"],
    )[0][0]


def slow_resnet(weights, image, layers, heads):
    def normalised(x, name):
        mean, var, gain, shift = (weights[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * gain[:, None, None] + shift[
            :, None, None
        ]

    def convolved(x, conv, norm, **options):
        return normalised(F.conv2d(x, weights[f"{conv}.weight"], **options), norm)

    def halved(x):
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    x = convolved(image, "conv1", "bn1", stride=2, padding=1).relu()
    x = convolved(x, "conv2", "bn2", padding=1).relu()
    x = halved(convolved(x, "conv3", "bn3", padding=1).relu())
    for stage, blocks in enumerate(layers, 1):
        for index in range(blocks):
            at = f"layer{stage}.{index}"
            strided = stage > 1 and index == 0
            y = convolved(x, f"{at}.conv1", f"{at}.bn1").relu()
            y = convolved(y, f"{at}.conv2", f"{at}.bn2", padding=1).relu()
            y = convolved(halved(y) if strided else y, f"{at}.conv3", f"{at}.bn3")
            if f"{at}.downsample.0.weight" in weights:
                x = convolved(halved(x) if strided else x, f"{at}.downsample.0", f"{at}.downsample.1")
            x = (x + y).relu()
    pool = {name.removeprefix("attnpool."): tensor for name, tensor in weights.items() if name.startswith("attnpool.")}
    return slow_pool(pool, x, heads)


def visual(weights):
    return {k.removeprefix("visual."): v for k, v in to_original(weights).items() if k.startswith("visual.")}


def test_the_image_transformer_agrees_with_torchs_attention(write, open_model, vit, weights_of, images):
    slow = SlowTransformer(128, 3, 2, 256, 16, 10, 32).eval()
    slow.load_state_dict(visual(weights_of(vit)))
    component = open_model(write(vit)).component("image")
    with torch.no_grad():
        close(component.reference(images(48)), slow(images(48)))


def test_the_resnet_agrees_with_a_slow_one(write, open_model, resnet, weights_of, images):
    component = open_model(write(resnet)).component("image")
    assert component.exported is component.reference
    expected = slow_resnet(visual(weights_of(resnet)), images(64), resnet.vision.layers, resnet.vision.heads)
    close(component.reference(images(64)), expected, 1e-5)


@pytest.mark.parametrize("heads", [1, 4])
def test_both_towers_agree_with_transformers(transformers_folder, open_model, texts, images, heads):
    folder, model = transformers_folder(heads=heads)
    found = open_model(folder)
    with torch.no_grad():
        image = model.visual_projection(model.vision_model(images(48)).pooler_output)
        states = model.text_model(input_ids=texts, attention_mask=(texts != 0).long()).last_hidden_state
        text = model.text_projection(states[:, 0])
    for attention in ("sdpa", "eager"):
        for module in ("reference", "exported"):
            close(getattr(found.component("image", attention=attention), module)(images(48)), image)
            close(getattr(found.component("text", attention=attention), module)(texts), text)


def test_an_original_file_of_a_transformers_model_answers_as_it_does(transformers_folder, open_model, texts, tmp_path):
    folder, model = transformers_folder(heads=1)
    torch.save({"state_dict": to_original(model.state_dict())}, folder / "clip.pt")
    text = open_model(folder / "clip.pt").component("text").reference(texts)
    assert torch.equal(text, open_model(folder).component("text").reference(texts))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batch", [1, 4])
def test_exported_images_equal_the_reference(write, open_model, architecture, images, attention, batch):
    component = open_model(write(architecture)).component("image", attention=attention)
    image = images(architecture.resolution, batch)
    close(component.exported(image), component.reference(image))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [1, 4, 11])
def test_exported_texts_equal_the_reference(write, open_model, vit, texts, attention, length):
    component = open_model(write(vit)).component("text", attention=attention)
    text = texts[:, :length]
    close(component.exported(text), component.reference(text))


def test_padding_does_not_change_a_feature(write, open_model, vit, texts):
    component = open_model(write(vit)).component("text")
    short = texts[1:2, :4]
    padded = F.pad(short, (0, 36))
    for module in (component.reference, component.exported):
        close(module(padded), module(short))


def test_a_text_longer_than_the_signature_fails_aloud(write, open_model, vit):
    component = open_model(write(vit)).component("text")
    with pytest.raises(RuntimeError, match="must match"):
        component.exported(torch.ones(1, 41, dtype=torch.int64))


@pytest.mark.parametrize("name", ["image", "text"])
def test_reference_and_exported_share_their_weights(write, open_model, vit, name):
    component = open_model(write(vit)).component(name)
    shared = {p.data_ptr() for p in component.reference.parameters()}
    assert {p.data_ptr() for p in component.exported.parameters()} == shared
    assert not component.reference.training
    assert not component.exported.training
    assert not any(p.requires_grad for p in component.exported.parameters())


def test_only_the_asked_tower_is_built(write, open_model, vit):
    model = open_model(write(vit))
    assert all(name.startswith("vis") for name in model.component("image").reference.state_dict())
    assert all(name.startswith("text") for name in model.component("text").reference.state_dict())


def test_nothing_is_left_on_the_meta_device(write, open_model, architecture):
    model = open_model(write(architecture))
    for name in model.component_names:
        tower = model.component(name).reference
        assert not any(t.is_meta for t in (*tower.parameters(), *tower.buffers()))


def test_an_unknown_buffer_is_reported(vit, weights_of):
    from torchlift.errors import SourceError

    tower = build_image(vit)
    tower.register_buffer("surprise", torch.empty(2, device="meta"), persistent=False)
    with pytest.raises(SourceError, match="buffer 'surprise'"):
        fill(tower, weights_of(vit))


def test_resized_positions_keep_the_class_token_and_the_corners():
    table = torch.randn(10, 6)
    resized = resize_positions(table, 5)
    assert resized.shape == (26, 6)
    for new, old in ((0, 0), (1, 1), (5, 3), (21, 7), (25, 9)):
        assert torch.allclose(resized[new], table[old], atol=1e-6)


def test_positions_of_the_same_size_stay():
    table = torch.randn(17, 6)
    assert torch.allclose(resize_positions(table, 4), table, atol=1e-6)


def test_positions_are_not_turned_over():
    column = torch.arange(3.0).repeat(3)[:, None]
    resized = resize_positions(torch.cat([torch.zeros(1, 1), column]), 6)[1:].reshape(6, 6)
    assert torch.allclose(resized, resized[:1].expand(6, 6), atol=1e-6)
    assert (resized[0].diff() > 0).all()
