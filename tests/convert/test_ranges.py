import numpy as np
import onnx
import onnx_ir as ir
import pytest
import tiny

from torchlift.convert.ranges import Range, float_tensors, overflowing, ranges_of
from torchlift.errors import BackendError
from torchlift.graph.files import save_model
from torchlift.graph.units import name_nodes
from torchlift.machine import RunOn
from torchlift.progress import Progress, Stage
from torchlift.prove.tap import Tap


@pytest.fixture
def beside(tmp_path):
    """The tiny model with its weights in a file beside it."""
    (tmp_path / "a folder").mkdir()
    save_model(ir.from_proto(tiny.model()), tmp_path / "a folder" / "model.onnx")
    return tmp_path / "a folder" / "model.onnx"


def test_a_tap_returns_inputs_inner_tensors_and_outputs_in_the_order_asked(beside):
    x = tiny.sample(5)
    with Tap(beside, ["y", "product", "x", "sum", "y"]) as tap:
        found = tap.run({"x": x})
    matrix, bias = tiny.weights()
    assert list(found) == ["y", "product", "x", "sum"]
    np.testing.assert_allclose(found["product"], x @ matrix, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["sum"], x @ matrix + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["y"], tiny.answer(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found["x"], x)


def test_a_tap_leaves_the_file_and_its_folder_alone(beside):
    before = {file.name: file.read_bytes() for file in beside.parent.iterdir()}
    with Tap(beside, ["sum"], RunOn(1)) as tap:
        tap.run({"x": tiny.sample(2)})
    assert {file.name: file.read_bytes() for file in beside.parent.iterdir()} == before


def test_a_tap_on_a_tensor_that_the_graph_lacks_names_it(source):
    with pytest.raises(ValueError, match=r"model\.onnx computes no tensor gelu, matrix"):
        Tap(source, ["sum", "matrix", "gelu"])


def test_a_tap_on_samples_of_another_shape_says_so(source):
    with Tap(source, ["sum"]) as tap, pytest.raises(BackendError, match=r"(?s)cannot run the observed.*Check that the"):
        tap.run({"x": np.zeros((2, 3), np.float32)})


def test_a_graph_that_the_runtime_refuses_is_an_error(tmp_path):
    model = tiny.model()
    model.graph.node[2].op_type = "Relax"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BackendError, match=r"cannot observe model\.onnx"):
        Tap(tmp_path / "model.onnx", ["sum"])


def test_ranges_are_those_of_all_samples_of_any_size(beside):
    feeds = [{"x": tiny.sample(rows, seed)} for seed, rows in enumerate((1, 7, 3))]
    found = ranges_of(beside, iter(feeds))
    x = np.concatenate([feed["x"] for feed in feeds])
    matrix, bias = tiny.weights()
    for name, expected in {"x": x, "product": x @ matrix, "sum": x @ matrix + bias, "y": tiny.answer(x)}.items():
        low, high = float(expected.min()), float(expected.max())
        assert found[name].low == pytest.approx(low, rel=1e-4, abs=1e-5)
        assert found[name].high == pytest.approx(high, rel=1e-4, abs=1e-5)
        assert found[name].absmax == max(abs(found[name].low), abs(found[name].high))
    assert list(found) == ["x", "product", "sum", "y"]


def test_ranges_of_named_tensors_only(source):
    assert list(ranges_of(source, [{"x": tiny.sample(2)}], ["sum", "x", "sum"])) == ["sum", "x"]


def test_ranges_of_a_tensor_that_the_graph_lacks_name_it(source):
    with pytest.raises(ValueError, match="computes no tensor gelu"):
        ranges_of(source, [{"x": tiny.sample(2)}], ["gelu"])


def test_no_samples_are_an_error(source):
    with pytest.raises(ValueError, match="no feeds"):
        ranges_of(source, [])


def test_progress_counts_the_samples(source):
    class Recorder(Progress):
        def __init__(self):
            self.said = []

        def stage(self, title, total=None):
            self.said.append((title, total))
            recorder = self

            class Steps(Stage):
                def __enter__(self):
                    return self

                def __exit__(self, *_):
                    return None

                def advance(self, steps=1):
                    recorder.said.append(steps)

            return Steps()

    recorder = Recorder()
    ranges_of(source, [{"x": tiny.sample(2)}] * 3, progress=recorder, total=3)
    assert recorder.said == [("ranges of 4 tensors", 3), 1, 1, 1]


def test_only_float_tensors_are_looked_at_and_types_are_found_where_they_are_missing(tmp_path):
    text = """<ir_version: 10, opset_import: ["" : 17]> net (float[n,4] x, int64[n,4] i) => (float[n,4] y) {
        a = Cast<to = 1>(i)
        s = Shape(x)
        b = Add(x, a)
        c = Greater(b, x)
        y = Where(c, b, x)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    assert float_tensors(tmp_path / "model.onnx") == ["x", "a", "b", "y"]


def named():
    model = ir.from_proto(tiny.model())
    name_nodes(model)
    return model


def test_nodes_on_either_side_of_a_large_tensor_overflow_with_the_reason():
    ranges = {"x": Range(-1, 1), "product": Range(-9, 9), "sum": Range(-7e4, 3), "y": Range(0, 3)}
    assert overflowing(ranges, named()) == {
        "sum": "writes sum, up to 7e+04; FP16 holds 65504",
        "relu": "reads sum, up to 7e+04; FP16 holds 65504",
    }


def test_headroom_for_samples_that_were_not_seen():
    ranges = {"sum": Range(0, 40000.0)}
    assert overflowing(ranges, named())["relu"] == (
        "reads sum, up to 4e+04, within a factor of 2 of the limit; FP16 holds 65504"
    )
    assert overflowing(ranges, named(), limit=65504) == {}
    assert overflowing({"sum": Range(0, 30000.0)}, named()) == {}


def test_the_largest_of_a_nodes_tensors_is_named():
    ranges = {"product": Range(-1e6, 0), "sum": Range(-9e5, 0)}
    assert overflowing(ranges, named())["sum"].startswith("reads product, up to 1e+06")


def test_infinite_ends_do_not_count_and_do_not_hide_the_other():
    assert overflowing({"sum": Range(-np.inf, 3)}, named()) == {}
    assert list(overflowing({"sum": Range(-np.inf, 7e4)}, named())) == ["sum", "relu"]
