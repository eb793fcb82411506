"""Images to the float32 tensor that a vision model takes, bit for bit as Pillow and torchvision make it.

EXIF orientation is ignored, as the training code does; of an animation the first frame is taken.
"""

from __future__ import annotations

import io
import os
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from torchlift.errors import InputError
from torchlift.storage import open_regular

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Fit = Literal["stretch", "crop"]
Scale = Literal["unit", "byte"]
Convert = Literal["last", "first"]
Channels = Literal["rgb", "bgr"]

ImageSource = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]
"""A path, the bytes of an image file, a Pillow image, or pixels uint8 [H, W, 3] or [H, W]."""

Floats = npt.NDArray[np.float32]

_CHOICES = {"resample": Resample, "fit": Fit, "scale": Scale, "convert": Convert, "channels": Channels}

_LOCKS = tuple(threading.Lock() for _ in range(61))
"""One of them, by the image's identity, is held while an image of the caller's is decoded: Pillow decodes it in place,
and two threads may be given the same."""


@dataclass(frozen=True)
class ImageInput:
    """How an image becomes a model's input; plain data, so that a manifest can hold it.

    - ``size``: (height, width) of the result, in pixels.
    - ``mean``, ``std``: per channel R, G, B, applied as (x - mean) / std to what ``scale`` gives.
    - ``fit``: ``stretch`` ignores the aspect; ``crop`` keeps it, covers ``size`` and takes the centre, as torchvision's
      Resize and CenterCrop do.
    - ``shorter_side``: with ``crop``, what the shorter side is resized to, in pixels; None just covers ``size``.
    - ``scale``: ``unit`` divides the pixels by 255; ``byte`` leaves them 0 to 255.
    - ``convert``: whether the image becomes RGB after resizing (Chinese-CLIP) or before (torchvision's datasets). This
      changes images with a palette or with transparency.
    - ``channels``: the order in which the model takes them; ``mean`` and ``std`` are R, G, B in either.

    Raises InputError where a value is not usable.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resample: Resample = "bicubic"
    fit: Fit = "stretch"
    shorter_side: int | None = None
    scale: Scale = "unit"
    convert: Convert = "last"
    channels: Channels = "rgb"

    def __post_init__(self) -> None:
        for name, count in (("size", 2), ("mean", 3), ("std", 3)):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != count:
                raise InputError(f"{name} is {values}", remedy=f"It takes {count} numbers.")
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise InputError(
                    f"{name} {getattr(self, name)!r} is unknown", remedy=f"Use one of {', '.join(get_args(kind))}."
                )
        if min(self.size) < 1:
            raise InputError(f"size is {self.size}", remedy="Give height and width, both 1 or more.")
        if 0 in self.std:
            raise InputError(f"std is {self.std}", remedy="It divides: no channel may be 0.")
        if self.shorter_side is not None and (self.fit != "crop" or self.shorter_side < max(self.size)):
            raise InputError(
                f"shorter_side is {self.shorter_side} with fit {self.fit!r} and size {self.size}",
                remedy=f"Use it with fit 'crop' and at least {max(self.size)}.",
            )

    def __call__(self, source: ImageSource, *, out: Floats | None = None, name: str = "") -> Floats:
        """Prepare one image: float32 [3, H, W], written into ``out`` where given.

        ``name`` is what errors call the image; a path is its own name. Raises InputError for a source that is missing,
        not an image, damaged, empty, of another type, or larger than ``PIL.Image.MAX_IMAGE_PIXELS``. Safe to call
        from several threads.
        """
        out = _output(out, (3, *self.size))
        what = _describe(source, name)
        with _open(source, what) as image:
            _check_size(*image.size, what)
            try:
                with _LOCKS[id(source) % len(_LOCKS)] if image is source else nullcontext():
                    image.load()
            except Exception as error:  # Pillow's decoders raise a dozen kinds
                raise InputError(
                    f"{what} cannot be decoded: {error or type(error).__name__}",
                    remedy="It is truncated or damaged: copy it again, or leave it out.",
                ) from error
            pixels = np.asarray(self._resized_rgb(image, what))
        order = slice(None, None, -1) if self.channels == "bgr" else slice(None)
        np.copyto(out, pixels.transpose(2, 0, 1)[order])
        if self.scale == "unit":
            out /= np.float32(255)
        out -= np.array(self.mean[order], dtype=np.float32)[:, None, None]
        out /= np.array(self.std[order], dtype=np.float32)[:, None, None]
        return out

    def _resized_rgb(self, image: Image.Image, what: str) -> Image.Image:
        try:
            if self.convert == "first":
                image = image.convert("RGB")
            return self._resized(image, what).convert("RGB")
        except (ValueError, OSError) as error:
            raise InputError(
                f"{what} has mode {image.mode}, which cannot be resized and made RGB: {error}",
                remedy="Convert it to RGB first.",
            ) from error

    def _resized(self, image: Image.Image, what: str) -> Image.Image:
        resample = Image.Resampling[self.resample.upper()]
        height, width = self.size
        if self.fit == "stretch":
            return image.resize((width, height), resample)
        covering = self._covering(*image.size)
        _check_size(*covering, f"{what}, resized so that its shorter side fits,")
        left, top = round((covering[0] - width) / 2), round((covering[1] - height) / 2)
        return image.resize(covering, resample).crop((left, top, left + width, top + height))

    def _covering(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) that an image is resized to before the crop, rounded as torchvision does."""
        rows, columns = self.size if self.shorter_side is None else (self.shorter_side, self.shorter_side)
        if width * rows <= height * columns:
            return columns, int(columns * height / width)
        return int(rows * width / height), rows


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
