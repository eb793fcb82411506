"""Makes an engine from an ONNX file: parse it, say what may vary and what is permitted, build."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from torchlift.backends.base import Compilation
from torchlift.backends.tensorrt.messages import ParserProblem, build_error, logger, parser_error, start
from torchlift.backends.tensorrt.profiles import Ranges, default_profiles
from torchlift.backends.tensorrt.releases import FLAGS, Release, release_of, require_options
from torchlift.errors import BackendError, EngineError
from torchlift.graph.lower import Target, lower_file
from torchlift.graph.lower_operators import EXPANSIONS
from torchlift.graph.units import name_nodes
from torchlift.progress import Progress, Stage
from torchlift.signature import Signature
from torchlift.storage import atomic_write

_NOT_COMPUTING = frozenset({"Cast", "Constant", "QuantizeLinear", "DequantizeLinear", "Identity"})


@dataclass(frozen=True)
class Built:
    """``engine`` is serialised; ``profiles`` are those that it was built with."""

    engine: bytes
    profiles: tuple[Ranges, ...]


def build_engine(source: Path, signature: Signature, compilation: Compilation, version: str) -> Built:
    """Build an engine of the ONNX file ``source``. Raises ParserError, DeviceMemoryError,
    BackendUnavailableError where CUDA does not start, or BackendError.
    """
    import tensorrt as trt

    release, log = release_of(version), logger()
    require_options(compilation.options, version)
    load_plugins(compilation.options.plugins)
    profiles = compilation.profiles or default_profiles(signature)
    builder = start(trt.Builder)
    network = builder.create_network(_network_flags(release))
    with tempfile.TemporaryDirectory() as folder:
        parser = trt.OnnxParser(network, logger())
        _parse(parser, _lowered(source, Path(folder), release, parser), version)
        config = _config(builder, release, compilation)
        kept = set() if release.typed else _kept(source, compilation.recipe)
        _keep(network, config, kept)
        for profile in profiles:
            _add_profile(builder, config, network, signature, profile)
        with _cached(config, compilation.timing_cache), _watched(config, compilation.progress):
            engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise build_error(log.errors, version)
    return Built(bytes(engine), profiles)


def load_plugins(libraries: Sequence[Path]) -> None:
    """Make the operators of TensorRT's own library and of the user's known. Raises BackendError for one that cannot be
    loaded.
    """
    import tensorrt as trt

    trt.init_libnvinfer_plugins(logger(), "")
    for library in libraries:
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise BackendError(
                f"the plug-in library {library} cannot be loaded: {error}",
                remedy="Give a library that was built for this release of TensorRT.",
            ) from error


def _network_flags(release: Release) -> int:
    import tensorrt as trt

    names = ["EXPLICIT_BATCH"] * release.explicit_batch + ["STRONGLY_TYPED"] * release.typed
    flags = [getattr(trt.NetworkDefinitionCreationFlag, name, None) for name in names]
    return sum(1 << int(flag) for flag in flags if flag is not None)


def _lowered(source: Path, folder: Path, release: Release, parser: Any) -> Path:
    """The graph in operators that the parser has."""
    unknown = frozenset(operator for operator in EXPANSIONS if not parser.supports_operator(operator))
    return lower_file(source, folder, Target(release.opset, unknown, release.integer_weights, release.typed))


def _parse(parser: Any, file: Path, version: str) -> None:
    if parser.parse_from_file(str(file)):
        return
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    problems = [ParserProblem(str(e.code()), int(e.node()), str(e.desc())) for e in found]
    nodes = [(node.name or "", node.op_type) for node in ir.load(file).graph]
    raise parser_error(problems, nodes, version)


def _config(builder: Any, release: Release, compilation: Compilation) -> Any:
    import tensorrt as trt

    options, config = compilation.options, builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    for name in release.previews:
        config.set_preview_feature(getattr(trt.PreviewFeature, name), True)
    flags = () if release.typed else FLAGS[compilation.recipe]
    flags += ("VERSION_COMPATIBLE",) * options.version_compatible + ("STRIP_PLAN",) * options.stripped
    for name in flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    return config


def _kept(source: Path, recipe: str) -> set[str]:
    """The nodes of a graph in half precision that compute in FP32: they were left so since FP16 does not hold them."""
    if "FP16" not in FLAGS[recipe]:
        return set()
    model = ir.load(source)
    name_nodes(model)
    return {
        node.name or ""
        for node in model.graph
        if node.op_type not in _NOT_COMPUTING and any(v.dtype == ir.DataType.FLOAT for v in node.outputs)
    }


def _keep(network: Any, config: Any, nodes: Collection[str]) -> None:
    """Have the layers that were made of ``nodes`` compute in FP32."""
    import tensorrt as trt

    if not nodes:
        return
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        if _is_of(layer.name, nodes) and all(tensor.dtype == trt.float32 for tensor in outputs):
            layer.precision = trt.float32
            for number in range(layer.num_outputs):
                layer.set_output_type(number, trt.float32)


def _is_of(layer: str, nodes: Collection[str]) -> bool:
    """Whether a layer was made of one of the nodes, or of a step that one was written out to (NODE.STEP)."""
    return layer in nodes or layer.rpartition(".")[0] in nodes


def _add_profile(builder: Any, config: Any, network: Any, signature: Signature, ranges: Ranges) -> None:
    profile = builder.create_optimization_profile()
    for spec in signature.inputs:
        corners = [spec.shape_at({axis.name: axis.at(corner) for axis in ranges}) for corner in ("min", "opt", "max")]
        profile.set_shape(spec.name, *corners)
    config.add_optimization_profile(profile)


@contextlib.contextmanager
def _cached(config: Any, file: Path | None) -> Any:
    """Let the build start from the timings in ``file``, and write there what it found besides. Timings of another
    device or release are passed over.
    """
    if file is None:
        yield
        return
    if not _start_from(config, file.read_bytes() if file.is_file() else b""):
        _start_from(config, b"")
    yield
    atomic_write(file, bytes(config.get_timing_cache().serialize()))


def _start_from(config: Any, timings: bytes) -> bool:
    """Let the build start from these timings; returns whether it does, as it is of this device and release."""
    cache = config.create_timing_cache(timings)
    return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))


@contextlib.contextmanager
def _watched(config: Any, progress: Progress) -> Any:
    """Show the phases of the build, where the release tells them (from 10)."""
    import tensorrt as trt

    if not hasattr(trt, "IProgressMonitor"):
        yield
        return
    with contextlib.ExitStack() as stack:
        config.progress_monitor = _monitor(stack, progress)
        yield


def _monitor(stack: contextlib.ExitStack, progress: Progress) -> Any:
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Shows the outermost phases, one after the other."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phase, self._stage = "", Stage()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._phase, self._stage = phase_name, stack.enter_context(progress.stage(phase_name, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self._phase:
                self._stage.advance()
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name == self._phase:
                stack.close()
                self._phase = ""

    return Monitor()


def copy_plugins(libraries: Sequence[Path], folder: Path) -> None:
    """Put the libraries that an engine needs beside it."""
    for library in libraries:
        shutil.copy(library, folder)


def refit(engine: Any, source: Path, version: str) -> None:
    """Give a stripped engine the weights of ``source``, the graph that it was built from. Raises EngineError where it
    takes none.
    """
    import tensorrt as trt

    refitter = trt.Refitter(engine, logger())
    with tempfile.TemporaryDirectory() as folder:
        release = release_of(version)
        parser = trt.OnnxParser(start(trt.Builder).create_network(_network_flags(release)), logger())
        lowered = _lowered(source, Path(folder), release, parser)
        weights = trt.OnnxParserRefitter(refitter, logger())
        if not (weights.refit_from_file(str(lowered)) and refitter.refit_cuda_engine()):
            raise EngineError(
                f"the engine takes no weights: {logger().last()}", remedy="Build it again without stripping."
            )
