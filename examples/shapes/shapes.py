"""Pictures of coloured shapes with Chinese captions, drawn from a seed; knows nothing of models."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Combination = tuple[str, str]
"""A colour and a shape, for example ("红", "圆形")."""


# What there is to see -------------------------------------------------------------------------------------------------

COLOURS: dict[str, tuple[int, int, int]] = {
    "红": (215, 35, 40),
    "橙": (250, 135, 15),
    "黄": (245, 220, 40),
    "绿": (40, 160, 60),
    "青": (40, 200, 205),
    "蓝": (35, 75, 215),
    "紫": (125, 45, 165),
    "粉": (250, 155, 195),
    "黑": (20, 20, 20),
    "白": (245, 245, 245),
}
"""Colour -> red, green, blue in 0..255."""

SIZES: dict[str, tuple[float, float]] = {"大": (0.36, 0.42), "小": (0.24, 0.28)}
"""Size -> the shape's smallest and largest radius, as a share of the picture's side."""

SHAPES: dict[str, tuple[str, ...]] = {
    "圆形": ("圆形", "圆", "圆圈"),
    "方形": ("方形", "正方形", "方块"),
    "三角形": ("三角形", "三角"),
    "五角星": ("五角星", "星星", "星形"),
    "心形": ("心形", "爱心", "心"),
    "菱形": ("菱形", "菱形块"),
}
"""Shape -> what captions call it."""

COMBINATIONS: tuple[Combination, ...] = tuple(itertools.product(COLOURS, SHAPES))

UNSEEN: tuple[Combination, ...] = (
    ("紫", "五角星"),
    ("橙", "圆形"),
    ("粉", "方形"),
    ("蓝", "三角形"),
    ("绿", "心形"),
    ("黄", "菱形"),
)
"""Kept out of training: each colour and each shape is seen, but never these together."""

SEEN: tuple[Combination, ...] = tuple(c for c in COMBINATIONS if c not in UNSEEN)


@dataclass(frozen=True)
class Scene:
    """What is on a picture."""

    colour: str
    shape: str
    size: str = "大"


PARTS = ("colour", "shape", "size")


@dataclass(frozen=True)
class Caption:
    """A sentence about a scene, and which parts of the scene it tells."""

    text: str
    scene: Scene
    tells: tuple[str, ...]

    def fits(self, scene: Scene) -> bool:
        """Whether it is true of a scene, perhaps of another than it was written for."""
        return all(getattr(self.scene, part) == getattr(scene, part) for part in self.tells)


# Pictures -------------------------------------------------------------------------------------------------------------


def _circle(corners: int = 64) -> list[Point]:
    turns = [2 * math.pi * i / corners for i in range(corners)]
    return [(math.sin(t), math.cos(t)) for t in turns]


def _star(inner: float = 0.42) -> list[Point]:
    turns = [math.pi * i / 5 for i in range(10)]
    radii = (1.0, inner) * 5
    return [(r * math.sin(t), -r * math.cos(t)) for t, r in zip(turns, radii, strict=True)]


def _heart(corners: int = 64) -> list[Point]:
    turns = [2 * math.pi * i / corners for i in range(corners)]
    wave = ((1, 13), (2, -5), (3, -2), (4, -1))
    return [(0.97 * math.sin(t) ** 3, -sum(a * math.cos(k * t) for k, a in wave) / 16.5) for t in turns]


OUTLINES: dict[str, list[Point]] = {
    "圆形": _circle(),
    "方形": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "三角形": [(0.0, -1.0), (0.92, 0.7), (-0.92, 0.7)],
    "五角星": _star(),
    "心形": _heart(),
    "菱形": [(0.0, -1.0), (0.58, 0.0), (0.0, 1.0), (-0.58, 0.0)],
}
"""Shape -> its corners around (0, 0) with radius about 1, y downwards."""

TILT = math.radians(12)
"""The largest rotation either way; much more would turn a square into a diamond."""

DRIFT = 0.06
"""How far from the middle a shape may be, across and down, as a share of the picture's side."""

SUPERSAMPLING = 4
"""Outlines are drawn this many times larger and then averaged, which smooths their edges."""


def draw(scene: Scene, rng: np.random.Generator, pixels: int = 128) -> Image.Image:
    """Draw one shape; ``rng`` decides its place, tilt and exact colour, and the background.

    Returns an RGB picture of ``pixels`` x ``pixels``.
    """
    ink = np.clip(np.array(COLOURS[scene.colour], np.float32) + rng.integers(-28, 29, 3, np.int8), 0, 255)
    cover = _mask(scene, rng, pixels)[..., None]
    picture = cover * ink + (1 - cover) * _background(ink, rng, pixels)
    picture += rng.uniform(0, 8) * rng.standard_normal(picture.shape, np.float32)
    return Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))


def _mask(scene: Scene, rng: np.random.Generator, pixels: int) -> np.ndarray:
    """How much of each pixel the shape covers: float32 [pixels, pixels] in 0..1."""
    radius = rng.uniform(*SIZES[scene.size])
    x, y = rng.uniform(0.5 - DRIFT, 0.5 + DRIFT, 2)
    tilt = rng.uniform(-TILT, TILT)
    cos, sin = radius * math.cos(tilt), radius * math.sin(tilt)
    side = pixels * SUPERSAMPLING
    mask = Image.new("L", (side, side))
    corners = [(side * (x + cos * u - sin * v), side * (y + sin * u + cos * v)) for u, v in OUTLINES[scene.shape]]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return np.asarray(mask.reduce(SUPERSAMPLING), np.float32) / 255


def _background(ink: np.ndarray, rng: np.random.Generator, pixels: int, contrast: float = 40) -> np.ndarray:
    """A soft gradient that stands out from ``ink`` [3] in brightness: float32 [pixels, pixels, 3]."""
    brightness = rng.uniform(185, 240)
    while abs(brightness - _luma(ink)) < contrast:
        brightness = rng.uniform(110, 240)
    start, stop = brightness + rng.uniform(-14, 14, (2, 3)).astype(np.float32)
    line = np.linspace(0, 1, pixels, dtype=np.float32)
    share = rng.random(dtype=np.float32)
    ramp = share * line + (1 - share) * line[:, None]
    return start + (stop - start) * ramp[..., None]


def _luma(rgb: np.ndarray) -> float:
    """Perceived brightness in 0..255 (ITU-R BT.601)."""
    return float(rgb @ (0.299, 0.587, 0.114))


# Captions -------------------------------------------------------------------------------------------------------------

PROMPT = "一个{colour}色的{shape}"
"""The sentence that zero-shot classification puts a colour and a shape into."""

TEMPLATES: tuple[str, ...] = (
    PROMPT,
    "{colour}{shape}",
    "{colour}色{shape}",
    "{colour}色的{shape}",
    "一个{colour}{shape}",
    "一张{colour}色{shape}的图片",
    "这是一个{colour}色的{shape}。",
    "图片里有一个{colour}色的{shape}",
    "画面上画着一个{colour}色{shape}",
    "{shape}，{colour}色",
    "{shape}是{colour}色的",
    "{size}{colour}{shape}",
    "一个{size}{colour}{shape}",
    "一个{colour}色的{size}{shape}",
    "图片里有一个{colour}色的{size}{shape}",
    "很{size}的{colour}色{shape}",
)
"""Captions that tell colour and shape."""

COLOUR_TEMPLATES: tuple[str, ...] = ("{colour}色", "{colour}色的图形", "一个{colour}色的图形", "图片里有{colour}色")
SHAPE_TEMPLATES: tuple[str, ...] = (
    "{shape}",
    "一个{shape}",
    "这是一个{shape}。",
    "图片里有一个{shape}",
    "一个{size}{shape}",
)
"""Captions that tell one and leave the other open: by these a model learns that the two are independent."""


def prompt(colour: str, shape: str) -> str:
    """The plain caption, for example 一个红色的圆形."""
    return PROMPT.format(colour=colour, shape=shape)


def caption(scene: Scene, rng: np.random.Generator, templates: tuple[str, ...] = TEMPLATES) -> Caption:
    """Say what is on a picture, in one of many ways."""
    template = templates[rng.integers(len(templates))]
    name = SHAPES[scene.shape][rng.integers(len(SHAPES[scene.shape]))]
    text = template.format(colour=scene.colour, shape=name, size=scene.size)
    return Caption(text, scene, tells=tuple(part for part in PARTS if f"{{{part}}}" in template))


# Both together --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A picture, what is on it, and a caption that tells its colour and shape."""

    picture: Image.Image
    scene: Scene
    caption: Caption


def samples(n: int, seed: int, combinations: Iterable[Combination] = COMBINATIONS) -> Iterator[Sample]:
    """Draw ``n`` pictures that go through ``combinations`` in turn; sample i depends on ``seed`` and i alone."""
    for index, (colour, shape) in enumerate(itertools.islice(itertools.cycle(combinations), n)):
        rng = np.random.default_rng((seed, index))
        scene = Scene(colour, shape, size=("大", "小")[rng.integers(2)])
        yield Sample(draw(scene, rng), scene, caption(scene, rng))


# Vocabulary -----------------------------------------------------------------------------------------------------------

PUNCTUATION = "，。！？、：；（）《》“”" + string.punctuation
LATIN = string.digits + string.ascii_lowercase


def vocabulary() -> list[str]:
    """The tokens in order of their ids, laid out as BERT's are: [PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103,
    then punctuation, digits and letters (alone, and with ## inside words), and every character of the captions.
    """
    special = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = itertools.chain(TEMPLATES, COLOUR_TEMPLATES, SHAPE_TEMPLATES, COLOURS, SIZES, *SHAPES.values())
    characters = sorted({c for c in "".join(words) if not c.isascii()} - set(PUNCTUATION))
    return [*special, *PUNCTUATION, *LATIN, *(f"##{c}" for c in LATIN), *characters]
