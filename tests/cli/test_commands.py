import json
import re
import shutil

import numpy as np
import pytest
from shipped import REFUSE_TORCH, in_process, torchlift

from torchlift.bundle import Bundle
from torchlift.cli import _COMMANDS
from torchlift.messages import entrant_text

LATENCY_COLUMNS = ("batch", "median ms", "p95", "p99", "per s", "speed-up")
REFERENCE_LINE = re.compile(
    r"\[(?P<contender>\S+) (?P<side>\w+) inference speed \(batch-size: (?P<batch>\d+)\):\] "
    r"mean=[\d.]+ms, sd=[\d.]+ms, min=[\d.]+ms, max=[\d.]+ms, median=[\d.]+ms, 95p=[\d.]+ms, 99p=[\d.]+ms"
)
"""The line of the benchmark script that comes with Chinese-CLIP."""


def told(finished):
    """The JSON on standard output of a run that must have gone well."""
    assert finished.code == 0, finished.err
    return json.loads(finished.out)


def header_of(text):
    return next(line for line in text.splitlines() if "variant" in line and "verdict" in line)


@pytest.mark.parametrize("command", [(), *[(name,) for name in _COMMANDS]])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(command, flag):
    said = torchlift(*command, flag)
    assert said.code == 0
    assert said.out.startswith(" ".join(("Usage: torchlift", *command)))
    assert "Show this message" in said.out
    assert said.err == ""


def test_the_help_lists_every_command_and_the_version_is_told():
    text = torchlift("--help").out
    assert all(f"  {name} " in text for name in _COMMANDS)
    assert re.fullmatch(r"torchlift, version \d+\.\d+\.\d+\n", torchlift("--version").out)


def test_ship_prints_a_table_of_what_it_made(net):
    out = net.said.out
    header = header_of(out)
    for column in ("variant", "precision", "size", "largest diff", *LATENCY_COLUMNS, "verdict"):
        assert column in header
    assert "the reference" in next(line for line in out.splitlines() if "pytorch eager" in line)
    row = next(line for line in out.splitlines() if line.split()[:1] == ["onnxruntime"])
    assert row.split()[1] == "fp32"
    assert re.search(r"\d+(\.\d+)? [kM]?B ", row), "the size"
    assert re.search(r"\de-\d\d ", row), "the largest difference"
    interval = r"\d+\.\d\d (\[\d+\.\d\d, \d+\.\d\d\]|\(too noisy to tell\)) +chosen"
    assert re.search(interval, row), "the speed-up with its interval, or that it is noise"
    assert "interleaved rounds" in out
    assert "The task was not scored." in out
    assert re.search(r"(\S+/net) is ready: torchlift run \1 ", out)


def test_ship_tells_its_stages_on_standard_error(net):
    assert "- export model" in net.said.err
    assert "- verify model/onnxruntime/fp32" in net.said.err
    assert "- export" not in net.said.out


def test_ship_prints_json(net, tmp_path):
    arguments = (
        "--backend",
        "onnxruntime",
        "--precision",
        "fp32",
        "--rounds",
        2,
        "--batch",
        2,
        "--axis",
        "batch=1..2..3",
    )
    manifest = told(torchlift("ship", net.source, "-o", tmp_path / "net", *arguments, "--json"))
    assert manifest["components"][0]["signature"]["axes"] == [
        {"name": "batch", "min": 1, "opt": 2, "max": 3, "step": 1}
    ]
    assert manifest["choices"]["model"]["variant"] == "model/onnxruntime/fp32"
    latencies = manifest["benchmarks"]["model"]["latencies"]
    assert [(x["contender"]["name"], x["sizes"]) for x in latencies] == [
        ("pytorch", {"batch": 2}),
        ("model/onnxruntime/fp32", {"batch": 2}),
    ]
    assert all(0 < x["min"] <= x["median"] <= x["max"] for x in latencies)
    assert Bundle.open(tmp_path / "net").manifest.key == manifest["key"]


@pytest.mark.usefixtures("in_this_process")
def test_export_then_build_gives_a_bundle_that_serves(net, tmp_path, picture):
    bundle = tmp_path / "net"
    said = torchlift("export", net.source, "-o", bundle, "--exporter", "torchscript", "--seed", 3)
    assert said.code == 0, said.err
    assert "float32[batch, 3, 24, 24]" in said.out
    assert "batch 1..2..4" in said.out
    assert "16 (torchscript)" in said.out
    refused = torchlift("run", bundle, "--input", f"image={picture}")
    assert refused.code == 1
    assert f"torchlift build {bundle}" in refused.err
    manifest = told(torchlift("build", bundle, "--backend", "onnxruntime", "--rounds", 2, "--batch", 1, "--json"))
    assert [v["backend"] for v in manifest["variants"]] == ["onnxruntime"]
    assert manifest["variants"][0]["verification"]["failures"] == []
    assert told(torchlift("run", bundle, "--input", f"image={picture}", "--json"))["logits"][0][0][0] in (
        "circle",
        "square",
        "star",
        "moon",
    )


def test_export_prints_json(net, tmp_path):
    manifest = told(torchlift("export", net.source, "-o", tmp_path / "net", "--exporter", "torchscript", "--json"))
    assert manifest["components"][0]["exporter"] == "torchscript"
    assert manifest["variants"] == []


@pytest.mark.usefixtures("in_this_process")
def test_build_prints_the_table(built):
    said = torchlift("build", built.path, "--rounds", 2, "--backend", "openvino", "--precision", "fp32")
    assert said.code == 0, said.err
    assert all(name in header_of(said.out) for name in ("precision", *LATENCY_COLUMNS))
    assert "openvino" in said.out


def test_verify_prints_the_differences(clip_copy):
    said = torchlift("verify", clip_copy)
    assert said.code == 0, said.err
    names = ("max abs", "mean abs", "median abs", "max rel", "mean rel", "median rel", "cosine", "NaN", "Inf")
    assert all(name in header_of(said.out) for name in names)
    rows = [line for line in said.out.splitlines() if line.startswith((" image/", " text/"))]
    assert len(rows) == len(Bundle.open(clip_copy).manifest.variants)
    assert all(row.rstrip().endswith("agrees") for row in rows)
    detail = torchlift("verify", clip_copy, "-v")
    assert detail.code == 0
    for golden in ("min", "opt", "max", "opt, rows turned", "opt, rows fewer"):
        assert f" {golden} " in detail.out


def test_verify_prints_json(built):
    proofs = told(torchlift("verify", built.path, "--json", "--threads", 1))
    assert proofs.keys() == {v.name for v in built.manifest.variants}
    proof = proofs["model/onnxruntime/fp32"]
    assert {check["golden"] for check in proof["checks"]} == {"min", "opt", "max"}
    assert all(check["difference"]["max_abs"] < 1e-4 for check in proof["checks"])
    assert proof["provenance"]["runtime"].startswith("onnxruntime")


def test_verify_exits_with_1_where_nothing_passes_and_the_bundle_is_refused_until_it_does(clip_copy):
    said = torchlift("verify", clip_copy, "--tolerance", "fp32=1e-12")
    assert said.code == 1
    assert "agrees" not in said.out
    assert re.search(
        r"text/onnxruntime/fp32 is refused: unnorm_text_features at min: off by \d\.\de-\d\d of the scale", said.out
    )
    assert "(at most 1e-12)" in said.out
    refused = torchlift("run", clip_copy, "--text", "猫")
    assert refused.code == 1
    assert "does not agree with PyTorch" in refused.err
    assert "refused: " in torchlift("inspect", clip_copy).out
    assert "chosen" not in torchlift("inspect", clip_copy).out
    assert torchlift("verify", clip_copy).code == 0
    assert torchlift("run", clip_copy, "--text", "猫").code == 0


def test_verify_of_a_bundle_without_variants_is_no_success(bundle):
    said = torchlift("verify", bundle.path)
    assert said.code == 1
    assert "no variant to verify" in said.err
    assert f"torchlift build {bundle.path}" in said.err


@pytest.mark.usefixtures("in_this_process")
def test_bench_prints_lines_as_the_reference_does(clip_copy):
    said = torchlift("bench", clip_copy, "--rounds", 2, "--batch", 1, "--format", "reference")
    assert said.code == 0, said.err
    found = [REFERENCE_LINE.fullmatch(line) for line in said.out.splitlines()]
    assert all(found)
    variants = Bundle.open(clip_copy).manifest.variants
    expected = {(f"{v.backend}/{v.precision}", v.component, "1") for v in variants}
    assert {(m["contender"], m["side"], m["batch"]) for m in found} == expected


def test_bench_measures_pytorch_eager_and_compiled(net_copy, net, monkeypatch):
    seen = []

    def measure(bundle, options, peers, progress, **_):
        seen.extend(entrant_text(contender.entrant) for contender in peers("model"))
        return Bundle.open(bundle).manifest

    monkeypatch.setattr("torchlift.jobs.bench_bundle", measure)
    assert torchlift("bench", net_copy, "--module", net.source).code == 0
    assert seen == ["pytorch eager"]
    seen.clear()
    assert torchlift("bench", net_copy, "--module", net.source, "--compile").code == 0
    assert seen == ["pytorch eager", "pytorch compile"]


@pytest.mark.usefixtures("in_this_process")
def test_bench_takes_the_size_of_another_axis(clip_copy):
    said = torchlift("bench", clip_copy, "--rounds", 2, "--batch", 1, "--size", "sequence=24", "--json")
    assert {tuple(x["sizes"].items()) for x in told(said)["text"]["latencies"]} == {(("batch", 1), ("sequence", 24))}


@pytest.mark.usefixtures("in_this_process")
def test_v_adds_what_ran_and_every_golden(net_copy, clip):
    short, long = (torchlift("inspect", clip.path, *flag).out for flag in ((), ("-v",)))
    assert long.startswith(short)
    detail = long.removeprefix(short)
    assert re.search(r"text +onnxruntime/fp32 +onnxruntime \d\S+ CPUExecutionProvider", detail)
    for golden in ("min", "opt", "max", "opt, rows turned", "opt, rows fewer"):
        assert f" {golden} " in detail
    measured = ("--rounds", 2, "--batch", 1)
    for command in (("build", net_copy, "--backend", "onnxruntime", *measured), ("bench", net_copy, *measured)):
        assert "differences from PyTorch" not in torchlift(*command).out
        said = torchlift(*command, "-v").out
        assert "what ran" in said
        assert " opt, rows turned " in said


def test_export_with_v_counts_operators(net, tmp_path):
    for flag in ((), ("-v",)):
        said = torchlift("export", net.source, "-o", tmp_path / "net", "--exporter", "torchscript", *flag)
        assert said.code == 0, said.err
        assert ("1 Conv" in said.out) == bool(flag)


@pytest.mark.parametrize("command", ["inspect", "run", "pack"])
def test_checking_the_files_is_told_on_standard_error(net_copy, picture, command):
    more = ("--input", f"image={picture}") if command == "run" else ()
    said = torchlift(command, net_copy, *more)
    assert said.code == 0
    assert re.search("^- .*check", said.err)


def test_bench_prints_the_table_and_json(built):
    assert torchlift("verify", built.path).code == 0
    said = torchlift("bench", built.path, "--rounds", 2, "--batch", "2,8")
    assert said.code == 0, said.err
    row = next(line.split() for line in said.out.splitlines() if line.startswith(" onnxruntime"))
    assert row[5] == "2"
    benchmark = told(torchlift("bench", built.path, "--rounds", 2, "--batch", 4, "--threads", 1, "--json"))["model"]
    assert benchmark["threads"] == 1
    assert {x["sizes"]["batch"] for x in benchmark["latencies"]} == {4}
    assert all(x["median"] > 0 and x["throughput"] > 0 for x in benchmark["latencies"])


def test_inspect_shows_components_operators_and_variants(clip):
    said = torchlift("inspect", clip.path)
    assert said.code == 0, said.err
    for part in ("image float32[batch, 3, 32, 32]", "text int64[batch, sequence]", "sequence 4..16..52", "dynamo"):
        assert part in said.out
    assert "MatMul" in said.out
    assert "chosen" in said.out


def test_inspect_of_one_variant_shows_every_golden(clip):
    said = torchlift("inspect", clip.path, "--variant", "text/onnxruntime/fp32")
    assert said.code == 0, said.err
    assert all(f" {golden} " in said.out for golden in ("min", "opt", "max", "opt, rows turned"))
    assert "openvino" not in said.out
    assert told(torchlift("inspect", clip.path, "--variant", "text/onnxruntime/fp32", "--json"))["precision"] == "fp32"
    unknown = torchlift("inspect", clip.path, "--variant", "text/onnxruntime/int4")
    assert unknown.code == 1
    assert "text/onnxruntime/fp32" in unknown.err


def test_inspect_prints_json(clip):
    manifest = told(torchlift("inspect", clip.path, "--json"))
    assert [c["name"] for c in manifest["components"]] == ["image", "text"]
    assert manifest["settings"]["embedding"] == 32


def test_doctor_tells_the_machine_and_each_backend():
    said = torchlift("doctor")
    assert said.code == 0
    assert re.search(r"onnxruntime +yes +fp32, fp16, int8 +onnxruntime \d", said.out)
    report = told(torchlift("doctor", "--json"))
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["onnxruntime"]["state"]["ok"]
    assert found["export (torch)"]["state"]["detail"].startswith("torch ")
    assert report["machine"]["cores"] > 0
    for name, finding in found.items():
        if not finding["state"]["ok"]:
            assert "pip install" in finding["state"]["remedy"], name


@pytest.mark.parametrize("name", ["猫", "[bold]cat[/bold]"])
def test_run_prints_a_probability_for_each_text(clip, picture, name):
    said = torchlift("run", clip.path, "--image", picture, "--text", name, "--text", "狗", "--text", "日落")
    assert said.code == 0, said.err
    shares = [float(share) for share in re.findall(r"(\d+\.\d\d)%", said.out)]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(100, abs=0.05)
    assert shares == sorted(shares, reverse=True)
    assert name in said.out
    assert str(picture) in said.out.replace("\n", "")


def test_run_of_chinese_clip_prints_json(clip, picture):
    answer = told(
        torchlift("run", clip.path, "--image", picture, "--text", "猫", "--text", "狗", "--text", "猫", "--json")
    )
    assert answer.keys() == {str(picture)}
    assert answer[str(picture)].keys() == {"猫", "狗"}
    assert sum(answer[str(picture)].values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("option", ["--image", "--text"])
def test_run_with_images_or_texts_alone_gives_features(clip, picture, option):
    value = str(picture) if option == "--image" else "猫"
    answer = told(torchlift("run", clip.path, option, value, "--json"))
    assert np.linalg.norm(answer[value]) == pytest.approx(1, abs=1e-5)


def test_run_takes_another_variant(clip, picture):
    both = [
        told(torchlift("run", clip.path, "--image", picture, "--variant", f"image/{name}/fp32", "--json"))[str(picture)]
        for name in ("onnxruntime", "openvino")
    ]
    np.testing.assert_allclose(*both, atol=1e-4)


def test_run_of_a_module_prints_its_labels(net, picture):
    said = torchlift("run", net.path, "--input", f"image={picture}", "--input", f"image={picture}")
    assert said.code == 0, said.err
    assert "logits of row 0" in said.out
    assert "logits of row 1" in said.out
    assert len(re.findall(r"\d+\.\d\d%", said.out)) == 4


def test_run_of_a_module_takes_arrays(built, tmp_path):
    assert torchlift("verify", built.path).code == 0
    np.save(tmp_path / "x.npy", np.ones((3, 32), np.float32))
    variant = ("--variant", "model/onnxruntime/fp32")
    answer = told(torchlift("run", built.path, "--input", f"x={tmp_path / 'x.npy'}", *variant, "--json"))
    assert np.shape(answer["y"]) == (3, 24)
    said = torchlift("run", built.path, "--input", f"x={tmp_path / 'x.npy'}", *variant)
    assert said.out.startswith("y: [[")


@pytest.mark.parametrize("kind", ["clip", "net"])
def test_a_bundle_that_moved_runs_where_torch_is_not(request, kind, picture, tmp_path):
    copy = shutil.copytree(request.getfixturevalue(kind).path, tmp_path / "elsewhere" / "bundle")
    archive = told(torchlift("pack", copy, "--json"))
    assert archive["bytes"] == (tmp_path / "elsewhere" / "bundle.zip").stat().st_size
    shutil.rmtree(copy)
    home = tmp_path / "home"
    home.mkdir()
    unpacked = in_process("unpack", archive["file"], "-o", "served", "--json", prelude=REFUSE_TORCH, cwd=home)
    assert told(unpacked)["bundle"] == "served"
    asked = {
        "clip": ("--image", str(picture), "--text", "猫", "--text", "狗"),
        "net": ("--input", f"image={picture}"),
    }[kind]
    answer = told(in_process("run", "served", *asked, "--json", prelude=REFUSE_TORCH, cwd=home))
    if kind == "clip":
        assert sum(answer[str(picture)].values()) == pytest.approx(1, abs=1e-4)
    else:
        assert len(answer["logits"][0]) == 2


def test_build_verify_and_bench_need_no_torch(built):
    for command in (
        ("build", "--rounds", "2", "--batch", "1"),
        ("verify",),
        ("bench", "--rounds", "2", "--batch", "1"),
    ):
        finished = in_process(command[0], built.path, *command[1:], "--json", prelude=REFUSE_TORCH)
        told(finished)


def test_pack_and_unpack_say_what_they_did(net_copy, tmp_path):
    packed = torchlift("pack", net_copy, "-o", tmp_path / "a.zip")
    assert packed.code == 0, packed.err
    assert str(tmp_path / "a.zip") in packed.out
    unpacked = torchlift("unpack", tmp_path / "a.zip", "-o", tmp_path / "again")
    assert unpacked.code == 0, unpacked.err
    assert "every checksum right" in unpacked.out
    assert Bundle.open(tmp_path / "again").manifest == Bundle.open(net_copy).manifest
