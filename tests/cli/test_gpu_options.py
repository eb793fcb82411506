"""The options for GPUs: what they are read as, what of them is wrong usage, and that they reach the jobs."""

import json
from pathlib import Path

import click
import pytest
from shipped import misused, refused, torchlift

from torchlift import machine
from torchlift.backends import CompileOptions
from torchlift.cli.gpu import parse_compile, parse_devices
from torchlift.jobs.keywords import job_fields
from torchlift.machine import Gpu
from torchlift.signature import Profile

H200 = Gpu("NVIDIA H200", "9.0", 150_754_820_096, "580.159.04")


@pytest.fixture
def gpus(monkeypatch):
    """Puts so many GPUs here."""
    return lambda count: monkeypatch.setattr(machine, "gpus", lambda: (H200,) * count)


def parsed(
    profiles=(), workspace=None, plugins=(), version_compatible=False, hardware_compatible=False, stripped=False
):
    flags = {"version_compatible": version_compatible, "hardware_compatible": hardware_compatible, "stripped": stripped}
    return job_fields(parse_compile(profiles, workspace, plugins, **flags))["compile"]


def test_without_options_nothing_is_asked_of_a_compiler():
    assert parsed() == CompileOptions()


def test_profiles_are_read_in_their_order_and_memory_is_in_mib():
    found = parsed(("batch=1", "batch=1:8:64,text.sequence=4:16:52"), 512, (Path("a.so"),), stripped=True)
    profiles = (
        Profile({"batch": (1, 1, 1)}),
        Profile({"batch": (1, 8, 64), "text.sequence": (4, 16, 52)}),
    )
    assert found == CompileOptions(profiles, 512 * 2**20, (Path("a.so"),), stripped=True)


def test_compatibilities_are_not_mistaken_for_each_other():
    assert parsed(version_compatible=True) == CompileOptions(version_compatible=True)
    assert parsed(hardware_compatible=True) == CompileOptions(hardware_compatible=True)


@pytest.mark.parametrize(
    ("count", "text", "found"),
    [
        (0, "0", (0,)),
        (0, "all", (0,)),
        (1, "0", (0,)),
        (1, "all", (0,)),
        (4, "all", (0, 1, 2, 3)),
        (4, "2", (2,)),
        (4, "3,1", (3, 1)),
        (4, " 0 , 2 ", (0, 2)),
    ],
)
def test_devices_are_numbers_of_gpus_that_are_here(gpus, count, text, found):
    gpus(count)
    assert parse_devices(text) == found


@pytest.mark.parametrize("text", ["", "gpu", "0,", "0,0", "0,00", "-1", "1.5", "0;1", "ALL", "0,all"])
def test_devices_that_are_no_numbers_are_wrong_usage(gpus, text):
    gpus(2)
    with pytest.raises(click.UsageError) as caught:
        parse_devices(text)
    assert caught.value.message == f"--devices {text}: write all, or numbers of GPUs, for example 0,1."


@pytest.mark.parametrize(("count", "text", "beyond"), [(0, "1", 1), (0, "0,1", 0), (2, "2", 2), (2, "0,5,3", 5)])
def test_devices_that_are_not_here_are_wrong_usage(gpus, count, text, beyond):
    gpus(count)
    with pytest.raises(click.UsageError) as caught:
        parse_devices(text)
    assert caught.value.message == f"--devices {text}: there is no GPU {beyond}; this process may use {count}."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("build", "--profile", "batch"), "--profile: 'batch' is not a profile. Write AXIS=MIN:OPT:MAX, for example"),
        (("build", "--profile", "batch=4:2:8"), "--profile: axis batch: 4..2..8 is not a range. A range is"),
        (("build", "--workspace", "0"), "Invalid value for '--workspace': 0 is not in the range x>=1."),
        (("build", "--plugin", "none.so"), "Invalid value for '--plugin': File 'none.so' does not exist."),
        (("bench", "--devices", "none"), "--devices none: write all, or numbers of GPUs, for example 0,1."),
        (("run", "--device", "-1"), "Invalid value for '--device': the number of the GPU is -1. GPUs are counted"),
        (("inspect", "--device", "12345678901234567890"), "Invalid value for '--device': the number of the GPU is 123"),
        (("inspect", "--layers"), "--layers shows one variant's: name it with --variant."),
        (("inspect", "--batch", "2"), "--batch is of --layers."),
        (("inspect", "--device", "0"), "--device is of --layers."),
        (("inspect", "--batch", "2", "--variant", "model/onnxruntime/fp32"), "--batch is of --layers."),
        (("inspect", "--layers", "--batch", "0"), "Invalid value for '--batch': 0 is not in the range x>=1."),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, tuple) else "",
)
def test_wrong_usage_is_told(bundle, arguments, said):
    command, *rest = arguments
    assert misused(torchlift(command, bundle.path, *rest)).startswith(f"Error: {said}")


def test_a_library_must_be_a_file(bundle, tmp_path):
    assert "is a directory" in misused(torchlift("build", bundle.path, "--plugin", tmp_path))


def test_a_profile_of_no_axis_is_an_error_and_names_those_that_there_are(bundle):
    arguments = ("--backend", "onnxruntime", "--profile")
    message, remedy = refused(torchlift("build", bundle.path, *arguments, "batch=1,bacth=1:2:4"))
    assert (message, remedy) == ("--profile bacth names no axis", "The axes are batch, model.batch.")
    message, _ = refused(torchlift("build", bundle.path, *arguments, "text.batch=1"))
    assert message == "--profile text.batch names no axis"


def test_a_profile_beyond_the_axis_is_an_error_and_says_how_to_export(bundle):
    message, remedy = refused(torchlift("build", bundle.path, "--backend", "onnxruntime", "--profile", "batch=1:8:16"))
    assert message == "the profile batch=1:8:16 is outside 1..8"
    assert "--axis batch=1..4..16" in remedy


@pytest.fixture
def told(monkeypatch, built_once):
    """What the job behind a command is told; nothing is done."""
    found = {}

    def job(path, options, *rest, **more):
        found.update(path=path, options=options, rest=rest, **more)
        return built_once.manifest

    for name in ("build_bundle", "bench_bundle"):
        monkeypatch.setattr(f"torchlift.jobs.{name}", job)
    return found


def test_build_tells_the_compiler_and_measures_graphs_where_asked(told, bundle, tmp_path):
    library = tmp_path / "operators.so"
    library.write_bytes(b"")
    arguments = ("--profile", "batch=1", "--profile", "batch=1:4:8", "--workspace", 256, "--plugin", library)
    said = torchlift("build", bundle.path, *arguments, "--version-compatible", "--hardware-compatible")
    assert said.code == 0, said.err
    profiles = (Profile({"batch": (1, 1, 1)}), Profile({"batch": (1, 4, 8)}))
    assert told["options"].compile == CompileOptions(profiles, 256 << 20, (library,), True, True)
    assert not told["options"].bench.cuda_graph
    said = torchlift("build", bundle.path, "--strip-weights", "--cuda-graph")
    assert said.code == 0, said.err
    assert told["options"].compile == CompileOptions(stripped=True)
    assert told["options"].bench.cuda_graph


def test_ship_tells_the_compiler_too(monkeypatch, built_once, tmp_path):
    found = []
    monkeypatch.setattr(
        "torchlift.jobs.ship.ship", lambda source, output, options, progress: found.append(options) or built_once
    )
    said = torchlift("ship", "net.py:build", "-o", tmp_path / "net", "--profile", "batch=1:2:3", "--cuda-graph")
    assert said.code == 0, said.err
    assert found[0].compile == CompileOptions((Profile({"batch": (1, 2, 3)}),))
    assert found[0].bench.cuda_graph


def test_bench_is_told_the_devices_and_whether_graphs_are_measured(told, bundle, gpus):
    gpus(4)
    said = torchlift("bench", bundle.path, "--cuda-graph", "--devices", "1,3")
    assert said.code == 0, said.err
    assert (told["options"].cuda_graph, told["on"].device, told["options"].more_devices) == (True, 1, (3,))
    torchlift("bench", bundle.path, "--devices", "all")
    assert (told["on"].device, told["options"].more_devices) == (0, (1, 2, 3))
    torchlift("bench", bundle.path)
    assert (told["options"].cuda_graph, told["on"].device, told["options"].more_devices) == (False, 0, ())


def test_run_opens_on_the_device_that_is_named(monkeypatch, bundle):
    found = []

    def opening(path, options, progress):
        found.append(options.on.device)
        raise click.UsageError("nothing is run here")

    monkeypatch.setattr("torchlift.pipelines.open_bundle", opening)
    torchlift("run", bundle.path, "--device", "2")
    torchlift("run", bundle.path)
    assert found == [2, 0]


# inspect --layers


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_inspect_shows_the_layers_of_a_variant_with_what_they_cost(built_once, backend):
    said = torchlift("inspect", built_once.path, "--variant", f"model/{backend}/fp32", "--layers", "--batch", 8)
    assert said.code == 0, said.err
    title, header, *rows = [line for line in said.out.splitlines() if line.strip()]
    assert title.strip() == f"model/{backend}/fp32: layers"
    assert header.split() == ["us", "share", "precision", "layer", "ONNX", "nodes"]
    costs = [float(row.split()[0]) for row in rows[:-1]]
    shares = [float(row.split()[1].removesuffix("%")) for row in rows[:-1]]
    assert costs == sorted(costs, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))
    assert all(row.split()[2] in ("fp32", "?") for row in rows[:-1])
    assert rows[-1].startswith(f"{len(costs)} layers, ")
    assert "of it in fp32" in rows[-1]


def test_layers_are_told_as_json_in_the_order_in_which_they_run(built_once):
    said = torchlift("inspect", built_once.path, "--variant", "model/onnxruntime/fp32", "--layers", "--json")
    assert said.code == 0, said.err
    layers = json.loads(said.out)
    assert {*layers[0]} == {"name", "operator", "nodes", "precision", "seconds", "device"}
    assert all(layer["device"] == "CPU" for layer in layers)


def test_the_layers_of_a_variant_that_is_not_there_are_an_error(built_once):
    message, remedy = refused(torchlift("inspect", built_once.path, "--variant", "model/tensorrt/fp16", "--layers"))
    assert "there is no variant 'model/tensorrt/fp16'" in message
    assert "model/onnxruntime/fp32" in remedy
