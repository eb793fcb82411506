"""Runs a component that is called like a function."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from torchlift.cli.outputs import parse_outputs, write_outputs
from torchlift.cli.running import Answered, Given
from torchlift.cli.running.show import show_answers
from torchlift.declare.inputs import ImageInput, TextInput
from torchlift.errors import InputError
from torchlift.pipelines.tensors import LabelledToken, TensorPipeline
from torchlift.storage import open_regular

TAKES = ("images", "texts", "inputs")


def answer(pipeline: TensorPipeline, given: Given, outputs: tuple[str, ...]) -> Answered:
    """What each output says, and its array in the files: of labels what the model gives."""
    targets = parse_outputs(outputs)
    for target in targets:
        target.names(pipeline.signature.output_names)
    feeds = _feeds(pipeline, *(given.get(name, ()) for name in TAKES))
    arrays = pipeline.arrays(feeds)
    answers = pipeline.answers(arrays, feeds)
    finished = {name: found if isinstance(found, np.ndarray) else arrays[name] for name, found in answers.items()}
    said = {name: _plain(found) for name, found in answers.items()}
    written = write_outputs(targets, {name: _one(name, found) for name, found in finished.items()}) if targets else []
    return Answered(said, partial(show_answers, said), written)


def _plain(answer: Any) -> Any:
    """An answer as JSON has it: arrays as lists, also those in a list, and what has fields by their names."""
    if isinstance(answer, np.ndarray):
        return answer.tolist()
    if isinstance(answer, LabelledToken):
        return answer._asdict()
    return [_plain(row) for row in answer] if isinstance(answer, list) else answer


def _one(name: str, found: Any) -> np.ndarray:
    """What goes into a file. Raises UsageError for rows of different lengths, which are no array."""
    if isinstance(found, list) and len({row.shape for row in found}) != 1:
        raise click.UsageError(
            f"--output: {name} has an answer for each token, and the texts have {len(found)} lengths: give one --text."
        )
    return np.asarray(found)


def _feeds(
    pipeline: TensorPipeline, images: tuple[str, ...], texts: tuple[str, ...], inputs: tuple[str, ...]
) -> dict[str, Any]:
    """What each input is given."""
    component = pipeline.bundle.manifest.component(pipeline.component)
    pictures = component.inputs_of(ImageInput)
    feeds: dict[str, Any] = {}
    for option, given, names in (("--image", images, pictures), ("--text", texts, component.inputs_of(TextInput))):
        if given and len(names) != 1:
            raise click.UsageError(f"{option}: this bundle takes {_inputs_of(pipeline)}.")
        if given:
            feeds[names[0]] = [*given]
    for text in inputs:
        name, equals, file = text.partition("=")
        if not equals:
            raise click.UsageError(f"--input {text}: write NAME=FILE.")
        if name in pictures and not file.endswith(".npy"):
            if isinstance(feeds.setdefault(name, []), np.ndarray):
                raise click.UsageError(f"--input {text}: {name} is given as an array already.")
            feeds[name].append(file)
            continue
        if name in feeds:
            raise click.UsageError(f"--input {text}: {name} is given twice.")
        feeds[name] = _array(text, name, file, known=name in pipeline.signature.input_names)
    return feeds


def _inputs_of(pipeline: TensorPipeline) -> str:
    return ", ".join(f"--input {name}=FILE" for name in pipeline.signature.input_names)


def _array(text: str, name: str, file: str, *, known: bool) -> Any:
    """A .npy file, or a number."""
    if file.endswith(".npy"):
        try:
            with open_regular(Path(file)) as stream:
                return np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise InputError(
                f"{file} is not a readable .npy array: {error}", remedy="Write it with numpy.save."
            ) from error
    try:
        return int(file) if file.lstrip("+-").isdecimal() and len(file) < 20 else float(file)
    except ValueError:
        if known:
            raise click.UsageError(f"--input {text}: {name} is an array, give a .npy file or a number.") from None
        return [file]
