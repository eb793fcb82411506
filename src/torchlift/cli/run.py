"""``torchlift run``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from torchlift.cli import common, display, on

if TYPE_CHECKING:
    from rich.table import Table

    from torchlift.pipelines.dual_encoder import DualEncoder
    from torchlift.pipelines.tensors import TensorPipeline


@click.command("run", short_help="Give a bundle inputs and print its answers.")
@common.bundle_argument
@click.option("--image", "images", multiple=True, help="An image file (repeatable).")
@click.option("--text", "texts", multiple=True, help="A text (repeatable).")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=FILE", help="A .npy file, an image file, or a number, by input."
)
@common.variants_option("Serve with this one and not the chosen one")
@on.threads_option
@on.device_option("The GPU of what runs on one.")
@common.json_option
@common.verbose_option
def command(
    bundle: Path,
    images: tuple[str, ...],
    texts: tuple[str, ...],
    inputs: tuple[str, ...],
    variants: tuple[str, ...],
    threads: int,
    device: int | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Run a bundle; without torch.

    Of an encoder of images and texts, both give each text's probability for each image; images or texts alone give
    features. Of any other model, images and texts go to the input that takes them, and an --input to the input that it
    names.

    \b
    torchlift run clip/ --image cat.jpg --text 猫 --text 狗
    torchlift run net/ --input history=history.npy --input ratings=ratings.npy
    """
    from torchlift.machine import RunOn
    from torchlift.pipelines import OpenOptions, open_bundle
    from torchlift.pipelines.dual_encoder import DualEncoder

    with (
        display.progress_display() as progress,
        open_bundle(bundle, OpenOptions(_named(bundle, variants), RunOn(threads, device or 0)), progress) as pipeline,
    ):
        if isinstance(pipeline, DualEncoder):
            if inputs:
                raise click.UsageError(
                    "this bundle encodes images and texts: it takes --image and --text, not --input."
                )
            answer = _encoded(pipeline, tuple(dict.fromkeys(images)), tuple(dict.fromkeys(texts)))
        else:
            answer = _called(pipeline, images, texts, inputs)
    if as_json:
        display.print_json(answer)
    else:
        _print(answer)


def _named(bundle: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Component -> the variant that is to serve, for those that are named."""
    from torchlift.manifest import read_manifest

    manifest = read_manifest(bundle) if names else None
    return {v.component: v.name for name in names for v in manifest.variants_called(name)} if manifest else {}


def _encoded(pipeline: DualEncoder, images: tuple[str, ...], texts: tuple[str, ...]) -> dict[str, Any]:
    if not images and not texts:
        raise click.UsageError("give at least one --image or --text.")
    if images and texts:
        probabilities = pipeline.classify(images, texts)
        return {
            image: {t: round(float(p), 6) for t, p in zip(texts, row, strict=True)}
            for image, row in zip(images, probabilities, strict=True)
        }
    features = pipeline.encode_image(images) if images else pipeline.encode_text(texts)
    return {name: [float(x) for x in row] for name, row in zip(images or texts, features, strict=True)}


def _called(
    pipeline: TensorPipeline, images: tuple[str, ...], texts: tuple[str, ...], inputs: tuple[str, ...]
) -> dict[str, Any]:
    import numpy as np

    from torchlift.declare.inputs import ImageInput, TextInput

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
    return {name: a.tolist() if isinstance(a, np.ndarray) else a for name, a in pipeline(feeds).items()}


def _inputs_of(pipeline: TensorPipeline) -> str:
    return ", ".join(f"--input {name}=FILE" for name in pipeline.signature.input_names)


def _array(text: str, name: str, file: str, *, known: bool) -> Any:
    """A .npy file, or a number."""
    import numpy as np

    from torchlift.errors import InputError
    from torchlift.storage import open_regular

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


def _print(answer: dict[str, Any]) -> None:
    out = display.console()
    for name, value in answer.items():
        if isinstance(value, dict):
            out.print(_ranking(name, sorted(value.items(), key=lambda item: -item[1])))
        elif _is_labelled(value):
            for row, scores in enumerate(value):
                out.print(_ranking(f"{name} of row {row}", scores))
        else:
            text = str(value)
            out.print(f"{name}: {text if len(text) < 400 else text[:400] + ' ...'}")


def _is_labelled(value: list[Any]) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) and row and isinstance(row[0], tuple) for row in value)


def _ranking(title: str, scores: list[tuple[str, float]]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, show_header=False)
    for name, score in scores:
        share = 0 <= score <= 1
        table.add_row(f"{score:7.2%}" if share else f"{score:.4g}", name, "█" * round(30 * score) if share else "")
    return table
