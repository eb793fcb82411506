"""Makes the graphs that lossy variants are built from: FP16 and INT8 out of a component's FP32."""

from __future__ import annotations

import difflib
import fnmatch
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from torchlift.backends import forms
from torchlift.backends.opening import open_source
from torchlift.bundle import Bundle
from torchlift.checksums import key_of
from torchlift.convert.calibration import CalibrationOptions, count_rows
from torchlift.convert.forms import Converted, Converter, Draw, FormOptions, Maker, converter_of, maker_of
from torchlift.convert.ranges import Feeds
from torchlift.convert.search import EVALUATIONS
from torchlift.errors import BundleError, InputError, StorageError, TorchliftError, telling
from torchlift.evidence import Calibration, Conversion, Repair
from torchlift.graph.files import load_model
from torchlift.graph.units import module_of, name_nodes
from torchlift.machine import HERE, RunOn, installed_version
from torchlift.manifest import Component, Graph
from torchlift.progress import SILENT, Progress
from torchlift.prove.ends import require_end
from torchlift.prove.goldens import GOLDENS, Golden, goldens_of, save_goldens
from torchlift.stages.samples import Samples
from torchlift.storage import require_space, without_folders


@dataclass(frozen=True)
class ConvertOptions:
    """How ranges are found, and how many graphs may be tried to mend one that fails its check (0: none).

    ``keep`` names what stays FP32 in every form: ``component:pattern``, the pattern matching a node's name or the path
    of its PyTorch module, with everything below that.
    """

    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    keep: tuple[str, ...] = ()
    evaluations: int = EVALUATIONS

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
    *,
    on: RunOn = HERE,
) -> None:
    """Make the graphs of ``forms`` that the bundle does not have from the same samples; one that cannot be made is kept
    as a failure. Forms that are exported are left to the export. A component without an ONNX graph has none of them.

    Raises InputError for a node to keep that is not there.
    """
    if not component.model:
        return
    options = options or ConvertOptions()
    require_end(bundle, component, progress)
    source = bundle.model(component)
    asked = kept_nodes(source, options.patterns(component.name))
    drawn: list[Feeds] = []

    def draw() -> Feeds:
        if not drawn:
            drawn.append(samples.of(component))
        return drawn[0]

    for form in forms:
        maker = maker_of(form)
        if maker is None:
            continue
        modules = (*component.keep, *(component.keep_int8 if maker.form.scheme else ()))
        settings = FormOptions(options.calibration, {**family_nodes(source, modules), **asked}, on)
        graph = Graph(component.name, form, _key(component, form, samples, options))
        there = bundle.manifest.graph(component.name, form)
        made = there if there is not None and not there.failure else None
        if made and made.key == graph.key:
            continue
        try:
            make = _making(bundle, component, maker, samples, draw, settings, progress)
            if made and not samples.given:
                before = converter_of(form, source, bundle.model(made).parent)
                if before is None or before.keep.keys() >= settings.keep.keys():
                    continue
                make = _remaker(bundle, made, before, settings)
            with progress.stage(f"convert {component.name} to {form}"):
                put_graph(bundle, graph, make)
        except (StorageError, BundleError):
            raise
        except TorchliftError as error:
            said = without_folders(error.message)
            if made:
                progress.note(f"{graph.name} stays as it was: {telling(said)}")
            else:
                bundle.commit(bundle.manifest.with_graph(replace(graph, failure=said)))


def _making(
    bundle: Bundle,
    component: Component,
    maker: Maker,
    samples: Samples,
    draw: Draw,
    options: FormOptions,
    progress: Progress,
) -> Callable[[Path], Conversion]:
    calibrated = maker.form.calibrated
    usable = draw if samples.given or not calibrated else None

    def make(folder: Path) -> Conversion:
        converted = maker.make(bundle.model(component), folder, usable, options, progress)
        if calibrated and samples.real:
            save_goldens(folder / GOLDENS, [_answered(bundle, component, draw()[0], options.on)])
        if converted.ranges is None:
            return conversion_of(converted, None)
        rows = sum(count_rows(component.signature, feed) for feed in draw())
        return conversion_of(converted, Calibration(rows, samples.source, converted.ranges, converted.percentile))

    return make


def _remaker(bundle: Bundle, there: Graph, converter: Converter, options: FormOptions) -> Callable[[Path], Conversion]:
    """Makes a graph again at the ranges that it has, with more nodes kept."""

    def make(folder: Path) -> Conversion:
        converted = converter.write(folder, options.keep)
        copy_goldens(bundle, there, folder)
        return conversion_of(converted, there.conversion.calibration if there.conversion else None)

    return make


def copy_goldens(bundle: Bundle, graph: Graph | None, folder: Path) -> None:
    """Put the samples that a graph was calibrated on beside the one that takes its place."""
    if own := goldens_of(graph):
        with bundle.open_file(own) as stream, (folder / GOLDENS).open("wb") as copy:
            shutil.copyfileobj(stream, copy)


def _answered(bundle: Bundle, component: Component, inputs: Mapping[str, np.ndarray], on: RunOn) -> Golden:
    """Samples with the answers of the FP32 graph, which are PyTorch's: the export proved it."""
    with open_source(bundle, component, on) as session:
        return Golden("samples", inputs, session.run(inputs))


def conversion_of(converted: Converted, calibration: Calibration | None, repair: Repair | None = None) -> Conversion:
    """What was converted, as evidence."""
    return Conversion(converted.count, converted.count + len(converted.kept), converted.kept, calibration, repair)


def put_graph(bundle: Bundle, graph: Graph, make: Callable[[Path], Conversion]) -> Graph:
    """Put the graph that ``make`` writes into the bundle, in the place of the one of the same form."""
    component = bundle.manifest.component(graph.component)
    folder = Path(component.model).parent
    require_space(bundle.path, sum(r.size for p, r in bundle.manifest.files.items() if Path(p).parent == folder))
    with bundle.adding(f"{graph.component}/{graph.form}") as added:
        conversion = make(added.path)
    model = f"{added.folder}/{forms()[graph.form].model}"
    made = replace(graph, model=model, files=tuple(added.files), conversion=conversion)
    bundle.commit(bundle.manifest.with_graph(made), added.files)
    return made


def _key(component: Component, form: str, samples: Samples, options: ConvertOptions) -> str:
    patterns = options.patterns(component.name)
    parts = (component.key, component.keep, component.keep_int8, form, samples.key, options.calibration, patterns)
    return key_of(installed_version("torchlift"), *parts)


def family_nodes(source: Path, modules: Sequence[str]) -> dict[str, str]:
    """The nodes of the modules that the family keeps in FP32, with the reason. A strategy of the export that does not
    know modules leaves none.
    """
    if not modules:
        return {}
    model = load_model(source)
    name_nodes(model)
    nodes = [node.name or "" for node in model.graph if any(_matches(module, node) for module in modules)]
    return dict.fromkeys(nodes, "its family keeps it in FP32")


def kept_nodes(source: Path, patterns: Sequence[str]) -> dict[str, str]:
    """The nodes that patterns name, with the reason. Raises InputError for a pattern that matches none."""
    model = load_model(source)
    name_nodes(model)
    found: dict[str, str] = {}
    for pattern in patterns:
        nodes = [n.name or "" for n in model.graph if _matches(pattern, n)]
        if not nodes:
            names = [name for n in model.graph for name in (n.name or "", module_of(n))]
            near = difflib.get_close_matches(pattern, names, 1)
            raise InputError(
                f"`keep=`: no node and no module is called {pattern!r}",
                remedy=f"Did you mean {near[0]}?" if near else "Name it as `torchlift bisect` prints it.",
            )
        found |= dict.fromkeys(nodes, "it was asked to stay")
    return found


def _matches(pattern: str, node: ir.Node) -> bool:
    names, wanted = (node.name or "", module_of(node)), (pattern, f"{pattern}.*")
    return any(fnmatch.fnmatchcase(name, glob) for name in names for glob in wanted)
