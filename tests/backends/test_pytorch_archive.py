"""A program of a stranger runs no code of theirs."""

import contextlib
import io
import os
import pickle

import numpy as np
import programs
import pytest

from torchlift.errors import BackendError, BundleError

torch = pytest.importorskip("torch")

from programs import PROGRAM, SAMPLES, WEIGHTS, tampered, write_program  # noqa: E402

from torchlift.backends.pytorch.program import load_program  # noqa: E402
from torchlift.backends.pytorch.session import TorchSession  # noqa: E402


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_program(tmp_path_factory.mktemp("program") / "model.pt2")


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def pickled(trace):
    buffer = io.BytesIO()
    torch.save(({"x": Payload(trace)}, {}), buffer)
    return buffer.getvalue()


def size(records, text):
    """Change the size of every tensor that has one in symbols."""
    for meta in records[PROGRAM]["graph_module"]["graph"]["tensor_values"].values():
        for dim in meta["sizes"]:
            if "as_expr" in dim:
                dim["as_expr"]["expr_str"] = text


def nodes(records):
    return records[PROGRAM]["graph_module"]["graph"]["nodes"]


RUN_BY_TORCH = {
    "sample inputs, which are a pickle": lambda r, t: r.update({SAMPLES: pickled(t)}),
    "the expr_str": lambda r, t: size(r, f"__import__('os').mkdir({str(t)!r}) or Symbol('s0')"),
}


@pytest.mark.parametrize("said", RUN_BY_TORCH)
def test_what_torch_itself_would_run_is_refused(archive, tmp_path, said):
    trace = tmp_path / "trace"
    file = tampered(archive, tmp_path / "model.pt2", lambda records: RUN_BY_TORCH[said](records, trace))
    with pytest.raises(BundleError, match=f"model.pt2 is not opened: it has {said}") as caught:
        load_program(file)
    assert "as torchlift wrote it" in caught.value.remedy
    assert not trace.exists()
    with contextlib.suppress(Exception):  # what torch makes of the rest does not matter
        torch.export.load(file)
    assert trace.exists(), "else this test proves nothing"


def pickled_weight(records):
    config = records[WEIGHTS]["config"]
    next(iter(config.values()))["use_pickle"] = True


def opaque_constant(records):
    config = records["data/constants/model_constants_config.json"]["config"]
    next(iter(config.values()))["path_name"] = "opaque_obj 0"


def of_a_node(key, value):
    return lambda records: nodes(records)[0].update({key: value})


def name_of_an_output(records):
    nodes(records)[0]["outputs"][0]["as_tensor"]["name"] = "x\n    import os\n    y"


def name_of_a_weight(records):
    spec = next(s for s in records[PROGRAM]["graph_module"]["signature"]["input_specs"] if "parameter" in s)
    spec["parameter"]["parameter_name"] = 'a" + print("b") + "'


def inputs_spec(records):
    signature = next(e["signature"] for e in records[PROGRAM]["graph_module"]["module_call_graph"] if e["signature"])
    signature["in_spec"] = '[1, {"type": "collections.namedtuple", "context": "null", "children_spec": []}]'


REFUSED = {
    "the record data/aotinductor/model/a.so": lambda r: r.update({"data/aotinductor/model/a.so": b"ELF"}),
    "the record extra/notes": lambda r: r.update({"extra/notes": b"hello"}),
    "the record data/constants/custom_obj_0": lambda r: r.update({"data/constants/custom_obj_0": pickle.dumps(1)}),
    "no program": lambda r: r.pop(PROGRAM),
    "a pickled tensor": pickled_weight,
    "the path_name 'opaque_obj 0'": opaque_constant,
    "the target 'torch.serialization.load'": of_a_node("target", "torch.serialization.load"),
    "the target '_operator.methodcaller'": of_a_node("target", "_operator.methodcaller"),
    "the target 'torch.ops.aten.save.default'": of_a_node("target", "torch.ops.aten.save.default"),
    "the target 'torch.ops.aten.from_file.default'": of_a_node("target", "torch.ops.aten.from_file.default"),
    "the target 'torch.ops.higher_order.cond'": of_a_node("target", "torch.ops.higher_order.cond"),
    "the target 'torch.ops.aten.__dict__.update'": of_a_node("target", "torch.ops.aten.__dict__.update"),
    "the target 'torch.ops.aten.add._op'": of_a_node("target", "torch.ops.aten.add._op"),
    "the 'metadata'": of_a_node("metadata", {"stack_trace": "x"}),
    "the name 'x": name_of_an_output,
    "the parameter_name 'a": name_of_a_weight,
    "the in_spec": inputs_spec,
    "the 'a b'": lambda r: r[PROGRAM].update({"a b": 1}),
    "the 'as_graph'": lambda r: nodes(r)[0]["inputs"][0].update({"arg": {"as_graph": {"name": "a", "graph": {}}}}),
    "the 'as_operator'": lambda r: nodes(r)[0]["inputs"][0].update({"arg": {"as_operator": "torch.load"}}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_torchlift_does_not_write_is_refused(archive, tmp_path, said):
    file = tampered(archive, tmp_path / "model.pt2", REFUSED[said])
    with pytest.raises(BundleError) as caught:
        load_program(file)
    assert caught.value.message.startswith(f"model.pt2 is not opened: it has {said}")


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s0', positive=True).evalf()",
        "Symbol('s0 + 1')",
        "Symbol(Symbol)",
        "Mul('s0', 2)",
        "lambdify(s0, 1)",
        "s0 ** 99",
        "s0[0]",
        "[s0 for s0 in ()]",
        "Add(*s0)",
        "Integer(value='1')",
        "1 if s0 else 2",
        "s0.real",
        "print",
        "1 +",
    ],
)
def test_sizes_are_arithmetic(archive, tmp_path, text):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: size(records, text))
    with pytest.raises(BundleError, match="it has the expr_str"):
        load_program(file)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"PK but no archive")
    with pytest.raises(BundleError, match=r"model.pt2 is not opened: it cannot be read"):
        load_program(tmp_path / "model.pt2")


def test_what_is_no_json_is_refused(archive, tmp_path):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: records.update({PROGRAM: b"{"}))
    with pytest.raises(BundleError, match=r"model.pt2 is not opened: it cannot be read: Expecting"):
        load_program(file)


def test_an_archive_that_this_torch_does_not_read_is_an_error_of_the_runtime(archive, tmp_path):
    file = tampered(archive, tmp_path / "model.pt2", lambda r: r[PROGRAM]["schema_version"].update({"major": 99}))
    with pytest.raises(BackendError, match=r"torch .* cannot load model.pt2") as caught:
        load_program(file)
    assert "ship the model again" in caught.value.remedy


def test_an_archive_that_is_only_written_anew_is_opened(archive, tmp_path):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: None)
    feeds = programs.feeds(2)
    answers = [TorchSession(load_program(f), programs.SIGNATURE).run(feeds)["y"] for f in (archive, file)]
    np.testing.assert_array_equal(*answers)
