"""``torchlift run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from torchlift.cli import common, display, on

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from torchlift.cli.outputs import Target
    from torchlift.pipelines.dual_encoder import DualEncoder
    from torchlift.pipelines.tensors import TensorPipeline


@click.command("run", short_help="Give a bundle inputs and print its answers.")
@common.bundle_argument
@click.option("--image", "images", multiple=True, help="An image file (repeatable).")
@click.option("--text", "texts", multiple=True, help="A text (repeatable).")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=FILE", help="A .npy file, an image file, or a number, by input."
)
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Write the output of that name, or the only one, to a .npy file; all of them to a .npz file (repeatable).",
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
    outputs: tuple[str, ...],
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
    torchlift run net/ --input history=history.npy --input ratings=ratings.npy --output score=score.npy

    Files have the arrays that are printed; for labels, what the model gives for every label. A file is replaced.
    """
    from torchlift.cli.outputs import parse_outputs, write_outputs
    from torchlift.machine import RunOn
    from torchlift.pipelines import OpenOptions, open_bundle
    from torchlift.pipelines.dual_encoder import DualEncoder

    targets = parse_outputs(outputs)
    with (
        display.progress_display() as progress,
        open_bundle(bundle, OpenOptions(_named(bundle, variants), RunOn(threads, device or 0)), progress) as pipeline,
    ):
        if isinstance(pipeline, DualEncoder):
            if inputs:
                raise click.UsageError(
                    "this bundle encodes images and texts: it takes --image and --text, not --input."
                )
            answer, arrays = _encoded(pipeline, tuple(dict.fromkeys(images)), tuple(dict.fromkeys(texts)), targets)
        else:
            answer, arrays = _called(pipeline, images, texts, inputs, targets)
    written = write_outputs(targets, arrays)
    if as_json:
        display.print_json(answer)
    else:
        _print(answer)
        for line in written:
            display.console().print(f"written to {line}", soft_wrap=True)


def _named(bundle: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Component -> the variant that is to serve, for those that are named."""
    from torchlift.manifest import read_manifest

    manifest = read_manifest(bundle) if names else None
    return {v.component: v.name for name in names for v in manifest.variants_called(name)} if manifest else {}


def _encoded(
    pipeline: DualEncoder, images: tuple[str, ...], texts: tuple[str, ...], targets: Sequence[Target]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is printed, and the one array that it is: probabilities, or the features of images or of texts."""
    if not images and not texts:
        raise click.UsageError("give at least one --image or --text.")
    both = bool(images and texts)
    name = "probabilities" if both else "image" if images else "text"
    for target in targets:
        target.names([name])
    if both:
        array = pipeline.classify(images, texts)
        said: dict[str, Any] = {
            image: {t: round(float(p), 6) for t, p in zip(texts, row, strict=True)}
            for image, row in zip(images, array, strict=True)
        }
        return said, {name: array}
    array = pipeline.encode_image(images) if images else pipeline.encode_text(texts)
    return {n: [float(x) for x in row] for n, row in zip(images or texts, array, strict=True)}, {name: array}


def _called(
    pipeline: TensorPipeline,
    images: tuple[str, ...],
    texts: tuple[str, ...],
    inputs: tuple[str, ...],
    targets: Sequence[Target],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is printed of each output, and its array: of labels what the model gives."""
    import numpy as np

    for target in targets:
        target.names(pipeline.signature.output_names)
    arrays = pipeline.arrays(_feeds(pipeline, images, texts, inputs))
    answers = pipeline.answers(arrays)
    finished = {name: answer if isinstance(answer, np.ndarray) else arrays[name] for name, answer in answers.items()}
    return {name: a.tolist() if isinstance(a, np.ndarray) else a for name, a in answers.items()}, finished


def _feeds(
    pipeline: TensorPipeline, images: tuple[str, ...], texts: tuple[str, ...], inputs: tuple[str, ...]
) -> dict[str, Any]:
    """What each input is given."""
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
    return feeds


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
