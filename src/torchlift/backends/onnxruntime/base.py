"""What all backends of ONNX Runtime share: building the optimised graph, opening it, timing its layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torchlift.backends.base import (
    Arrays,
    Backend,
    Compilation,
    LayerTime,
    Session,
    SessionOptions,
)
from torchlift.backends.onnxruntime.origins import with_origins
from torchlift.backends.onnxruntime.profile import Traced, layer_times
from torchlift.backends.onnxruntime.session import OnnxRuntimeSession
from torchlift.errors import BackendError, ProviderError
from torchlift.forms import SOURCE, Recipe, by_name
from torchlift.machine import Availability, installed_version
from torchlift.signature import Signature

if TYPE_CHECKING:
    import onnxruntime as ort

    from torchlift.graph.fusion import Target

Provider = tuple[str, dict[str, str]]
"""The name of an execution provider, and its options."""

INSTALL_AGAIN = "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"
"""The remedy where both packages were installed: they have the same files, and removing one breaks the other.
onnxruntime-gpu runs on the processor too."""

_WEIGHTS = "model.onnx.data"
WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_INLINE_BYTES = 1024
"""Weights up to this size stay in the graph's own file; larger ones go to the file beside it."""


class OnnxRuntime(Backend):
    """ONNX Runtime with one execution provider.

    A built graph has the optimisations that are right for every processor. Those for one kind of processor, such as the
    layout NCHWc, are made each time the graph is opened.
    """

    provider: ClassVar[str]
    disabled_optimizers: ClassVar[tuple[str, ...]] = ()
    """Optimisations of ONNX Runtime that are switched off, since they make models slower with this provider."""

    opened_at: ClassVar[str] = "ORT_ENABLE_ALL"
    """The GraphOptimizationLevel at which a built graph is opened."""

    distributions: ClassVar[tuple[str, ...]]
    remedy: ClassVar[str]
    """How to install it."""

    recipes: ClassVar[Mapping[str, Recipe]] = by_name(Recipe("fp32", "fp32", SOURCE))

    fused_for: ClassVar[Target | None] = None
    """Whose fusions of :data:`torchlift.graph.fusion.FUSIONS` the graph gets first; none where it is None."""

    def available(self) -> Availability:
        if self._installed() is None:
            return Availability(False, f"{' or '.join(self.distributions)} is not installed", self.remedy)
        try:
            import onnxruntime as ort

            offered = ort.get_available_providers()
        except ImportError as error:
            return Availability(False, f"it cannot be loaded: {error}", self.remedy)
        except AttributeError:
            return Availability(
                False,
                "files of onnxruntime are gone: onnxruntime and onnxruntime-gpu share them, and one was uninstalled",
                INSTALL_AGAIN,
            )
        if self.provider not in offered:
            return Availability(
                False, f"the installed build has no {self.provider}, only {', '.join(offered)}", self.remedy
            )
        return Availability(True, f"{self.version()}, {self.provider}")

    def _installed(self) -> str | None:
        return next((v for d in self.distributions if (v := installed_version(d))), None)

    def version(self) -> str:
        return f"onnxruntime {self._installed()}"

    def providers(self, signature: Signature, recipe: str, options: SessionOptions) -> list[Provider]:
        """The providers of a session, in the order in which they are asked to run a node."""
        return [(self.provider, {})]

    def build(self, source: Path, folder: Path, signature: Signature, compilation: Compilation | None = None) -> str:
        self.require()
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(folder / "model.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _WEIGHTS)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", str(_INLINE_BYTES)
        )
        recipe = (compilation or Compilation()).recipe
        providers = self.providers(signature, recipe, SessionOptions())
        self._session(source, options, providers, self._fused(source, options))
        return "model.onnx"

    def _fused(self, source: Path, options: ort.SessionOptions) -> bytes | None:
        """The graph after our own fusions, serialised; None where nothing was fused.

        The weights stay in the folder of ``source``: ``options`` tells ONNX Runtime to look for them there.
        """
        if self.fused_for is None:
            return None
        from torchlift.graph.fusion import fuse_file

        fused = fuse_file(source, self.fused_for)
        if fused is None:
            return None
        options.add_session_config_entry(WEIGHTS_FOLDER, str(source.parent.absolute()))
        return fused.graph

    def open(
        self, model: Path, signature: Signature, recipe: str = "fp32", options: SessionOptions | None = None
    ) -> Session:
        self.require()
        self.require_kind(model)
        options = options or SessionOptions()
        settings = self._settings(self._threads(options))
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        session = self._session(model, settings, self.providers(signature, recipe, options))
        return OnnxRuntimeSession(session, signature, f"{self.version()} {self.provider}")

    def _layers(
        self, model: Path, signature: Signature, feeds: Arrays, recipe: str, options: SessionOptions, runs: int
    ) -> list[LayerTime]:
        """Time the layers in a process of its own. CUDA graphs are off, since a recording has no layers to time."""
        self.require()
        self.require_kind(model)
        providers = self.providers(signature, recipe, SessionOptions(options.on))
        traced = Traced(
            str(model.absolute()), providers, self._threads(options), self.opened_at, self.disabled_optimizers, runs
        )
        return layer_times(traced, feeds)

    def _with_nodes(self, layers: list[LayerTime], model: Path, source: Path) -> list[LayerTime]:
        return with_origins(layers, model, source)

    def _threads(self, options: SessionOptions) -> int:
        """The number of the host's threads that work on one call."""
        return options.on.cores

    def _settings(self, threads: int) -> ort.SessionOptions:
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = threads
        settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, self.opened_at)
        return settings

    def _session(
        self, model: Path, options: ort.SessionOptions, providers: list[Provider], graph: bytes | None = None
    ) -> ort.InferenceSession:
        """A session of the file ``model``, or of the serialised ``graph`` where one is given.

        Raises BackendError where ONNX Runtime cannot load it, ProviderError where it would use another provider first.
        """
        import onnxruntime as ort

        try:
            session = ort.InferenceSession(
                graph or str(model),
                options,
                providers=providers,
                disabled_optimizers=list(self.disabled_optimizers),
                enable_fallback=0,
            )
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime cannot load {model.name}: {error}", remedy="Export again, or use another backend."
            ) from error
        ran = session.get_providers()[0]
        if ran != self.provider:
            raise ProviderError(
                f"{self.provider} was asked for, {ran} would run the model",
                remedy="See `torchlift doctor` for what this provider lacks here.",
            )
        return session
