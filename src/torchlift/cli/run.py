"""``torchlift run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli import common, display, on


@click.command("run", short_help="Give a bundle inputs and print its answers.")
@common.bundle_argument
@click.option("--image", "images", multiple=True, help="An image file (repeatable).")
@click.option("--text", "texts", multiple=True, help="A text (repeatable).")
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=FILE", help="A .npy file, an image file, or a number, by input."
)
@click.option("--question", "questions", multiple=True, help="A question about the context (repeatable).")
@click.option(
    "--context",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The file of the text, in UTF-8, that has the answer.",
)
@click.option("--context-text", metavar="TEXT", help="The text itself, in the place of a file.")
@click.option("--confidence", type=click.FloatRange(0, 1), help="Of a detector: the least score of a box.")
@click.option("--overlap", type=click.FloatRange(0, 1), help="Of a detector: boxes that overlap more are one.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Of a detector: only these (repeatable).")
@click.option("--most", type=click.IntRange(1), help="Of a detector: the most boxes of a picture.")
@click.option("--agnostic", is_flag=True, default=None, help="Of a detector: compare boxes of all classes.")
@click.option("--draw", metavar="FILE", help="Of a detector: draw the boxes; of several pictures, into a folder.")
@click.option("--factor", type=float, help="Of super-resolution: how many times larger the picture becomes.")
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
    outputs: tuple[str, ...],
    variants: tuple[str, ...],
    threads: int,
    device: int | None,
    as_json: bool,
    verbose: bool,
    **asked: Any,
) -> None:
    """Run a bundle; without torch.

    Of an encoder of images and texts, both give each text's probability for each image; images or texts alone give
    features. A model that answers questions takes them with the text that has the answer. A detector gives boxes in
    pixels of each image. A network that enlarges pictures takes a --factor, and writes each to --output: a .png, .jpg
    or .webp file, of several pictures a folder. Of any other model, images and texts go to the input that takes them,
    and an --input to the input that it names.

    \b
    torchlift run clip/ --image cat.jpg --text 猫 --text 狗
    torchlift run qa/ --question "Who wrote it?" --context chapter.txt
    torchlift run helmets/ --image site.jpg --draw boxes.png
    torchlift run sr/ --image face.png --factor 3 --output face_x3.png
    torchlift run net/ --input history=history.npy --input ratings=ratings.npy --output score=score.npy

    Files have the arrays that are printed; for labels, what the model gives for every label. A file is replaced.
    """
    from torchlift.cli.running import require_taken, runner_of
    from torchlift.machine import RunOn
    from torchlift.pipelines import OpenOptions, open_bundle

    given = {name: value for name, value in asked.items() if value not in (None, ())}
    with (
        display.progress_display() as progress,
        open_bundle(bundle, OpenOptions(_named(bundle, variants), RunOn(threads, device or 0)), progress) as pipeline,
    ):
        runner = runner_of(pipeline.bundle.manifest.pipeline)
        require_taken(click.get_current_context(), runner, given)
        answered = runner.answer(pipeline, given, outputs)
    if as_json:
        display.print_json(answered.said)
    else:
        answered.show(display.console())
        for line in answered.written:
            display.console().print(f"written to {line}", soft_wrap=True)


def _named(bundle: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Component -> the variant that is to serve, for those that are named."""
    from torchlift.manifest import read_manifest

    manifest = read_manifest(bundle) if names else None
    return {v.component: v.name for name in names for v in manifest.variants_called(name)} if manifest else {}
