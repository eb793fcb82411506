import os
import sys

import numpy as np
import onnx_ir as ir
import pytest
import tiny

from torchlift.backends import backend, forms, openvino
from torchlift.convert import nncf as module
from torchlift.convert.forms import FormOptions, maker_of
from torchlift.convert.nncf import quantize_with_nncf
from torchlift.errors import BackendUnavailableError, ConversionError, DataError
from torchlift.graph.files import save_model
from torchlift.progress import SILENT

FEEDS = [{"x": tiny.sample(4, seed)} for seed in range(4)]

needs_nncf = pytest.mark.skipif(not forms()["int8-nncf"].available().ok, reason="nncf or openvino is not installed")


def quantized_types(file):
    return file.read_text().count('type="FakeQuantize"')


@needs_nncf
def test_the_answers_of_integers(source, tmp_path, capfd):
    before = dict(os.environ)
    name = quantize_with_nncf(source, tmp_path, FEEDS)
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == before
    x = FEEDS[0]["x"]
    with backend("openvino").open(tmp_path / name, tiny.SIGNATURE) as session:
        found = session.run({"x": x})["y"]
    error = np.abs(found - tiny.answer(x)).max()
    assert 1e-4 < error < 0.03 * np.abs(tiny.answer(x)).max()
    assert quantized_types(tmp_path / name) == 1
    assert str(source.parent) not in (tmp_path / name).read_text()


@needs_nncf
def test_a_kept_node_stays_in_floating_point(source, tmp_path):
    name = quantize_with_nncf(source, tmp_path, FEEDS, keep={"product"})
    assert quantized_types(tmp_path / name) == 0
    x = tiny.sample(8, 9)
    with backend("openvino").open(tmp_path / name, tiny.SIGNATURE) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-4, atol=1e-4)


@needs_nncf
def test_a_node_to_keep_that_is_not_there(source, tmp_path):
    with pytest.raises(ConversionError, match="the graph has no node absent") as error:
        quantize_with_nncf(source, tmp_path, FEEDS, keep={"absent"})
    assert "bisect" in error.value.remedy


@needs_nncf
def test_without_samples(source, tmp_path):
    with pytest.raises(DataError, match="no calibration samples") as error:
        quantize_with_nncf(source, tmp_path, [])
    assert "`calibration=`" in error.value.remedy


@needs_nncf
def test_what_nncf_cannot_do_is_told(tmp_path):
    broken = ir.from_proto(tiny.model())
    next(n for n in broken.graph if n.op_type == "Relu").op_type = "NoSuchOperator"
    save_model(broken, tmp_path / "model.onnx")
    with pytest.raises(ConversionError, match=r"(?s)NNCF cannot quantise model\.onnx: .*NoSuchOperator") as error:
        quantize_with_nncf(tmp_path / "model.onnx", tmp_path, FEEDS)
    assert "int8" in error.value.remedy


def test_without_nncf(source, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino, "installed_version", lambda name: None)
    assert not forms()["int8-nncf"].available().ok
    with pytest.raises(BackendUnavailableError, match="int8-nncf cannot be made: nncf is not installed") as error:
        maker_of("int8-nncf").make(source, tmp_path, lambda: FEEDS, FormOptions(), SILENT)
    assert error.value.remedy == "pip install nncf"


def test_nncf_is_not_imported_before_it_is_needed(python):
    finished = python("import sys\nimport torchlift.convert.nncf\nassert 'nncf' not in sys.modules")
    assert finished.returncode == 0, finished.stderr
    assert sys.modules["torchlift.convert.nncf"] is module
