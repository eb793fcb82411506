"""The options for NVIDIA GPUs that commands share, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from torchlift.cli.common import options, whole_number

compile_options = options(
    click.option(
        "--profile",
        "profiles",
        multiple=True,
        metavar="[COMPONENT.]AXIS=MIN:OPT:MAX[,...]",
        help="What an engine is optimised for, for example batch=1:1:4 or batch=1:8:64,text.sequence=4:16:52 "
        "(repeatable: one profile each). [default: batch 1, and the whole ranges]",
    ),
    click.option("--workspace", type=click.IntRange(1), metavar="MIB", help="Scratch memory of an engine, at most."),
    click.option(
        "--plugin",
        "plugins",
        multiple=True,
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="A library with TensorRT operators of your own; it goes into the bundle.",
    ),
    click.option("--version-compatible", is_flag=True, help="An engine that later releases load too."),
    click.option("--hardware-compatible", is_flag=True, help="An engine for every GPU from Ampere on."),
    click.option("--strip-weights", "stripped", is_flag=True, help="An engine without weights: the graph has them."),
)
cuda_graph_option = click.option(
    "--cuda-graph", is_flag=True, help="On a GPU, measure each variant replaying CUDA graphs too."
)
devices_option = click.option(
    "--devices", default="0", show_default=True, metavar="all|N[,N...]", help="GPUs: throughput is of all together."
)


COMPILE = ("profiles", "workspace", "plugins", "version_compatible", "hardware_compatible", "stripped")
"""The names of the options of compilation."""


def parse_compile(
    profiles: tuple[str, ...], workspace: int | None, plugins: tuple[Path, ...], **flags: bool
) -> dict[str, Any]:
    """What the options say of engines, as keywords. Raises a usage error for a profile that is none."""
    from torchlift.errors import SignatureError
    from torchlift.signature import Profile

    try:
        parsed = [Profile.parse(text) for text in profiles]
    except SignatureError as error:
        raise click.UsageError(f"--profile: {error.message}. {error.remedy}") from None
    memory = None if workspace is None else workspace << 20
    return {"profiles": parsed, "workspace": memory, "plugins": plugins, **flags}


def parse_devices(text: str) -> tuple[int, ...]:
    """The ordinals that ``--devices`` names. Raises a usage error for a GPU that is not here."""
    from torchlift.machine import gpus

    count = len(gpus())
    if text == "all":
        return tuple(range(count)) or (0,)
    parts = [part.strip() for part in text.split(",")]
    found = tuple(n for part in parts if (n := whole_number(part)) is not None)
    if len({*found}) < len(parts):
        raise click.UsageError(f"--devices {text}: write all, or numbers of GPUs, for example 0,1.")
    beyond = [n for n in found if n >= count]
    if beyond and found != (0,):
        raise click.UsageError(f"--devices {text}: there is no GPU {beyond[0]}; this process may use {count}.")
    return found
