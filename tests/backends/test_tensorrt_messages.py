"""Texts that TensorRT printed, and what is made of them."""

import pytest

from torchlift.backends.tensorrt import messages
from torchlift.backends.tensorrt.messages import ParserProblem, build_error, parser_error, start
from torchlift.errors import BackendError, BackendUnavailableError, DeviceMemoryError, ParserError

NODES = [(f"node_{n}", "Reshape") for n in range(9)]
NODES[5], NODES[8] = ("node_layer_norm", "LayerNormalization"), ("node_slice_1", "Slice")

# What the parser of 8.5.3.1 said of a graph of opset 20.
UNKNOWN = ParserProblem(
    "ErrorCode.UNSUPPORTED_NODE",
    5,
    'Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
)
REFUSED = ParserProblem(
    "ErrorCode.UNSUPPORTED_NODE",
    8,
    'Assertion failed: ends.size() == axes.size() && "The shape of input ends misaligns with the shape of input axes."',
)


def test_an_operator_that_the_parser_lacks_is_named_with_its_node_and_may_come_by_a_library():
    error = parser_error([UNKNOWN], NODES, "8.5.3.1")
    assert isinstance(error, ParserError)
    assert error.message == f"TensorRT 8.5.3.1 cannot read LayerNormalization (node_layer_norm): {UNKNOWN.said}"
    assert error.remedy == (
        "Give a library that has the operator with `plugins=`, export again with `exporter=torchscript` `opset=16`, "
        "or use another backend."
    )


def test_for_an_operator_that_the_parser_has_no_library_is_wanted():
    error = parser_error([REFUSED], NODES, "8.5.3.1")
    assert error.message == f"TensorRT 8.5.3.1 cannot read Slice (node_slice_1): {REFUSED.said}"
    assert error.remedy == "Export again with `exporter=torchscript` `opset=16`, or use another backend."


def test_the_first_of_several_problems_is_told_and_the_others_counted():
    error = parser_error([UNKNOWN, REFUSED, REFUSED], NODES, "8.5.3.1")
    assert error.message.endswith('namespace correct?"; and 2 more')
    assert "LayerNormalization (node_layer_norm)" in error.message


@pytest.mark.parametrize("node", [-1, 9, 1000])
def test_a_problem_of_no_node_is_one_of_the_graph(node):
    error = parser_error([ParserProblem("ErrorCode.MODEL_DESERIALIZE_FAILED", node, "no model")], NODES, "10.0.1")
    assert error.message == "TensorRT 10.0.1 cannot read the graph: no model"


def test_a_parser_that_gives_no_reason_is_no_accident():
    assert parser_error([], NODES, "11.4").message == "TensorRT 11.4 cannot read the graph: it gave no reason"


# Of kinds that users of various releases report.
NO_KERNEL = (
    "10: [optimizer.cpp::computeCosts::2011] Error Code 10: Internal Error (Could not find any implementation for node "
    "{ForeignNode[onnx::Gather_72...ScatterND_170]}.)"
)
NO_ENGINE = (
    "2: [builder.cpp::buildSerializedNetwork::609] Error Code 2: Internal Error (Assertion enginePtr != nullptr "
)
LITTLE_SCRATCH = (
    "4: [optimizer.cpp::computeCosts::3867] Error Code 4: Internal Error (Could not find any implementation for node "
    "/patch_embed/Conv due to insufficient workspace. See verbose log for requested sizes.)"
)
OUT_OF_MEMORY = (
    "2: [virtualMemoryBuffer.cpp::resizePhysical::160] Error Code 2: OutOfMemory (no further information)",
    "1: [defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    "safeRuntime.cpp (25) - Cuda Error in nvinfer1::internal::DefaultAllocator::allocate: 2 (out of memory)",
)
NO_CUDA = (
    "6: [runtime.cpp::isCudaInstalledCorrectly::41] Error Code 6: Internal Error (CUDA initialization failure with "
    "error 35. Please check your CUDA installation)"
)


@pytest.mark.parametrize("said", OUT_OF_MEMORY)
def test_a_device_without_room_is_an_error_of_its_own_whatever_came_of_it(said):
    error = build_error([said, NO_KERNEL, NO_ENGINE], "10.3.0")
    assert isinstance(error, DeviceMemoryError)
    assert error.message == f"TensorRT 10.3.0 built no engine: {said}"
    assert error.remedy == (
        "End other programs on the GPU, narrow the profiles, or bound the scratch memory with `workspace=`."
    )


@pytest.mark.parametrize("said", [NO_KERNEL, LITTLE_SCRATCH])
def test_without_a_kernel_the_telling_text_is_shown_and_not_the_last(said):
    error = build_error([said, NO_ENGINE], "8.5.3.1")
    assert (type(error), error.message) == (BackendError, f"TensorRT 8.5.3.1 built no engine: {said}")
    assert error.remedy.startswith("Allow more by `workspace=`")


class Log:
    """The logger, without TensorRT's class."""

    def __init__(self):
        self.errors = ["of before"]

    def last(self):
        return self.errors[-1]


def test_where_cuda_does_not_start_the_log_says_why_and_leads_to_the_doctor(monkeypatch):
    monkeypatch.setattr(messages, "logger", lambda: log)
    log = Log()

    def builder(told):
        """What the bindings do where TensorRT makes none."""
        assert told.errors == [], "what was said before is of something else"
        told.errors.append(NO_CUDA)
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(BackendUnavailableError) as caught:
        start(builder)
    assert caught.value.message == f"TensorRT does not start: {NO_CUDA}"
    assert caught.value.remedy.startswith("See `torchlift doctor`")
    assert start(lambda told: told) is log


@pytest.mark.parametrize(
    ("errors", "said"), [([], "it gave no reason"), (["first", NO_ENGINE], NO_ENGINE), (["only"], "only")]
)
def test_of_what_is_not_known_the_last_text_is_shown(errors, said):
    error = build_error(errors, "8.5.3.1")
    assert (type(error), error.message) == (BackendError, f"TensorRT 8.5.3.1 built no engine: {said}")
    assert error.remedy == "Use another backend for this graph, or another release of TensorRT."
