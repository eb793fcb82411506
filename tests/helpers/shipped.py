"""Tiny models taken to bundles once a session, and the command line run in this process or in one without torch."""

import io
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import staged
from PIL import Image
from workers import WORKER, made_once

from torchlift.cli import main
from torchlift.jobs import JobOptions, build_bundle
from torchlift.stages import BenchOptions, BuildOptions
from torchlift.timing.latency import measure_latency

MEASURE = "torchlift.stages.bench.measure_latency"

IDEOGRAPHS = (
    "一只猫狗鸟在草地上奔跑坐着看海边的日落红色汽车皮卡丘人山水火木金土天空白云黑夜雨雪花树房子桌椅书笔大小多少"
)
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *dict.fromkeys(IDEOGRAPHS),
    *(prefix + chr(code) for prefix in ("", "##") for code in range(ord("a"), ord("z") + 1)),
    *"0123456789,.!?，。",
]

NET = """
import torch
from torch import nn

from torchlift import Axis, ImageInput, Labels, TensorSpec, module


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2)
        self.head = nn.Linear(width, 4)

    def forward(self, image):
        return self.head(torch.relu(self.conv(image)).mean((2, 3)))


@module(
    inputs=[TensorSpec("image", "float32", ("batch", 3, 24, 24))],
    outputs=["logits"],
    axes=[Axis("batch", 1, 2, 4)],
    preprocess={"image": ImageInput((24, 24), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))},
    postprocess={"logits": Labels(("circle", "square", "star", "moon"), top=2)},
)
def build(width=8):
    return Net(width)


def large():
    return Net(2000), torch.rand(1, 3, 24, 24)
"""


@dataclass(frozen=True)
class Finished:
    """What a run of the command line left: its exit status, standard output and standard error."""

    code: int
    out: str
    err: str


def torchlift(*arguments):
    """Run the command line in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code = 0
    with (
        mock.patch.object(sys, "argv", ["torchlift", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as status:
            code = status.code or 0
    return Finished(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


REFUSE_TORCH = """
import sys


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Refuse())
"""

MAIN = """
from torchlift.cli import main

main()
"""


def in_process(*arguments, prelude="", **options):
    """Run the command line in a process of its own, after the Python code ``prelude``."""
    finished = subprocess.run(
        [sys.executable, "-c", prelude + MAIN, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        **options,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def refused(finished, code=1, printed=False):
    """The message and the remedy of an error: two lines and no traceback, after what progress said."""
    assert finished.code == code, finished.out + finished.err
    assert "Traceback" not in finished.err
    assert bool(finished.out) == printed
    lines = finished.err.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    assert len(lines) == start + 2, lines
    assert lines[-1].startswith("  ")
    return lines[-2].removeprefix("error: "), lines[-1].strip()


def misused(finished):
    """The message of wrong usage."""
    assert finished.code == 2, finished.out + finished.err
    assert "Traceback" not in finished.err
    assert finished.out == ""
    return next(line for line in finished.err.splitlines() if line.startswith("Error: "))


def checkpoint(folder):
    """Write a random Chinese-CLIP of the original format, with its vocabulary, and return the file."""
    import torch

    from torchlift.families.chinese_clip.architecture import Architecture, Bert, VisionTransformer
    from torchlift.families.chinese_clip.names import to_original
    from torchlift.families.chinese_clip.towers import expected_shapes

    text = Bert(width=64, layers=2, heads=1, feed_forward=96, vocabulary=len(VOCABULARY), positions=64)
    vision = VisionTransformer(width=64, layers=2, heads=1, feed_forward=128, patch=16)
    draw = torch.Generator().manual_seed(0)

    def weight(name, shape):
        if name == "logit_scale":
            return torch.tensor(2.0)
        values = torch.randn(shape, generator=draw)
        if len(shape) == 1:
            return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
        return values * (1.4 / max(1, values[0].numel()) ** 0.5)

    shapes = expected_shapes(Architecture(32, 32, vision, text))
    state = to_original({name: weight(name, shape) for name, shape in shapes.items()})
    file = folder / "clip.pt"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, file)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return file


@dataclass(frozen=True)
class Shipped:
    """A bundle, what it was made from, and what the command that made it said."""

    path: Path
    source: str
    said: Finished | None = None


def _clip(folder):
    from torchlift.families.base import LoadOptions
    from torchlift.jobs.ship import export
    from torchlift.jobs.source import Source
    from torchlift.signature import Axis

    file = checkpoint(folder)
    axes = {"": {"batch": Axis("batch", 1, 4, 8)}}
    path = folder / "clip"
    export(Source("chinese-clip", str(file), LoadOptions(axes=axes)), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MEASURE, staged.in_this_process)
        build_bundle(path, JobOptions(BuildOptions(precisions=("fp32",)), bench=BenchOptions((1,))))
    return Shipped(path, str(file))


def _net(folder):
    (folder / "tiny_net.py").write_text(NET)
    source, path = f"{folder / 'tiny_net.py'}:build", folder / "net"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MEASURE, in_short_turns)
        said = torchlift("ship", source, "-o", path, "--backend", "onnxruntime", "--rounds", 2)
    assert said.code == 0, said.err
    return Shipped(path, source, said)


def in_short_turns(*given, options, **more):
    """The real measurement, in turns of 10 ms: the command line has no option for it."""
    return measure_latency(*given, options=replace(options, turn_seconds=0.01, pause_seconds=0), **more)


def _mine(shipped, factory):
    """The same with a copy of the bundle, since only one process may hold a bundle's lock."""
    if not WORKER:
        return shipped
    return replace(shipped, path=shutil.copytree(shipped.path, factory.mktemp("shipped") / shipped.path.name))


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A Chinese-CLIP with both towers, built for every backend here in fp32; not to be changed."""
    return _mine(made_once(tmp_path_factory, "shipped-clip", _clip), tmp_path_factory)


@pytest.fixture(scope="session")
def net(tmp_path_factory):
    """A module with declared images and labels, shipped by the command line; not to be changed."""
    return _mine(made_once(tmp_path_factory, "shipped-net", _net), tmp_path_factory)


def pictures(count, seed=0):
    """Random smooth pictures of various sizes, as Pillow images."""
    draw = np.random.default_rng(seed)
    return [
        Image.fromarray(draw.integers(0, 256, (3, 4, 3), np.uint8)).resize((40 + i % 7, 50 - i % 5), Image.BICUBIC)
        for i in range(count)
    ]
