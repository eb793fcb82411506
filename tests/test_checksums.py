"""No file of a bundle is read before its bytes were compared with the manifest, and each is compared once."""

import dataclasses
import os
import shutil

import pytest
import staged
import tiny

from torchlift.archive import pack
from torchlift.bundle import Bundle
from torchlift.errors import BundleError, ChecksumError
from torchlift.jobs import JobOptions, build_bundle, verify_bundle
from torchlift.manifest import MANIFEST, Graph, encode_manifest
from torchlift.prove.verify import VerifyOptions
from torchlift.stages import BuildOptions

COMPARED = {name: f"compare checksums of {name}" for name in (staged.ORT, staged.OV, "model")}


@pytest.fixture
def used(built):
    """The built bundle, opened to use; it remembers what it said."""
    heard = staged.Recorder()
    bundle = Bundle.open_to_use(built.path, heard)
    bundle.heard = heard
    return bundle


def larger(file):
    """As a stranger would exhaust memory: a terabyte that takes no room on the disk."""
    os.truncate(file, 1 << 40)


def linked(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def piped(file):
    file.unlink()
    os.mkfifo(file)


DAMAGE = [tiny.flip, larger, lambda file: file.unlink(), linked, piped]
READ = {
    "model": lambda bundle, variant: bundle.model(variant),
    "read": lambda bundle, variant: bundle.read(variant.model),
    "open_file": lambda bundle, variant: bundle.open_file(variant.model).close(),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=["changed", "larger", "gone", "a link", "a pipe"])
@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_a_damaged_file_is_refused_when_it_is_first_used(used, read, damage):
    variant = used.manifest.variant(staged.ORT)
    damage(used.file(variant.model))
    for _ in range(2):
        with pytest.raises(BundleError) as caught:
            read(used, variant)
        assert str(used.path) in caught.value.message
        assert variant.model in caught.value.message
        assert "Copy the bundle again" in caught.value.remedy or damage is linked


def test_weights_beside_a_model_are_compared_before_it_is_handed_out(used):
    variant = used.manifest.variant(staged.ORT)
    weights = next(path for path in variant.files if path.endswith(".data"))
    tiny.flip(used.file(weights))
    with pytest.raises(ChecksumError, match=r"model\.onnx\.data was changed"):
        used.model(variant)


@pytest.mark.parametrize("read", READ.values(), ids=READ)
def test_what_is_not_used_is_not_compared(used, read):
    tiny.flip(used.file(used.manifest.variant(staged.OV).model))
    read(used, used.manifest.variant(staged.ORT))
    with pytest.raises(ChecksumError, match=r"\.xml was changed"):
        read(used, used.manifest.variant(staged.OV))
    with pytest.raises(ChecksumError, match=r"\.xml was changed"):
        Bundle.open(used.path)


def test_what_is_read_is_what_is_on_the_disk(used):
    variant = used.manifest.variant(staged.ORT)
    file = used.model(variant)
    for bundle in (used, Bundle.open_to_use(used.path)):  # compared before, and not
        assert bundle.read(variant.model) == file.read_bytes()
        with bundle.open_file(variant.files[-1]) as stream:
            assert stream.read() == bundle.file(variant.files[-1]).read_bytes()


def test_each_file_is_compared_once(used):
    variant, component = used.manifest.variant(staged.ORT), used.manifest.component("model")
    used.model(variant)
    used.model(variant)
    used.model(component)
    assert used.heard.titles == [COMPARED[staged.ORT], COMPARED["model"]]


def test_files_that_were_read_are_not_compared_again(used):
    variant = used.manifest.variant(staged.ORT)
    for path in variant.files:
        used.read(path)
    used.model(variant)
    assert used.heard.titles == []


def test_a_bundle_that_was_compared_whole_compares_nothing_when_used(built):
    heard = staged.Recorder()
    bundle = Bundle.open(built.path, heard)
    for owner in (*bundle.manifest.components, *bundle.manifest.variants):
        bundle.model(owner)
    assert heard.titles == ["compare all checksums"]


def test_what_this_process_wrote_is_not_compared(used):
    source = used.manifest.component("model").model
    data = used.read(source)
    with used.adding("model/copy") as added:
        (added.path / "model.onnx").write_bytes(data)
    (path,) = added.files
    graph = Graph("model", "copy", "key", path, (path,))
    used.commit(used.manifest.with_graph(graph), added.files)
    assert used.read(used.model(graph).relative_to(used.path).as_posix()) == data
    assert used.heard.titles == []


def test_another_record_of_the_same_path_is_compared_again(built):
    variant = built.manifest.variant(staged.ORT)
    record = dataclasses.replace(built.manifest.files[variant.model], sha256="0" * 64)
    changed = dataclasses.replace(built.manifest, files={**built.manifest.files, variant.model: record})
    (built.path / MANIFEST).write_bytes(encode_manifest(changed))
    built.manifest = changed
    with pytest.raises(ChecksumError, match=r"model\.onnx was changed"):
        built.model(variant)


@pytest.mark.parametrize("path", ["unlisted", "../outside", "model"])
@pytest.mark.parametrize("method", ["read", "open_file"])
def test_a_file_without_a_checksum_is_not_read(used, path, method):
    (used.path / path).parent.joinpath("unlisted").write_bytes(b"x")
    with pytest.raises(BundleError, match="does not list") as caught:
        getattr(used, method)(path)
    assert repr(path) in caught.value.message


def test_files_that_are_not_listed_are_noted(built):
    (built.path / "unlisted").write_bytes(b"x")
    heard = staged.Recorder()
    Bundle.open_to_use(built.path, heard)
    assert len(heard.notes) == 1
    assert "unlisted" in heard.notes[0]


def test_a_bundle_that_another_process_changed_is_no_damage(used):
    variant = used.manifest.variant(staged.ORT)
    shutil.rmtree(used.path)
    tiny.make_bundle(used.path)
    with pytest.raises(BundleError, match="changed since it was opened") as caught:
        used.model(variant)
    assert not isinstance(caught.value, ChecksumError)
    assert caught.value.remedy == "Open it again."


@pytest.mark.parametrize(
    "write",
    [
        lambda path: pack(path, path.with_suffix(".zip")),
        lambda path: verify_bundle(path, VerifyOptions()),
        lambda path: build_bundle(path, JobOptions(BuildOptions(("onnxruntime",), ("fp32",)))),
    ],
    ids=["pack", "verify", "build"],
)
def test_who_writes_compares_everything(built, write):
    with built.adding("extra") as added:
        (added.path / "labels").write_bytes(b"cat")
    (path,) = added.files
    built.commit(dataclasses.replace(built.manifest, assets={"labels": path}), added.files)
    tiny.flip(built.file(path))
    with pytest.raises(ChecksumError, match=r"extra/labels was changed"):
        write(built.path)
