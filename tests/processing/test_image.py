from __future__ import annotations

import contextlib
import io
import json
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

from torchlift.declare.inputs import ImageInput
from torchlift.errors import InputError
from torchlift.processing.image import prepared

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CLIP = ImageInput((224, 224), MEAN, STD)


def noise(mode: str, width: int = 61, height: int = 47, seed: int = 0) -> Image.Image:
    """A smooth gradient under noise, so that resampling and rounding both matter."""
    rng = np.random.default_rng(seed)
    if mode in ("I;16", "I", "F"):
        values = rng.integers(0, 65536, (height, width))
        return Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    ramp = np.linspace(0, 120, width)[None, :, None] + rng.integers(0, 136, (height, width, 4))
    rgba = Image.fromarray(ramp.astype(np.uint8))
    if mode == "P":
        image = rgba.convert("RGB").quantize(32)
        image.info["transparency"] = 3
        return image
    if mode == "PA":
        return rgba.convert("RGB").quantize(32).convert("PA")
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def resizable(mode: str) -> bool:
    try:
        return bool(noise(mode).resize((2, 2), Image.Resampling.BICUBIC))
    except ValueError:
        return False


MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "HSV", "I", "F"]
MODES += ["I;16"] * resizable("I;16")  # older releases of Pillow cannot


def plain(image: Image.Image, size: int = 224) -> np.ndarray:
    """What the training code computes, in the plainest way."""
    rgb = np.array(image.resize((size, size), Image.Resampling.BICUBIC).convert("RGB"))
    channels = [
        (rgb[:, :, c].astype(np.float32) / np.float32(255) - np.float32(MEAN[c])) / np.float32(STD[c]) for c in range(3)
    ]
    return np.stack(channels)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_bit_exact(mode: str) -> None:
    image = noise(mode)
    assert image.mode == mode
    same(prepared(CLIP, image), plain(noise(mode)))


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(noise("RGB"), "JPEG"),
    "grey jpeg": lambda: encoded(noise("L"), "JPEG"),
    "cmyk jpeg": lambda: encoded(noise("CMYK"), "JPEG"),
    "progressive jpeg": lambda: encoded(noise("RGB"), "JPEG", progressive=True),
    "png": lambda: encoded(noise("RGB"), "PNG"),
    "1-bit png": lambda: encoded(noise("1"), "PNG"),
    "palette png with transparency": lambda: encoded(noise("P"), "PNG"),
    "palette png with alpha values": lambda: encoded(noise("P"), "PNG", transparency=bytes(range(0, 256, 8))),
    "rgb png with a transparent colour": lambda: encoded(noise("RGB"), "PNG", transparency=(1, 2, 3)),
    "alpha png": lambda: encoded(noise("RGBA"), "PNG"),
    "grey alpha png": lambda: encoded(noise("LA"), "PNG"),
    "16-bit png": lambda: encoded(noise("I;16"), "PNG"),
    "gif": lambda: encoded(noise("P"), "GIF"),
    "bmp": lambda: encoded(noise("RGB"), "BMP"),
    "float tiff": lambda: encoded(noise("F"), "TIFF"),
}
if features.check("webp"):
    FILES["webp"] = lambda: encoded(noise("RGB"), "WEBP")
    FILES["alpha webp"] = lambda: encoded(noise("RGBA"), "WEBP", lossless=True)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_every_kind_of_file_is_bit_exact(kind: str, tmp_path: Path) -> None:
    data = FILES[kind]()
    file = tmp_path / "image"
    file.write_bytes(data)
    expected = plain(Image.open(io.BytesIO(data)))
    same(prepared(CLIP, data), expected)
    same(prepared(CLIP, file), expected)
    same(prepared(CLIP, str(file)), expected)


@settings(max_examples=150, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    width=st.integers(1, 80),
    height=st.integers(1, 80),
    size=st.sampled_from([1, 7, 32, 64]),
    seed=st.integers(0, 2**16),
)
def test_any_size_is_bit_exact(mode: str, width: int, height: int, size: int, seed: int) -> None:
    image = noise(mode, width, height, seed)
    same(prepared(ImageInput((size, size), MEAN, STD), image), plain(image, size))


def test_equals_torch_for_every_pixel_value() -> None:
    torch = pytest.importorskip("torch")
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    tensor = torch.from_numpy(values).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (MEAN, STD))
    same(prepared(ImageInput((16, 16), MEAN, STD), values), tensor.sub_(mean).div_(std).numpy())


def test_arrays_equal_images() -> None:
    rgb, grey = np.asarray(noise("RGB")), np.asarray(noise("L"))
    same(prepared(CLIP, rgb), plain(noise("RGB")))
    same(prepared(CLIP, rgb[:, ::-1]), plain(Image.fromarray(np.ascontiguousarray(rgb[:, ::-1]))))
    same(prepared(CLIP, grey), plain(noise("L")))


def test_height_comes_first() -> None:
    assert prepared(ImageInput((20, 30)), noise("RGB")).shape == (3, 20, 30)


def test_scales() -> None:
    pixels = np.asarray(noise("RGB", 8, 8))
    bytes_ = prepared(ImageInput((8, 8), scale="byte"), pixels)
    np.testing.assert_array_equal(bytes_, pixels.transpose(2, 0, 1).astype(np.float32))
    unit = prepared(ImageInput((8, 8)), pixels)
    np.testing.assert_array_equal(unit, bytes_ / np.float32(255))
    assert unit.max() <= 1
    shifted = prepared(ImageInput((8, 8), (1, 2, 3), (2, 2, 2), scale="byte"), pixels)
    np.testing.assert_array_equal(shifted[2], (bytes_[2] - 3) / 2)


def test_channels_are_turned_around_after_normalising() -> None:
    picture = noise("RGB")
    plain, turned = ImageInput((20, 30), MEAN, STD), ImageInput((20, 30), MEAN, STD, channels="bgr")
    np.testing.assert_array_equal(prepared(turned, picture), prepared(plain, picture)[::-1])
    blue = prepared(ImageInput((2, 2), channels="bgr"), Image.new("RGB", (4, 4), (0, 0, 255)))
    assert blue[:, 0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_resampling_filters(name: str) -> None:
    image = noise("RGB")
    expected = np.asarray(image.resize((32, 24), getattr(Image.Resampling, name.upper())))
    actual = prepared(ImageInput((24, 32), resample=name, scale="byte"), image)  # type: ignore[arg-type]
    np.testing.assert_array_equal(actual, expected.transpose(2, 0, 1))


def test_exif_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    same(prepared(CLIP, encoded(noise("RGB"), "PNG", exif=exif)), plain(noise("RGB")))


def test_of_an_animation_the_first_frame_counts() -> None:
    first, second = noise("P", seed=1), noise("P", seed=2)
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    still = Image.open(io.BytesIO(data))
    assert still.n_frames == 2
    still.seek(0)
    same(prepared(CLIP, data), plain(still))


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA"])
def test_convert_first_resizes_the_rgb_image(mode: str) -> None:
    image = noise(mode)
    same(prepared(ImageInput((224, 224), MEAN, STD, convert="first"), image), plain(image.convert("RGB")))


def crop_like_torchvision(image: Image.Image, shorter: int, size: int) -> np.ndarray:
    """torchvision.transforms: Resize(shorter), CenterCrop(size)."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_long = int(shorter * long / short)
    width, height = (shorter, new_long) if width <= height else (new_long, shorter)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    return np.asarray(resized.crop((left, top, left + size, top + size)).convert("RGB")).transpose(2, 0, 1)


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    extra=st.none() | st.integers(0, 20),
    mode=st.sampled_from(["RGB", "L", "RGBA"]),
)
def test_crop_equals_torchvision(width: int, height: int, size: int, extra: int | None, mode: str) -> None:
    image = noise(mode, width, height)
    shorter = None if extra is None else size + extra
    actual = prepared(ImageInput((size, size), fit="crop", shorter_side=shorter, scale="byte"), image)
    np.testing.assert_array_equal(actual, crop_like_torchvision(image, shorter or size, size))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(10, 40), st.integers(10, 40))
def test_a_stretched_picture_loses_its_border(width: int, height: int, rows: int, columns: int) -> None:
    image = noise("RGB", width, height)
    whole = np.asarray(image.resize((columns, rows), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    declared = ImageInput((8, 6), fit="crop", stretched=(rows, columns), scale="byte")
    top, left = round((rows - 8) / 2), round((columns - 6) / 2)
    np.testing.assert_array_equal(prepared(declared, image), whole[:, top : top + 8, left : left + 6])


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_a_crop_of_any_shape_has_no_border(width: int, height: int, rows: int, columns: int) -> None:
    white = Image.new("L", (width, height), 255)
    actual = prepared(ImageInput((rows, columns), fit="crop"), white)
    assert actual.shape == (3, rows, columns)
    assert (actual == 1).all()


def test_writes_into_out() -> None:
    batch = np.full((4, 3, 224, 224), 7, dtype=np.float32)
    returned = prepared(CLIP, noise("RGB"), out=batch[1])
    assert np.shares_memory(returned, batch)
    same(batch[1], plain(noise("RGB")))
    assert (batch[[0, 2, 3]] == 7).all()


def test_out_of_another_shape_or_dtype_is_refused() -> None:
    with pytest.raises(InputError, match=r"out is float32\[3, 8, 8\]\n.*float32\[3, 224, 224\]"):
        prepared(CLIP, noise("RGB"), out=np.empty((3, 8, 8), dtype=np.float32))
    with pytest.raises(InputError, match=r"out is float64"):
        prepared(CLIP, noise("RGB"), out=np.empty((3, 224, 224)))  # type: ignore[arg-type]


def test_is_safe_in_threads() -> None:
    data = [encoded(noise("RGB", seed=seed), "PNG") for seed in range(24)]
    out = np.empty((24, 3, 224, 224), dtype=np.float32)
    threads = [
        threading.Thread(target=lambda part=part: [prepared(CLIP, data[i], out=out[i]) for i in range(part, 24, 4)])
        for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, row in enumerate(out):
        same(row, plain(noise("RGB", seed=seed)))


def test_one_image_given_to_several_threads_is_decoded_by_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise("RGB").save(tmp_path / "a.png")
    load = PngImagePlugin.PngImageFile.load
    inside = 0

    def slow_load(self: PngImagePlugin.PngImageFile) -> object:
        nonlocal inside
        first = bool(self.tile)
        inside += first
        assert inside <= 1, "two threads decode the same image"
        time.sleep(0.02)
        pixels = load(self)
        inside -= first
        return pixels

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", slow_load)
    with Image.open(tmp_path / "a.png") as image, ThreadPoolExecutor(4) as pool:
        for row in pool.map(partial(prepared, CLIP), [image] * 8):
            same(row, plain(noise("RGB")))


def test_a_callers_image_stays_open(tmp_path: Path) -> None:
    file = tmp_path / "a.gif"
    noise("P", seed=1).save(file, save_all=True, append_images=[noise("P", seed=2)])
    with Image.open(file) as image:
        prepared(CLIP, image)
        image.seek(1)
        same(prepared(CLIP, image), plain(image))


def test_files_are_closed(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    noise("RGB").save(file)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        prepared(CLIP, file)
    file.write_bytes(file.read_bytes()[:300])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with pytest.raises(InputError):
            prepared(CLIP, file)


def test_plain_data_makes_it_again() -> None:
    declared = ImageInput((224, 224), MEAN, STD, fit="crop", shorter_side=256)
    as_json = json.loads(msgspec.json.encode(declared))
    assert as_json["kind"] == "image"
    again = msgspec.convert(as_json, ImageInput)
    assert again == declared
    assert hash(again) == hash(declared)
    lists = {name: value for name, value in as_json.items() if name != "kind"}
    assert ImageInput(**lists) == declared


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (224,)}, r"size is \(224,\)\nIt takes 2 numbers"),
        ({"size": (0, 224)}, r"size is \(0, 224\)"),
        ({"mean": (0.5,)}, r"mean is \(0.5,\)\nIt takes 3 numbers"),
        ({"std": (1.0, 0.0, 1.0)}, r"std is \(1.0, 0.0, 1.0\)"),
        ({"resample": "area"}, r"resample 'area' is unknown\nUse one of nearest, bilinear, bicubic, lanczos"),
        ({"fit": "pad"}, "fit 'pad' is unknown"),
        ({"scale": "half"}, "scale 'half' is unknown"),
        ({"convert": "never"}, "convert 'never' is unknown"),
        ({"size": (1.5, 224)}, r"size is \(1.5, 224\)"),
        ({"size": (10**9, 224)}, r"size is \(1000000000, 224\)"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is .*nan"),
        ({"size": None, "fit": "crop"}, "fit is 'crop' without a size"),
        ({"stride": 32}, "stride is 32 with fit 'stretch'"),
        ({"fit": "letterbox", "stride": 30}, "no multiple of the stride 30"),
        ({"pad": 256}, "pad is 256"),
        ({"channels": "rbg"}, r"channels 'rbg' is unknown\nUse one of rgb, bgr"),
        ({"shorter_side": 256}, r"shorter_side is 256 with fit 'stretch'"),
        ({"fit": "crop", "shorter_side": 200}, r"shorter_side is 200 .*\n.*from 224 to"),
        ({"stretched": (256, 256)}, r"stretched is \(256, 256\) with fit 'stretch'"),
        ({"fit": "crop", "stretched": (256, 223)}, r"stretched is \(256, 223\)"),
        ({"fit": "crop", "stretched": (256,)}, r"stretched is \(256,\)"),
        ({"fit": "crop", "stretched": (256, 256), "shorter_side": 256}, r"stretched is .* shorter_side 256"),
        ({"size": None, "stretched": (256, 256)}, r"stretched is .* size None"),
    ],
)
def test_unusable_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageInput(**{"size": (224, 224), **options})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"image .*no\.png does not exist"):
        prepared(CLIP, tmp_path / "no.png")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"image {tmp_path} cannot be read: Is a directory"):
        prepared(CLIP, tmp_path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(InputError, match=r"the image is not an image that Pillow can read\nConvert it"):
        prepared(CLIP, data)


@pytest.mark.parametrize(
    "kind", ["jpeg", "png", "gif", "bmp", "16-bit png", "float tiff", *(["webp"] * ("webp" in FILES))]
)
def test_a_truncated_file_is_an_input_error_at_any_length(kind: str, tmp_path: Path) -> None:
    data = FILES[kind]()
    file = tmp_path / "cut"
    for length in range(0, len(data) * 3 // 4, max(1, len(data) // 97)):
        file.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"image .*cut (is not an image|cannot be decoded|cannot be read)"):
            prepared(CLIP, file)


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(list(FILES)), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1))
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_an_image_or_an_input_error(kind: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(FILES[kind]())
    for where, value in changes:
        data[int(where * min(len(data) - 1, 200))] = value
    with contextlib.suppress(InputError):
        assert prepared(CLIP, bytes(data)).shape == (3, 224, 224)


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(InputError, match="the image is empty: 0 x 5 pixels"):
        prepared(CLIP, Image.new("RGB", (0, 5)))
    with pytest.raises(InputError, match="the image is empty: 4 x 0 pixels"):
        prepared(CLIP, np.empty((0, 4, 3), dtype=np.uint8))


@pytest.mark.parametrize("limit", [60 * 47, 1000])
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(
    limit: int, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(noise("RGB"), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("was decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=rf"the image.* has more than {limit:,} pixels\nShrink it"):
            prepared(CLIP, data)


def test_the_limit_holds_for_images_and_arrays_and_may_be_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise("RGB", 60, 50)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2999)
    with pytest.raises(InputError, match="the image of 60 x 50 has more than 2,999 pixels"):
        prepared(CLIP, image)
    with pytest.raises(InputError, match="the image of 60 x 50 has more than 2,999 pixels"):
        prepared(CLIP, np.asarray(image))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    same(prepared(CLIP, image), plain(image))


def test_a_sliver_is_not_blown_up_by_a_crop() -> None:
    with pytest.raises(InputError, match=r"resized so that its shorter side fits, of 224 x 2240000 has more than"):
        prepared(ImageInput((224, 224), fit="crop"), Image.new("L", (1, 10_000)))


def test_postscript_is_not_run() -> None:
    data = encoded(noise("RGB"), "EPS")
    with pytest.raises(InputError, match="is PostScript, a program, which is not run"):
        prepared(CLIP, data)


@pytest.mark.parametrize(
    ("pixels", "what"),
    [
        (np.zeros((4, 4, 3), dtype=np.float32), r"float32\[4, 4, 3\]"),
        (np.zeros((4, 4, 4), dtype=np.uint8), r"uint8\[4, 4, 4\]"),
        (np.zeros((3, 4, 5), dtype=np.uint8), r"uint8\[3, 4, 5\]"),
        (np.zeros(4, dtype=np.uint8), r"uint8\[4\]"),
        (np.zeros((1, 4, 4, 3), dtype=np.uint8), r"uint8\[1, 4, 4, 3\]"),
    ],
)
def test_other_arrays_are_refused(pixels: np.ndarray, what: str) -> None:
    with pytest.raises(InputError, match=rf"the image is an array {what}\nIt must be uint8 \[H, W, 3\]"):
        prepared(CLIP, pixels)


def test_other_types_are_refused() -> None:
    with pytest.raises(InputError, match="the image is NoneType"):
        prepared(CLIP, None)  # type: ignore[arg-type]


def test_a_mode_without_a_conversion_is_refused() -> None:
    with pytest.raises(InputError, match="the image has mode La, which cannot be resized and made RGB"):
        prepared(CLIP, Image.new("La", (4, 4)))


def test_errors_name_the_image_as_they_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="row 7 is not an image"):
        prepared(CLIP, b"hello", name="row 7")
    with pytest.raises(InputError, match=r"row 8 \(.*no\.png\) does not exist"):
        prepared(CLIP, tmp_path / "no.png", name="row 8")
