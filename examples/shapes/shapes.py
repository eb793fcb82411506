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

SIZES: dict[str, tuple[float, float]] = {"大": (0.30, 0.38), "小": (0.17, 0.22)}
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


# Pictures -------------------------------------------------------------------------------------------------------------


def _circle(corners: int = 64) -> list[Point]:
    turns = [2 * math.pi * i / corners for i in range(corners)]
    return [(math.sin(t), math.cos(t)) for t in turns]


def _star(inner: float = 0.42) -> list[Point]:
    radii = itertools.cycle((1.0, inner))
    return [(r * math.sin(math.pi * i / 5), -r * math.cos(math.pi * i / 5)) for i, r in zip(range(10), radii)]


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

TILT = math.radians(20)
"""The largest rotation either way; more would turn a square into a diamond."""

SUPERSAMPLING = 4
"""Outlines are drawn this many times larger and then averaged, which smooths their edges."""


def draw(colour: str, shape: str, size: str = "大", *, rng: np.random.Generator, pixels: int = 128) -> Image.Image:
    """Draw one shape; ``rng`` decides its place, tilt and exact colour, and the background.

    Returns an RGB picture of ``pixels`` x ``pixels``.
    """
    ink = np.clip(np.array(COLOURS[colour]) + rng.integers(-18, 19, 3), 0, 255)
    cover = _mask(shape, size, rng, pixels)[..., None]
    picture = cover * ink + (1 - cover) * _background(ink, rng, pixels)
    picture += rng.normal(0, rng.uniform(0, 8), picture.shape)
    return Image.fromarray(np.clip(picture.round(), 0, 255).astype(np.uint8))


def _mask(shape: str, size: str, rng: np.random.Generator, pixels: int) -> np.ndarray:
    """How much of each pixel the shape covers: float32 [pixels, pixels] in 0..1."""
    radius = rng.uniform(*SIZES[size])
    x, y = rng.uniform(radius + 0.03, 1 - radius - 0.03, 2)
    tilt = rng.uniform(-TILT, TILT)
    cos, sin = radius * math.cos(tilt), radius * math.sin(tilt)
    side = pixels * SUPERSAMPLING
    mask = Image.new("L", (side, side))
    corners = [(side * (x + cos * u - sin * v), side * (y + sin * u + cos * v)) for u, v in OUTLINES[shape]]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return np.asarray(mask.reduce(SUPERSAMPLING), np.float32) / 255


def _background(ink: np.ndarray, rng: np.random.Generator, pixels: int, contrast: float = 55) -> np.ndarray:
    """A dull gradient that stands out from ``ink`` [3] in brightness: float64 [pixels, pixels, 3]."""
    brightness = rng.uniform(40, 240)
    while abs(brightness - _luma(ink)) < contrast:
        brightness = rng.uniform(40, 240)
    start, stop = brightness + rng.uniform(-14, 14, (2, 3))
    across, down = np.meshgrid(np.linspace(0, 1, pixels), np.linspace(0, 1, pixels))
    turn = rng.uniform(0, math.pi / 2)
    ramp = (across * math.cos(turn) + down * math.sin(turn)) / (math.cos(turn) + math.sin(turn))
    return start + (stop - start) * ramp[..., None]


def _luma(rgb: np.ndarray) -> float:
    """Perceived brightness in 0..255 (ITU-R BT.601)."""
    return float(rgb @ np.array([0.299, 0.587, 0.114]))


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
    "{size}{colour}{shape}",
    "一个{size}{colour}{shape}",
    "一个{colour}色的{size}{shape}",
    "图片里有一个{colour}色的{size}{shape}",
    "{shape}，{colour}色",
    "{shape}是{colour}色的",
    "很{size}的{colour}色{shape}",
)


def prompt(colour: str, shape: str) -> str:
    """The plain caption, for example 一个红色的圆形."""
    return PROMPT.format(colour=colour, shape=shape)


def caption(colour: str, shape: str, size: str, *, rng: np.random.Generator) -> str:
    """One of the many ways to say it; some of them leave the size out."""
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    name = SHAPES[shape][rng.integers(len(SHAPES[shape]))]
    return template.format(colour=colour, shape=name, size=size)


def tells_size(text: str) -> bool:
    return any(size in text for size in SIZES)


# Both together --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A picture and what is on it."""

    picture: Image.Image
    caption: str
    colour: str
    shape: str
    size: str


def samples(n: int, seed: int, combinations: Iterable[Combination] = COMBINATIONS) -> Iterator[Sample]:
    """Draw ``n`` pictures that go through ``combinations`` in turn; sample i depends on ``seed`` and i alone."""
    for index, (colour, shape) in zip(range(n), itertools.cycle(combinations)):
        rng = np.random.default_rng((seed, index))
        size = ("大", "小")[rng.integers(2)]
        text = caption(colour, shape, size, rng=rng)
        yield Sample(draw(colour, shape, size, rng=rng), text, colour, shape, size)


# Vocabulary -----------------------------------------------------------------------------------------------------------

PUNCTUATION = "，。！？、：；（）《》“”" + string.punctuation
LATIN = string.digits + string.ascii_lowercase


def vocabulary() -> list[str]:
    """The tokens in order of their ids, laid out as BERT's are: [PAD] 0, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103,
    then punctuation, digits and letters (alone, and with ## inside words), and every character of the captions."""
    special = ["[PAD]", *(f"[unused{i}]" for i in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = "".join([*TEMPLATES, *COLOURS, *SIZES, *itertools.chain.from_iterable(SHAPES.values())])
    characters = sorted({c for c in words if ord(c) > 127} - set(PUNCTUATION))
    return [*special, *PUNCTUATION, *LATIN, *(f"##{c}" for c in LATIN), *characters]
