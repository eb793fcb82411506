import threading
import time

import numpy as np
import PIL.Image
import pytest
import tiny
from shipped import pictures

from torchlift.errors import BundleError, InputError, ProfileError, SignatureError
from torchlift.pipelines import of_bundle, open_bundle
from torchlift.pipelines.tensors import TensorPipeline
from torchlift.processing.answers import named
from torchlift.processing.image import pixels_of


@pytest.fixture
def pipeline(ready):
    with open_bundle(ready.path) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def network(net):
    with open_bundle(net.path) as pipeline:
        yield pipeline


def rows_of(pipeline, monkeypatch):
    """The rows of every batch that the session is given from now on."""
    session, rows = pipeline.session("model"), []
    run = session.run
    monkeypatch.setattr(session, "run", lambda feeds: rows.append(len(next(iter(feeds.values())))) or run(feeds))
    return rows


@pytest.mark.parametrize(("count", "batches"), [(1, [1]), (4, [4]), (8, [8]), (11, [4, 4, 3])])
def test_any_number_of_rows_is_answered_in_order(pipeline, monkeypatch, count, batches):
    rows = rows_of(pipeline, monkeypatch)
    x = tiny.sample(count)
    answers = pipeline({"x": x})
    assert answers.keys() == {"y"}
    np.testing.assert_allclose(answers["y"], tiny.answer(x), rtol=1e-5, atol=1e-5)
    assert rows == batches


def test_the_size_of_batches_can_be_asked_for(pipeline, monkeypatch):
    rows = rows_of(pipeline, monkeypatch)
    np.testing.assert_allclose(
        pipeline({"x": tiny.sample(5)}, size=2)["y"], tiny.answer(tiny.sample(5)), rtol=1e-5, atol=1e-5
    )
    assert rows == [2, 2, 1]


def test_a_batch_size_over_the_maximum_is_refused(pipeline):
    with pytest.raises(InputError, match=r"batch size 9 is outside 1..8") as caught:
        pipeline({"x": tiny.sample(3)}, size=9)
    assert "batch=1..4..9" in caught.value.remedy


@pytest.mark.parametrize(
    ("feeds", "error", "message", "remedy"),
    [
        ({}, SignatureError, "missing x", "x"),
        ({"z": tiny.sample(1)}, SignatureError, "missing x; unknown z", "The inputs are x"),
        ({"x": tiny.sample(1), "z": tiny.sample(1)}, SignatureError, "unknown z", "The inputs are x"),
        ({"x": tiny.sample(2)[:0]}, InputError, "the batch is empty", "at least one row"),
        ({"x": tiny.sample(2)[:, :5]}, SignatureError, "input x is float32[2, 5]", "dimension 1 is 32"),
        ({"x": tiny.sample(2).astype(np.float64)}, SignatureError, "input x is float64[2, 32]", "float32[batch, 32]"),
        ({"x": np.float32(3)}, SignatureError, "input x is float32[]", "float32[batch, 32]"),
    ],
)
def test_inputs_that_do_not_fit_are_named(pipeline, feeds, error, message, remedy):
    with pytest.raises(error) as caught:
        pipeline(feeds)
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def sums(rows, seed=0):
    a, b = np.random.default_rng(seed).standard_normal((2, rows, 3)).astype(np.float32)
    return {"a": a, "b": b, "bias": np.array([1, 2, 3], np.float32)}


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_an_input_without_batch_axis_goes_to_every_batch(summing, axis, count):
    feeds = sums(count)
    with open_bundle(summing(axis(1, 2, 4)).path) as pipeline:
        answers = pipeline(feeds)
    np.testing.assert_allclose(answers["sum"], feeds["a"] + feeds["b"] + feeds["bias"], atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_fewer_rows_than_a_batch_demands_are_filled_up_and_not_answered(summing, axis, monkeypatch, count):
    feeds = sums(count)
    with open_bundle(summing(axis(4, 4, 4)).path) as pipeline:
        rows = rows_of(pipeline, monkeypatch)
        answers = pipeline(feeds)
    np.testing.assert_allclose(answers["sum"], feeds["a"] + feeds["b"] + feeds["bias"], atol=1e-6)
    assert set(rows) == {4}


def test_inputs_that_disagree_in_their_rows_are_named(summing, axis):
    feeds = {**sums(3), "b": sums(2)["b"]}
    with (
        open_bundle(summing(axis(1, 2, 4)).path) as pipeline,
        pytest.raises(InputError, match="different numbers of rows: a 3, b 2") as caught,
    ):
        pipeline(feeds)
    assert "same number" in caught.value.remedy


def test_a_missing_input_among_several_is_named(summing, axis):
    feeds = sums(9)
    with open_bundle(summing(axis(1, 2, 4)).path) as pipeline:
        for name in feeds:
            with pytest.raises(SignatureError, match=f"missing {name}"):
                pipeline({n: a for n, a in feeds.items() if n != name})


def test_a_component_without_batch_axis_takes_exactly_its_shape(summing):
    with open_bundle(summing(None).path) as pipeline:
        feeds = sums(2)
        np.testing.assert_allclose(pipeline(feeds)["sum"], feeds["a"] + feeds["b"] + feeds["bias"], atol=1e-6)
        with pytest.raises(SignatureError, match=r"input a is float32\[3, 3\]") as caught:
            pipeline(sums(3))
    assert "dimension 0 is 2" in caught.value.remedy


@pytest.mark.parametrize("count", [1, 2, 4, 5, 11])
@pytest.mark.parametrize("range_", [(1, 2, 4), (4, 4, 4)])
def test_the_batch_may_be_another_dimension_than_the_first(columns, axis, range_, count):
    x = np.random.default_rng(0).standard_normal((5, count)).astype(np.float32)
    with open_bundle(columns(axis(*range_)).path) as pipeline:
        answers = pipeline({"x": x})
    np.testing.assert_array_equal(answers["twice"], 2 * x)
    np.testing.assert_array_equal(answers["ends"], [x.max(axis=0), x.min(axis=0)])


@pytest.mark.parametrize(("count", "size"), [(1, None), (9, None), (3, 2)])
def test_an_output_over_the_whole_batch_takes_only_one_batch(columns, axis, count, size):
    with open_bundle(columns(axis(2, 3, 4), whole=True).path) as pipeline:
        x = np.ones((5, 4), np.float32)
        assert pipeline({"x": x})["total"] == 20
        with pytest.raises(InputError) as caught:
            pipeline({"x": np.ones((5, count), np.float32)}, size=size)
    assert "output total, float32[], is computed over the whole batch" in caught.value.message
    assert f"{count} rows would not be one" in caught.value.message
    assert "at least 2 and at most 4 rows at once" in caught.value.remedy


def test_an_output_whose_size_differs_between_batches_is_refused(pipeline, monkeypatch):
    session = pipeline.session("model")
    monkeypatch.setattr(session, "run", lambda feeds: {"y": np.ones((len(feeds["x"]), len(feeds["x"])))})
    with pytest.raises(InputError, match="output y has another size in each batch, and 11 rows") as caught:
        pipeline({"x": tiny.sample(11)})
    assert "at most 8 rows" in caught.value.remedy


def test_an_array_of_another_rank_is_named(columns, axis):
    with open_bundle(columns(axis(1, 2, 4)).path) as pipeline, pytest.raises(SignatureError) as caught:
        pipeline({"x": np.ones(3, np.float32)})
    assert caught.value.message == "input x is float32[3]"
    assert caught.value.remedy == "It must be float32[seq, batch]."


def test_images_are_decoded_in_threads_two_batches_at_most(network, monkeypatch):
    images = pictures(9)
    session = network.session("model")
    run, decoded, batches = session.run, [], []

    def decode(declared, source, **options):
        decoded.append(threading.get_ident())
        return pixels_of(declared, source, **options)

    def slow_run(feeds):
        batches.append(len(feeds["image"]))
        time.sleep(0.05)
        assert len(decoded) <= sum(batches) + 2
        return run(feeds)

    monkeypatch.setattr("torchlift.pipelines.prepare.pixels_of", decode)
    monkeypatch.setattr(session, "run", slow_run)
    assert len(network({"image": images})["logits"]) == 9
    assert batches == [2, 2, 2, 2, 1]
    assert len(decoded) == 9
    assert threading.get_ident() not in decoded


def test_declared_images_and_labels_are_applied(network, tmp_path):
    images = pictures(7)
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    rows = network({"image": [tmp_path / f"{number}.png" for number in range(7)]})["logits"]
    assert len(rows) == 7
    names = {"circle", "square", "star", "moon"}
    for row in rows:
        assert len(row) == 2
        assert {name for name, _ in row} < names
        assert 0.25 <= row[0][1] <= 1
        assert row[0][1] >= row[1][1] > 0
    alone = [network({"image": [image]})["logits"][0] for image in images]
    for one, other in zip(rows, alone, strict=True):
        assert [name for name, _ in one] == [name for name, _ in other]
        np.testing.assert_allclose([s for _, s in one], [s for _, s in other], atol=1e-6)


def test_an_array_takes_the_place_of_declared_images(network):
    image = pictures(1)[0]
    pixels = np.asarray(image.resize((24, 24), PIL.Image.BICUBIC), np.float32).transpose(2, 0, 1) / 255
    array = ((pixels - 0.5) / 0.2)[None].astype(np.float32)
    by_array, by_image = (network({"image": value})["logits"][0] for value in (array, [image]))
    assert [name for name, _ in by_array] == [name for name, _ in by_image]
    np.testing.assert_allclose([s for _, s in by_array], [s for _, s in by_image], atol=1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the batch is empty"),
        ("cat.png", "one str where a list of pictures"),
        (["/nowhere.png"], "picture 0 (/nowhere.png) does not exist"),
        ([*pictures(6), b"no image"], "picture 6 is not an image"),
    ],
)
def test_images_that_cannot_be_used_are_named(network, value, message):
    with pytest.raises(InputError) as caught:
        network({"image": value})
    assert message in caught.value.message
    assert caught.value.remedy


def test_a_declaration_that_cannot_be_read_is_the_bundles_fault(ready):
    file = ready.path / "manifest.json"
    text = (
        file.read_text().replace('{"kind": "array"}', '{"kind": "smell"}').replace('"kind": "array"', '"kind": "smell"')
    )
    file.write_text(text)
    with pytest.raises(BundleError, match=r"manifest.json is damaged: Invalid value 'smell'") as caught:
        open_bundle(ready.path)
    assert caught.value.remedy


def test_a_module_opens_as_a_tensor_pipeline(pipeline):
    assert type(pipeline) is TensorPipeline
    assert pipeline.signature == tiny.SIGNATURE


def test_arrays_are_the_outputs_without_postprocessing(network):
    images = pictures(5)
    logits = network.arrays({"image": images}, size=2)["logits"]
    assert logits.shape == (5, 4)
    declared = network.bundle.manifest.component("model").answers["logits"]
    assert network({"image": images}, size=2)["logits"] == named(declared, logits)


# engines that run a part of what the signature admits


@pytest.mark.parametrize(
    ("profiles", "count", "size", "batches"),
    [
        (["batch=1:1:1"], 3, None, [1, 1, 1]),
        (["batch=1:1:1", "batch=5"], 6, None, [5, 1]),
        (["batch=1:1:1", "batch=1:3:3"], 11, None, [3, 3, 3, 2]),
        (["batch=1:1:1", "batch=1:3:3"], 4, 2, [2, 2]),
        (["batch=1:4:8"], 7, None, [7]),
        (["batch=4"], 3, None, [4]),
        (["batch=1:1:1", "batch=4"], 3, None, [4]),
    ],
)
def test_rows_are_cut_to_the_batches_that_profiles_hold(pipeline, profiled, profiles, count, size, batches):
    session = profiled(pipeline.session("model"), *profiles)
    with of_bundle(pipeline.bundle, {"model": session}) as cutting:
        answers = cutting({"x": tiny.sample(count)}, size=size)
    np.testing.assert_allclose(answers["y"], tiny.answer(tiny.sample(count)), rtol=1e-5, atol=1e-5)
    assert [shape[0] for shape in session.ran] == batches


def test_rows_that_no_profile_holds_are_an_error_with_the_profiles(pipeline, profiled):
    session = profiled(pipeline.session("model"), "batch=4")
    with (
        of_bundle(pipeline.bundle, {"model": session}) as cutting,
        pytest.raises(ProfileError, match=r"holds batch 3; it has batch 4\.\.4"),
    ):
        cutting({"x": tiny.sample(3)}, size=3)


def test_images_are_cut_to_the_batches_that_profiles_hold(network, profiled):
    images = pictures(3)
    session = profiled(network.session("model"), "batch=1:1:1")
    with of_bundle(network.bundle, {"model": session}) as cutting:
        logits = cutting.arrays({"image": images})["logits"]
    np.testing.assert_allclose(logits, network.arrays({"image": images})["logits"], atol=1e-5)
    assert [shape[0] for shape in session.ran] == [1, 1, 1]


def test_profiles_are_asked_with_the_sizes_of_the_other_axes(columns, axis, profiled):
    with open_bundle(columns(axis(1, 2, 4)).path) as plain:
        session = profiled(plain.session("model"), "seq=5,batch=1", "seq=3,batch=2")
        with of_bundle(plain.bundle, {"model": session}) as pipeline:
            for length in (5, 3):
                x = np.random.default_rng(0).standard_normal((length, 4)).astype(np.float32)
                np.testing.assert_array_equal(pipeline({"x": x})["twice"], 2 * x)
            assert session.ran == [(5, 1)] * 4 + [(3, 2)] * 2
            with pytest.raises(ProfileError, match="no optimisation profile of the engine holds seq 4, batch 4"):
                pipeline({"x": np.ones((4, 4), np.float32)})
            with pytest.raises(SignatureError, match="missing x"):
                pipeline({})
            with pytest.raises(SignatureError, match=r"seq 7 is outside 1\.\.6"):
                pipeline({"x": np.ones((7, 4), np.float32)})


def test_an_input_with_an_axis_that_is_missing_is_named_before_profiles_are_asked(shifted, profiled):
    with open_bundle(shifted.path) as plain:
        session = profiled(plain.session("model"), "batch=1,length=2")
        with of_bundle(shifted, {"model": session}) as pipeline:
            with pytest.raises(SignatureError, match="missing b"):
                pipeline({"a": np.ones((3, 3), np.float32)})
            feeds = {"a": np.ones((3, 3), np.float32), "b": np.ones(2, np.float32)}
            np.testing.assert_array_equal(pipeline(feeds)["y"], np.full((3, 3), 3))


def test_an_output_over_the_whole_batch_is_not_cut_to_profiles(columns, axis, profiled):
    with open_bundle(columns(axis(1, 3, 4), whole=True).path) as plain:
        session = profiled(plain.session("model"), "batch=1:2:2")
        with of_bundle(plain.bundle, {"model": session}) as pipeline:
            assert pipeline({"x": np.ones((5, 2), np.float32)})["total"] == 10
            with pytest.raises(ProfileError, match="holds seq 5, batch 3"):
                pipeline({"x": np.ones((5, 3), np.float32)})
