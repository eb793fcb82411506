import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from shipped import MAIN, REFUSE_TORCH, checkpoint, in_process, misused, refused, torchlift

from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.cli import _COMMANDS
from torchlift.machine import usable_cores
from torchlift.manifest import Manifest, encode_manifest


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("weights"))


def ship_clip(file, output, *more):
    return torchlift("ship", "chinese-clip", "--checkpoint", file, "-o", output, *more)


def test_an_unknown_family_suggests_the_nearest(tmp_path):
    message, remedy = refused(torchlift("ship", "chines-clip", "--checkpoint", "x.pt", "-o", tmp_path / "out"))
    assert "no family 'chines-clip'" in message
    assert "Did you mean 'chinese-clip'" in remedy


def test_a_checkpoint_in_place_of_the_family_is_told_the_families(weights, tmp_path):
    message, remedy = refused(torchlift("ship", weights, "-o", tmp_path / "out"))
    assert f"no family '{weights}'" in message
    assert "chinese-clip" in remedy


def test_an_unknown_backend_suggests_the_nearest(bundle):
    message, remedy = refused(torchlift("build", bundle.path, "--backend", "onnxruntme"))
    assert "no backend 'onnxruntme'" in message
    assert "Did you mean onnxruntime?" in remedy


def test_a_backend_that_is_not_here_says_what_to_install(bundle):
    if backend("onnxruntime-cuda").available().ok:
        pytest.skip("ONNX Runtime runs on a GPU here")
    message, remedy = refused(torchlift("build", bundle.path, "--backend", "onnxruntime-cuda"))
    assert "onnxruntime-cuda cannot be used" in message
    assert "pip install onnxruntime-gpu" in remedy
    assert Bundle.open(bundle.path).manifest == bundle.manifest


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--axis", "batch"), ("--axis batch", "NAME=MIN..OPT..MAX")),
        (("--axis", "batch=many"), ("--axis batch=many", "1..8..64")),
        (("--axis", "batch=8..4..1"), ("--axis batch=8..4..1", "min <= opt <= max")),
        (("--axis", "batch=1..8"), ("--axis batch=1..8", "min..opt..max")),
        (("--axis", "=1..2..3"), ("--axis =1..2..3", "not an identifier")),
        (("--tolerance", "fp32"), ("--tolerance fp32", "PRECISION=SCALED")),
        (("--tolerance", "fp32=little"), ("--tolerance fp32=little", "PRECISION=SCALED")),
        (("--tolerance", "fp12=0.1"), ("--tolerance fp12=0.1", "PRECISION=SCALED")),
        (("--tolerance", "fp32=0.1,0.9,3"), ("--tolerance fp32=0.1,0.9,3", "PRECISION=SCALED")),
        (("--tolerance", "fp32=nan"), ("--tolerance fp32=nan", "PRECISION=SCALED")),
        (("--tolerance", "fp32=inf"), ("--tolerance fp32=inf", "PRECISION=SCALED")),
        (("--tolerance", "fp32=-1"), ("--tolerance fp32=-1", "PRECISION=SCALED")),
        (("--tolerance", "fp32=0.1,nan"), ("--tolerance fp32=0.1,nan", "PRECISION=SCALED")),
        (("--batch", "one"), ("--batch one", "1,8")),
        (("--batch", "4,0"), ("--batch 4,0", "at least one row")),
        (("--precision", "fp64"), ("--precision fp64", "fp32, fp16, int8, int8-dynamic")),
        (("--rounds", "0"), ("'--rounds'", "0 is not in the range x>=2")),
        (("--threads", "-1"), ("'--threads'", "threads is -1", "1024")),
        (("--threads", "1025"), ("'--threads'", "threads is 1025", str(usable_cores()))),
        (("--threads", "12345678901234567890"), ("'--threads'", "threads is 12345678901234567890", "1024")),
        (("--exporter", "magic"), ("'--exporter'", "dynamo")),
        (("--resolution", "64px"), ("'--resolution'", "64px")),
        (("--colour", "red"), ("No such option", "--colour")),
    ],
)
def test_options_that_cannot_be_read_are_wrong_usage(weights, tmp_path, arguments, fragments):
    message = misused(ship_clip(weights, tmp_path / "out", *arguments))
    assert all(fragment in message for fragment in fragments), message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("shp",), "No such command 'shp'"),
        (("inspect",), "Missing argument 'BUNDLE'"),
        (("ship", "chinese-clip", "--checkpoint", "x.pt"), "Missing option '-o'"),
        (("ship", "chinese-clip", "-o", "out"), "chinese-clip needs --checkpoint"),
        (("ship", "net.py:build", "--checkpoint", "x.pt", "-o", "out"), "module of your own"),
        (("bench", "x", "--format", "poem"), "'poem' is not one of"),
        (("bench", "x", "--checkpoint", "a.pt", "--module", "b.py:c"), "--checkpoint or --module, not both"),
        (("bench", "x", "--compile"), "it needs --checkpoint or --module"),
        (("bench", "x", "--size", "sequence"), "--size sequence: write AXIS=N"),
        (("bench", "x", "--size", "sequence=-1"), "--size sequence=-1: write AXIS=N"),
        (("bench", "x", "--size", "batch=4"), "use --batch 4"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, fragment):
    assert fragment in misused(torchlift(*arguments))


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ((), ("--image or --text",)),
        (("--input", "image=x.npy"), ("--image and --text", "not --input")),
    ],
)
def test_run_of_chinese_clip_says_what_it_takes(clip, arguments, fragments):
    message = misused(torchlift("run", clip.path, *arguments))
    assert all(fragment in message for fragment in fragments)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--text", "cat"), "this bundle takes --input x=FILE"),
        (("--image", "cat.png"), "this bundle takes --input x=FILE"),
        (("--input", "x"), "--input x: write NAME=FILE"),
        (("--input", "x=cat.png"), "x is an array, give a .npy file"),
        (("--input", "x={folder}/a.npy", "--input", "x={folder}/a.npy"), "x is given twice"),
    ],
)
def test_run_of_a_module_says_what_it_takes(built, tmp_path, arguments, fragment):
    np.save(tmp_path / "a.npy", np.zeros((1, 32), np.float32))
    assert fragment in misused(torchlift("run", built.path, *(a.format(folder=tmp_path) for a in arguments)))


def test_run_takes_images_or_an_array_for_one_input_not_both(net, picture, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 24, 24), np.float32))
    both = [("--input", f"image={picture}"), ("--input", f"image={tmp_path / 'a.npy'}")]
    for first, second in (both, both[::-1]):
        assert "image is given" in misused(torchlift("run", net.path, *first, *second))


class Code:
    """A pickle that would leave a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("content", ["nothing", "text", "pickle"])
def test_run_names_an_array_that_cannot_be_read(built, tmp_path, content):
    file = tmp_path / "x.npy"
    if content == "pickle":
        np.save(file, np.array([Code(tmp_path / "mark")], object), allow_pickle=True)
    else:
        file.write_text({"nothing": "", "text": "1 2 3"}[content])
    message, remedy = refused(torchlift("run", built.path, "--input", f"x={file}"))
    assert f"{file} is not a readable .npy array" in message
    assert "numpy.save" in remedy
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (("--image", "/nowhere.png"), "picture 0 (/nowhere.png) does not exist", "path"),
        (("--text", " "), "text 0 is empty", "white space"),
        (
            ("--text", "猫", "--variant", "text/onnxruntime/fp16"),
            "no variant 'text/onnxruntime/fp16'",
            "text/onnxruntime",
        ),
        (("--text", "猫", "--variant", "onnxruntime/fp61"), "no variant 'onnxruntime/fp61'", "text/onnxruntime/fp32"),
    ],
)
def test_run_names_what_it_cannot_use(clip, arguments, message, remedy):
    found, advice = refused(torchlift("run", clip.path, *arguments))
    assert message in found
    assert remedy in advice


def test_run_names_an_input_that_is_missing(built, tmp_path):
    assert torchlift("verify", built.path).code == 0
    message, remedy = refused(torchlift("run", built.path, "--variant", "model/onnxruntime/fp32"))
    assert "missing x" in message
    assert "The inputs are x" in remedy


def test_a_checkpoint_that_is_missing(tmp_path):
    message, remedy = refused(ship_clip(tmp_path / "clip.pt", tmp_path / "out"))
    assert f"{tmp_path / 'clip.pt'} does not exist" in message
    assert "clip_cn_*.pt" in remedy
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_truncated(weights, tmp_path):
    (tmp_path / "clip.pt").write_bytes(weights.read_bytes()[:10_000])
    message, remedy = refused(ship_clip(tmp_path / "clip.pt", tmp_path / "out"))
    assert "clip.pt is truncated: it has 10,000 bytes" in message
    assert "again" in remedy


def test_a_checkpoint_of_openai_is_recognised(tmp_path):
    names = ("token_embedding.weight", "visual.conv1.weight", "logit_scale", "text_projection", "ln_final.weight")
    torch.save({name: torch.zeros(4, 4) for name in names}, tmp_path / "ViT-B-16.pt")
    message, remedy = refused(ship_clip(tmp_path / "ViT-B-16.pt", tmp_path / "out"))
    assert "ViT-B-16.pt looks like a model of OpenAI's CLIP" in message
    assert "clip_cn_*.pt" in remedy


def test_a_pickle_with_code_does_not_run(tmp_path):
    torch.save({"state_dict": Code(tmp_path / "mark")}, tmp_path / "clip.pt")
    message, remedy = refused(ship_clip(tmp_path / "clip.pt", tmp_path / "out"))
    assert "calls posix.mkdir: it was not loaded, and nothing of it ran" in message
    assert "trust" in remedy
    assert not (tmp_path / "mark").exists()


def test_a_module_without_that_function(net, tmp_path):
    message, remedy = refused(torchlift("ship", net.source.replace(":build", ":biuld"), "-o", tmp_path / "out"))
    assert "has no function 'biuld'" in message
    assert "build" in remedy


def test_a_batch_outside_the_range_of_the_bundle(built):
    assert torchlift("verify", built.path).code == 0
    message, remedy = refused(torchlift("bench", built.path, "--batch", "9", "--rounds", 2))
    assert "batch 9 is outside 1..8" in message
    assert "--axis batch=1..4..9" in remedy


def change_a_byte(bundle):
    file = bundle.file(bundle.manifest.components[0].goldens)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def remove_a_file(bundle):
    bundle.file(bundle.manifest.components[0].goldens).unlink()


def edit_manifest(**changes):
    def edit(bundle):
        file = bundle.file("manifest.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return edit


def cut_manifest(bundle):
    file = bundle.file("manifest.json")
    file.write_text(file.read_text()[:-50])


USED = {"run": ("--variant", "model/openvino/fp32")}
"""What a command must use of the tiny bundle, where it compares only what it uses: nothing is chosen there."""


@pytest.mark.parametrize(
    ("spoil", "message", "remedy"),
    [
        (change_a_byte, "was changed: its SHA-256 is not the manifest's", "Copy the bundle again"),
        (remove_a_file, "is missing", "Copy the bundle again"),
        (edit_manifest(version=99), "has version 99; this torchlift reads up to 3", "pip install -U torchlift"),
        (edit_manifest(format="zip"), "is not a torchlift manifest", "that torchlift wrote"),
        (edit_manifest(components=7), "manifest.json is damaged", "Copy the bundle again"),
        (cut_manifest, "manifest.json is damaged", "Copy the bundle again"),
        (lambda bundle: bundle.file("manifest.json").unlink(), "no readable manifest.json", "torchlift ship"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "run", "verify", "bench", "build", "pack"])
def test_a_bundle_that_is_not_whole_is_refused_by_every_command(built, command, spoil, message, remedy):
    spoil(built)
    found, advice = refused(torchlift(command, built.path, *USED.get(command, ())))
    assert message in found
    assert str(built.path) in found
    assert remedy in advice


@pytest.mark.parametrize("command", ["inspect", "run", "verify", "bench", "pack"])
def test_what_is_built_and_damaged_is_refused_with_the_command_that_mends_it(built, command):
    variant = built.manifest.variant("model/openvino/fp32")
    built.file(variant.model).unlink()
    found, advice = refused(torchlift(command, built.path, *USED.get(command, ())))
    assert f"{variant.model} is missing" in found
    assert f"torchlift build {built.path} --backend openvino --precision fp32" in advice


def test_what_is_built_and_damaged_is_built_again(built):
    variant = built.manifest.variant("model/openvino/fp32")
    built.file(variant.model).unlink()
    done = torchlift("build", built.path, "--backend", "openvino", "--precision", "fp32", "--rounds", 2, "--batch", 1)
    assert done.code == 0
    assert "model/openvino/fp32 counts as not built" in done.err
    assert torchlift("verify", built.path).code == 0


@pytest.mark.parametrize("command", ["inspect", "run", "verify", "bench", "build", "pack"])
def test_what_is_no_bundle_is_refused_by_every_command(command, tmp_path):
    message, remedy = refused(torchlift(command, tmp_path / "nowhere"))
    assert f"{tmp_path / 'nowhere'} is not a folder" in message
    assert "torchlift ship" in remedy
    message, _ = refused(torchlift(command, tmp_path))
    assert f"{tmp_path} has no readable manifest.json" in message


def test_ship_does_not_write_into_a_folder_of_something_else(net, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    message, remedy = refused(torchlift("export", net.source, "-o", tmp_path))
    assert f"{tmp_path} exists and is not a bundle" in message
    assert "-o" in remedy
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_unpack_writes_nothing_outside_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("manifest.json", encode_manifest(Manifest("evil", "module", "key", {})))
        archive.writestr("../mark.txt", "written")
    (tmp_path / "inner").mkdir()
    message, remedy = refused(torchlift("unpack", tmp_path / "evil.zip", "-o", tmp_path / "inner" / "out"))
    assert "holds the entry '../mark.txt'" in message
    assert "Do not use" in remedy
    assert not list(tmp_path.rglob("mark.txt"))
    assert not (tmp_path / "inner" / "out").exists()


def test_pack_into_a_folder_asks_for_a_file(net, tmp_path):
    message, remedy = refused(torchlift("pack", net.path, "-o", tmp_path))
    assert message == f"{tmp_path} is a folder"
    assert f"{tmp_path / 'bundle.zip'}" in remedy
    assert list(tmp_path.iterdir()) == []


def test_unpack_of_what_is_no_archive(tmp_path):
    for file, content in (("missing.zip", None), ("text.zip", "no zip")):
        if content:
            (tmp_path / file).write_text(content)
        message, remedy = refused(torchlift("unpack", tmp_path / file, "-o", tmp_path / "out"))
        assert f"{tmp_path / file} is not a readable .zip" in message
        assert "Pack" in remedy


def test_a_message_with_brackets_is_printed_as_it_is(tmp_path):
    message, _ = refused(torchlift("inspect", tmp_path / "[red]net[/red]"))
    assert "[red]net[/red] is not a folder" in message


def test_with_json_standard_output_holds_the_json_alone(built):
    for command in ("build", "verify", "bench"):
        more = () if command == "verify" else ("--rounds", "2", "--batch", "1")
        said = torchlift(command, built.path, *more, "--json")
        assert said.code == 0, said.err
        json.loads(said.out)
        assert "- " in said.err, "progress is told on standard error"


def test_an_error_leaves_standard_output_empty_and_v_gives_the_traceback(tmp_path):
    short = in_process("inspect", tmp_path / "nowhere", "--json")
    refused(short)
    long = in_process("inspect", tmp_path / "nowhere", "-v")
    assert long.code == 1
    assert "Traceback (most recent call last)" in long.err
    assert "BundleError" in long.err
    assert "Give the folder that `torchlift ship` wrote" in long.err


def test_v_is_an_option_and_no_value_that_looks_like_one(net):
    asked = in_process("run", net.path, "--variant=model/none/fp32", "--text", "-v")
    refused(asked)
    long = in_process("run", net.path, "--variant=model/none/fp32", "--verbose")
    assert "Traceback (most recent call last)" in long.err


def test_a_size_of_an_axis_that_is_not_there(clip):
    message = misused(torchlift("bench", clip.path, "--size", "sequnce=24"))
    assert "--size sequnce: the bundle's axes are batch, sequence" in message


def test_a_family_that_looks_like_a_module_is_none(tmp_path):
    message, _ = refused(torchlift("ship", "foo.pytorch", "-o", tmp_path / "out"))
    assert "no family 'foo.pytorch'" in message


@pytest.mark.parametrize("command", [*_COMMANDS])
def test_an_interruption_promises_to_go_on_only_where_that_is_so(command, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    module = importlib.import_module(f"torchlift.cli.{command}")
    monkeypatch.setattr(module.command, "callback", interrupt)
    arguments = {
        "ship": ("net.py:build", "-o", "out"),
        "export": ("net.py:build", "-o", "out"),
        "unpack": ("a.zip", "-o", "out"),
        "doctor": (),
        "bisect": ("bundle", "--variant", "model/onnxruntime/int8"),
    }
    said = torchlift(command, *arguments.get(command, ("bundle",)))
    assert said.code == 130
    promise = ": what was there before is untouched; the same command goes on from here"
    assert said.err.strip() == "interrupted" + (promise if command in ("ship", "export") else "")


@pytest.mark.parametrize("arguments", [("chinese-clip", "--checkpoint", "clip.pt"), ("net.py:build",)])
def test_ship_without_torch_says_what_to_install(tmp_path, arguments):
    message, remedy = refused(in_process("ship", *arguments, "-o", tmp_path / "out", prelude=REFUSE_TORCH))
    assert "torch is not installed" in message
    assert 'pip install "torchlift[torch]"' in remedy


def heeding_ctrl_c():
    """A shell lets what it starts in the background ignore Ctrl-C, and so does all that this starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_exits_with_130_and_leaves_the_bundle_whole(built):
    assert torchlift("verify", built.path).code == 0
    before = Bundle.open(built.path).manifest
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "bench", built.path, "--rounds", "100000", "--batch", "1"],
        preexec_fn=heeding_ctrl_c,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if "measure side by side" in line:
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert Bundle.open(built.path).manifest == before


SMALL_FILES = """
import resource, signal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
"""


def test_a_full_disk_during_ship_is_named_and_the_old_bundle_stays(net, net_copy):
    before = Bundle.open(net_copy).manifest
    large = net.source.replace(":build", ":large")
    message, remedy = refused(in_process("ship", large, "-o", net_copy, prelude=SMALL_FILES))
    assert "the disk is full" in message
    assert "what was finished is kept" in remedy
    assert Bundle.open(net_copy).manifest == before


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except (OSError, AttributeError):
        mounted = False
    if not mounted:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_during_pack_leaves_nothing_behind(clip, tiny_disk):
    (tiny_disk / "full").write_bytes(bytes(900_000))
    message, remedy = refused(torchlift("pack", clip.path, "-o", tiny_disk / "clip.zip"))
    assert f"{tiny_disk}: the disk is full" in message
    assert "space" in remedy
    assert [file.name for file in tiny_disk.iterdir()] == ["full"]


def test_a_full_disk_during_export_leaves_the_old_bundle(net, tiny_disk):
    old = shutil.copytree(net.path, tiny_disk / "net")
    (tiny_disk / "full").write_bytes(bytes(600_000))
    large = net.source.replace(":build", ":large")
    message, remedy = refused(torchlift("export", large, "-o", old, "--exporter", "torchscript"))
    assert "GB are free" in message or "the disk is full" in message
    assert "space" in remedy
    Bundle.open(old)
