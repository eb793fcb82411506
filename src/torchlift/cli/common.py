"""What commands share: options, the progress display, printing results as tables or JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from rich.console import Console

from torchlift.progress import Progress, Stage

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from torchlift.manifest import Manifest, Precision
    from torchlift.measure.latency import LatencyOptions
    from torchlift.measure.verify import VerifyOptions
    from torchlift.ship import Source
    from torchlift.signature import Axis

Command = TypeVar("Command", bound=Callable)

NARROW, WIDE = 80, 160
"""Columns that tables have at least, and where the output is not a terminal."""


def _invoked(context: click.Context, _: click.Parameter, verbose: bool) -> bool:
    """Tell ``main``, which reports errors, what was asked for."""
    context.ensure_object(dict).update(command=context.info_name, verbose=verbose)
    return verbose


bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, is_eager=True, callback=_invoked, help="Print the detail; a traceback on errors."
)
threads_option = click.option(
    "--threads", type=click.IntRange(0), default=0, help="Threads for one call; 0 is every core."
)
output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder of the bundle."
)


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
    click.option("--exporter", type=click.Choice(["dynamo", "torchscript"]), default="dynamo", show_default=True),
    click.option("--opset", type=int, help="Opset of the ONNX graphs. [default: 20; torchscript 16]"),
    click.option("--seed", type=int, default=0, show_default=True, help="Seed of the golden samples."),
)
build_options = options(
    click.option("--backend", "backends", multiple=True, help="Only this backend (repeatable). [default: all here]"),
    click.option(
        "--precision", "precisions", help="Comma-separated, e.g. fp32,bf16. [default: all that this machine runs]"
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
bench_options = options(
    click.option("--batch", "batches", help="Comma-separated batches; the first decides. [default: least, optimum]"),
    click.option("--rounds", type=click.IntRange(2), default=10, show_default=True, help="Interleaved rounds."),
    threads_option,
)


def parse_source(
    model: str, checkpoint: str | None, vocabulary: Path | None, resolution: int | None, axes: tuple[str, ...]
) -> Source:
    """What the source options say."""
    from torchlift.families import FAMILIES
    from torchlift.families.base import LoadOptions
    from torchlift.ship import Source

    loading = LoadOptions(axes=_parse_axes(axes), vocabulary=vocabulary, resolution=resolution)
    if ".py:" in model or model.endswith(".py"):
        if checkpoint or vocabulary or resolution:
            raise click.UsageError(f"{model} is a module of your own: it takes --axis, and reads its weights itself.")
        return Source("module", model, loading)
    if model in FAMILIES and not checkpoint:
        raise click.UsageError(f"{model} needs --checkpoint: a file, a transformers folder or a hub name.")
    return Source(model, checkpoint or model, loading)


def _parse_axes(texts: tuple[str, ...]) -> Mapping[str, Mapping[str, Axis]]:
    from torchlift.errors import SignatureError
    from torchlift.signature import Axis

    found: dict[str, dict[str, Axis]] = {}
    for text in texts:
        path, equals, range_ = text.partition("=")
        if not equals:
            raise click.UsageError(f"--axis {text}: write NAME=MIN..OPT..MAX, for example batch=1..8..64.")
        component, _, name = path.rpartition(".")
        try:
            found.setdefault(component, {})[name] = Axis.parse(name, range_)
        except SignatureError as error:
            raise click.UsageError(f"--axis {text}: {error.message}. {error.remedy}") from None
    return found


def parse_precisions(text: str | None) -> tuple[Precision, ...]:
    from torchlift.backends import BACKENDS, backend
    from torchlift.manifest import Precision

    offered = {precision for name in BACKENDS for precision in backend(name).precisions}
    known = [precision for precision in get_args(Precision) if precision in offered]
    names = _split(text)
    for name in names:
        if name not in known:
            raise click.UsageError(f"--precision {name}: choose from {', '.join(known)}.")
    return names  # type: ignore[return-value]


def parse_batches(text: str | None) -> tuple[int, ...]:
    try:
        batches = tuple(int(n) for n in _split(text))
    except ValueError:
        raise click.UsageError(f"--batch {text}: write numbers, for example 1,8.") from None
    if any(n < 1 for n in batches):
        raise click.UsageError(f"--batch {text}: a batch has at least one row.")
    return batches


def parse_sizes(texts: tuple[str, ...]) -> Mapping[str, int]:
    """What ``--size AXIS=N`` says, by axis."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not name.isidentifier() or not number.isdecimal():
            raise click.UsageError(f"--size {text}: write AXIS=N, for example sequence=24.")
        if name == "batch":
            raise click.UsageError(f"--size {text}: use --batch {number}.")
        found[name] = int(number)
    return found


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def parse_tolerances(texts: tuple[str, ...], threads: int = 0) -> VerifyOptions:
    from torchlift.evidence import Tolerance
    from torchlift.measure.numerics import TOLERANCES
    from torchlift.measure.verify import VerifyOptions

    found: dict[Any, Tolerance] = {}
    for text in texts:
        name, _, numbers = text.partition("=")
        try:
            scaled, *rest = (float(n) for n in _split(numbers))
            (cosine,) = rest or (TOLERANCES[name].cosine,)  # type: ignore[index]
            if not (0 <= scaled <= 1 and -1 <= cosine <= 1):
                raise ValueError
        except (ValueError, KeyError):
            raise click.UsageError(
                f"--tolerance {text}: write PRECISION=SCALED[,COSINE], e.g. bf16=0.02,0.999."
            ) from None
        found[name] = Tolerance(scaled, cosine)
    return VerifyOptions(found, threads)


def latency_options(rounds: int, threads: int) -> LatencyOptions:
    from torchlift.measure.latency import LatencyOptions

    return LatencyOptions(rounds=rounds, threads=threads)


def console() -> Console:
    """For results, printed as they are: names may have brackets. Wide enough for the tables."""
    plain = Console(markup=False, emoji=False, highlight=False)
    plain.width = max(plain.width, NARROW) if sys.stdout.isatty() else WIDE
    return plain


def print_manifest(manifest: Manifest, verbose: bool = False) -> None:
    """Print a bundle's variants as tables; ``verbose`` adds what ran them and every difference from PyTorch."""
    from torchlift.cli.tables import manifest_tables, runtimes_table, verification_table

    out = console()
    for table in manifest_tables(manifest, out.width):
        out.print(table)
    if verbose and manifest.variants:
        out.print(runtimes_table(manifest))
        out.print(verification_table(manifest, out.width, verbose=True))


def print_json(result: Any) -> None:
    """Print a result (dataclasses, mappings, sequences) as JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(result), indent=2).decode())


@contextlib.contextmanager
def progress_display() -> Iterator[Progress]:
    """A display on stderr: bars on a terminal, else a line a stage."""
    err = Console(stderr=True, highlight=False)
    if not err.is_terminal:
        yield _Lines(err)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=err, transient=True) as bars:
        yield _Bars(bars)


class _Lines(Progress):
    def __init__(self, err: Console) -> None:
        self._err = err

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        self._err.print(f"- {title}", markup=False, soft_wrap=True)
        yield Stage()

    def note(self, text: str) -> None:
        self._err.print(f"note: {text}", markup=False, soft_wrap=True)


class _Bars(Progress):
    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        task = self._bars.add_task(title, total=total)
        try:
            yield _Bar(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def note(self, text: str) -> None:
        self._bars.console.print(f"note: {text}", markup=False)


class _Bar(Stage):
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)
