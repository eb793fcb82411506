"""Runs an encoder of pictures and texts."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from torchlift.cli.outputs import parse_outputs, write_outputs
from torchlift.cli.running import Answered, Given
from torchlift.cli.running.show import show_answers
from torchlift.pipelines.dual_encoder import DualEncoder

TAKES = ("images", "texts")


def answer(pipeline: DualEncoder, given: Given, outputs: tuple[str, ...]) -> Answered:
    """Both give each text's probability for each image; images or texts alone give features."""
    images, texts = (tuple(dict.fromkeys(given.get(name, ()))) for name in TAKES)
    if not images and not texts:
        raise click.UsageError("give at least one --image or --text.")
    both = bool(images and texts)
    name = "probabilities" if both else "image" if images else "text"
    targets = parse_outputs(outputs)
    for target in targets:
        target.names([name])
    if both:
        array = pipeline.classify(images, texts)
        said: dict[str, Any] = {
            image: {t: round(float(p), 6) for t, p in zip(texts, row, strict=True)}
            for image, row in zip(images, array, strict=True)
        }
    else:
        array = pipeline.encode_image(images) if images else pipeline.encode_text(texts)
        said = {n: [float(x) for x in row] for n, row in zip(images or texts, array, strict=True)}
    return Answered(said, partial(show_answers, said), write_outputs(targets, {name: array}))
