"""What torchlift is measured against, each opened in a process of its own as its users would open it."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.evidence import Benchmark, Entrant
from torchlift.families.chinese_clip.pixels import MEAN, STD
from torchlift.interpreter import guarded_children
from torchlift.jobs.ship import ShipOptions, ship
from torchlift.jobs.source import Source
from torchlift.manifest import read_manifest
from torchlift.messages import entrant_text
from torchlift.pipelines import OpenOptions, open_bundle
from torchlift.signature import Signature
from torchlift.stages import BenchOptions
from torchlift.timing.latency import Contender

Feeds = Sequence[Mapping[str, np.ndarray]]
"""Batches: input name -> array."""

Result = TypeVar("Result")


class Job(Session):
    """Any call as a session, so that it can be timed like one."""

    def __init__(self, call: Callable[[], Any], runtime: str) -> None:
        self.runtime = runtime
        self._job = call

    def fits(self, feeds: Mapping[str, np.ndarray]) -> bool:
        """A job brings its own inputs."""
        return True

    def prepare(self, feeds: Mapping[str, np.ndarray], *, copies: bool = False) -> Callable[[], None]:
        return self._job

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise TypeError("a job is only timed")

    def _prepare(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        raise TypeError("a job is only timed")


def _without_answer(call: Callable[..., Any], *arguments: Any) -> None:
    """Call, and drop what it returns: what a timed call returns counts as the device's own seconds."""
    call(*arguments)


class PlainOnnxRuntime(Session):
    """ONNX Runtime as it comes: default options, one ``run`` with copies, as optimum and the reference script do."""

    def __init__(self, model: Path, signature: Signature) -> None:
        import onnxruntime as ort

        super().__init__(signature, f"onnxruntime {ort.__version__} with its defaults")
        self._session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = self.signature.output_names
        return dict(zip(names, self._session.run(names, dict(feeds)), strict=True))

    def _prepare(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        return partial(_without_answer, self._session.run, None, feeds)


class PlainOpenVino(Session):
    """OpenVINO reading the ONNX file; ``hint`` is its precision, "" its own default (bf16 where there is hardware)."""

    def __init__(self, model: Path, signature: Signature, hint: str) -> None:
        import openvino as ov

        config = {"INFERENCE_PRECISION_HINT": hint} if hint else {}
        compiled = ov.Core().compile_model(str(model), "CPU", config)
        computes = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        super().__init__(signature, f"openvino {ov.__version__.split('-')[0]} {computes}")
        self._compiled = compiled

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        result = self._compiled(dict(feeds))
        return {name: result[name] for name in self.signature.output_names}

    def _prepare(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], None]:
        return partial(_without_answer, self._compiled, feeds)


def on_same_onnx(bundle: Bundle, component: str) -> list[Contender]:
    """The runtimes on the ONNX file that torchlift exported, opened as their own documentation does."""
    part = bundle.manifest.component(component)
    model = bundle.file(part.model).absolute()
    return [
        Contender(Entrant("onnxruntime, plain"), partial(PlainOnnxRuntime, model, part.signature)),
        Contender(Entrant("openvino, plain f32"), partial(PlainOpenVino, model, part.signature, "f32")),
        Contender(Entrant("openvino, plain default"), partial(PlainOpenVino, model, part.signature, "")),
    ]


def in_one_piece(source: Path, file: Path) -> Path:
    """Write an ONNX file with its weights inside and without value_info, for ONNX Runtime's quantisers.

    The dynamo exporter folds transposes of weights and leaves the old shapes in value_info, at which the quantisers'
    shape inference stops: "Inferred shape and existing shape differ".
    """
    import onnx

    model = onnx.load(source)
    del model.graph.value_info[:]
    onnx.save(model, file)
    return file


def quantized_dynamically(source: Path, folder: Path, feeds: Feeds) -> None:
    """Run onnxruntime's quantize_dynamic, of products only: ONNX Runtime has no convolution for its int8 weights."""
    from onnxruntime.quantization import quantize_dynamic

    plain = in_one_piece(source, folder / "plain.onnx")
    quantize_dynamic(plain, folder / "model.onnx", op_types_to_quantize=["MatMul"])
    plain.unlink()


def quantized_statically(source: Path, folder: Path, feeds: Feeds) -> None:
    """Run onnxruntime's quantize_static after its quant_pre_process: Q/DQ, uint8 activations, int8 weights per channel.

    Symbolic shapes are left out of quant_pre_process, which cannot infer them for the text tower.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            feed = next(self._feeds, None)
            return None if feed is None else dict(feed)

    plain, prepared = in_one_piece(source, folder / "plain.onnx"), folder / "prepared.onnx"
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        folder / "model.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    plain.unlink()
    prepared.unlink()


def quantized_by_nncf(source: Path, folder: Path, feeds: Feeds, *, transformer: bool) -> None:
    """Run nncf.quantize on OpenVINO's model of the file; ``transformer`` is its model type. It sends no telemetry."""
    os.environ["NNCF_CI"] = "1"
    import nncf  # type: ignore[import-untyped]
    import openvino as ov

    quantized = nncf.quantize(
        ov.Core().read_model(source),
        nncf.Dataset(feeds, dict),
        subset_size=len(feeds),
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
    )
    ov.save_model(quantized, folder / "model.xml")


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``make`` in a process of its own where it is not there yet."""
    if not folder.is_dir():
        partial_folder = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        apart(make, partial_folder)
        partial_folder.rename(folder)
    return folder


def apart(call: Callable[..., Result], *arguments: object) -> Result:
    """Call in a process of its own, whose memory and threads are gone after."""
    with guarded_children(), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def shipped(size: str, work: Path) -> Bundle:
    """The bundle of a published size with random weights below ``work``; made on the first call."""
    from random_checkpoint import write_checkpoint

    target = work / size
    if not (target / "manifest.json").is_file():
        file = work / f"{size}-checkpoint" / f"{size}.pt"
        if not file.is_file():
            write_checkpoint(size, file)
        ship(Source("chinese-clip", str(file)), target, ShipOptions(bench=BenchOptions((1,))))
    return Bundle(target, read_manifest(target))


def checkpoint_of(size: str, work: Path) -> Source:
    return Source("chinese-clip", str(work / f"{size}-checkpoint" / f"{size}.pt"))


def encode_images(bundle: Path, jpegs: Sequence[bytes], variant: str = "") -> Session:
    """Ours: JPEG bytes to features through the pipeline."""
    pipeline = open_bundle(bundle, OpenOptions({"image": variant} if variant else {}))
    name = pipeline.variant("image").name
    return Job(lambda: pipeline.encode_image(jpegs), f"torchlift {name}")


def encode_images_singly(model: Path, resolution: int, jpegs: Sequence[bytes]) -> Session:
    """The reference's way: Pillow, then one call of an ONNX Runtime session an image."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    mean, std = np.array(MEAN, np.float32)[:, None, None], np.array(STD, np.float32)[:, None, None]

    def job() -> None:
        for jpeg in jpegs:
            image = Image.open(io.BytesIO(jpeg)).resize((resolution, resolution), Image.Resampling.BICUBIC)
            pixels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 255
            session.run(None, {"image": ((pixels - mean) / std)[None]})

    return Job(job, f"onnxruntime {ort.__version__} with its defaults")


def encode_texts(bundle: Path, texts: Sequence[str], variant: str = "") -> Session:
    """Ours: texts to features, padded to the longest of each batch."""
    pipeline = open_bundle(bundle, OpenOptions({"text": variant} if variant else {}))
    name = pipeline.variant("text").name
    return Job(lambda: pipeline.encode_text(texts), f"torchlift {name}")


def encode_texts_padded(bundle: Path, texts: Sequence[str], variant: str = "", batch: int = 64) -> Session:
    """The same session on the same texts, every batch padded to the context length."""
    pipeline = open_bundle(bundle, OpenOptions({"text": variant} if variant else {}))
    session, tokenizer = pipeline.session("text"), pipeline.tokenizer

    def job() -> None:
        ids = tokenizer.encode(texts, tokenizer.context_length)
        for start in range(0, len(ids), batch):
            session.run({"text": ids[start : start + batch]})

    return Job(job, f"torchlift {pipeline.variant('text').name}")


def print_benchmark(title: str, benchmark: Benchmark, unit: str = "ms") -> None:
    """One table a workload, with the ratio to the baseline and to the best peer's median."""
    out = Console(width=150, highlight=False)
    against = entrant_text(benchmark.baseline) if benchmark.baseline else "nothing"
    for batch in dict.fromkeys(x.batch for x in benchmark.latencies):
        rows = [x for x in benchmark.latencies if x.batch == batch]
        table = Table(title=f"{title}, batch {batch}", title_justify="left", box=None)
        for name in ("contender", "runs on", "median ms", "p95", "per s", f"speed-up over {against} [95%]"):
            table.add_column(name, justify="left" if name in ("contender", "runs on") else "right")
        for x in rows:
            speed = str(x.speedup) if x.speedup else "1"
            numbers = (f"{x.median:.4g}", f"{x.p95:.4g}", f"{x.throughput:.4g}")
            table.add_row(entrant_text(x.contender), benchmark.runtime_of(x.contender), *numbers, speed)
        out.print(table)
    for failure in benchmark.failures:
        out.print(f"{entrant_text(failure.contender)} failed: {failure.detail}")
    out.print(
        f"{benchmark.machine}; {benchmark.threads} threads; {benchmark.rounds} interleaved rounds; {benchmark.at}\n"
    )


def photographs(count: int, seed: int = 0) -> list[bytes]:
    """JPEG files of 640x480 with the detail of a photograph (noise on several scales), quality 90."""
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(count):
        layers = [rng.uniform(0, 255, (480 // s, 640 // s, 3)).repeat(s, 0).repeat(s, 1) for s in (1, 4, 16, 80)]
        pixels = np.average(layers, axis=0, weights=(1, 2, 4, 6)).astype(np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files
