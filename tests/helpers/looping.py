"""The tiny model with a Loop in front, which ends at once, or never."""

import numpy as np
import onnx
import tiny
from onnx import TensorProto, helper, numpy_helper


def model(*, ends=True):
    """``model()`` of tiny on x plus 0 for a step; ``ends`` False: for as many steps as there are 64-bit integers."""
    proto = tiny.model()
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Add", ["value", "nothing"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["steps", "always", "x"], ["same"], name="loop", body=body)
    proto.graph.node[0].input[0] = "same"
    nodes = [loop, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    steps = np.int64(1 if ends else 2**62)
    for name, value in (("steps", steps), ("always", np.array(True)), ("nothing", np.float32(0))):
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    onnx.checker.check_model(proto)
    return proto


def make_bundle(folder, *, ends=True):
    """The tiny bundle, its graph with a loop."""
    from torchlift.bundle import Bundle

    bundle = Bundle.create(folder, tiny.MANIFEST)
    tiny.put_component(
        bundle, model(ends=ends), tiny.goldens(), tiny.SIGNATURE, (tiny.WIDTH + 1) * tiny.OUTPUTS, "loop"
    )
    return bundle
