"""The backend TensorRT. An engine is built on the machine that runs it, and is loaded on no other."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torchlift.backends.base import (
    Arrays,
    Backend,
    Compilation,
    LayerTime,
    Session,
    SessionOptions,
)
from torchlift.backends.cuda import cuda_available, on_device
from torchlift.checksums import sha256
from torchlift.errors import BackendError, TorchliftError
from torchlift.forms import FP16, INT8_S8S8, INT8_S8S8_FP16, SOURCE, Recipe, by_name
from torchlift.machine import Availability, Gpu, gpus, installed_version
from torchlift.signature import Axis, Signature

if TYPE_CHECKING:
    from torchlift.backends.tensorrt.record import EngineRecord

_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
_REMEDY = 'pip install "torchlift[tensorrt]"'


class TensorRt(Backend):
    """NVIDIA's compiler. A network computes in the types that its graph states.

    Release 10 and later keep these types by themselves. Earlier releases choose types: they are given the flags that
    permit FP16 or INT8, and the nodes that the graph keeps in FP32 are bound to FP32.

    An engine and the plug-in libraries beside it are code. Open only what you, or someone whom you trust, built.
    """

    name = "tensorrt"
    suffix = ".engine"
    recipes: ClassVar[Mapping[str, Recipe]] = by_name(
        Recipe("fp32", "fp32", SOURCE),
        Recipe("fp16", "fp16", FP16),
        Recipe("int8", "int8", INT8_S8S8),
        Recipe("int8-fp16", "int8", INT8_S8S8_FP16),
    )
    compiles = True
    replays = True
    for_gpus = True

    def available(self) -> Availability:
        if self._installed() is None:
            return Availability(False, "tensorrt is not installed", _REMEDY)
        try:
            import tensorrt as trt
        except (ImportError, OSError) as error:
            return Availability(False, f"it cannot be loaded: {error}", f"{_REMEDY}: it needs CUDA's libraries too.")
        state = cuda_available()
        if not state.ok:
            return state
        return Availability(True, f"tensorrt {trt.__version__} on {gpus()[0]}")

    def _installed(self) -> str | None:
        return next((v for d in _DISTRIBUTIONS if (v := installed_version(d))), None)

    def version(self) -> str:
        where = f" on {gpus()[0]}" if gpus() else ""
        release = self._installed()
        return f"tensorrt{f' {release}' if release else ''}{where}"

    def build(self, source: Path, folder: Path, signature: Signature, compilation: Compilation | None = None) -> str:
        from torchlift.backends.tensorrt.builder import build_engine, copy_plugins
        from torchlift.backends.tensorrt.inspector import in_other_types, read_layers, require_precision
        from torchlift.backends.tensorrt.record import ENGINE, EngineRecord, graph_digest

        self.require()
        compilation = compilation or Compilation()
        version = _release()
        try:
            built = build_engine(source, signature, compilation, version)
        except (TorchliftError, OSError):
            raise
        except Exception as error:
            raise BackendError(
                f"TensorRT {version} built no engine: {type(error).__name__}: {error}",
                remedy="Use another precision, backend or release of TensorRT.",
            ) from error
        (folder / ENGINE).write_bytes(built.engine)
        options, gpu = compilation.options, gpus()[0]
        copy_plugins(options.plugins, folder)
        record = EngineRecord(
            tensorrt=version,
            gpu=gpu.name,
            capability=gpu.capability,
            driver=gpu.driver,
            recipe=compilation.recipe,
            source=f"../{source.absolute().parent.name}/{source.name}",
            graph=graph_digest(source),
            engine=sha256(folder / ENGINE),
            profiles=tuple({a.name: (a.min, a.opt, a.max) for a in ranges} for ranges in built.profiles),
            plugins={library.name: sha256(library) for library in options.plugins},
            workspace=options.workspace,
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            stripped=options.stripped,
        )
        record.write(folder)
        if not options.stripped:
            with self._session_of(folder / ENGINE, record, signature, SessionOptions()) as session:
                tuned = [{axis.name: axis.opt for axis in ranges} for ranges in built.profiles]
                layers = [read_layers(session.describe(sizes, index)) for index, sizes in enumerate(tuned)]
            wanted = self.recipe(compilation.recipe).precision
            told = [require_precision(found, wanted) for found in layers]
            if not all(told):
                compilation.progress.note(f"the engine does not tell whether it computes in {compilation.recipe}")
            if other := next(filter(None, (in_other_types(found, wanted) for found in layers)), ""):
                compilation.progress.note(other)
        return ENGINE

    def open(
        self, model: Path, signature: Signature, recipe: str = "fp32", options: SessionOptions | None = None
    ) -> Session:
        return self._open(model, signature, options or SessionOptions())

    def _open(self, model: Path, signature: Signature, options: SessionOptions) -> Any:
        from torchlift.backends.tensorrt.record import read_record

        self.require()
        self.require_kind(model)
        record = read_record(model, _release(), _gpu(options.on.device))
        return self._session_of(model, record, signature, options)

    def _session_of(self, model: Path, record: EngineRecord, signature: Signature, options: SessionOptions) -> Any:
        """A session of an engine that fits this machine.

        It is also used for an engine that was just built and is not yet at its final place in the bundle.
        """
        from torchlift.backends.tensorrt.builder import load_plugins, refit
        from torchlift.backends.tensorrt.engines import Engines
        from torchlift.backends.tensorrt.record import component_of, source_of
        from torchlift.backends.tensorrt.releases import release_of
        from torchlift.backends.tensorrt.session import TensorRtSession

        load_plugins([model.with_name(name) for name in record.plugins])
        with on_device(options.on.device):
            engines = Engines(
                model,
                record,
                shared=release_of(_release()).shared_profiles,
                finish=partial(refit, source=source_of(model, record), version=_release()) if record.stripped else None,
            )
            profiles = [tuple(Axis(name, *ends) for name, ends in ranges.items()) for ranges in record.profiles]
            said = f"tensorrt {_release()} on {_gpu(options.on.device).name}"
            return TensorRtSession(engines, signature, said, profiles, options, component_of(model))

    def _layers(
        self, model: Path, signature: Signature, feeds: Arrays, recipe: str, options: SessionOptions, runs: int
    ) -> list[LayerTime]:
        """The time of each layer. Where TensorRT compiled a subgraph as one layer, that layer stands for all of it."""
        from torchlift.backends.tensorrt.inspector import nodes_of, read_layers

        with self._open(model, signature, SessionOptions(options.on)) as session:
            milliseconds, texts = session.layer_times(feeds, runs)
            runtime = session.runtime
        known = {layer.name: layer for layer in read_layers(texts)}
        return [
            LayerTime(
                name=name,
                operator=known[name].kind if name in known else "",
                nodes=known[name].nodes if name in known else nodes_of(name, ""),
                precision=known[name].precision if name in known else "?",
                seconds=1e-3 * sum(times) / runs,
                device=runtime,
            )
            for name, times in milliseconds.items()
        ]

    def _with_nodes(self, layers: list[LayerTime], model: Path, source: Path) -> list[LayerTime]:
        from torchlift.backends.tensorrt.regions import with_regions

        return with_regions(layers, source)


def _release() -> str:
    import tensorrt as trt

    return str(trt.__version__)


def _gpu(device: int) -> Gpu:
    if not 0 <= device < len(gpus()):
        raise BackendError(f"there is no GPU {device}", remedy=f"This process may use {len(gpus())} of them.")
    return gpus()[device]
