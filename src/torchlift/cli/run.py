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
    features. Of any other model, images and texts go to the input that takes them, and an --input to the input that it
    names.

    \b
    torchlift run clip/ --image cat.jpg --text 猫 --text 狗
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
