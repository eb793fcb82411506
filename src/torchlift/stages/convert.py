"""Makes the graphs that lossy variants are built from: FP16 and INT8 out of a component's FP32, with their ranges."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from torchlift.bundle import Bundle, key_of
from torchlift.errors import InputError, StorageError, TorchliftError
from torchlift.evidence import Conversion, Repair
from torchlift.graph.units import module_of, name_nodes
from torchlift.machine import installed_version
from torchlift.manifest import SOURCE_FORM, Component, Graph
from torchlift.measure.calibration import CalibrationOptions, calibrate
from torchlift.measure.ranges import ranges_of
from torchlift.progress import SILENT, Progress
from torchlift.stages.forms import FORMS, GRAPH, Converted, Converter, Ranges
from torchlift.stages.samples import Feeds, Samples
from torchlift.storage import require_space, without_folders


@dataclass(frozen=True)
class ConvertOptions:
    """How ranges are found, and how many graphs may be tried to mend one that fails its check (0: none).

    ``keep`` names what stays FP32 in every form: ``component:pattern``, the pattern matching a node's name or the path
    of its PyTorch module, with everything below that.
    """

    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    keep: tuple[str, ...] = ()
    evaluations: int = 40
    threads: int = 0

    def patterns(self, component: str) -> tuple[str, ...]:
        """The patterns that were given for a component."""
        return tuple(text.partition(":")[2] for text in self.keep if text.partition(":")[0] == component)


def convert_component(
    bundle: Bundle,
    component: Component,
    forms: Sequence[str],
    samples: Samples,
    options: ConvertOptions | None = None,
    progress: Progress = SILENT,
) -> None:
    """Make the graphs of ``forms`` that the bundle does not have from the same samples; one that cannot be made is kept
    as a failure. Raises InputError for a node to keep that is not there.
    """
    options = options or ConvertOptions()
    keys = {form: _key(component, form, samples, options) for form in forms if form != SOURCE_FORM}
    missing = [form for form, key in keys.items() if not _is_made(bundle, component, form, key, samples)]
    if not missing:
        return
    keep = kept_nodes(bundle.file(component.model), options.patterns(component.name))
    feeds = samples.of(component)
    for form in missing:
        graph = Graph(component.name, form, keys[form])
        try:
            ranges = _ranges(bundle.file(component.model), form, feeds, options, progress)
            converter = FORMS[form].converter(bundle.file(component.model), ranges, keep)
            said = f"{sum(map(_rows, feeds))} of {samples.said}" if ranges else ""
            with progress.stage(f"convert {component.name} to {form}"):
                write_graph(bundle, graph, converter, {}, calibration=said)
        except StorageError:
            raise
        except TorchliftError as error:
            failed = replace(graph, failure=without_folders(error.message))
            bundle.commit(bundle.manifest.with_graph(failed))


def write_graph(
    bundle: Bundle,
    graph: Graph,
    converter: Converter,
    keep: Mapping[str, str],
    *,
    calibration: str,
    repair: Callable[[Converted], Repair] | None = None,
) -> Graph:
    """Put the converter's graph into the bundle, in the place of the one of the same form."""
    weights = converter.source.with_name(f"{converter.source.name}.data")
    require_space(bundle.path, weights.stat().st_size if weights.exists() else 0)
    with bundle.adding(f"{graph.component}/{graph.form}") as added:
        converted = converter.write(added.path, keep)
    candidates = converted.count + len(converted.kept)
    made = replace(
        graph,
        model=f"{added.folder}/{GRAPH}",
        files=tuple(added.files),
        conversion=Conversion(
            converted.count, candidates, converted.kept, calibration, repair(converted) if repair else None
        ),
    )
    bundle.commit(bundle.manifest.with_graph(made), added.files)
    return made


def _key(component: Component, form: str, samples: Samples, options: ConvertOptions) -> str:
    patterns = options.patterns(component.name)
    return key_of(installed_version("torchlift"), component.key, form, samples.key, options.calibration, patterns)


def _is_made(bundle: Bundle, component: Component, form: str, key: str, samples: Samples) -> bool:
    """Whether the bundle has the graph; without samples to calibrate on, any that is there is the best there is."""
    graph = bundle.manifest.graph(component.name, form)
    return graph is not None and not graph.failure and (graph.key == key or not samples.given)


def kept_nodes(source: Path, patterns: Sequence[str]) -> dict[str, str]:
    """The nodes that patterns name, with the reason. Raises InputError for a pattern that matches none."""
    model = ir.load(source)
    name_nodes(model)
    found: dict[str, str] = {}
    for pattern in patterns:
        nodes = [n.name or "" for n in model.graph if _matches(pattern, n)]
        if not nodes:
            names = [name for n in model.graph for name in (n.name or "", module_of(n))]
            near = difflib.get_close_matches(pattern, names, 1)
            raise InputError(
                f"--keep: no node and no module is called {pattern!r}",
                remedy=f"Did you mean {near[0]}?" if near else "Name it as `torchlift bisect` prints it.",
            )
        found |= dict.fromkeys(nodes, "it was asked to stay")
    return found


def _matches(pattern: str, node: ir.Node) -> bool:
    names, wanted = (node.name or "", module_of(node)), (pattern, f"{pattern}.*")
    return any(fnmatch.fnmatchcase(name, glob) for name in names for glob in wanted)


def _ranges(source: Path, form: str, feeds: Feeds, options: ConvertOptions, progress: Progress) -> Ranges:
    names = FORMS[form].tensors(source)
    if not names:
        return {}
    if FORMS[form].calibrated:
        return calibrate(source, names, feeds, options.calibration, progress=progress, threads=options.threads)
    found = ranges_of(source, feeds, names, threads=options.threads, progress=progress, total=len(feeds))
    return {name: (ends.low, ends.high) for name, ends in found.items()}


def _rows(feed: Mapping[str, object]) -> int:
    return max(len(array) for array in feed.values())  # type: ignore[arg-type]
