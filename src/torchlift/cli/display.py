"""What commands show: progress on stderr, results on stdout as tables or JSON."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from torchlift.cli.interrupts import Interruptible
from torchlift.cli.words import echo, visible, visible_json, with_flags
from torchlift.progress import Progress, Stage

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from torchlift.manifest import Manifest

NARROW, WIDE = 80, 160
"""Columns that tables have at least, and where the output is not a terminal."""


class VisibleConsole(Console):
    """Prints text as it is: names may have brackets. Of what a terminal obeys only this program's own styles remain."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Strings become visible, and name options, before they are measured, so that tables have room for them."""
        return super().render_str(visible(with_flags(text)), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All other text, in the end."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))

    def on_broken_pipe(self) -> None:
        """Where nobody reads, rich would end the process: the error is for ``main``, as every other."""
        raise


def console() -> Console:
    """For results. Wide enough for the tables."""
    plain = VisibleConsole()
    plain.width = max(plain.width, NARROW) if sys.stdout.isatty() else WIDE
    return plain


def print_manifest(manifest: Manifest, verbose: bool = False) -> None:
    """Print a bundle's variants as tables; ``verbose`` adds what ran them and every difference from PyTorch."""
    from torchlift.cli.accuracy import conversions_table, converted_graphs, together_line
    from torchlift.cli.components import exports_table
    from torchlift.cli.costs import scaling_table
    from torchlift.cli.proofs import verification_table
    from torchlift.cli.tables import manifest_tables, not_measured_lines, runtimes_table

    out = console()
    if converted_graphs(manifest):
        out.print(conversions_table(manifest, verbose=verbose))
    for table in manifest_tables(manifest, out.width):
        out.print(table)
    for component, benchmark in manifest.benchmarks.items():
        if benchmark.scaling.throughputs or benchmark.scaling.failures:
            out.print(scaling_table(component, benchmark.scaling))
    if manifest.scoring and manifest.scoring.together:
        out.print(f"chosen: {together_line(manifest)}", soft_wrap=True)
    if verbose and any(component.tried for component in manifest.components):
        out.print(exports_table(manifest))
    if verbose and manifest.variants:
        out.print(runtimes_table(manifest))
        for line in not_measured_lines(manifest):
            out.print(line, soft_wrap=True)
        out.print(verification_table(manifest, out.width, verbose=True))


def print_json(result: Any) -> None:
    """Print a result (dataclasses, mappings, sequences) as JSON."""
    import msgspec

    text = json.dumps(_writable(msgspec.to_builtins(result)), ensure_ascii=False, indent=2)
    echo(visible_json(text))


def _writable(value: Any) -> Any:
    """``value`` with null for each number that is not finite, which JSON lacks. Strings may hold what no encoding has,
    such as a file name that is no text: that is escaped later.
    """
    if isinstance(value, dict):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def progress_display() -> Iterator[Progress]:
    """A display on stderr: bars on a terminal, else a line a stage."""
    err = VisibleConsole(stderr=True)
    if not err.is_terminal:
        yield Interruptible(_Lines(err))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=err, transient=True) as bars:
        yield Interruptible(_Bars(bars))


class _Lines(Progress):
    def __init__(self, err: Console) -> None:
        self._err = err

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        self._err.print(f"- {title}", soft_wrap=True)
        yield Stage()

    def note(self, text: str) -> None:
        self._err.print(f"note: {text}", soft_wrap=True)


class _Bars(Progress):
    def __init__(self, bars: Bars) -> None:
        self._bars = bars

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        task = self._bars.add_task(visible(title), total=total)
        try:
            yield _Bar(self._bars, task)
        finally:
            self._bars.remove_task(task)

    def note(self, text: str) -> None:
        self._bars.console.print(f"note: {text}")


class _Bar(Stage):
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def advance(self, steps: int = 1) -> None:
        self._bars.advance(self._task, steps)
