"""What is written beside an engine, and what is refused by it."""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from torchlift.backends.tensorrt.engines import Engines
from torchlift.backends.tensorrt.record import (
    ENGINE,
    RECORD,
    EngineRecord,
    graph_digest,
    read_engine,
    read_record,
)
from torchlift.checksums import sha256
from torchlift.cli.build import command as build
from torchlift.cli.words import with_flags
from torchlift.errors import EngineError
from torchlift.machine import Gpu

H200 = Gpu("NVIDIA H200", "9.0", 150_754_820_096, "580.159.04")
A100 = replace(H200, name="NVIDIA A100-SXM4-80GB", capability="8.0")
T4 = replace(H200, name="Tesla T4", capability="7.5")
VERSION = "8.5.3.1"


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """An engine's file with its library and its graph, where a bundle has them; to TensorRT they would be nothing."""
    folder = tmp_path / "clip" / "image" / "tensorrt-fp16"
    folder.mkdir(parents=True)
    graph = source(folder / ENGINE)
    graph.parent.mkdir()
    graph.write_bytes(b"a graph")
    graph.with_name("model.onnx.data").write_bytes(b"its weights")
    graph.with_name("conversion.json").write_bytes(b"how it was made")
    (folder / ENGINE).write_bytes(b"an engine")
    (folder / "operators.so").write_bytes(b"a library")
    monkeypatch.chdir(folder)
    return folder / ENGINE


def source(engine):
    return engine.parents[1] / "fp16" / "model.onnx"


def written(engine, **changes):
    record = EngineRecord(
        tensorrt=VERSION,
        gpu=H200.name,
        capability=H200.capability,
        driver=H200.driver,
        recipe="fp16",
        source="../fp16/model.onnx",
        graph=graph_digest(source(engine)),
        engine=sha256(engine),
        profiles=({"batch": (1, 1, 1), "sequence": (4, 16, 52)}, {"batch": (1, 8, 64), "sequence": (4, 16, 52)}),
        plugins={"operators.so": sha256(engine.with_name("operators.so"))},
    )
    record = replace(record, **changes)
    record.write(engine.parent)
    return record


def refused(engine, version=VERSION, gpu=H200):
    with pytest.raises(EngineError) as caught:
        read_engine(engine, read_record(engine, version, gpu))
    return caught.value


def told(error, *, wholly=False):
    """What ``torchlift build`` is told by the printed command, and ``wholly`` by the options that it says besides."""
    printed = with_flags(error.remedy).removesuffix(".").partition("; give ")[0]
    said, _, options = printed.partition(". It was built with ")
    program, name, *arguments = shlex.split(said.removeprefix("Build it here: "))
    assert (program, name) == ("torchlift", "build")
    arguments += shlex.split(options) if wholly else []
    return build.make_context("build", arguments, help_option_names=["-h", "--help"]).params


def command(error):
    found = told(error)
    return found["bundle"], found["backends"], found["precisions"]


def test_a_record_is_read_as_it_was_written(engine):
    record = written(engine)
    assert read_record(engine, VERSION, H200) == record
    assert json.loads(engine.with_name(RECORD).read_text())["gpu"] == "NVIDIA H200"


def test_a_record_has_no_path_of_the_machine(engine, tmp_path):
    written(engine)
    assert str(tmp_path) not in engine.with_name(RECORD).read_text()


@pytest.mark.parametrize(
    ("version", "gpu", "said"),
    [
        ("8.6.1", H200, "it was built by TensorRT 8.5.3.1, and 8.6.1 is here"),
        ("8.5.2.2", H200, "it was built by TensorRT 8.5.3.1, and 8.5.2.2 is here"),
        (VERSION, A100, "it was built on an NVIDIA H200 (9.0), and an NVIDIA A100-SXM4-80GB (8.0) is here"),
        (VERSION, replace(H200, name="NVIDIA H100"), "it was built on an NVIDIA H200 (9.0), and an NVIDIA H100 (9.0) "),
        (VERSION, replace(H200, driver="570.1"), "it was built with driver 580.159.04, and 570.1 is here"),
    ],
)
def test_what_was_built_for_something_else_is_refused_with_the_command_that_builds_it(engine, version, gpu, said):
    record = written(engine)
    assert record.misfit(version, gpu).startswith(said)
    error = refused(engine, version, gpu)
    assert error.message == f"{engine} does not fit here: {record.misfit(version, gpu)}"
    assert command(error) == (engine.parents[2], ("tensorrt",), "fp16")


def test_the_options_of_before_are_said_with_the_command(engine):
    written(engine, version_compatible=True, stripped=True, workspace=64 << 20)
    found = told(refused(engine, gpu=A100), wholly=True)
    assert found["profiles"] == (
        "image.batch=1:1:1,image.sequence=4:16:52",
        "image.batch=1:8:64,image.sequence=4:16:52",
    )
    assert found["plugins"] == (Path("operators.so"),)
    assert (found["version_compatible"], found["hardware_compatible"], found["stripped"]) == (True, False, True)
    assert found["workspace"] == 64
    written(engine, profiles=({},), plugins={})
    assert refused(engine, gpu=A100).remedy.endswith("`precisions=fp16`.")


def test_the_size_of_the_memory_is_no_matter(engine):
    record = written(engine)
    assert record.misfit(VERSION, replace(H200, memory=1)) == ""


@pytest.mark.parametrize(
    ("built", "version", "fits"),
    [
        ("8.5.3.1", "8.6.1", True),
        ("8.5.3.1", "10.0.0b6", True),
        ("8.5.3.1", "10.13.2.6", True),
        ("8.5.3.1", "8.5.2.2", False),
        ("8.6.1", "11.4", False),
        ("8.6.1", "9.3.0", False),
        ("10.13.2.6", "10.14", True),
        ("10.13.2.6", "11.4", True),
        ("10.13.2.6", "12.0", False),
        ("11.4", "10.14", False),
    ],
)
def test_a_version_compatible_engine_fits_later_releases_up_to_the_next_major_one(engine, built, version, fits):
    record = written(engine, version_compatible=True, tensorrt=built)
    assert (record.misfit(version, H200) == "") == fits
    assert record.misfit(version, A100) != ""


@pytest.mark.parametrize("compatible", ["version_compatible", "hardware_compatible"])
def test_a_compatible_engine_fits_another_driver(engine, compatible):
    elsewhere = replace(H200, driver="570.1")
    assert written(engine).misfit(VERSION, elsewhere) == "it was built with driver 580.159.04, and 570.1 is here"
    record = written(engine, **{compatible: True})
    assert record.misfit(VERSION, elsewhere) == ""
    assert read_record(engine, VERSION, elsewhere) == record


@pytest.mark.parametrize(
    ("gpu", "fits"), [(A100, True), (replace(H200, name="B200", capability="10.0"), True), (T4, False)]
)
def test_a_hardware_compatible_engine_fits_every_gpu_from_ampere_on(engine, gpu, fits):
    record = written(engine, hardware_compatible=True)
    assert (record.misfit(VERSION, gpu) == "") == fits
    assert record.misfit("8.6.1", gpu) != ""


@pytest.mark.parametrize(("size", "mebibytes"), [(1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (1 << 30, 1024)])
def test_scratch_memory_of_before_is_said_in_whole_mebibytes(engine, size, mebibytes):
    written(engine, workspace=size)
    assert told(refused(engine, gpu=A100), wholly=True)["workspace"] == mebibytes


@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "model.onnx.more"])
def test_an_engine_of_another_graph_or_other_weights_is_refused(engine, name, stripped):
    written(engine, stripped=stripped)
    source(engine).with_name(name).write_bytes(b"another")
    error = refused(engine)
    assert error.message == f"{engine} was built from another graph than {source(engine)} is now"
    assert command(error) == (engine.parents[2], ("tensorrt",), "fp16")
    assert told(error, wholly=True)["stripped"] is stripped


def test_an_engine_whose_graph_is_gone_is_refused(engine):
    written(engine)
    source(engine).parent.rename(source(engine).parent.with_name("fp16.2"))
    error = refused(engine)
    assert error.message == f"{engine} was built from {source(engine)}, which is gone"
    assert command(error) == (engine.parents[2], ("tensorrt",), "fp16")


def test_what_else_lies_beside_the_graph_is_no_matter(engine):
    record = written(engine)
    source(engine).with_name("conversion.json").unlink()
    assert read_record(engine, VERSION, H200) == record


def test_a_bundle_may_be_moved(engine, tmp_path):
    record = written(engine)
    moved = engine.parents[2].rename(tmp_path / "elsewhere")
    assert read_record(moved / "image" / "tensorrt-fp16" / ENGINE, VERSION, H200) == record


@pytest.mark.parametrize("change", [lambda library: library.unlink(), lambda library: library.write_bytes(b"another")])
def test_libraries_must_be_the_user_s_own_since_those_in_the_bundle_go_with_the_engine(engine, change):
    engine.with_name("others.so").write_bytes(b"more")
    written(engine, plugins={name: sha256(engine.with_name(name)) for name in ("operators.so", "others.so")})
    change(engine.with_name("operators.so"))
    error = refused(engine)
    assert error.message.startswith(f"{engine.with_name('operators.so')} is not what was built")
    assert error.remedy.endswith(
        " `plugins=operators.so` `plugins=others.so`; give your own copy of operators.so, others.so."
    )


@pytest.mark.parametrize("name", [ENGINE, "operators.so"])
@pytest.mark.parametrize("content", [b"", b"an eng", b"an engine!", None], ids=["empty", "cut", "longer", "gone"])
def test_what_is_not_what_was_built_is_refused(engine, name, content):
    written(engine)
    part = engine.with_name(name)
    part.unlink() if content is None else part.write_bytes(content)
    error = refused(engine)
    assert error.message == f"{part} is not what was built: it was cut off or changed"
    assert command(error) == (engine.parents[2], ("tensorrt",), "fp16")


def test_it_must_be_what_was_built_each_time_that_it_is_loaded(engine, monkeypatch):
    seen = []
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: seen.append(data) or object())
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(Runtime=object))
    monkeypatch.setattr("torchlift.backends.tensorrt.engines.start", lambda made: runtime)
    engines = Engines(engine, written(engine), shared=False)
    engines.take(0)
    engine.write_bytes(b"another")
    with pytest.raises(EngineError, match="is not what was built"):
        engines.take(0)
    engine.unlink()
    with pytest.raises(EngineError, match="is not what was built"):
        engines.take(0)
    engine.write_bytes(b"an engine")
    engines.take(0)
    assert seen == [b"an engine"] * 2


def test_where_it_does_not_fit_the_files_are_not_read(engine):
    written(engine)
    engine.write_bytes(b"changed")
    assert "does not fit here" in refused(engine, gpu=A100).message


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"tensorrt": 8}',
        b"\xff\xfe",
    ],
)
def test_a_record_that_cannot_be_read_is_named(engine, text):
    file = engine.with_name(RECORD)
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    error = refused(engine)
    assert error.message.startswith(f"{file} cannot be read: ")
    assert error.__cause__ is not None
    assert command(error) == (engine.parents[2], ("tensorrt",), None)


@pytest.mark.parametrize("missing", ["tensorrt", "gpu", "driver", "engine", "source", "graph", "profiles", "recipe"])
def test_a_record_that_says_less_than_it_must_is_refused(engine, missing):
    written(engine)
    file = engine.with_name(RECORD)
    said = json.loads(file.read_text())
    del said[missing]
    file.write_text(json.dumps(said))
    assert f"missing required field `{missing}`" in refused(engine).message


def test_a_bundle_that_is_given_relatively_is_named_wholly(engine, monkeypatch):
    written(engine)
    relative = engine.relative_to(engine.parent)
    with pytest.raises(EngineError) as caught:
        read_record(relative, "10.0.1", H200)
    assert command(caught.value)[0] == engine.parents[2]


@pytest.mark.parametrize("graph", ["../../../etc/hostname", "/etc/hostname", "model.onnx", "../../fp16/model.onnx"])
def test_a_graph_outside_the_component_is_not_read(engine, graph):
    written(engine, source=graph)
    assert "outside the component" in refused(engine).message
