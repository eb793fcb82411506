import io
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shipped import IDEOGRAPHS, pictures

from torchlift.errors import BatchTooLargeError, BundleError, InputError, ProfileError, SignatureError
from torchlift.families.base import LoadOptions
from torchlift.families.chinese_clip import ChineseClip
from torchlift.pipelines import of_bundle, open_bundle
from torchlift.processing.answers import l2_normalize
from torchlift.processing.image import pixels_of

OPT, MAX = 4, 8
TEXTS = ["一只猫", "狗", "在草地上奔跑的狗和鸟, a dog", "日落", "红色汽车" * 5, "皮卡丘"]


def one_by_one(pipeline, texts):
    """Normalised features of each text on its own, padded to 52."""
    run = pipeline.session("text").run
    ids = [pipeline.preparer("text").tokenizers["text"].encode([text], 52) for text in texts]
    return l2_normalize(np.concatenate([run({"text": row})["unnorm_text_features"] for row in ids]))


@pytest.fixture
def fed(opened, monkeypatch):
    """The shapes of what the text session is fed."""
    shapes = []
    session = opened.session("text")
    run = session.run

    def spy(feeds):
        shapes.append(feeds["text"].shape)
        return run(feeds)

    monkeypatch.setattr(session, "run", spy)
    return shapes


def test_paths_bytes_pillow_images_and_arrays_give_the_same_features(opened, tmp_path):
    image = pictures(1)[0]
    image.save(tmp_path / "a.png")
    as_bytes = (tmp_path / "a.png").read_bytes()
    sources = [str(tmp_path / "a.png"), tmp_path / "a.png", as_bytes, image, np.asarray(image)]
    features = opened.encode_image(sources)
    assert features.shape == (5, 32)
    np.testing.assert_allclose(features, np.repeat(features[:1], 5, axis=0), atol=1e-6)
    assert not np.allclose(features[0], opened.encode_image(pictures(2)[1:])[0], atol=1e-2)


@pytest.mark.parametrize("count", [1, OPT, MAX, MAX + 3, 150])
def test_any_number_of_pictures_gives_what_each_gives_alone(opened, count):
    images = pictures(count)
    together = opened.encode_image(images)
    alone = np.concatenate([opened.encode_image([image]) for image in images])
    assert together.shape == (count, 32)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_the_size_of_batches_changes_nothing_but_the_batches(opened, monkeypatch):
    images = pictures(7)
    expected = opened.encode_image(images)
    session, sizes = opened.session("image"), []
    run = session.run
    monkeypatch.setattr(session, "run", lambda feeds: sizes.append(len(feeds["image"])) or run(feeds))
    np.testing.assert_allclose(opened.encode_image(images, size=3), expected, atol=1e-5)
    assert sizes == [3, 3, 1]


def test_features_that_are_not_normalised_differ_by_their_length_only(opened):
    images = pictures(3)
    raw = opened.encode_image(images, normalize=False)
    assert np.abs(np.linalg.norm(raw, axis=1) - 1).min() > 1e-2
    np.testing.assert_allclose(l2_normalize(raw), opened.encode_image(images), atol=1e-6)
    raw = opened.encode_text(TEXTS, normalize=False)
    np.testing.assert_allclose(l2_normalize(raw), opened.encode_text(TEXTS), atol=1e-6)


def test_image_features_are_those_of_pytorch(opened, clip):
    reference = ChineseClip().load(clip.source, LoadOptions()).component("image").reference
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    images = pictures(5)
    pixels = [np.asarray(i.resize((32, 32), PIL.Image.BICUBIC), np.float32) / 255 for i in images]
    with torch.inference_mode():
        expected = reference(torch.from_numpy(np.stack([((p - mean) / std).transpose(2, 0, 1) for p in pixels])))
    np.testing.assert_allclose(opened.encode_image(images), l2_normalize(expected.numpy()), atol=1e-4)


def test_text_features_are_those_of_pytorch(opened, clip):
    reference = ChineseClip().load(clip.source, LoadOptions()).component("text").reference
    with torch.inference_mode():
        expected = reference(torch.from_numpy(opened.preparer("text").tokenizers["text"].encode(TEXTS, 52)))
    np.testing.assert_allclose(opened.encode_text(TEXTS), l2_normalize(expected.numpy()), atol=1e-4)


@given(st.lists(st.text(st.sampled_from(IDEOGRAPHS + "abc ,."), min_size=1, max_size=70).filter(str.strip), min_size=1,
                max_size=20))  # fmt: skip
@settings(max_examples=25)
def test_texts_of_mixed_lengths_keep_their_order_and_their_features(opened, texts):
    np.testing.assert_allclose(opened.encode_text(texts), one_by_one(opened, texts), atol=1e-5)


def test_texts_share_batches_by_length_and_are_padded_to_the_longest_of_their_batch(opened, fed):
    lengths = [30, 1, 12, 2, 1, 12, 2, 12, 1, 50]
    opened.encode_text([IDEOGRAPHS[:n] for n in lengths])
    assert fed == [(4, 4), (4, 14), (2, 52)]


def test_a_short_text_is_padded_to_the_least_that_the_signature_takes(opened, fed):
    opened.encode_text(["猫"])
    assert fed == [(1, 4)]


def test_cut_texts_are_noted_and_encoded_as_their_beginning(clip, progress):
    texts = ["猫", "猫" * 51, "狗" * 50, "狗" * 60]
    with open_bundle(clip.path, progress=progress) as pipeline:
        features = pipeline.encode_text(texts)
        np.testing.assert_allclose(features[3], features[2], atol=1e-6)
    assert progress.notes == ["2 of 4 texts were cut to 52 tokens, the first is text 1"]


def test_texts_that_fit_are_not_noted(clip, progress):
    with open_bundle(clip.path, progress=progress) as pipeline:
        pipeline.encode_text(["狗" * 50])
    assert progress.notes == []


def test_similarity_is_the_scaled_cosine(opened):
    image, text = opened.encode_image(pictures(3)), opened.encode_text(TEXTS)
    scores = opened.similarity(image, text)
    assert scores.shape == (3, len(TEXTS))
    assert scores.dtype == np.float32
    assert opened.logit_scale == pytest.approx(np.exp(2.0), rel=1e-6)
    cosine = [[i @ t / np.linalg.norm(i) / np.linalg.norm(t) for t in text] for i in image]
    np.testing.assert_allclose(scores, np.exp(2.0) * np.array(cosine), rtol=1e-4, atol=1e-5)


def test_classify_gives_the_softmax_of_the_scaled_cosine(opened):
    images = pictures(9)
    probabilities = opened.classify(images, TEXTS)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    logits = np.exp(2.0) * opened.encode_image(images) @ opened.encode_text(TEXTS).T
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-5)
    assert probabilities.max() < 0.99, "a saturated softmax would prove little"


def test_pictures_are_decoded_in_other_threads_while_the_session_works(opened, monkeypatch):
    images = pictures(2 * OPT)
    decoding, deadline = [], 10
    second_batch = threading.Event()
    session = opened.session("image")
    run = session.run

    def decode(declared, source, **options):
        decoding.append(threading.get_ident())
        if source is images[OPT]:
            second_batch.set()
        return pixels_of(declared, source, **options)

    def slow_run(feeds):
        assert second_batch.wait(deadline), "the next batch is not prepared while this one runs"
        return run(feeds)

    monkeypatch.setattr("torchlift.pipelines.prepare.pixels_of", decode)
    monkeypatch.setattr(session, "run", slow_run)
    opened.encode_image(images)
    assert len(decoding) == 2 * OPT
    assert threading.get_ident() not in decoding


def encoded(image, format_="PNG"):
    stream = io.BytesIO()
    image.save(stream, format_)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("images", "message", "remedy"),
    [
        ([], "no pictures", "at least one"),
        ("cat.jpg", "one str where a list of pictures", "list"),
        (b"\x89PNG", "one bytes where a list of pictures", "list"),
        (np.zeros((5, 5, 3), np.uint8), "one ndarray where a list of pictures", "list"),
        (PIL.Image.new("RGB", (5, 5)), "one Image where a list of pictures", "list"),
        (None, "one NoneType where a list of pictures", "list"),
        (["/nowhere/cat.jpg"], "picture 0 (/nowhere/cat.jpg) does not exist", "path"),
        ([b"no image"], "picture 0 is not an image", "JPEG"),
        ([encoded(pictures(1)[0])[:-200]], "picture 0 cannot be decoded", "truncated"),
        ([3.5], "picture 0 is float", "path"),
        ([np.zeros((4, 4, 3), np.float32)], "picture 0 is an array float32[4, 4, 3]", "uint8"),
    ],
)
def test_pictures_that_cannot_be_used_are_named(opened, images, message, remedy):
    with pytest.raises(InputError) as caught:
        opened.encode_image(images)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_a_picture_file_that_is_none_is_named_by_its_position_and_path(opened, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"picture 5 \(.*notes.txt\) is not an image"):
        opened.encode_image([*pictures(5), tmp_path / "notes.txt", *pictures(5)])


def test_a_picture_of_too_many_pixels_is_refused(opened, monkeypatch):
    data = encoded(PIL.Image.new("RGB", (60, 60)))
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="more than 1,000 pixels") as caught:
        opened.encode_image([data])
    assert "MAX_IMAGE_PIXELS" in caught.value.remedy


@pytest.mark.parametrize(
    ("texts", "message", "remedy"),
    [
        ([], "no texts", "at least one"),
        ("一只猫", "one str where a list of texts", "list"),
        (["猫", ""], "text 1 is empty", "white space"),
        (["猫", " \t\n\u3000"], "text 1 is empty", "white space"),
        (["猫", "\u200b\u200d\ufeff"], "text 1 is empty", "can be seen"),
        (["\x00\x07"], "text 0 is empty", "can be seen"),
        (["猫" * 10_000], "text 0 has 10,000 characters; at most 4,096", "part of the text"),
        (["猫", 7], "text 1 is int", "strings"),
        (["猫", None], "text 1 is NoneType", "strings"),
        ([b"cat"], "text 0 is bytes", "strings"),
        (7, "one int where a list of texts", "list"),
    ],
)
def test_texts_that_cannot_be_used_are_named(opened, texts, message, remedy):
    with pytest.raises(InputError) as caught:
        opened.encode_text(texts)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_texts_may_come_as_an_array_or_from_a_generator(opened):
    expected = opened.encode_text(TEXTS)
    np.testing.assert_array_equal(opened.encode_text(np.array(TEXTS)), expected)
    np.testing.assert_array_equal(opened.encode_text(text for text in TEXTS), expected)


@pytest.mark.parametrize(("size", "bound"), [(9, "batch=1..4..9"), (0, "at most 8")])
def test_a_batch_size_outside_the_range_is_refused(opened, size, bound):
    for encode, items in ((opened.encode_image, pictures(1)), (opened.encode_text, TEXTS)):
        with pytest.raises(InputError, match=rf"batch size {size} is outside 1..8") as caught:
            encode(items, size=size)
        assert bound in caught.value.remedy


def test_a_session_refuses_what_its_signature_does_not_admit(opened):
    with pytest.raises(BatchTooLargeError, match=r"batch 9 is outside 1..8"):
        opened.session("image").run({"image": np.zeros((9, 3, 32, 32), np.float32)})
    with pytest.raises(SignatureError, match=r"sequence 53 is outside 4..52"):
        opened.session("text").run({"text": np.zeros((1, 53), np.int64)})


def test_the_pipeline_goes_on_after_an_error(opened):
    images = pictures(11)
    expected = opened.encode_image(images)
    for position in (0, 5, 10):
        with pytest.raises(InputError, match=f"picture {position} is not an image"):
            opened.encode_image([*images[:position], b"no image", *images[position + 1 :]])
    with pytest.raises(InputError):
        opened.encode_text(["猫", ""])
    np.testing.assert_array_equal(opened.encode_image(images), expected)
    assert opened.encode_text(["猫"]).shape == (1, 32)


def test_both_towers_open_only_when_they_are_needed(clip):
    with open_bundle(clip.path) as pipeline:
        pipeline.encode_text(["猫"])
        assert pipeline._sessions.keys() == {"text"}


@pytest.mark.parametrize("scale", [None, "much", 1e10, float("nan"), [1]])
def test_a_scale_that_no_model_has_is_refused(copied, scale):
    copied.manifest.settings["logit_scale"] = scale
    with pytest.raises(BundleError, match="the bundle's logit_scale is") as caught:
        of_bundle(copied)
    assert "ship it again" in caught.value.remedy


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ([[1.0]], np.ones((1, 2), np.float32), "image_features is list"),
        (np.ones((1, 2), np.float32), np.ones(2, np.float32), r"text_features is float32\[2\]"),
        (np.ones((1, 2), np.float32), np.ones((3, 4), np.float32), "have 2 columns, text_features 4"),
    ],
)
def test_features_that_do_not_fit_are_refused(opened, images, texts, message):
    with pytest.raises(InputError, match=message):
        opened.similarity(images, texts)


def test_a_bundle_of_one_encoder_is_no_dual_encoder(copied):
    manifest = replace(copied.manifest, components=copied.manifest.components[:1])
    with pytest.raises(BundleError, match="has 0 encoders that take a TextInput"):
        of_bundle(SimpleNamespace(path=copied.path, manifest=manifest, read=copied.read))


def test_a_pipeline_that_is_not_known_is_refused(copied):
    copied.commit(replace(copied.manifest, pipeline="telepathy"))
    with pytest.raises(BundleError, match="has the pipeline 'telepathy'") as caught:
        open_bundle(copied.path)
    assert "pip install -U" in caught.value.remedy


# engines that run a part of what the signature admits


@pytest.mark.parametrize(
    ("profiles", "count", "batches"),
    [
        (["batch=1:1:1"], 3, [1, 1, 1]),
        (["batch=1:1:1", "batch=1:2:3"], 7, [3, 3, 1]),
        (["batch=1", "batch=2"], 5, [2, 2, 1]),
        (["batch=4", "batch=1"], 9, [4, 4, 1]),
        (["batch=4", "batch=1"], 6, [4, 4]),
        (["batch=4"], 2, [4]),
    ],
)
def test_pictures_are_cut_to_the_batches_that_profiles_hold(opened, profiled, profiles, count, batches):
    images = pictures(count)
    session = profiled(opened.session("image"), *profiles)
    with of_bundle(opened.bundle, {"image": session}) as pipeline:
        np.testing.assert_allclose(pipeline.encode_image(images), opened.encode_image(images), atol=1e-5)
    assert [shape[0] for shape in session.ran] == batches


def test_a_size_that_is_asked_for_is_cut_too(opened, profiled):
    session = profiled(opened.session("image"), "batch=8", "batch=1")
    with of_bundle(opened.bundle, {"image": session}) as pipeline:
        pipeline.encode_image(pictures(9), size=8)
    assert [shape[0] for shape in session.ran] == [8, 1]


LENGTHS = [30, 1, 12, 2]
"""Characters; the model reads two tokens more."""


@pytest.mark.parametrize(
    ("profiles", "shapes"),
    [
        (["sequence=4:16:52"], [(4, 32)]),
        (["batch=1:1:1"], [(1, 4), (1, 4), (1, 14), (1, 32)]),
        (["batch=1:1:2"], [(2, 4), (2, 32)]),
        (["sequence=52"], [(4, 52)]),
        (["batch=1,sequence=52"], [(1, 52)] * 4),
        (["sequence=16", "sequence=40"], [(4, 40)]),
        (["sequence=14", "sequence=52"], [(4, 52)]),
        (["batch=1", "sequence=52"], [(4, 52)]),
        (["batch=1,sequence=32", "sequence=4:8:14"], [(3, 14), (1, 32)]),
        (["batch=2,sequence=16", "batch=1,sequence=52"], [(2, 16), (1, 52), (1, 52)]),
    ],
)
def test_texts_are_cut_to_as_few_batches_as_profiles_hold(opened, profiled, profiles, shapes):
    texts = [IDEOGRAPHS[:n] for n in LENGTHS]
    session = profiled(opened.session("text"), *profiles)
    with of_bundle(opened.bundle, {"text": session}) as pipeline:
        np.testing.assert_allclose(pipeline.encode_text(texts), opened.encode_text(texts), atol=1e-5)
    assert session.ran == shapes


@pytest.mark.parametrize(("size", "shapes"), [(4, [(4, 40)]), (3, [(3, 16), (1, 52)]), (2, [(2, 8), (2, 40)])])
def test_texts_are_padded_to_few_shapes_where_each_is_recorded(opened, profiled, size, shapes):
    texts = [IDEOGRAPHS[:n] for n in LENGTHS]
    session = profiled(opened.session("text"), "batch=1:4:8")
    session.records = 8
    with of_bundle(opened.bundle, {"text": session}) as pipeline:
        np.testing.assert_allclose(pipeline.encode_text(texts, size=size), opened.encode_text(texts), atol=1e-5)
        assert session.ran == shapes
        pipeline.encode_text(texts[:3], size=4)
        assert session.ran[-1] == (4, 40)


@pytest.mark.parametrize(
    ("records", "shapes"),
    [
        (False, [(8, 12), (8, 12), (4, 52), (2, 52)]),
        (True, [(8, 12), (8, 12), (4, 52), (4, 52)]),
    ],
)
def test_batches_of_as_many_tokens_give_what_each_text_gives_alone(opened, profiled, records, shapes):
    texts = [IDEOGRAPHS[i : i + 10] for i in range(17)] + [IDEOGRAPHS[i : i + 50] for i in range(5)]
    session = profiled(opened.session("text"), "batch=1:4:8")
    session.records, session.on_device = 8 * records, True
    with of_bundle(opened.bundle, {"text": session}) as pipeline:
        np.testing.assert_allclose(pipeline.encode_text(texts[::-1]), one_by_one(opened, texts[::-1]), atol=1e-5)
    assert session.ran == shapes


@pytest.mark.parametrize(
    ("profile", "sizes"), [("batch=1:4:8", {1, 4}), ("batch=3", {3}), ("batch=1:3:3", {1, 3}), ("batch=2:2:3", {2, 3})]
)
def test_pictures_make_batches_of_two_sizes_where_each_is_recorded(opened, profiled, profile, sizes):
    session = profiled(opened.session("image"), profile)
    session.records = 8
    with of_bundle(opened.bundle, {"image": session}) as pipeline:
        for count in (1, 5, 9, 12):
            images = pictures(count)
            found = pipeline.encode_image(images, size=4)
            np.testing.assert_allclose(found, opened.encode_image(images), atol=1e-5)
    assert {shape[0] for shape in session.ran} <= sizes


def test_a_text_that_no_profile_holds_is_an_error_with_the_profiles(opened, profiled):
    session = profiled(opened.session("text"), "batch=1,sequence=4:8:16")
    with of_bundle(opened.bundle, {"text": session}) as pipeline:
        with pytest.raises(
            ProfileError, match=r"holds batch 2, sequence 32; it has batch 1\.\.1, sequence 4\.\.16"
        ) as caught:
            pipeline.encode_text([IDEOGRAPHS[:30]] * 2)
        assert "`profiles=batch=2:2:2,sequence=32:32:32`" in caught.value.remedy
        assert pipeline.encode_text([IDEOGRAPHS[:10]] * 2).shape == (2, 32)


def test_a_batch_that_no_profile_holds_is_an_error_with_the_profiles(opened, profiled):
    session = profiled(opened.session("image"), "batch=4")
    with of_bundle(opened.bundle, {"image": session}) as pipeline:
        assert pipeline.encode_image(pictures(4)).shape == (4, 32)
        with pytest.raises(ProfileError, match=r"holds batch 3; it has batch 4\.\.4"):
            pipeline.encode_image(pictures(3), size=3)


@pytest.mark.parametrize("size", [1.5, "8", True, [8], np.zeros((2, 2))], ids=lambda size: type(size).__name__)
def test_a_size_that_is_no_whole_number_is_refused(opened, size):
    opened.encode_text(["猫"], size=1)  # 1 and True are alike as keys
    with pytest.raises(InputError, match="batch size"):
        opened.encode_text(["猫"], size=size)
