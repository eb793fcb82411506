"""A model so wide that a GPU is faster in half precision: y = tanh(x W + b) V, as ONNX, as numpy, and as a bundle."""

import functools
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tiny import put_component

from torchlift.bundle import Bundle
from torchlift.manifest import Manifest
from torchlift.prove.goldens import Golden
from torchlift.signature import CORNERS, Axis, Signature, TensorSpec

WIDTH = 4096
SIGNATURE = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", WIDTH)),),
    outputs=(TensorSpec("y", "float32", ("batch", WIDTH)),),
    axes=(Axis("batch", 1, 4, 8),),
)


@functools.cache
def weights():
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5) for _ in range(2)]
    return {"first": matrices[0], "second": matrices[1], "bias": rng.standard_normal(WIDTH, np.float32)}


def answer(x):
    held = weights()
    return np.tanh(x @ held["first"] + held["bias"]) @ held["second"]


def sample(rows, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, WIDTH), np.float32)


def model():
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["product"], name="product"),
            helper.make_node("Add", ["product", "bias"], ["sum"], name="sum"),
            helper.make_node("Tanh", ["sum"], ["bent"], name="tanh"),
            helper.make_node("MatMul", ["bent", "second"], ["y"], name="last"),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in weights().items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def make_bundle(folder):
    bundle = Bundle.create(Path(folder), Manifest(name="wide", family="module", key="wide", settings={}))
    inputs = {corner: sample(SIGNATURE.sizes(corner)["batch"], seed) for seed, corner in enumerate(CORNERS)}
    goldens = [Golden(corner, {"x": x}, {"y": answer(x)}) for corner, x in inputs.items()]
    put_component(bundle, model(), goldens, SIGNATURE, sum(array.size for array in weights().values()), "wide")
    return bundle
