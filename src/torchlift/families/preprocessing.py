"""How transformers' files say that pictures are prepared, as an ImageInput, for all classifiers of pictures.

For example {"size": {"shortest_edge": 256}, "do_center_crop": true, "crop_size": {"height": 224, "width": 224}, ...}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from msgspec.structs import replace
from PIL import Image

from torchlift.declare.inputs import ImageInput, Resample
from torchlift.errors import CheckpointError, InputError, SourceError
from torchlift.families.quiet import libraries_quiet
from torchlift.families.transformers_folder import PREPROCESSING_FILES, read_json

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in ImageNet."""

PROCESSORS = (
    "BeitImageProcessor",
    "BitImageProcessor",
    "CLIPImageProcessor",
    "ConvNextImageProcessor",
    "DeiTImageProcessor",
    "EfficientNetImageProcessor",
    "MobileViTImageProcessor",
    "SiglipImageProcessor",
    "ViTImageProcessor",
)
"""The image processors of transformers whose steps :func:`image_input` knows."""

_Three = tuple[float, float, float]

_WARPED = 384
"""Pixels. From this size on a ConvNextImageProcessor stretches pictures; below it crops them."""


def preprocessing_file(folder: Path) -> Path | None:
    """The file in a folder that states how pictures are prepared; None where there is none."""
    return next((folder / name for name in PREPROCESSING_FILES if (folder / name).is_file()), None)


def read_statement(file: Path) -> dict[str, Any]:
    """What a file states, without what it leaves open. Raises CheckpointError where it is damaged."""
    content = read_json(file)
    return {name: value for name, value in (content.get("image_processor") or content).items() if value is not None}


def read_processor(folder: Path, remedy: str) -> ImageInput:
    """The preprocessing that transformers' own image processor does for a folder, defaults of its class included.

    Raises CheckpointError where there is no file, where it states a processor that is not known, and where a step of it
    cannot be declared.
    """
    file = preprocessing_file(folder)
    if file is None:
        raise CheckpointError(
            f"{folder} has no {PREPROCESSING_FILES[0]}, which says how pictures are prepared", remedy=remedy
        )
    from transformers import AutoImageProcessor

    read_statement(file)
    try:
        with libraries_quiet():
            processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    except Exception as error:  # transformers raises many kinds
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"{file} cannot be used: {reason}", remedy=remedy) from error
    said = {name: value for name, value in processor.to_dict().items() if value is not None}
    if said.get("image_processor_type") not in PROCESSORS:
        raise CheckpointError(
            f"{file} states {said.get('image_processor_type')}; its steps are not known",
            remedy=f"The image processors that can be used are {', '.join(PROCESSORS)}.",
        )
    return declared(file, remedy, lambda: image_input(said))


def declared(file: Path, remedy: str, make: Callable[[], ImageInput]) -> ImageInput:
    """What ``make`` gives. Raises CheckpointError, which names the file, where its statement is not usable."""
    try:
        return make()
    except (InputError, ValueError, KeyError, TypeError, AttributeError, OverflowError, StopIteration) as error:
        reason = error.message if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file} cannot be used: {reason}", remedy=remedy) from error


def image_input(said: Mapping[str, Any]) -> ImageInput:
    """The preprocessing from the keys of an image processor.

    ``size`` and ``resample`` must be there; what else is missing is not done. Pixels go through scaling and
    normalisation, each of which multiplies and adds, so that one mean and one standard deviation say both. Raises
    ValueError or KeyError for what cannot be declared.
    """
    if not said.get("do_resize", True):
        raise ValueError("do_resize is false: the size of the model's input would vary")
    if said.get("do_pad"):
        raise ValueError("do_pad is true: pictures that are filled up are not supported")
    mean, std = _normalisation(said)
    resample = Image.Resampling(said["resample"]).name.lower()
    return ImageInput(
        mean=mean,
        std=std,
        resample=next(known for known in get_args(Resample) if known == resample),
        convert="first",
        channels="bgr" if said.get("do_flip_channel_order") else "rgb",
        **_geometry(said),
    )


def at_resolution(stated: ImageInput, resolution: int | None) -> ImageInput:
    """The preprocessing for square pictures of another size, in pixels. What is cropped keeps its share."""
    if resolution is None:
        return stated
    if resolution < 1:
        raise SourceError(f"`resolution={resolution}` is no size", remedy="Give pixels, for example 224.")
    height, width = stated.size or (resolution, resolution)
    shorter = stated.shorter_side and round(stated.shorter_side * resolution / height)
    stretched = stated.stretched and (
        round(stated.stretched[0] * resolution / height),
        round(stated.stretched[1] * resolution / width),
    )
    return replace(stated, size=(resolution, resolution), shorter_side=shorter, stretched=stretched)


def _geometry(said: Mapping[str, Any]) -> dict[str, Any]:
    """Size and fit: the fields of an ImageInput."""
    stated = said["size"]
    short = stated if isinstance(stated, int) else stated.get("shortest_edge")
    if not isinstance(stated, int) and stated.get("longest_edge") is not None:
        raise ValueError(f"size is {dict(stated)}: a longest_edge leaves the size of the input open")
    if said.get("image_processor_type") == "ConvNextImageProcessor" and short is not None:
        if short >= _WARPED:
            return {"size": (short, short), "fit": "stretch"}
        return {"size": (short, short), "fit": "crop", "shorter_side": int(short / said["crop_pct"])}
    if said.get("do_center_crop"):
        crop = said["crop_size"]
        size = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
        if short is not None:
            return {"size": size, "fit": "crop", "shorter_side": short}
        whole = (stated["height"], stated["width"])
        if whole == size:
            return {"size": size, "fit": "stretch"}
        return {"size": size, "fit": "crop", "stretched": whole}
    if short is not None:
        raise ValueError(f"size is {stated}: without a crop it must be height and width")
    return {"size": (stated["height"], stated["width"]), "fit": "stretch"}


def _normalisation(said: Mapping[str, Any]) -> tuple[_Three, _Three]:
    """Mean and standard deviation for pixels 0..1: (x - mean) / std is what all steps together give."""
    factor = 255 * said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255.0
    if abs(factor - 1) < 1e-3:
        factor = 1.0
    offset = 1.0 if said.get("rescale_offset") and said.get("do_rescale", True) else 0.0
    normal = said.get("do_normalize", False)
    mean = _three(said["image_mean"]) if normal else (0.0, 0.0, 0.0)
    std = _three(said["image_std"]) if normal else (1.0, 1.0, 1.0)
    again = _three(said["image_std"]) if said.get("include_top") else (1.0, 1.0, 1.0)
    if factor == 1 and not offset and again == (1.0, 1.0, 1.0):
        return mean, std
    means = _three([(m + offset) / factor for m in mean])
    return means, _three([s * a / factor for s, a in zip(std, again, strict=True)])


def _three(stated: Any) -> _Three:
    """A number for each of the three channels; one number stands for all."""
    red, green, blue = (stated,) * 3 if isinstance(stated, (int, float)) else stated
    return red, green, blue
