import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from torchlift.backends.onnxruntime.placement import PLACES, Placed, placements, require_placed, strays
from torchlift.errors import ProviderError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

NET = """<ir_version: 8, opset_import: ["" : 20]>
g (float[batch,length,32] x, int64[batch,length] ids) => (float[n] y) {
    ["shape"] s = Shape(x) ["pick"] b = Gather(s, zero) ["up"] u = Unsqueeze(b, axes)
    ["join"] j = Concat <axis = 0> (u, rest) ["ratio"] f = Cast <to = 1> (j) ["half"] h = Mul(f, two)
    ["back"] k = Cast <to = 7> (h) ["rows"] r = Reshape(x, j) ["table"] t = Gather(big, b) ["sum"] m = ReduceSum(ids)
    ["float"] i = Cast <to = 1> (m) ["product"] p = Mul(r, i) ["more"] q = Add(p, t) ["flat"] y = Reshape(q, one)
}"""


@pytest.fixture
def net(tmp_path):
    model = parser.parse_model(NET)
    constants = {"zero": 0, "axes": [0], "rest": [-1, 32], "one": [-1], "two": np.float32(2)}
    values = {name: np.array(v, getattr(v, "dtype", np.int64)) for name, v in constants.items()}
    values["big"] = np.zeros((200, 32), np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in values.items())
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def placed_by(model, *on_processor):
    """Every node on CUDA but those named."""
    nodes = onnx.load(model).graph.node
    return [Placed(n.name, n.op_type, CPU if n.name in on_processor else CUDA) for n in nodes]


def test_onnx_runtime_says_where_each_node_of_a_file_runs(net):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry(PLACES, "1")
    session = ort.InferenceSession(str(net), options, providers=[CPU])
    wanted = [Placed(n.name, n.op_type, CPU) for n in onnx.load(net).graph.node]
    assert sorted(placements(session), key=str) == sorted(wanted, key=str)


def test_a_session_that_was_not_told_to_record_says_so(net):
    with pytest.raises(Exception, match="record_ep_graph_assignment_info"):
        placements(ort.InferenceSession(str(net), providers=[CPU]))


SIZES = ("shape", "pick", "up", "join", "ratio", "half", "back")


def test_what_follows_from_sizes_may_run_on_the_processor(net):
    require_placed(placed_by(net, *SIZES), net, (CUDA,))
    require_placed(placed_by(net), net, (CUDA,))


@pytest.mark.parametrize("node", ["rows", "table", "sum", "float", "product", "more", "flat"])
def test_what_reads_data_or_a_large_constant_may_not(net, node):
    placed = placed_by(net, *SIZES, node)
    found = next(p for p in placed if p.node == node)
    assert strays([p for p in placed if p.provider == CPU], ir.load(net).graph) == [found]
    with pytest.raises(ProviderError) as caught:
        require_placed(placed, net, (CUDA,))
    assert caught.value.message == (
        f"CUDAExecutionProvider does not run 1 of the 14 nodes of net.onnx: {node} ({found.operator}) "
        "by CPUExecutionProvider"
    )
    assert "use another backend" in caught.value.remedy


def test_of_many_strays_five_are_named(net):
    with pytest.raises(ProviderError, match=r"does not run 7 of the 14 nodes.*; and 2 more\n"):
        require_placed(placed_by(net, "rows", "table", "sum", "float", "product", "more", "flat"), net, (CUDA,))


def test_a_provider_behind_the_first_may_run_nodes_but_not_all(net):
    require_placed([*placed_by(net, *SIZES)[:-1], Placed("flat", "Reshape", "Tensorrt")], net, ("Tensorrt", CUDA))
    with pytest.raises(ProviderError, match=r"Tensorrt runs none of the 14 nodes of net\.onnx") as caught:
        require_placed(placed_by(net), net, ("Tensorrt", CUDA))
    assert caught.value.remedy == "Use a backend that runs the model's operators."


def test_nodes_without_a_name_are_judged_by_all_of_their_operator(net):
    model = onnx.load(net)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, net)
    graph = ir.load(net).graph
    assert strays([Placed("", "Concat", CPU), Placed("", "Unsqueeze", CPU)], graph) == []
    reshape = Placed("", "Reshape", CPU)
    assert strays([reshape], graph) == [reshape]
    assert str(reshape) == "a node without a name (Reshape) by CPUExecutionProvider"


def test_a_node_that_the_file_lacks_is_a_stray(net):
    made = Placed("inserted", "Cast", CPU)
    assert strays([made], ir.load(net).graph) == [made]
