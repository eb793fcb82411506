"""The options that commands share, and what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from torchlift.cli.defaults import Stated
from torchlift.cli.on import threads_option

if TYPE_CHECKING:
    from torchlift.evidence import Tolerance
    from torchlift.manifest import Manifest
    from torchlift.signature import Axis

_MOST = 2**31 - 1
"""The most rows of a batch, and the largest size of an axis: runtimes count in 32 bits."""

Command = TypeVar("Command", bound=Callable)


def _invoked(context: click.Context, _: click.Parameter, verbose: bool) -> bool:
    """Tell ``main``, which reports errors, what was asked for."""
    context.ensure_object(dict).update(command=context.info_name, verbose=verbose)
    return verbose


bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, is_eager=True, callback=_invoked, help="Print the detail; a traceback on errors."
)
output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder of the bundle."
)


def variants_option(said: str) -> Callable[[Command], Command]:
    """Variants by name, several of them. ``said`` is the help."""
    return click.option(
        "--variant",
        "variants",
        multiple=True,
        metavar="[COMPONENT/]BACKEND/PRECISION",
        help=f"{said} (repeatable). Without a component: of every component that has it.",
    )


def variant_option(said: str, **options: Any) -> Callable[[Command], Command]:
    """One variant by name. ``said`` is the help."""
    return click.option("--variant", metavar="[COMPONENT/]BACKEND/PRECISION", help=said, **options)


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, shown in the order given."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


source_options = options(
    click.argument("model", metavar="FAMILY|FILE.py:FUNCTION"),
    click.option("--checkpoint", help="A checkpoint file, a transformers folder or a hub name."),
    click.option("--vocabulary", type=click.Path(path_type=Path), help="A vocab.txt, where none is beside it."),
    click.option("--resolution", type=click.IntRange(1), help="Another image size than the checkpoint's, in pixels."),
    click.option(
        "--axis",
        "axes",
        multiple=True,
        metavar="[COMPONENT.]NAME=MIN..OPT..MAX",
        help="The range of an axis, for example batch=1..8..64 or text.sequence=4..16..52.",
    ),
)
export_options = options(
    click.option("--exporter", type=click.Choice(["dynamo", "torchscript"]), help="Default: one after the other."),
    click.option("--opset", type=int, help="Opset of the ONNX graphs. [default: 20; torchscript 16]"),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the golden samples."),
)
build_options = options(
    click.option("--backend", "backends", multiple=True, help="Only this backend (repeatable). [default: all here]"),
    click.option(
        "--precision",
        "precisions",
        help="Comma-separated, e.g. fp32,fp16,int8 or int8-dynamic. [default: fp32 and bf16, with --data int8 too]",
    ),
)
verify_options = options(
    click.option(
        "--tolerance",
        "tolerances",
        multiple=True,
        metavar="PRECISION=SCALED[,COSINE]",
        help="What a precision may differ, for example bf16=0.02,0.999.",
    )
)
data_options = options(
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        help="Score on this data set: retrieval (MUGE's format), a folder a class (with label_cn.txt: zero-shot), "
        "pairs of texts with scores. By agreement with PyTorch: a folder of images, a .txt of texts, a .npz.",
    ),
    click.option("--split", default="", help="The split to score on. [default: valid, val, validation or test]"),
    click.option("--limit", type=click.IntRange(1), help="At most this many samples, evenly spaced. [default: all]"),
    click.option("--prompts", type=click.Path(path_type=Path), help="Zero-shot prompts, one a line, {} for the label."),
    click.option("--strict-data", is_flag=True, help="Stop at a record that cannot be used."),
    click.option("--trust-pickle", is_flag=True, help="Read records that are pickles: this runs code that is in them."),
)
gate_options = options(
    click.option(
        "--within",
        multiple=True,
        metavar="METRIC=DROP",
        help="Choose only what is worse by at most DROP than PyTorch FP32, in the metric's unit (points of shares), "
        "for example recall@1=0.2. [default, with --data: 1 of the task's primary metric]",
    ),
    click.option(
        "--confidence",
        metavar="PERCENT",
        help="Hold the limits at this confidence: the upper bound of a drop's interval decides. With none, its "
        "estimate does. [default: none]",
    ),
    click.option(
        "--objective",
        type=click.Choice(["latency", "throughput", "size"]),
        help="What the best of those that hold is best in. [default: latency]",
    ),
)
calibration_options = options(
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        help="Samples that INT8 finds its ranges on: a data set, a folder of images, texts, arrays. "
        "[default: the split train of --data, where it has one]",
    ),
    click.option(
        "--calibrator",
        type=click.Choice(["minmax", "entropy", "percentile"]),
        default=Stated("torchlift.convert.calibration:CalibrationOptions.method"),
        show_default=True,
        help="How ranges are found.",
    ),
    click.option(
        "--calibration-samples",
        type=click.IntRange(1),
        default=Stated("torchlift.convert.calibration:CalibrationOptions.samples"),
        show_default=True,
        help="At most this many.",
    ),
)
keep_option = click.option(
    "--keep",
    multiple=True,
    metavar="COMPONENT:NAME",
    help="A node, or a PyTorch module with all below it, that stays FP32, as `torchlift bisect` prints it.",
)
evaluations_option = click.option(
    "--evaluations",
    type=click.IntRange(0),
    default=Stated("torchlift.stages:ConvertOptions.evaluations"),
    show_default=True,
    help="Graphs that may be tried in the search for what costs the accuracy.",
)
bench_options = options(
    click.option("--batch", "batches", help="Comma-separated batches; the first decides. [default: least, optimum]"),
    click.option(
        "--rounds",
        type=click.IntRange(2),
        default=Stated("torchlift.timing.latency:LatencyOptions.rounds"),
        show_default=True,
        help="Interleaved rounds.",
    ),
    threads_option,
)


SOURCE = ("model", "checkpoint", "vocabulary", "resolution", "axes")
"""The names of the source options."""


def parse_source(
    model: str, checkpoint: str | None, vocabulary: Path | None, resolution: int | None, axes: tuple[str, ...]
) -> dict[str, Any]:
    """What the source options say, as keywords of :func:`torchlift.api.ship`."""
    from torchlift.families import FAMILIES

    said = {"axes": _parse_axes(axes), "vocabulary": vocabulary, "resolution": resolution}
    if ".py:" in model or model.endswith(".py"):
        if checkpoint or vocabulary or resolution:
            raise click.UsageError(f"{model} is a module of your own: it takes --axis, and reads its weights itself.")
        return {"family": "module", "source": model, **said}
    if model in FAMILIES and not checkpoint:
        raise click.UsageError(f"{model} needs --checkpoint: a file, a transformers folder or a hub name.")
    return {"family": model, "source": checkpoint or model, **said}


def _parse_axes(texts: tuple[str, ...]) -> dict[str, Axis]:
    from torchlift.errors import SignatureError
    from torchlift.signature import Axis

    found: dict[str, Axis] = {}
    for text in texts:
        path, equals, range_ = text.partition("=")
        if not equals:
            raise click.UsageError(f"--axis {text}: write NAME=MIN..OPT..MAX, for example batch=1..8..64.")
        try:
            found[path] = Axis.parse(path.rpartition(".")[2], range_)
        except SignatureError as error:
            raise click.UsageError(f"--axis {text}: {error.message}. {error.remedy}") from None
    return found


def parse_location(checkpoint: str | None, module_: str | None) -> str | None:
    """Where a bundle's model came from, None where nothing says so."""
    if checkpoint and module_:
        raise click.UsageError("give --checkpoint or --module, not both.")
    return checkpoint or module_


def parse_precisions(text: str | None) -> tuple[str, ...]:
    from torchlift.backends import BACKENDS, backend

    known = dict.fromkeys(r for name in BACKENDS for r in (*backend(name).precisions, *backend(name).recipes))
    names = _split(text)
    for name in names:
        if name not in known:
            raise click.UsageError(f"--precision {name}: choose from {', '.join(known)}.")
    return names


def parse_gate(within: tuple[str, ...], confidence: str | None, objective: Any) -> dict[str, Any]:
    """What the gate's options say, as keywords; without what they leave out."""
    limits: dict[str, float] = {}
    for text in within:
        metric, _, number = text.rpartition("=")
        try:
            limits[metric] = float(number)
        except ValueError:
            limits[metric] = math.nan
        if not metric or not 0 <= limits[metric] < math.inf:
            raise click.UsageError(
                f"--within {text}: write METRIC=DROP, in the metric's unit and not below 0, e.g. recall@1=0.2."
            )
    said: dict[str, Any] = {"within": limits, "objective": objective}
    return said if confidence is None else {**said, "confidence": _parse_confidence(confidence)}


def _parse_confidence(text: str) -> float | None:
    from torchlift.errors import InputError
    from torchlift.evidence import Gate

    if text == "none":
        return None
    try:
        return Gate(confidence=float(text)).confidence
    except (ValueError, InputError):
        raise click.UsageError(
            f"--confidence {text}: write a percentage from 50 to below 100, for example 95, or none."
        ) from None


def parse_job(
    *,
    precisions: str | None,
    within: tuple[str, ...],
    confidence: str | None,
    objective: Any,
    keep: tuple[str, ...],
    tolerances: tuple[str, ...],
    batches: str | None,
    **given: Any,
) -> dict[str, Any]:
    """What a command that makes variants is told, as keywords of :func:`torchlift.api.build`. What needs no parsing is
    passed on as it is.
    """
    return {
        **given,
        **parse_gate(within, confidence, objective),
        "precisions": parse_precisions(precisions),
        "keep": parse_keep(keep),
        "tolerances": parse_tolerances(tolerances),
        "batches": parse_batches(batches),
    }


def require_gate(manifest: Manifest) -> None:
    """Raise GateError where a component is served by what was not asked for, since nothing else holds the gate."""
    from torchlift.errors import GateError

    failed = [component for component, choice in manifest.choices.items() if not choice.held]
    if failed:
        raise GateError(
            f"no variant of {' and '.join(failed)} that was asked for holds {manifest.gate}: FP32 serves instead",
            remedy="Allow a larger drop with --within, calibrate on more or other samples, or see `torchlift bisect`.",
            components=failed,
        )


def parse_keep(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        if not all(text.partition(":")):
            raise click.UsageError(f"--keep {text}: write COMPONENT:NAME, for example image:encoder.layers.11.mlp.")
    return texts


def parse_batches(text: str | None) -> tuple[int, ...]:
    batches = tuple(whole_number(part) for part in _split(text))
    if any(n is None for n in batches):
        raise click.UsageError(f"--batch {_cut(text)}: write numbers up to {_MOST}, for example 1,8.")
    if any(n == 0 for n in batches):
        raise click.UsageError(f"--batch {_cut(text)}: a batch has at least one row.")
    return tuple(n for n in batches if n)


def whole_number(text: str) -> int | None:
    """The number from 0 to 2**31 - 1 that digits name; None for any other text."""
    number = int(text) if text.isdecimal() and len(text) <= 10 else _MOST + 1
    return number if number <= _MOST else None


def _cut(text: str | None, longest: int = 100) -> str:
    """A text for a message, cut where it is long."""
    text = text or ""
    return text if len(text) <= longest else f"{text[:longest]}..."


def parse_sizes(texts: tuple[str, ...]) -> Mapping[str, int]:
    """What ``--size AXIS=N`` says, by axis."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        size = whole_number(number)
        if not name.isidentifier() or size is None:
            raise click.UsageError(f"--size {_cut(text)}: write AXIS=N, for example sequence=24.")
        if name == "batch":
            raise click.UsageError(f"--size {text}: use --batch {number}.")
        found[name] = size
    return found


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def parse_tolerances(texts: tuple[str, ...]) -> dict[Any, Tolerance]:
    from torchlift.prove.numerics import TOLERANCES

    found: dict[Any, Tolerance] = {}
    for text in texts:
        name, _, numbers = text.partition("=")
        try:
            scaled, *rest = (float(n) for n in _split(numbers))
            usual = TOLERANCES[name]  # type: ignore[index]
            (cosine,) = rest or (usual.cosine,)
            if not (0 <= scaled <= 1 and -1 <= cosine <= 1):
                raise ValueError
        except (ValueError, KeyError):
            raise click.UsageError(
                f"--tolerance {text}: write PRECISION=SCALED[,COSINE], e.g. bf16=0.02,0.999."
            ) from None
        found[name] = replace(usual, scaled=scaled, cosine=cosine)
    return found
