"""A model small enough for every test: y = relu(x W + b), as ONNX, as numpy, and as a bundle."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from torchlift.bundle import Bundle
from torchlift.checksums import record_of as record_of_stream
from torchlift.manifest import Component, Manifest
from torchlift.prove.goldens import Golden, save_goldens
from torchlift.signature import CORNERS, Axis, Signature, TensorSpec

WIDTH, OUTPUTS = 32, 24
SIGNATURE = Signature(
    inputs=(TensorSpec("x", "float32", ("batch", WIDTH)),),
    outputs=(TensorSpec("y", "float32", ("batch", OUTPUTS)),),
    axes=(Axis("batch", 1, 4, 8),),
)
MANIFEST = Manifest(name="tiny", family="module", key="model-1", settings={"scale": 1.5, "names": ["a", "b"]})


def record_of(file):
    """What a manifest says of a file on disk."""
    with file.open("rb") as stream:
        return record_of_stream(stream)


def flip(file):
    """Change the last byte of a file."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def contents(folder):
    """Every file below a folder: path -> bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((WIDTH, OUTPUTS), np.float32), rng.standard_normal(OUTPUTS, np.float32)


def answer(x, seed=0):
    matrix, bias = weights(seed)
    return np.maximum(x @ matrix + bias, 0)


def sample(rows, seed=1):
    return np.random.default_rng(seed).standard_normal((rows, WIDTH), np.float32)


def model(seed=0):
    matrix, bias = weights(seed)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "matrix"], ["product"], name="product"),
            helper.make_node("Add", ["product", "bias"], ["sum"], name="sum"),
            helper.make_node("Relu", ["sum"], ["y"], name="relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUTPUTS])],
        [numpy_helper.from_array(matrix, "matrix"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def goldens(signature=SIGNATURE):
    for seed, corner in enumerate(CORNERS):
        x = sample(signature.sizes(corner)["batch"], seed)
        yield Golden(corner, {"x": x}, {"y": answer(x)})


def make_bundle(folder, *, seed=0, signature=SIGNATURE):
    """A bundle with one component; ``seed`` draws the weights of its ONNX, the goldens are always those of seed 0."""
    bundle = Bundle.create(Path(folder), MANIFEST)
    put_component(bundle, model(seed), goldens(signature), signature, (WIDTH + 1) * OUTPUTS, f"component-{seed}")
    return bundle


def put_component(bundle, proto, answered, signature, parameters, key):
    """Add the component ``model``: a graph of opset 20, and its goldens."""
    with bundle.adding("model/source") as added:
        onnx.save(proto, added.path / "model.onnx")
        save_goldens(added.path / "goldens.safetensors", answered)
    component = Component(
        name="model",
        signature=signature,
        model=f"{added.folder}/model.onnx",
        goldens=f"{added.folder}/goldens.safetensors",
        exporter="dynamo",
        opset=20,
        parameters=parameters,
        key=key,
    )
    bundle.commit(bundle.manifest.with_component(component), added.files)
