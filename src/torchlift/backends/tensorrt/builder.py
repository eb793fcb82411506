"""Builds an engine from an ONNX file: parses it, sets the ranges of its axes and the permitted types, compiles it."""

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
    """A serialised engine, and the profiles that it was built with."""

    engine: bytes
    profiles: tuple[Ranges, ...]


def build_engine(source: Path, signature: Signature, compilation: Compilation, version: str) -> Built:
    """Build an engine of the ONNX file ``source`` with the TensorRT of this ``version``.

    Raises ParserError for a graph that the parser does not read, DeviceMemoryError where the GPU has no room,
    BackendUnavailableError where CUDA does not start, and BackendError for all else.
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
        kept = set() if release.typed else _nodes_kept_in_fp32(source, compilation.recipe)
        _bind_to_fp32(network, config, kept)
        for profile in profiles:
            _add_profile(builder, config, network, signature, profile)
        with _cached(config, compilation.timing_cache), _watched(config, compilation.progress):
            engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise build_error(log.errors, version)
    return Built(bytes(engine), profiles)


def load_plugins(libraries: Sequence[Path]) -> None:
    """Register the operators of TensorRT's own plug-ins and of the user's libraries.

    Raises BackendError for a library that cannot be loaded.
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
    """Write the graph to ``folder`` with operators that the parser knows; returns that file."""
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


def _nodes_kept_in_fp32(source: Path, recipe: str) -> set[str]:
    """The nodes that a conversion to FP16 kept in FP32, since FP16 does not hold their numbers."""
    if "FP16" not in FLAGS[recipe]:
        return set()
    model = ir.load(source)
    name_nodes(model)
    return {
        node.name or ""
        for node in model.graph
        if node.op_type not in _NOT_COMPUTING and any(v.dtype == ir.DataType.FLOAT for v in node.outputs)
    }


def _bind_to_fp32(network: Any, config: Any, nodes: Collection[str]) -> None:
    """Bind the layers that were made of ``nodes`` to FP32."""
    import tensorrt as trt

    if not nodes:
        return
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        if _is_made_of(layer.name, nodes) and all(tensor.dtype == trt.float32 for tensor in outputs):
            layer.precision = trt.float32
            for number in range(layer.num_outputs):
                layer.set_output_type(number, trt.float32)


def _is_made_of(layer: str, nodes: Collection[str]) -> bool:
    """Whether a layer was made of one of the nodes, or of a step of one: lowering calls steps ``NODE.STEP``."""
    return layer in nodes or layer.rpartition(".")[0] in nodes


def _add_profile(builder: Any, config: Any, network: Any, signature: Signature, ranges: Ranges) -> None:
    profile = builder.create_optimization_profile()
    for spec in signature.inputs:
        corners = [spec.shape_at({axis.name: axis.at(corner) for axis in ranges}) for corner in ("min", "opt", "max")]
        profile.set_shape(spec.name, *corners)
    config.add_optimization_profile(profile)


@contextlib.contextmanager
def _cached(config: Any, file: Path | None) -> Any:
    """Let a build use the timings of kernels in ``file``, and write the timings that it adds back to ``file``.

    Timings of another GPU or another release are ignored. Without a file nothing is read or written.
    """
    if file is None:
        yield
        return
    if not _start_from(config, file.read_bytes() if file.is_file() else b""):
        _start_from(config, b"")
    yield
    atomic_write(file, bytes(config.get_timing_cache().serialize()))


def _start_from(config: Any, timings: bytes) -> bool:
    """Give timings to a build. Returns False where they are of another GPU or another release."""
    cache = config.create_timing_cache(timings)
    return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))


@contextlib.contextmanager
def _watched(config: Any, progress: Progress) -> Any:
    """Show the phases of a build as progress. Only release 10 and later report them."""
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
        """Shows the outermost phases of a build, one after the other."""

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
    """Copy the plug-in libraries of an engine to its folder."""
    for library in libraries:
        shutil.copy(library, folder)


def refit(engine: Any, source: Path, version: str) -> None:
    """Give an engine that was built without weights the weights of ``source``, the graph that it was built from.

    Raises EngineError where the engine does not accept them.
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
