import io
import json
import pickle
import random
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from torchlift.errors import CheckpointError, UnsafeCheckpointError


class Creates:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (io.open, (self.path, "w"))


def refused(open_model, source, *words, error=CheckpointError, **options):
    with pytest.raises(error) as caught:
        open_model(source, **options)
    for word in words:
        assert word in str(caught.value)
    return caught.value


@pytest.mark.parametrize("options", [{}, {"prefix": ""}, {"prefix": "", "wrap": False}, {"wrap": False}])
def test_every_spelling_of_an_original_file_is_read(write, open_model, architecture, options, images):
    expected = open_model(write(architecture)).component("image").reference
    found = open_model(write(architecture, name="other.pt", **options)).component("image").reference
    image = images(architecture.resolution)
    assert torch.equal(found(image), expected(image))


def test_a_legacy_file_that_is_no_zip_is_read(write, open_model, vit, texts):
    file = write(vit, name="legacy.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(file)
    expected = open_model(write(vit)).component("text").reference
    assert torch.equal(open_model(file).component("text").reference(texts), expected(texts))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(write, open_model, architecture, images, dtype):
    def halve(state):
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}

    tower = open_model(write(architecture, change=halve)).component("image").reference
    assert all(p.dtype == torch.float32 for p in tower.parameters())
    assert tower(images(architecture.resolution)).dtype == torch.float32


def test_weights_stay_mapped_from_the_file(write, open_model, vit, monkeypatch):
    loaded, load = [], torch.load

    def spy(*args, **kwargs):
        assert kwargs["mmap"]
        loaded.append(load(*args, **kwargs)["state_dict"])
        return loaded[-1] | {}

    model = open_model(write(vit))
    monkeypatch.setattr("torch.load", spy)
    words = model.component("text").reference.text_model.embeddings.word_embeddings.weight
    assert words.data_ptr() == loaded[0]["module.bert.embeddings.word_embeddings.weight"].data_ptr()


def test_pooler_and_position_ids_are_ignored(write, open_model, vit):
    def add(state):
        state["bert.pooler.dense.weight"] = torch.ones(64, 64)
        state["bert.embeddings.position_ids"] = torch.arange(40)[None]

    assert open_model(write(vit, change=add)).name == "vit-128x3-48px"


def test_a_missing_file_is_refused(open_model, tmp_path):
    refused(open_model, tmp_path / "none.pt", "none.pt does not exist", "clip_cn_*.pt")
    refused(open_model, "models/clip.pt", "models/clip.pt does not exist")


def test_an_empty_file_is_refused(open_model, tmp_path):
    (tmp_path / "a.pt").touch()
    refused(open_model, tmp_path / "a.pt", "is empty")


def test_a_file_that_may_not_be_read_is_refused(write, open_model, vit, monkeypatch):
    def forbidden(file):
        raise PermissionError(13, "Permission denied")

    file = write(vit)
    monkeypatch.setattr("torchlift.families.torch_file.open_regular", forbidden)
    refused(open_model, file, "cannot be read: Permission denied", "permissions")


def test_a_truncated_file_is_refused(write, open_model, vit):
    file = write(vit)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    refused(open_model, file, "is truncated", f"{file.stat().st_size:,} bytes", "again")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"<html>not found</html>" * 40, b"\x80\x04nonsense", b"\0" * 500])
def test_a_file_of_something_else_is_refused(open_model, tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    refused(open_model, tmp_path / "a.pt", "damaged or was not written by torch.save", f"{len(content):,} bytes")


def test_a_zip_of_something_else_is_refused(open_model, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a.txt", "text")
    refused(open_model, tmp_path / "a.pt", "zip archive without PyTorch weights")


def test_a_torchscript_archive_is_known_as_openais(open_model, tmp_path):
    file = tmp_path / "ViT-B-16.pt"
    with zipfile.ZipFile(file, "w") as archive:
        for member in ("data.pkl", "constants.pkl", "code/__torch__.py", "data/0"):
            archive.writestr(f"ViT-B-16/{member}", b"")
    refused(open_model, file, "OpenAI's CLIP", "TorchScript", "clip_cn_*.pt")


def test_openais_state_dict_is_known(open_model, tmp_path):
    torch.save({"token_embedding.weight": torch.ones(4, 4), "visual.proj": torch.ones(4, 4)}, tmp_path / "a.pt")
    refused(open_model, tmp_path / "a.pt", "OpenAI's CLIP")


def test_another_models_state_dict_is_refused_by_its_names(open_model, tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.ones(4), "fc.weight": torch.ones(4)}, tmp_path / "a.pt")
    refused(open_model, tmp_path / "a.pt", "missing logit_scale", "unexpected layer1.0.conv1.weight, fc.weight")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 1, "model": {}}, {"state_dict": {}}, torch.ones(2)])
def test_a_file_without_a_state_dict_is_refused(open_model, tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    refused(open_model, tmp_path / "a.pt", "not a state_dict")


def test_missing_and_unexpected_weights_are_named(write, open_model, architecture):
    def change(state):
        del state["bert.encoder.layer.1.output.dense.bias"]
        state["visual.extra"] = torch.ones(1)

    refused(
        open_model,
        write(architecture, change=change),
        "missing bert.encoder.layer.1.output.dense.bias",
        "unexpected visual.extra",
    )


def test_many_missing_weights_are_counted(write, open_model, vit):
    def change(state):
        return {k: v for k, v in state.items() if "resblocks.1." not in k}

    refused(open_model, write(vit, change=change), "resblocks.1.", "and 8 more")


def test_wrong_shapes_are_named(write, open_model, architecture):
    def change(state):
        state["bert.encoder.layer.0.output.dense.weight"] = torch.ones(64, 95)

    refused(
        open_model,
        write(architecture, change=change),
        "wrong shapes: bert.encoder.layer.0.output.dense.weight gives [64, 95] and must give [64, 96]",
    )


def test_shapes_of_which_no_network_can_be_made_are_refused_with_the_file(write, open_model, vit):
    def change(state):
        state["visual.positional_embedding"] = torch.ones(12, 128)

    file = write(vit, change=change)
    refused(open_model, file, str(file), "12 positions")


def test_a_weight_that_cannot_be_split_is_refused_with_the_file(write, open_model, vit):
    def change(state):
        state["text_projection"] = torch.ones(3)

    file = write(vit, change=change)
    refused(open_model, file, str(file), "text_projection has shape [3]")


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_does_not_run(write, open_model, vit, tmp_path, legacy):
    trace = tmp_path / "trace"
    file = write(vit, change=lambda s: s.update(bad=Creates(trace)), _use_new_zipfile_serialization=not legacy)
    refused(open_model, file, "was not loaded", "io.open", error=UnsafeCheckpointError)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists(), "the file was harmless, so the test showed nothing"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_with_code_does_not_run(open_model, tmp_path, protocol):
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Creates(tmp_path / "trace"), protocol))
    refused(open_model, tmp_path / "a.pt", "calls io.open", "was not loaded", error=UnsafeCheckpointError)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(write, open_model, vit, value):
    def change(state):
        state["bert.encoder.layer.1.output.dense.bias"][3] = value

    model = open_model(write(vit, change=change))
    assert model.component("image")
    with pytest.raises(CheckpointError, match=r"layer\.1\.output\.dense\.bias holds 1 values that are NaN or infinite"):
        model.component("text")


def test_a_logit_scale_that_is_not_finite_is_refused(write, open_model, vit):
    file = write(vit, change=lambda state: state.update(logit_scale=torch.tensor(float("nan"))))
    refused(open_model, file, "logit_scale is nan")


def shard(folder):
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"a.safetensors": names[:20], "b.safetensors": names[20:]}
    for file, part in parts.items():
        save_file({n: weights[n].contiguous() for n in part}, folder / file)
    index = {"weight_map": {n: file for file, part in parts.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def as_bin(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("change", [lambda folder: None, as_bin, shard])
def test_every_form_of_a_transformers_folder_is_read(transformers_folder, open_model, images, change):
    folder, model = transformers_folder()
    change(folder)
    tower = open_model(folder).component("image").reference
    image = images(48)
    assert torch.equal(tower(image), model.visual_projection(model.vision_model(image).pooler_output))


def test_a_folder_of_another_model_is_refused(open_model, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    refused(open_model, tmp_path, "'bert', not 'chinese_clip'")


def test_a_folder_without_config_is_refused_and_names_its_checkpoints(open_model, tmp_path):
    refused(open_model, tmp_path, "has no config.json")
    (tmp_path / "clip_cn.pt").touch()
    refused(open_model, tmp_path, f"Name the file itself: {tmp_path / 'clip_cn.pt'}")


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config_is_refused(open_model, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    refused(open_model, tmp_path, "config.json is damaged")


def test_a_folder_without_weights_is_refused(open_model, transformers_folder):
    folder, _ = transformers_folder()
    (folder / "model.safetensors").unlink()
    refused(open_model, folder, "has no weights", "model.safetensors or pytorch_model.bin")


def test_a_damaged_safetensors_file_is_refused(open_model, transformers_folder):
    folder, _ = transformers_folder()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(open_model, folder, "model.safetensors is damaged")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../../secret.safetensors"}, "points outside the folder"),
        ({"a": "gone.safetensors"}, "gone.safetensors is missing"),
        ({}, "has no weight_map"),
    ],
)
def test_a_damaged_index_is_refused(open_model, transformers_folder, weight_map, message):
    folder, _ = transformers_folder()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    refused(open_model, folder, message)


def test_a_folder_with_foreign_weights_is_refused(open_model, transformers_folder):
    folder, _ = transformers_folder()
    save_file({"bert.x": torch.ones(1)}, folder / "model.safetensors")
    refused(open_model, folder, "not a Chinese-CLIP checkpoint", "missing logit_scale", "unexpected bert.x")


def test_a_hub_name_is_downloaded(open_model, transformers_folder, monkeypatch):
    folder, _ = transformers_folder()
    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert open_model("someone/some-model").name == "vit-128x3-48px"
    assert [name for name, _ in asked] == ["someone/some-model"]
    as_bin(folder)
    asked.clear()
    assert open_model("someone/some-model").name == "vit-128x3-48px"
    assert ["*.bin" in patterns for _, patterns in asked] == [False, True]


def test_a_hub_that_cannot_be_reached_is_reported(open_model, monkeypatch):
    def unreachable(name, allow_patterns):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    refused(open_model, "someone/some-model", "someone/some-model", "ConnectionError: no route", "connection")


def test_a_missing_hub_client_is_reported(open_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(open_model, "someone/some-model", "pip install huggingface_hub")


def without_cn_clip(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_a_missing_vocabulary_is_refused(write, open_model, vit, monkeypatch):
    without_cn_clip(monkeypatch)
    file = write(vit)
    (file.parent / "vocab.txt").unlink()
    refused(open_model, file, "no vocab.txt was found", "`vocabulary=`")


def test_a_named_vocabulary_comes_first_and_must_exist(write, open_model, vit, vocabulary, tmp_path):
    file = write(vit)
    named = tmp_path / "named.txt"
    refused(open_model, file, "named.txt does not exist", vocabulary=named)
    named.write_bytes(vocabulary(120).replace(b"t7", "猫".encode()))
    assert open_model(file, vocabulary=named).assets["vocabulary"] == ("vocab.txt", named.read_bytes())


def test_the_vocabulary_of_an_installed_cn_clip_is_used_without_importing_it(
    write, open_model, vit, vocabulary, tmp_path, monkeypatch
):
    file = write(vit)
    (file.parent / "vocab.txt").unlink()
    package = tmp_path / "cn_clip"
    (package / "clip").mkdir(parents=True)
    (package / "clip" / "vocab.txt").write_bytes(vocabulary(120))
    found = types.SimpleNamespace(submodule_search_locations=[str(package)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    assert open_model(file).assets["vocabulary"][1] == vocabulary(120)
    assert "cn_clip" not in sys.modules


def test_a_vocabulary_of_another_size_is_refused(write, open_model, vit, vocabulary):
    file = write(vit)
    (file.parent / "vocab.txt").write_bytes(vocabulary(119))
    refused(open_model, file, "has 119 entries", "have 120", "`vocabulary=`")


def test_only_newlines_separate_entries(write, open_model, vit, vocabulary):
    file = write(vit)
    content = vocabulary(120).replace(b"t7\n", "t\u20287\n".encode()).removesuffix(b"\n")
    Path(file.parent / "vocab.txt").write_bytes(content)
    assert open_model(file).assets["vocabulary"][1] == content


def test_a_vocabulary_that_is_not_text_is_refused(write, open_model, vit):
    file = write(vit)
    (file.parent / "vocab.txt").write_bytes(b"\xff\xfe\n" * 120)
    refused(open_model, file, "is not UTF-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((b"[UNK]", b"unk"), "has no [UNK]"),
        ((b"[SEP]", b"</s>"), "has no [SEP]"),
        ((b"[PAD]\n[UNK]\n[CLS]", b"[CLS]\n[UNK]\n[PAD]"), "has [PAD] as entry 2, it must be entry 0"),
    ],
)
def test_a_vocabulary_without_its_special_entries_is_refused_before_anything_is_shipped(
    write, open_model, vit, vocabulary, change, said
):
    file = write(vit)
    (file.parent / "vocab.txt").write_bytes(vocabulary(120).replace(*change))
    refused(open_model, file, f"vocab.txt {said}", "`vocabulary=`")


SQUARE = {"height": 48, "width": 48}
PREPARED = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": SQUARE,
    "resample": 3,
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    "image_processor_type": "ChineseCLIPImageProcessor",
}


@pytest.mark.parametrize(
    "said",
    [
        PREPARED,
        {},
        {"feature_extractor_type": "x", "resample": None},
        {**PREPARED, "size": 48},
        {**PREPARED, "crop_size": SQUARE, "do_center_crop": True},
    ],
)
def test_a_folder_that_prepares_pictures_as_chinese_clip_is_read(transformers_folder, open_model, said):
    folder, _ = transformers_folder()
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    assert open_model(folder).settings["resolution"] == 48
    assert open_model(folder, resolution=96).settings["resolution"] == 96


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_mean", [0.5, 0.5, 0.5]),
        ("image_std", [0.5, 0.5, 0.5]),
        ("size", {"shortest_edge": 48}),
        ("size", {"height": 224, "width": 224}),
        ("do_center_crop", True),
        ("do_normalize", False),
        ("resample", 2),
    ],
)
def test_a_folder_that_prepares_pictures_otherwise_is_refused(transformers_folder, open_model, name, value):
    folder, _ = transformers_folder()
    (folder / "preprocessor_config.json").write_text(json.dumps({**PREPARED, name: value}))
    error = refused(open_model, folder, "preprocessor_config.json", f"{name} is {value}, not {PREPARED[name]}")
    assert "Correct the file" in error.remedy


def test_a_crop_of_pictures_that_are_not_square_is_refused(transformers_folder, open_model):
    folder, _ = transformers_folder()
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_center_crop": True, "crop_size": SQUARE}))
    refused(open_model, folder, "do_center_crop is True, not False")


def test_only_a_folder_of_transformers_says_how_pictures_are_prepared(write, open_model, vit):
    file = write(vit)
    (file.parent / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0, 0]}))
    assert open_model(file).settings["resolution"] == 48


@pytest.fixture(params=["preprocessor_config.json", "processor_config.json"])
def prepared_by(request, transformers_folder):
    """A folder in which transformers' own image processor says how pictures are prepared, alone or with others."""
    from transformers.models.chinese_clip.image_processing_pil_chinese_clip import ChineseCLIPImageProcessorPil

    def save(**options):
        folder, _ = transformers_folder()
        ChineseCLIPImageProcessorPil(**options).save_pretrained(folder)
        alone = folder / "preprocessor_config.json"
        if request.param != alone.name:
            together = {"image_processor": json.loads(alone.read_text()), "processor_class": "ChineseCLIPProcessor"}
            (folder / request.param).write_text(json.dumps(together))
            alone.unlink()
        return folder

    return save


def test_what_transformers_writes_of_square_pictures_is_read(prepared_by, open_model):
    assert open_model(prepared_by(size=SQUARE, do_center_crop=False)).settings["resolution"] == 48


def test_what_transformers_writes_of_its_own_defaults_is_refused(prepared_by, open_model):
    refused(open_model, prepared_by(), "size is {'shortest_edge': 224}", "do_center_crop is True, not False")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", ["text_projection", "bert.encoder.layer.0.output.dense.weight"])
def test_weights_that_are_no_floating_point_are_refused(write, open_model, vit, dtype, name):
    model = open_model(write(vit, change=lambda state: {**state, name: state[name].to(dtype)}))
    with pytest.raises(CheckpointError, match=str(dtype).removeprefix("torch.")) as caught:
        model.component("text")
    assert "float32" in caught.value.message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_floating_points_are_float32_then(write, open_model, vit, dtype):
    model = open_model(write(vit, change=lambda state: {name: t.to(dtype) for name, t in state.items()}))
    assert {t.dtype for t in model.component("text").reference.parameters()} == {torch.float32}


@pytest.mark.parametrize("change", [lambda t: t.to_sparse(), lambda t: t.to("meta")], ids=["sparse", "meta"])
def test_weights_that_are_no_plain_tensors_are_refused(write, open_model, vit, change):
    refused(
        open_model,
        write(vit, change=lambda state: {**state, "text_projection": change(state["text_projection"])}),
        "text_projection",
    )


@pytest.mark.parametrize("number", ["999999999", "9" * 30])
def test_a_weight_of_a_layer_without_end_is_refused(write, open_model, vit, number):
    name = f"bert.encoder.layer.{number}.output.dense.weight"
    refused(open_model, write(vit, change=lambda state: {**state, name: torch.zeros(1)}), number[:3])


def test_any_bytes_of_a_file_may_be_changed(write, open_model, vit):
    """Whatever the unpickler raises, it is an error of the file."""
    file = write(vit)
    whole, errors = file.read_bytes(), 0
    start = whole.index(b"data.pkl") + 8
    for seed in range(60):
        draw, data = random.Random(seed), bytearray(whole)
        data[start + draw.randrange(3000)] = draw.randrange(256)
        file.write_bytes(data)
        try:
            open_model(file)
        except CheckpointError:
            errors += 1
    assert errors > 10


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "content",
    ['{"a":' * 100_000, '{"a": ' + "9" * 5001 + "}", "[1]", "\ud800", ""],
    ids=["deep", "long", "list", "bytes", "none"],
)
def test_a_configuration_that_is_no_object_is_refused(transformers_folder, open_model, name, content):
    folder, _ = transformers_folder()
    (folder / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(open_model, folder, name, "is damaged")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text_config", "hidden_act", "no such function"),
        ("vision_config", "hidden_act", None),
        ("text_config", "layer_norm_eps", "small"),
        ("vision_config", "num_attention_heads", 0),
        (None, "num_labels", 10**12),
        ("text_config", "num_labels", 10**12),
    ],
)
def test_what_no_tower_can_be_built_with_is_refused(transformers_folder, open_model, part, name, value):
    folder, _ = transformers_folder()
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))
    refused(open_model, folder, "config.json")


@pytest.mark.parametrize("scale", [1000.0, -1e30])
def test_a_scale_of_similarities_that_is_infinite_is_refused(write, open_model, vit, scale):
    file = write(vit, change=lambda state: {**state, "logit_scale": torch.tensor(scale)})
    refused(open_model, file, "logit_scale")
