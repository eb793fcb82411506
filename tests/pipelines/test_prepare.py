import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from shipped import VOCABULARY, pictures
from tokenizers.processors import TemplateProcessing

from torchlift.bundle import Bundle
from torchlift.declare.inputs import ImageInput, TextInput, TextPart
from torchlift.errors import BundleError, InputError, SignatureError
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.prepare import Preparer, listed
from torchlift.pipelines.run import AnySize, Batching, Loader
from torchlift.processing.image import prepared as prepared_picture
from torchlift.signature import Axis, Signature, TensorSpec

BATCH, SEQUENCE = Axis("batch", 1, 4, 8), Axis("sequence", 1, 8, 16)
BERT = Signature(
    tuple(
        TensorSpec(name, "int64", ("batch", "sequence"), bounds)
        for name, bounds in (("ids", (0, len(VOCABULARY))), ("mask", (0, 2)), ("types", (0, 2)))
    ),
    (TensorSpec("y", "float32", ("batch", 2)),),
    (BATCH, SEQUENCE),
)
TEXTS = {"mask": TextPart("ids"), "types": TextPart("ids", "types")}


def tokenizer_json(pad="[PAD]"):
    """A tokenizer of words, as bytes of its file."""
    words = {word: number for number, word in enumerate([pad, "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return made.to_str().encode()


@pytest.fixture
def bert(tmp_path):
    """Maker of the preparer of a model that takes texts by a tokenizer's file."""

    def make(name="tokenizer.json", content=None, length=6, signature=BERT):
        bundle = Bundle.create(tmp_path / "bert", Manifest("bert", "module", "k", {}))
        with bundle.adding("model/source") as added:
            for file in ("model.onnx", "goldens.safetensors"):
                (added.path / file).write_bytes(b"not opened")
            (added.path / name).write_bytes(tokenizer_json() if content is None else content)
        files = {"model": f"{added.folder}/model.onnx", "goldens": f"{added.folder}/goldens.safetensors"}
        inputs = {"ids": TextInput("words", length), **TEXTS}
        component = Component("model", signature, **files, exporter="", opset=20, parameters=0, key="", inputs=inputs)
        manifest = bundle.manifest.with_component(component)
        manifest.assets["words"] = f"{added.folder}/{name}"
        bundle.commit(manifest, added.files)
        return Preparer.of(bundle, bundle.manifest.component("model"))

    return make


def feeds_of(preparer, inputs):
    prepared = preparer.prepare(inputs)
    with Loader() as loader:
        return [*loader.feeds(prepared, Batching(AnySize(), preparer.signature).runs(prepared))]


def test_texts_become_ids_a_mask_and_types_of_the_longest(bert):
    (feeds,) = feeds_of(bert(), {"ids": ["good film", "bad", "a good good film indeed"]})
    by_length = [[2, 5, 3, 0, 0, 0], [2, 4, 6, 3, 0, 0], [2, 1, 4, 4, 6, 3]]
    assert feeds["ids"].tolist() == by_length
    assert feeds["mask"].tolist() == [[int(n > 0) for n in row] for row in by_length]
    assert not feeds["types"].any()
    assert {array.dtype for array in feeds.values()} == {np.dtype("int64")}


def test_a_text_that_is_too_long_is_cut_and_told(bert):
    preparer = bert()
    prepared = preparer.prepare({"ids": ["film", "good " * 9, "bad " * 5]})
    assert preparer.cut(prepared) == (2, 3, 6, 1)
    assert preparer.cut(preparer.prepare({"ids": ["film"]})) is None


def test_ids_are_taken_as_they_are_with_their_mask(bert):
    ids = np.array([[2, 4, 3, 0]])
    (feeds,) = feeds_of(bert(), {"ids": ids, "mask": (ids > 0).astype(np.int64), "types": np.zeros_like(ids)})
    np.testing.assert_array_equal(feeds["ids"], ids)
    with pytest.raises(SignatureError, match="missing mask, types"):
        bert().prepare({"ids": ids})


def test_a_vocabulary_of_a_bert_serves_as_well(bert):
    content = ("\n".join(VOCABULARY) + "\n").encode()
    (feeds,) = feeds_of(bert("vocab.txt", content), {"ids": ["一只猫"]})
    start, end = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    assert feeds["ids"].tolist() == [[start, *(VOCABULARY.index(c) for c in "一只猫"), end]]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["film", ""], "text 1 is empty"),
        (["film", "  "], "text 1 is empty"),
        (["film", 7], "text 1 is int"),
        (["x" * 5000], "text 0 has 5,000 characters; at most 4,096"),
        (["\ud800"], "lone surrogate"),
        ("film", "one str where a list of texts"),
        ([], "there are no texts"),
    ],
)
def test_texts_that_cannot_be_read_are_named(bert, texts, message):
    with pytest.raises(InputError, match=message):
        bert().prepare({"ids": texts})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{}", "tokenizer.json cannot be used"),
        ("tokenizer.json", b"\xff", "tokenizer.json cannot be used"),
        ("vocab.txt", b"a\nb", "vocab.txt cannot be used"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_refused(bert, name, content, message):
    with pytest.raises(BundleError, match=message):
        bert(name, content)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(bert):
    narrow = Signature(
        tuple(TensorSpec(s.name, s.dtype, s.shape, (0, 5)) for s in BERT.inputs), BERT.outputs, BERT.axes
    )
    with pytest.raises(BundleError, match="has 7 tokens, model takes 5"):
        bert(signature=narrow)


def test_the_library_pads_with_the_same_id(bert):
    content = json.loads(tokenizer_json("<pad>"))
    assert bert(content=json.dumps(content).encode()).tokenizers["ids"].pad == 0


def component_of_pictures(image, shape=("batch", 3, "height", "width")):
    axes = (BATCH, Axis("height", 8, 16, 64), Axis("width", 8, 16, 64))
    used = tuple(axis for axis in axes if axis.name in shape)
    signature = Signature((TensorSpec("image", "float32", shape),), (TensorSpec("y", "float32", ("batch", 2)),), used)
    return Component("model", signature, "m", "g", "", 20, 0, "", inputs={"image": image})


def test_pictures_of_any_size_are_as_large_as_they_are():
    preparer = Preparer(component_of_pictures(ImageInput(None)), {})
    given = pictures(3)
    for feeds, picture in zip(
        feeds_of(preparer, {"image": given}), sorted(given, key=lambda p: p.size[::-1]), strict=True
    ):
        np.testing.assert_array_equal(feeds["image"][0], prepared_picture(ImageInput(None), picture))
    tall = given[0].resize((10, 70))
    with pytest.raises(InputError, match=r"picture 1 has height 70, outside 8..64"):
        preparer.prepare({"image": [given[1], tall]})


def test_a_letterbox_fills_up_to_the_stride():
    image = ImageInput((64, 64), fit="letterbox", stride=16, scale="byte")
    preparer = Preparer(component_of_pictures(image), {})
    (feeds,) = feeds_of(preparer, {"image": [np.full((20, 64, 3), 7, np.uint8)]})
    assert feeds["image"].shape == (1, 3, 32, 64)
    assert (feeds["image"][0, :, 6:26] == 7).all()
    assert (feeds["image"][0, :, :6] == 114).all()
    assert (feeds["image"][0, :, 26:] == 114).all()


@pytest.mark.parametrize(
    "image", [ImageInput((8, 8)), ImageInput((16, 16), fit="letterbox", stride=8)], ids=["size", "varies"]
)
def test_a_declaration_that_the_tensor_does_not_fit_is_refused(image):
    with pytest.raises(SignatureError, match="declared to be pictures"):
        component_of_pictures(image, ("batch", 3, 16, 16))


def test_a_text_may_not_be_longer_than_its_tensor(bert):
    with pytest.raises(SignatureError, match=r"texts of up to 17 tokens, and int64\[batch, sequence\] holds 16"):
        bert(length=17)


def test_a_generator_is_listed():
    assert listed((n for n in range(3)), "numbers") == [0, 1, 2]


@pytest.mark.parametrize("single", ["a.png", b"x", Path("a.png"), np.zeros((4, 4, 3), np.uint8), pictures(1)[0], 7])
def test_one_in_place_of_a_list_is_refused(single):
    with pytest.raises(InputError, match=f"one {type(single).__name__} where a list of images is expected") as caught:
        listed(single, "images")
    assert caught.value.remedy == "Put it into a list."


def numbers(dtype="float32", shape=("batch",)):
    """The preparer of a model that takes numbers."""
    signature = Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", "float32", ("batch", 2)),), (BATCH,))
    return Preparer(Component("model", signature, "m", "g", "", 20, 0, ""), {})


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        ("float32", 3, [3]),
        ("float32", 0.1, [np.float32(0.1)]),
        ("float32", True, [1]),
        ("float32", [3, 7.5], [3, 7.5]),
        ("float32", (3, float("inf")), [3, np.inf]),
        ("float16", [1], [1]),
        ("int32", 7, [7]),
        ("int32", [7, -8], [7, -8]),
        ("int64", [2.0], [2]),
        ("bool", [True, False], [True, False]),
    ],
)
def test_numbers_take_the_dtype_of_the_signature_and_one_is_a_row(dtype, given, expected):
    (feeds,) = feeds_of(numbers(dtype), {"x": given})
    assert feeds["x"].dtype == dtype
    assert feeds["x"].tolist() == np.array(expected, dtype).tolist()


@pytest.mark.parametrize(
    ("dtype", "given", "left"),
    [
        ("int64", 0.5, "float64"),
        ("int64", [1, 2.5], "float64"),
        ("int8", [1, 300], "int64"),
        ("uint8", -1, "int64"),
        ("bool", 2, "int64"),
        ("float32", 2**24 + 1, "int64"),
        ("float32", 1e300, "float64"),
        ("int64", 2**70, "object"),
        ("float32", np.array([3.0]), "float64"),
        ("float32", [np.float32(3), np.ones((), np.int64)], "float64"),
    ],
)
def test_what_the_signature_cannot_hold_and_what_has_a_dtype_is_left_as_it_is(dtype, given, left):
    (feeds,) = feeds_of(numbers(dtype), {"x": given})
    assert feeds["x"].dtype == left


def test_a_number_is_no_row_of_an_input_of_more_dimensions():
    with pytest.raises(SignatureError, match=r"input x is float32\[\]"):
        numbers(shape=("batch", 3)).prepare({"x": 3})
    (feeds,) = feeds_of(numbers(shape=("batch", 2)), {"x": [[3, 4], [5, 6]]})
    assert feeds["x"].shape == (2, 2)
    assert feeds["x"].dtype == np.float32


def test_rows_of_different_lengths_are_no_array():
    with pytest.raises(InputError, match="input x is no array"):
        numbers(shape=("batch", 2)).prepare({"x": [[3, 4], [5]]})
