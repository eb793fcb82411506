"""The task super-resolution, asked of sessions whose answers are known."""

import numpy as np
import pytest
from PIL import Image

from torchlift.datasets import ReadOptions, open_data
from torchlift.datasets.picture_pairs import PicturePairs
from torchlift.declare.answers import Picture, Raw
from torchlift.declare.inputs import ImageInput
from torchlift.errors import DataError
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.prepare import Preparer
from torchlift.pipelines.run import AnySize, Batching, Loader
from torchlift.processing.resizing import imresize
from torchlift.progress import SILENT
from torchlift.signature import Axis, Signature, TensorSpec
from torchlift.tasks.calibration import parts_of
from torchlift.tasks.fidelity import luma, psnr, ssim
from torchlift.tasks.samples import Asked
from torchlift.tasks.super_resolution import SuperResolutionTask


def manifest(bounds=(1, 9), answer=None, most=64):
    signature = Signature(
        (
            TensorSpec("image", "float32", ("batch", 3, "height", "width")),
            TensorSpec("factor", "int64", (), bounds=bounds),
        ),
        (TensorSpec("output", "float32", ("batch", 3, None, None)),),
        (Axis("batch", 1, 2, 4), Axis("height", 1, 16, most), Axis("width", 1, 16, most)),
    )
    answer = answer or Picture(factor="factor", margin=3)
    component = Component(
        "model", signature, "m", "g", "e", 20, 1, "k", inputs={"image": ImageInput()}, answers={"output": answer}
    )
    return Manifest("sr", "srcnn", "k", {}, components=(component,), pipeline="super-resolution")


def asked(found):
    return Asked(found, {c.name: Preparer(c, {}) for c in found.components})


class Repeating:
    """Repeats each pixel."""

    records = 0
    on_device = False

    def covers(self, sizes):
        return True

    def run(self, feeds):
        times = int(feeds["factor"])
        return {"output": feeds["image"].repeat(times, axis=2).repeat(times, axis=3)}


def picture(seed=0, height=50, width=65):
    rng = np.random.default_rng(seed)
    return imresize(rng.integers(0, 256, (height // 4, width // 4, 3)).astype(np.uint8), height, width)


@pytest.fixture
def folder(tmp_path):
    for seed in (0, 1):
        Image.fromarray(picture(seed)).save(tmp_path / f"{seed}.png")
    return tmp_path


def opened(source, found=None, **options):
    return SuperResolutionTask.open(asked(found or manifest()), open_data(source, ReadOptions(**options)), SILENT)


def scored(task):
    with Loader() as loader:
        return task.outcomes({"model": task.ask("model", Repeating(), loader)})


def by_hand(true, factor):
    height, width = true.shape[0] // factor, true.shape[1] // factor
    ours = imresize(true, height, width).repeat(factor, axis=0).repeat(factor, axis=1)
    return ours[factor:-factor, factor:-factor], true[factor:-factor, factor:-factor]


def test_a_folder_is_shrunk_by_two_three_and_four(folder):
    task = opened(folder)
    found = scored(task)
    for factor in (2, 3, 4):
        pairs = [by_hand(picture(seed)[:48, :60], factor) for seed in (0, 1)]
        assert found[f"psnr@x{factor}"] == pytest.approx([psnr(*pair) for pair in pairs])
        assert found[f"psnr-y@x{factor}"] == pytest.approx([psnr(*map(luma, pair)) for pair in pairs])
    assert found["psnr"] == pytest.approx(np.mean([found[f"psnr@x{factor}"] for factor in (2, 3, 4)], axis=0))
    ssims = [np.mean([ssim(*by_hand(picture(seed)[:48, :60], factor)) for factor in (2, 3, 4)]) for seed in (0, 1)]
    assert found["ssim"] == pytest.approx(ssims)
    assert task.primary == "psnr"
    assert {metric.unit for metric in task.measures if metric.name.startswith("psnr")} == {"dB"}


def test_only_factors_that_the_model_takes_are_scored(folder):
    found = scored(opened(folder, manifest(bounds=(3, 4))))
    assert "psnr@x3" in found
    assert "psnr@x2" not in found
    assert (found["psnr"] == found["psnr@x3"]).all()  # cut to a multiple of 3, not of 12
    with pytest.raises(DataError):
        opened(folder, manifest(bounds=(5, 9)))


def test_a_limit_takes_fewer(folder):
    assert len(scored(opened(folder, limit=1))["psnr"]) == 1


def pairs(folder, names=("a.png", "ax3.png"), small=None):
    for kind, name, pixels in (("hr", names[0], picture(0, 60, 63)), ("lr", names[1], small)):
        (folder / kind).mkdir(exist_ok=True)
        made = imresize(picture(0, 60, 63), 20, 21) if pixels is None else pixels
        Image.fromarray(made).save(folder / kind / name)
    return folder


@pytest.mark.parametrize("small", ["a.png", "ax3.png", "a_x3.png", "aX3.jpg"])
def test_pairs_say_the_factor_by_their_sizes(tmp_path, small):
    found = scored(opened(pairs(tmp_path, ("a.png", small))))
    assert "psnr@x3" in found
    if not small.endswith("jpg"):
        assert found["psnr"] == pytest.approx([psnr(*by_hand(picture(0, 60, 63), 3))])


def test_pairs_that_do_not_fit(tmp_path):
    assert isinstance(open_data(pairs(tmp_path)), PicturePairs)
    with pytest.raises(DataError):
        opened(pairs(tmp_path, small=picture(0, 25, 21)))
    Image.fromarray(picture()).save(tmp_path / "lr" / "lonely.png")
    with pytest.raises(DataError) as error:
        open_data(tmp_path)
    assert "lonely" in error.value.message


def test_pictures_that_cannot_be_used_are_skipped(folder):
    Image.new("RGB", (1, 400)).save(folder / "narrow.png")
    (folder / "broken.png").write_bytes(b"no picture")
    task = opened(folder)
    assert len(scored(task)["psnr"]) == 2
    assert task.data.unusable == 2
    with pytest.raises(DataError):
        opened(folder, strict=True)


def test_the_fingerprint_follows_the_pictures(folder):
    before = opened(folder).data.fingerprint
    assert opened(folder).data.fingerprint == before
    Image.fromarray(picture(5)).save(folder / "0.png")
    assert opened(folder).data.fingerprint != before


def test_answers_that_are_not_numbers_score_low(folder):
    class Broken(Repeating):
        def run(self, feeds):
            return {"output": super().run(feeds)["output"] * np.nan}

    task = opened(folder)
    with Loader() as loader:
        found = task.outcomes({"model": task.ask("model", Broken(), loader)})
    assert (found["psnr"] < scored(task)["psnr"] - 3).all()
    assert np.isfinite(found["psnr"]).all()


def test_it_is_for_models_that_give_pictures():
    assert SuperResolutionTask.misfit(manifest()) is None
    assert SuperResolutionTask.misfit(manifest(answer=Raw())) is not None


def test_calibration_has_the_middles_of_the_shrunk_pictures(folder):
    found = manifest()
    part = parts_of(asked(found), open_data(folder), SILENT)["model"]
    with Loader() as loader:
        runs = Batching(AnySize(), found.components[0].signature).runs(part.prepared)
        (feeds,) = loader.feeds(part.prepared, runs)
    assert feeds["image"].shape == (2, 3, 16, 16)
    assert feeds["factor"] == 3
    small = imresize(picture(0)[:48, :60], 16, 20)[:, 2:18]
    assert np.abs(feeds["image"][0] * 255 - small.transpose(2, 0, 1)).max() < 1e-3
