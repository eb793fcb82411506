"""Pictures to the float32 tensor that a vision model takes, bit for bit as Pillow and torchvision make it.

EXIF orientation is ignored, as the training code does; of an animation the first frame is taken.
"""

from __future__ import annotations

import io
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from torchlift.declare.inputs import ImageInput
from torchlift.errors import InputError
from torchlift.storage import open_regular

ImageSource = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
"""A path, the bytes of an image file, a Pillow image, or pixels uint8 [H, W, 3] or [H, W]."""

Floats = npt.NDArray[np.float32]

_LOCKS = tuple(threading.Lock() for _ in range(61))
"""One of them, by the image's identity, is held while an image of the caller's is decoded: Pillow decodes it in place,
and two threads may be given the same."""


Pixels = npt.NDArray[np.uint8]


def prepared(image: ImageInput, source: ImageSource, *, out: Floats | None = None, name: str = "") -> Floats:
    """One picture as the model's input: float32 [3, H, W], written into ``out`` where given.

    Raises as :func:`pixels_of` does, and InputError where ``out`` has another shape.
    """
    return normalized(image, pixels_of(image, source, name=name), out=out)


def pixels_of(image: ImageInput, source: ImageSource, *, name: str = "") -> Pixels:
    """One picture decoded and resized, uint8 [H, W, 3] in R, G, B: all that takes long.

    ``name`` is what errors call the picture; a path is its own name. Raises InputError for a source that is missing,
    not an image, damaged, empty, of another type, or larger than ``PIL.Image.MAX_IMAGE_PIXELS``. Safe to call from
    several threads.
    """
    what = _describe(source, name)
    with _open(source, what) as opened:
        _check_size(*opened.size, what)
        try:
            with _LOCKS[id(source) % len(_LOCKS)] if opened is source else nullcontext():
                opened.load()
        except Exception as error:  # Pillow's decoders raise a dozen kinds
            raise InputError(
                f"{what} cannot be decoded: {error or type(error).__name__}",
                remedy="It is truncated or damaged: copy it again, or leave it out.",
            ) from error
        return np.asarray(_resized_rgb(image, opened, what))


def size_of(image: ImageInput, source: ImageSource, *, name: str = "") -> tuple[int, int]:
    """The (height, width) that :func:`pixels_of` gives, from the header alone. Raises InputError as it does."""
    if image.size is not None and not image.varies:
        return image.size
    what = _describe(source, name)
    with _open(source, what) as opened:
        _check_size(*opened.size, what)
        width, height = opened.size
    return _filled_size(image, *_fitted(image, width, height))


class Frame(NamedTuple):
    """Where a picture of ``height`` x ``width`` pixels lies in the model's input: ``rows`` x ``columns`` pixels of it,
    the first at ``top`` and ``left``.
    """

    height: int
    width: int
    rows: int
    columns: int
    top: int
    left: int


def frame_of(image: ImageInput, source: ImageSource, *, name: str = "") -> Frame:
    """The frame of a picture that is stretched, put into a letterbox or taken as it is, from its header alone.

    Raises InputError as :func:`pixels_of` does, and for pictures that are cropped, of which parts are missing.
    """
    what = _describe(source, name)
    with _open(source, what) as opened:
        _check_size(*opened.size, what)
        width, height = opened.size
    if image.fit == "crop":
        raise InputError(
            f"{what} is cropped, and places in it are asked for", remedy="Declare fit 'letterbox' or 'stretch'."
        )
    rows, columns = image.size or (height, width)
    if image.fit == "letterbox":
        rows, columns = _fitted(image, width, height)
    whole = _filled_size(image, rows, columns)
    return Frame(height, width, rows, columns, (whole[0] - rows) // 2, (whole[1] - columns) // 2)


def normalized(image: ImageInput, pixels: Pixels, *, out: Floats | None = None) -> Floats:
    """Pixels uint8 [H, W, 3] as the model takes them: float32 [3, H, W], scaled, normalised, channels in its order."""
    out = _output(out, (3, *pixels.shape[:2]))
    order = slice(None, None, -1) if image.channels == "bgr" else slice(None)
    np.copyto(out, pixels.transpose(2, 0, 1)[order])
    if image.scale == "unit":
        out /= np.float32(255)
    out -= np.array(image.mean[order], dtype=np.float32)[:, None, None]
    out /= np.array(image.std[order], dtype=np.float32)[:, None, None]
    return out


def _resized_rgb(image: ImageInput, opened: Image.Image, what: str) -> Image.Image:
    try:
        if image.convert == "first":
            opened = opened.convert("RGB")
        return _filled(image, _resized(image, opened, what).convert("RGB"))
    except (ValueError, OSError) as error:
        raise InputError(
            f"{what} has mode {opened.mode}, which cannot be resized and made RGB: {error}",
            remedy="Convert it to RGB first.",
        ) from error


def _resized(image: ImageInput, opened: Image.Image, what: str) -> Image.Image:
    if image.size is None:
        return opened
    height, width = image.size
    if image.fit == "stretch":
        return _scaled(image, opened, width, height)
    if image.fit == "letterbox":
        rows, columns = _fitted(image, *opened.size)
        return _scaled(image, opened, columns, rows)
    covering = _covering(image, *opened.size)
    _check_size(*covering, f"{what}, resized so that its shorter side fits,")
    left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
    return _scaled(image, opened, *covering).crop((left, top, left + width, top + height))


def _scaled(image: ImageInput, opened: Image.Image, width: int, height: int) -> Image.Image:
    """A picture in another size. ``linear`` takes the four pixels around each place, as OpenCV does; it is at most 1 of
    255 off. All other filters are Pillow's.
    """
    if image.resample != "linear":
        return opened.resize((width, height), Image.Resampling[image.resample.upper()])
    if opened.size == (width, height):
        return opened
    if opened.mode == "P":
        opened = opened.convert("RGB")
    steps = (opened.width / width, 0, 0, 0, opened.height / height, 0)
    return opened.transform((width, height), Image.Transform.AFFINE, steps, Image.Resampling.BILINEAR)


def _covering(image: ImageInput, width: int, height: int) -> tuple[int, int]:
    """The size (width, height) that a picture is resized to before the crop, rounded as torchvision does."""
    assert image.size is not None
    rows, columns = image.size if image.shorter_side is None else (image.shorter_side, image.shorter_side)
    if width * rows <= height * columns:
        return columns, int(columns * height / width)
    return int(rows * width / height), rows


def _fitted(image: ImageInput, width: int, height: int) -> tuple[int, int]:
    """The (height, width) of a picture before it is filled up: within ``size`` where there is one, at least one pixel.

    Rounded as YOLOv5's ``letterbox`` does (https://github.com/ultralytics/yolov5, utils/augmentations.py).
    """
    if image.size is None:
        return height, width
    rows, columns = image.size
    ratio = min(rows / height, columns / width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def _filled_size(image: ImageInput, height: int, width: int) -> tuple[int, int]:
    """The (height, width) that a fitted picture is filled up to."""
    if image.stride is not None:
        return -(-height // image.stride) * image.stride, -(-width // image.stride) * image.stride
    return image.size if image.fit == "letterbox" and image.size is not None else (height, width)


def _filled(image: ImageInput, fitted: Image.Image) -> Image.Image:
    """A fitted picture in the middle of ``pad``. An odd pixel goes below and to the right, as in YOLOv5."""
    width, height = fitted.size
    rows, columns = _filled_size(image, height, width)
    if (rows, columns) == (height, width):
        return fitted
    whole = Image.new("RGB", (columns, rows), (image.pad,) * 3)
    whole.paste(fitted, ((columns - width) // 2, (rows - height) // 2))
    return whole


def _output(out: Floats | None, shape: tuple[int, ...]) -> Floats:
    if out is None:
        return np.empty(shape, dtype=np.float32)
    if out.shape != shape or out.dtype != np.float32:
        raise InputError(f"out is {out.dtype}{list(out.shape)}", remedy=f"It must be float32{list(shape)}.")
    return out


def _describe(source: ImageSource, name: str) -> str:
    if isinstance(source, (str, os.PathLike)):
        return f"{name} ({os.fspath(source)})" if name else f"image {os.fspath(source)}"
    return name or "the image"


def _open(source: ImageSource, what: str) -> AbstractContextManager[Image.Image]:
    """Read the header only. What was opened here is closed after use; a Pillow image stays the caller's."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, what)
    if isinstance(source, bytes):
        return _from_file(io.BytesIO(source), what)
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source), what)
    raise InputError(
        f"{what} is {type(source).__name__}",
        remedy="Give a path, the bytes of an image file, a Pillow image or a uint8 array.",
    )


def _from_array(pixels: npt.NDArray[np.uint8], what: str) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise InputError(
            f"{what} is an array {pixels.dtype}{list(pixels.shape)}", remedy="It must be uint8 [H, W, 3] or [H, W]."
        )
    _check_size(pixels.shape[1], pixels.shape[0], what)
    return Image.fromarray(pixels)


def _from_file(file: Path | io.BytesIO, what: str) -> Image.Image:
    try:
        if isinstance(file, Path):
            open_regular(file).close()
        image = Image.open(file)
    except FileNotFoundError as error:
        raise InputError(f"{what} does not exist", remedy="Check the path.") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{what} is not an image that Pillow can read", remedy="Convert it to JPEG, PNG or WebP."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(what) from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what} cannot be read: {reason}", remedy="Check the path and the file.") from error
    if image.format == "EPS":
        image.close()
        raise InputError(
            f"{what} is PostScript, a program, which is not run", remedy="Convert it to JPEG, PNG or WebP."
        )
    return image


def _check_size(width: int, height: int, what: str) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{what} is empty: {width} x {height} pixels", remedy="Leave it out.")
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise _too_large(f"{what} of {width} x {height}")


def _too_large(what: str) -> InputError:
    return InputError(
        f"{what} has more than {Image.MAX_IMAGE_PIXELS:,} pixels",
        remedy="Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS where you trust its origin.",
    )
