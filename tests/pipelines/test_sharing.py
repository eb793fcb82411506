"""One opened bundle that several threads share, also while it is opened and closed."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import tiny
from sharing import THREADS, at_once, in_thread
from shipped import pictures

from torchlift.backends import Session
from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.errors import BundleError
from torchlift.pipelines import OpenOptions, of_bundle, open_bundle

RUNTIMES = ("onnxruntime", "openvino")
SIZES = (None, 1, 3, 8)
TEXTS = ["一只猫", "狗", "在草地上奔跑的狗和鸟, a dog", "日落", "红色汽车" * 5, "皮卡丘", "a", "水火木金土"]


def unproven(bundle):
    """The bundle as one that was never verified here."""
    variants = tuple(replace(variant, verification=None) for variant in bundle.manifest.variants)
    bundle.commit(replace(bundle.manifest, variants=variants))
    return bundle.path


def verified(progress):
    return sorted(title for title in progress.stages if title.startswith("verify"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_that_open_it_at_once_get_the_features_of_their_own_pictures_and_texts(copied, progress, runtime):
    variants = {component: f"{component}/{runtime}/fp32" for component in ("image", "text")}

    def features(number):
        images, texts = pictures(2 + 5 * number, seed=number), TEXTS[number:] * (1 + number)
        size = SIZES[number]
        return pipeline.encode_image(images, size=size), pipeline.encode_text(texts, size=size)

    def work(number):
        found = [features(number) for _ in range(5)]
        return found, [pipeline.session(component) for component in variants]

    with open_bundle(unproven(copied), OpenOptions(variants), progress) as pipeline:
        answers = at_once(work)
        for number, (found, sessions) in enumerate(answers):
            assert sessions == answers[0][1]
            expected = features(number)
            for both in found:
                for one, right in zip(both, expected, strict=True):
                    np.testing.assert_allclose(one, right, atol=1e-6)
    assert verified(progress) == [f"verify {name}" for name in sorted(variants.values())]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_that_open_it_at_once_get_the_answers_to_their_own_rows(ready, progress, runtime):
    name = f"model/{runtime}/fp32"

    def work(number):
        samples = [tiny.sample(1 + 7 * number + i, seed=10 * number + i) for i in range(4)]
        return [(x, pipeline({"x": x}, size=SIZES[number])["y"]) for _ in range(5) for x in samples]

    with open_bundle(unproven(ready), OpenOptions({"model": name}), progress) as pipeline:
        for found in at_once(work):
            for x, y in found:
                np.testing.assert_allclose(y, tiny.answer(x), rtol=1e-5, atol=1e-5)
    assert verified(progress) == [f"verify {name}"]


class Waiting(Session):
    """Answers ones, once it may."""

    def __init__(self, signature):
        super().__init__(signature, "waiting")
        self.entered, self.leave = threading.Event(), threading.Event()

    def _run(self, feeds):
        self.entered.set()
        assert self.leave.wait(20)
        sizes = self.signature.check(feeds)
        return {spec.name: np.ones(spec.shape_at(sizes), spec.dtype) for spec in self.signature.outputs}

    def _prepare(self, feeds):
        raise NotImplementedError


def test_a_component_is_opened_and_used_while_another_works(copied):
    image = Waiting(copied.manifest.component("image").signature)
    with of_bundle(copied, {"image": image}) as pipeline:
        working = in_thread(pipeline.encode_image, pictures(2))
        assert image.entered.wait(20)
        assert in_thread(pipeline.encode_text, TEXTS).result(20).shape == (len(TEXTS), 32)
        image.leave.set()
        assert working.result(20).shape == (2, 32)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("rows", [2, 40])
def test_calls_that_are_under_way_when_it_is_closed_are_right_or_say_so(ready, runtime, rows):
    running = threading.Semaphore(0)

    def run_on(x, answers):
        while True:
            answers.append(pipeline({"x": x}, size=3)["y"])
            running.release()

    def work(number):
        x, answers = tiny.sample(rows, seed=number), []
        with pytest.raises(BundleError, match="the pipeline is closed"):
            run_on(x, answers)
        return x, answers

    pipeline = open_bundle(ready.path, OpenOptions({"model": f"model/{runtime}/fp32"}))
    working = in_thread(at_once, work)
    for _ in range(3 * THREADS):
        assert running.acquire(timeout=20)
    pipeline.close()
    for x, answers in working.result(20):
        for y in answers:
            np.testing.assert_allclose(y, tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_pictures_that_are_being_decoded_when_it_is_closed_are_given_up(copied):
    image = Waiting(copied.manifest.component("image").signature)
    pipeline = of_bundle(copied, {"image": image})
    working = in_thread(lambda: pipeline.encode_image(pictures(40), size=1))
    assert image.entered.wait(20)
    pipeline.close()
    image.leave.set()
    with pytest.raises(BundleError, match="the pipeline is closed"):
        working.result(20)


def test_a_session_that_is_being_opened_when_the_pipeline_is_closed_is_closed_too(ready, monkeypatch):
    opening, go_on, open_session, opened = threading.Event(), threading.Event(), OnnxRuntime.open, []

    def slowly(self, *given):
        opening.set()
        assert go_on.wait(20)
        opened.append(open_session(self, *given))
        return opened[-1]

    monkeypatch.setattr(OnnxRuntime, "open", slowly)
    pipeline = open_bundle(ready.path)
    first, second = (in_thread(pipeline, {"x": tiny.sample(2)}) for _ in range(2))
    assert opening.wait(20)
    closing = in_thread(pipeline.close)
    while not pipeline._closed:
        pass
    go_on.set()
    closing.result(20)
    for call in (first, second):
        with pytest.raises(BundleError, match="the pipeline is closed"):
            call.result(20)
    (session,) = opened
    assert session._session is None
