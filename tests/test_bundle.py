import contextlib
import dataclasses
import json
import os
import shutil

import pytest
import staged
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from torchlift.archive import pack
from torchlift.bundle import Bundle
from torchlift.checksums import key_of, sha256
from torchlift.errors import BundleError, ChecksumError, ManifestVersionError
from torchlift.evidence import (
    Benchmark,
    Breach,
    Choice,
    Difference,
    Entrant,
    Failure,
    Gate,
    GoldenCheck,
    Interval,
    Latency,
    NotMeasured,
    Provenance,
    Ran,
    Rows,
    Tolerance,
    Verdict,
)
from torchlift.evidence import Verification as Proof
from torchlift.jobs import JobOptions, build_bundle, verify_bundle
from torchlift.machine import Machine, this_machine
from torchlift.manifest import MANIFEST, Component, FileRecord, Graph, Manifest, Variant, encode_manifest, read_manifest
from torchlift.prove.verify import VerifyOptions
from torchlift.signature import DTYPES, Axis, Signature, TensorSpec
from torchlift.stages import BuildOptions

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**40)
words = st.text(max_size=12)
hashes = st.dictionaries(words, words, max_size=3)


def many(strategy):
    return st.lists(strategy, max_size=2).map(tuple)


machines = st.builds(Machine, words, many(words), counts, counts, words)
runs = {
    "rows": st.none() | st.builds(Rows, counts, counts),
    "sizes": st.dictionaries(words, counts, max_size=2),
    "company": st.sampled_from(["alone", "turned", "fewer"]),
    "replayed": st.booleans(),
    "true_half": st.booleans(),
}
differences = st.builds(Difference, *[numbers] * 7, counts, counts, counts, numbers)
checks = st.builds(GoldenCheck, words, words, differences, **runs)
failures = st.builds(
    Failure,
    kind=st.sampled_from(["difference", "cosine", "nonfinite", "unproven", "error"]),
    golden=words,
    output=words,
    difference=st.none() | numbers,
    limit=st.none() | numbers,
    nan=counts,
    inf=counts,
    detail=words,
    **runs,
)
proofs = st.builds(
    Proof,
    st.builds(Provenance, machines, words, hashes, words),
    st.builds(Tolerance, numbers, numbers),
    many(checks),
    many(checks),
    many(failures),
)
intervals = st.builds(Interval, numbers, numbers, numbers, numbers)
entrants = st.builds(
    Entrant, words, st.sampled_from(["fp32", "bf16", "fp16", "int8"]), st.none() | st.booleans(), st.booleans()
)
latencies = st.builds(
    Latency,
    entrants,
    st.dictionaries(words, counts, max_size=2),
    counts,
    *[numbers] * 8,
    st.none() | intervals,
)
benchmarks = st.builds(
    Benchmark,
    machines,
    words,
    counts,
    counts,
    st.none() | entrants,
    many(latencies),
    many(st.builds(Ran, entrants, words)),
    hashes,
    many(st.builds(NotMeasured, entrants, words)),
)
gates = st.builds(
    Gate,
    st.dictionaries(words, numbers, max_size=2),
    st.sampled_from(["latency", "throughput", "size"]),
    st.none() | st.floats(50, 99),
)
breaches = st.builds(Breach, words, numbers, st.none() | intervals, st.none() | numbers, st.none() | numbers)
kinds = st.sampled_from(["costlier", "breach", "disagrees", "not built", "not verified"])
verdicts = st.builds(Verdict, kinds, st.none() | numbers, st.none() | breaches, st.none() | failures, words)
choices = st.builds(
    Choice, words, gates, st.none() | counts, st.dictionaries(words, verdicts, max_size=2), st.booleans(), st.booleans()
)


@st.composite
def signatures(draw):
    names = draw(st.lists(st.from_regex(r"[a-z]{1,6}", fullmatch=True), max_size=3, unique=True))
    axes = [Axis(n, *draw(st.lists(st.integers(1, 99), min_size=3, max_size=3).map(sorted))) for n in names]
    dims = st.integers(1, 99) | (st.sampled_from(names) if names else st.nothing())

    def spec(name, dim):
        bounds = st.none() | st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1])
        return TensorSpec(name, draw(st.sampled_from(sorted(DTYPES))), draw(many(dim)), draw(bounds))

    tensors = draw(st.lists(words, min_size=2, max_size=4, unique=True))
    return Signature(
        (spec(tensors[0], dims),), tuple(spec(name, dims | st.none()) for name in tensors[1:]), tuple(axes)
    )


@st.composite
def manifests(draw):
    paths = draw(st.lists(st.from_regex(r"[a-z]{1,5}/[a-z]{1,5}", fullmatch=True), min_size=3, unique=True))
    component = Component("model", draw(signatures()), paths[0], paths[1], "dynamo", 20, draw(counts), draw(words))
    variant = Variant(
        "model", "openvino", "bf16", draw(words), paths[2], tuple(paths[2:]), "", draw(st.none() | proofs)
    )
    return Manifest(
        name=draw(words),
        family=draw(words),
        key=draw(words),
        settings={"scale": draw(numbers), "names": draw(st.lists(words, max_size=2)), "crop": None},
        assets={"vocabulary": paths[0]},
        components=(component,),
        variants=(variant, Variant("model", "onnxruntime", "fp32", "", failure=draw(words) or "no")),
        benchmarks={"model": draw(benchmarks)},
        choices={"model": draw(choices)},
        files={p: FileRecord(draw(words), draw(counts)) for p in paths},
        made_with=draw(hashes),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("manifest")


@settings(max_examples=25)
@given(manifest=manifests())
def test_a_manifest_reads_what_it_writes(folder, manifest):
    (folder / MANIFEST).write_bytes(encode_manifest(manifest))
    assert read_manifest(folder) == manifest


def edited(bundle, edit):
    """Change manifest.json as JSON, as a stranger might."""
    file = bundle.path / MANIFEST
    content = json.loads(file.read_bytes())
    edit(content)
    file.write_text(json.dumps(content))


def test_a_bundle_opens_as_it_was_written(built):
    again = Bundle.open(str(built.path))
    assert again.manifest == built.manifest
    assert again.manifest.component("model").signature == tiny.SIGNATURE
    assert again.manifest.settings == {"scale": 1.5, "names": ["a", "b"]}
    assert {p.relative_to(built.path).as_posix() for p in built.path.rglob("*") if p.is_file()} == {
        MANIFEST,
        *again.manifest.files,
    }


def test_a_bundle_that_moved_opens(built, tmp_path):
    manifest = built.manifest
    moved = shutil.move(built.path, tmp_path / "another place")
    assert Bundle.open(moved).manifest == manifest


def test_a_manifest_has_no_path_of_the_machine(built, bundle, tmp_path):
    for made in (built, bundle):
        text = (made.path / MANIFEST).read_text()
        assert str(tmp_path) not in text
        assert all(f'"{place}' not in text for place in ("/tmp", "/root", "/home", "/"))


def test_a_changed_byte_is_found(built):
    file = built.file("model/onnxruntime-fp32/model.onnx.data")
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"model/onnxruntime-fp32/model\.onnx\.data was changed") as caught:
        Bundle.open(built.path)
    assert str(built.path) in caught.value.message
    assert caught.value.remedy == (
        "Copy the bundle again from where it was made, or build the variant again: torchlift build "
        f"{built.path} `backends=onnxruntime` `precisions=fp32`."
    )


@pytest.mark.parametrize("mending", [False, True])
def test_a_missing_file_is_found(built, mending):
    built.file("model/source/goldens.safetensors").unlink()
    with pytest.raises(ChecksumError, match=r"model/source/goldens\.safetensors is missing") as caught:
        Bundle.open(built.path, mending=mending)
    assert caught.value.remedy == "Copy the bundle again from where it was made, or ship it again."


def test_to_be_mended_a_bundle_opens_without_the_variants_whose_own_files_are_damaged(built):
    notes, before = staged.Recorder(), built.manifest
    gone, kept = (tuple(v for v in before.variants if (v.backend == name)) for name in ("openvino", "onnxruntime"))
    choices = {"model": Choice(gone[0].name)}
    built.commit(dataclasses.replace(before, choices=choices))
    file = built.file(gone[0].model)
    file.unlink()
    opened = Bundle.open(built.path, notes, mending=True)
    assert opened.manifest.variants == kept
    assert opened.manifest.choices == {}
    assert notes.notes == [f"{v.name} counts as not built: {gone[0].model} is missing" for v in gone]
    with pytest.raises(ChecksumError):
        Bundle.open(built.path)
    opened.commit(opened.manifest)
    assert Bundle.open(built.path).manifest == opened.manifest
    assert not file.parent.exists()


def test_a_whole_bundle_that_is_opened_to_be_mended_is_as_it_was(built):
    built.commit(dataclasses.replace(built.manifest, choices={"model": Choice("model/openvino/fp32")}))
    assert Bundle.open(built.path, mending=True).manifest == built.manifest


@pytest.mark.parametrize("mending", [False, True])
def test_the_files_of_a_graph_that_a_variant_opens_as_it_is_are_not_mended(bundle, mending):
    with bundle.adding("model/program") as added:
        (added.path / "model.pt2").write_bytes(b"a program")
    (file,) = added.files
    graph = Graph("model", "program", "key", file, (file,))
    variant = Variant("model", "pytorch", "fp32", "key", file, (file,), form="program")
    bundle.commit(bundle.manifest.with_graph(graph).with_variant(variant), added.files)
    bundle.file(file).write_bytes(b"another 1")
    with pytest.raises(ChecksumError, match=r"model\.pt2 was changed") as caught:
        Bundle.open(bundle.path, mending=mending)
    assert caught.value.remedy.endswith("or ship it again.")


def test_a_file_of_another_length_is_found_with_both_lengths(built):
    with built.file("model/source/model.onnx").open("ab") as stream:
        stream.write(b"x")
    size = built.manifest.files["model/source/model.onnx"].size
    with pytest.raises(ChecksumError, match=rf"model/source/model\.onnx has {size + 1:,} bytes.* says {size:,}"):
        Bundle.open(built.path)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(BundleError, match="nowhere is not a folder") as caught:
        Bundle.open(tmp_path / "nowhere")
    assert "torchlift ship" in caught.value.remedy


def test_a_folder_without_a_manifest(tmp_path):
    with pytest.raises(BundleError, match=r"has no readable manifest\.json: No such file") as caught:
        Bundle.open(tmp_path)
    assert "torchlift export" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"[1]", b'{"format": "torchlift-bundle"', b'{"a": "\xff"}'])
def test_a_manifest_that_is_no_json(bundle, content):
    (bundle.path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged") as caught:
        Bundle.open(bundle.path)
    assert "Copy the bundle again" in caught.value.remedy


def test_a_manifest_nested_without_end(bundle):
    (bundle.path / MANIFEST).write_text("[" * 10**6)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("value", [None, "another-bundle", 3])
def test_a_manifest_of_something_else(bundle, value):
    edited(bundle, lambda content: content.update(format=value))
    with pytest.raises(BundleError, match="is not a torchlift manifest") as caught:
        Bundle.open(bundle.path)
    assert "a folder that torchlift wrote" in caught.value.remedy


def test_a_manifest_of_a_newer_torchlift_is_refused_before_its_fields_are_read(bundle):
    edited(bundle, lambda content: content.update(version=4, components="now a string"))
    with pytest.raises(ManifestVersionError, match="has version 4; this torchlift reads up to 3") as caught:
        Bundle.open(bundle.path)
    assert "pip install -U torchlift" in caught.value.remedy


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda c: c.update(version="1"), "version"),
        (lambda c: c.update(components={}), "components"),
        (lambda c: c.pop("family"), "family"),
        (lambda c: c["components"][0].update(opset="20"), "opset"),
        (lambda c: c["files"]["model/source/model.onnx"].update(size="big"), "files"),
        (lambda c: c["components"][0]["signature"]["axes"][0].update(min=0), "0..4..8 is not a range"),
        (lambda c: c["components"][0]["signature"]["inputs"][0].update(dtype="float8"), "'float8' is not supported"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(bundle, edit, said):
    edited(bundle, edit)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged") as caught:
        Bundle.open(bundle.path)
    assert said in caught.value.message


@pytest.mark.parametrize("path", ["../x", "/x", "C:\\x", "C:/x", "a/../../x", "a\\..\\x", "a/C:x", "", "."])
def test_a_path_outside_the_bundle_is_refused(bundle, path):
    edited(bundle, lambda content: content["files"].update({path: {"sha256": "0", "size": 0}}))
    with pytest.raises(BundleError, match="points outside the bundle") as caught:
        Bundle.open(bundle.path)
    assert repr(path) in caught.value.message
    assert caught.value.remedy == "Do not use this bundle."


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "model/source/unlisted.onnx"])
@pytest.mark.parametrize(
    "edit",
    [
        lambda c, path: c["components"][0].update(model=path),
        lambda c, path: c["components"][0].update(goldens=path),
        lambda c, path: c["variants"][0].update(model=path),
        lambda c, path: c["variants"][0].update(files=[path]),
        lambda c, path: c["assets"].update(labels=path),
    ],
)
def test_nothing_is_used_that_has_no_checksum(built, edit, path):
    edited(built, lambda content: edit(content, path))
    with pytest.raises(BundleError, match="is damaged: no checksum for") as caught:
        Bundle.open(built.path)
    assert repr(path) in caught.value.message
    assert "Ship the model again" in caught.value.remedy


@pytest.mark.parametrize("path", [".hidden", "model/.hidden", "a/manifest.json", "x/" * 16 + "y", "x" * 201, "猫" * 70])
def test_a_path_that_torchlift_does_not_write_is_refused(bundle, path):
    edited(bundle, lambda content: content["files"].update({path: {"sha256": "0", "size": 0}}))
    with pytest.raises(BundleError, match="torchlift does not write") as caught:
        Bundle.open(bundle.path)
    assert repr(path) in caught.value.message


def test_a_file_above_another_is_refused(bundle):
    edited(bundle, lambda content: content["files"].update({"model/source": {"sha256": "0", "size": 0}}))
    with pytest.raises(BundleError, match="above another"):
        Bundle.open(bundle.path)


def test_a_variant_owns_its_model(built):
    goldens = built.manifest.component("model").goldens
    edited(built, lambda content: content["variants"][0].update(files=[goldens]))
    with pytest.raises(BundleError, match="lacks its own model"):
        Bundle.open(built.path)


@pytest.mark.parametrize("change", [{"backend": "x; rm -rf ~"}, {"method": "a b"}, {"backend": "x\ny"}])
def test_a_variant_of_another_name_than_torchlift_gives_is_refused(built, change):
    edited(built, lambda content: content["variants"][0].update(change))
    with pytest.raises(BundleError, match="names a variant"):
        Bundle.open(built.path)


def test_a_bundle_that_changes_while_it_is_opened_is_opened_as_it_is_then(built, monkeypatch):
    before, check = built.manifest, Bundle.check
    kept = tuple(v for v in before.variants if v.backend == "openvino")

    def changing(bundle, *given, **how):
        monkeypatch.undo()
        Bundle(built.path, before).commit(dataclasses.replace(before, variants=kept))
        return check(bundle, *given, **how)

    monkeypatch.setattr(Bundle, "check", changing)
    assert Bundle.open(built.path).manifest.variants == kept


def test_components_and_variants_by_name(built):
    manifest = built.manifest
    assert manifest.variant("model/onnxruntime/fp32").backend == "onnxruntime"
    assert manifest.variant("model/onnxruntime/fp32") in manifest.variants_of("model")
    assert manifest.variants_of("text") == ()
    with pytest.raises(BundleError, match="no component 'text'") as caught:
        manifest.component("text")
    assert caught.value.remedy == "The components are model."
    with pytest.raises(BundleError, match="no variant 'model/tensorrt/fp16'") as caught:
        manifest.variant("model/tensorrt/fp16")
    assert "model/onnxruntime/fp32" in caught.value.remedy


def test_sizes_and_hashes_are_those_of_the_files(built):
    variant = built.manifest.variant("model/openvino/fp32")
    assert built.manifest.size(variant) == sum(built.file(f).stat().st_size for f in variant.files)
    assert built.manifest.hashes(variant.files) == {f: sha256(built.file(f)) for f in variant.files}


def test_the_sha256_of_a_file(tmp_path):
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert tiny.record_of(file) == FileRecord(digest, 3)


def test_a_key_tells_its_parts_apart():
    keys = [key_of("a", "b"), key_of("ab"), key_of("a"), key_of("a", "b", ""), key_of(1), key_of("1")]
    assert len({*keys}) == len(keys)
    assert key_of("a", 1, None) == key_of("a", 1, None)


def test_a_component_that_changed_drops_what_was_built_from_it(built):
    machine = this_machine()
    manifest = dataclasses.replace(
        built.manifest,
        benchmarks={"model": Benchmark(machine, "", 1, 1, None, ()), "other": Benchmark(machine, "", 1, 1, None, ())},
        choices={"model": Choice("a"), "other": Choice("c")},
    )
    component = manifest.component("model")
    same = manifest.with_component(component)
    assert (same.variants, same.benchmarks, same.choices) == (manifest.variants, manifest.benchmarks, manifest.choices)
    changed = manifest.with_component(dataclasses.replace(component, key="another"))
    assert changed.variants == ()
    assert list(changed.benchmarks) == list(changed.choices) == ["other"]


def test_a_variant_of_the_same_name_is_replaced(built):
    variant = dataclasses.replace(built.manifest.variant("model/onnxruntime/fp32"), failure="new")
    names = [v.name for v in built.manifest.variants]
    manifest = built.manifest.with_variant(variant)
    assert [v.name for v in manifest.variants] == names
    assert manifest.variant(variant.name).failure == "new"


def fail_halfway(bundle, error):
    with bundle.adding("model/new") as added:
        (added.path / "half").write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_files_whose_writing_failed_leave_no_trace(bundle, error):
    before = tiny.contents(bundle.path)
    with pytest.raises(error):
        fail_halfway(bundle, error)
    assert tiny.contents(bundle.path) == before
    assert not list(bundle.path.glob(".*"))
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_files_count_only_once_they_are_committed(bundle):
    with bundle.adding("model/openvino-fp32") as added:
        (added.path / "deep").mkdir()
        (added.path / "deep" / "file").write_bytes(b"abc")
    assert added.files == {
        "model/openvino-fp32/deep/file": tiny.record_of(bundle.file("model/openvino-fp32/deep/file"))
    }
    assert Bundle.open(bundle.path).manifest.files == bundle.manifest.files
    assert "model/openvino-fp32/deep/file" not in bundle.manifest.files


def test_a_folder_that_is_there_already_is_left_alone(bundle):
    (bundle.path / "model" / "new").mkdir()
    (bundle.path / "model" / "new" / "notes").write_bytes(b"the user's own")
    (bundle.path / "model" / "new.2").symlink_to("nowhere")
    with bundle.adding("model/new") as added:
        (added.path / "file").write_bytes(b"new")
    assert added.folder == "model/new.3"
    assert (bundle.path / "model" / "new" / "notes").read_bytes() == b"the user's own"


def test_a_taken_folder_gets_another_name_and_the_old_files_go_with_the_commit(bundle):
    with bundle.adding("model/source") as added:
        for name in ("model.onnx", "goldens.safetensors"):
            shutil.copy(bundle.file(f"model/source/{name}"), added.path / name)
    assert added.folder == "model/source.2"
    assert bundle.file("model/source/model.onnx").is_file()
    component = dataclasses.replace(
        bundle.manifest.component("model"),
        model="model/source.2/model.onnx",
        goldens="model/source.2/goldens.safetensors",
    )
    bundle.commit(bundle.manifest.with_component(component), added.files)
    assert sorted(bundle.manifest.files) == ["model/source.2/goldens.safetensors", "model/source.2/model.onnx"]
    assert not bundle.file("model/source").exists()
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_a_commit_drops_what_nothing_refers_to(built):
    kept = [v for v in built.manifest.variants if v.backend == "openvino"]
    built.commit(dataclasses.replace(built.manifest, variants=tuple(kept)))
    assert not built.file("model/onnxruntime-fp32").exists()
    assert built.file(kept[0].model).is_file()
    assert {p.split("/")[1] for p in Bundle.open(built.path).manifest.files} == {"source", "openvino-fp32"}


def test_variants_that_share_files_keep_them_until_the_last(built):
    variants = [v for v in built.manifest.variants if v.backend == "openvino"]
    if len(variants) < 2:
        pytest.skip("this machine runs no bf16")
    built.commit(dataclasses.replace(built.manifest, variants=tuple(variants[1:])))
    assert built.file(variants[0].model).is_file()
    built.commit(dataclasses.replace(built.manifest, variants=()))
    assert not built.file(variants[0].model).exists()


COMMIT_ON_A_FULL_DISK = """
import dataclasses, resource
from torchlift.bundle import Bundle
from torchlift.errors import StorageError

bundle = Bundle.open(sys.argv[1])
before = bundle.manifest
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    bundle.commit(dataclasses.replace(before, variants=(), name="another"))
except StorageError as error:
    print(error)
print(bundle.manifest == before)
"""


def test_a_full_disk_leaves_the_old_manifest_and_its_files(built, python):
    before = tiny.contents(built.path)
    done = python(COMMIT_ON_A_FULL_DISK, built.path)
    assert "the disk is full" in done.stdout, done.stderr
    assert done.stdout.endswith("True\n")
    assert tiny.contents(built.path) == before


BUILD_ON_A_FULL_DISK = """
import resource
from torchlift import storage
from torchlift.bundle import Bundle
from torchlift.errors import StorageError
from torchlift.stages import build_variant

bundle = Bundle.open(sys.argv[1])
storage.free_space = lambda folder: 2**20
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    build_variant(bundle, bundle.manifest.component("model"), sys.argv[2], "fp32")
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_runtime_that_fills_the_disk_is_no_failed_build(bundle, python, backend):
    before = tiny.contents(bundle.path)
    done = python(BUILD_ON_A_FULL_DISK, bundle.path, backend)
    assert "the disk is full" in done.stdout, done.stdout + done.stderr
    assert tiny.contents(bundle.path) == before


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", "", "a b"])
def test_a_component_that_would_be_written_elsewhere_is_refused(bundle, name):
    manifest = json.loads((bundle.path / MANIFEST).read_text())
    manifest["components"][0]["name"] = name
    (bundle.path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"names a component {name!r}") as caught:
        Bundle.open(bundle.path)
    assert caught.value.remedy == "Do not use this bundle."


def test_nothing_is_added_outside_the_bundle(bundle):
    with pytest.raises(BundleError, match=r"'\.\./evil' is not within the bundle"), bundle.adding("../evil"):
        pass
    assert not (bundle.path.parent / "evil").exists()


def test_a_bundle_that_was_being_replaced_is_pointed_to(tmp_path):
    tiny.make_bundle(tmp_path / ".net.previous")
    with pytest.raises(BundleError) as caught:
        Bundle.open(tmp_path / "net")
    assert caught.value.remedy.endswith(".net.previous.")


# links that a stranger put into a bundle


@pytest.fixture
def victim(tmp_path):
    """A folder outside the bundle, which must stay as it is."""
    folder = tmp_path / "victim"
    (folder / "openvino-fp32").mkdir(parents=True)
    (folder / "file").write_text("precious")
    (folder / "openvino-fp32" / "model.xml").write_text("precious")
    before = tiny.contents(folder)
    yield folder
    assert tiny.contents(folder) == before


def in_vain(bundle, job):
    with pytest.raises(BundleError, match="is a link") as caught:
        job(bundle.path)
    assert "cp -rL" in caught.value.remedy


@pytest.fixture
def unmeasured(monkeypatch):
    """Times are made up."""
    monkeypatch.setattr("torchlift.stages.bench.measure_latency", staged.made_up)


JOBS = {
    "build": lambda path: build_bundle(path, JobOptions(build=BuildOptions(("openvino",), ("fp32",)))),
    "verify": lambda path: verify_bundle(path, VerifyOptions()),
    "open": Bundle.open,
    "pack": pack,
}


@pytest.mark.parametrize("job", JOBS)
def test_no_job_reaches_a_variants_file_through_a_link(built, victim, job):
    variant = built.manifest.variant("model/openvino/fp32")
    (built.path / "model" / "lnk").symlink_to(victim)
    edited(built, lambda content: content["files"].update({"model/lnk/file": {"sha256": "0", "size": 8}}))
    edited(
        built,
        lambda content: [
            v.update(files=[*v["files"], "model/lnk/file"]) for v in content["variants"] if v["model"] == variant.model
        ],
    )
    in_vain(built, JOBS[job])


@pytest.mark.parametrize("job", JOBS)
def test_no_job_works_in_a_folder_that_a_link_leads_to(built, victim, job):
    shutil.copytree(built.path / "model", victim.parent / "moved")
    shutil.rmtree(built.path / "model")
    (built.path / "model").symlink_to(victim.parent / "moved")
    before = tiny.contents(victim.parent / "moved")
    in_vain(built, JOBS[job])
    assert tiny.contents(victim.parent / "moved") == before


@pytest.mark.parametrize("name", [".manifest.json.partial", ".model.openvino-fp32.partial", "manifest.json"])
def test_no_job_writes_to_what_a_link_leads_to(bundle, victim, unmeasured, name):
    content = (bundle.path / MANIFEST).read_bytes()
    (bundle.path / name).unlink(missing_ok=True)
    (bundle.path / name).symlink_to(victim / "file")
    if name == MANIFEST:
        in_vain(bundle, JOBS["verify"])
        (bundle.path / name).unlink()
        (bundle.path / name).write_bytes(content)
    JOBS["build"](bundle.path)
    assert Bundle.open(bundle.path).manifest.choices["model"].variant == "model/openvino/fp32"


def test_what_is_left_of_a_folder_that_is_now_a_link_is_not_written_to(bundle, victim, unmeasured):
    (bundle.path / "model" / "openvino-fp32").symlink_to(victim)
    JOBS["build"](bundle.path)
    assert Bundle.open(bundle.path).manifest.variant("model/openvino/fp32").files


def test_files_that_the_manifest_does_not_list_are_named_when_a_bundle_is_opened(built):
    notes = staged.Recorder()
    Bundle.open(built.path, notes)
    assert notes.notes == []
    (built.path / "numpy.py").write_text("raise SystemExit")
    (built.path / "link").symlink_to("/etc")
    (built.path / ".model.new.01234567.partial").mkdir()
    (built.path / ".model.new.01234567.partial" / "file").write_text("another process is writing it")
    Bundle.open(built.path, notes)
    (said,) = notes.notes
    assert "numpy.py" in said
    assert "link" in said
    assert "partial" not in said


# changes that are made together


def put(bundle, name):
    with bundle.adding("assets") as added:
        (added.path / "file").write_text(name)
    bundle.commit(dataclasses.replace(bundle.manifest, name=name, assets={"a": f"{added.folder}/file"}), added.files)


def test_changes_made_together_count_at_the_end(bundle):
    put(bundle, "before")
    with bundle.together():
        put(bundle, "half")
        with bundle.together():
            put(bundle, "new")
        assert read_manifest(bundle.path).name == "before"
        assert bundle.manifest.name == "new"
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    assert bundle.read(bundle.manifest.assets["a"]) == b"new"
    assert set(tiny.contents(bundle.path)) == {MANIFEST, *bundle.manifest.files}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_changes_made_together_of_which_one_fails_were_not_made(bundle, error):
    put(bundle, "before")
    before, manifest = tiny.contents(bundle.path), bundle.manifest
    with contextlib.suppress(error), bundle.together():
        put(bundle, "half")
        put(bundle, "new")
        raise error
    assert tiny.contents(bundle.path) == before
    assert bundle.manifest == Bundle.open(bundle.path).manifest == manifest
    put(bundle, "later")
    assert bundle.read(bundle.manifest.assets["a"]) == b"later"


def test_new_files_are_on_the_disk_before_the_manifest_that_names_them(bundle, monkeypatch):
    synced, named, sync, replace_ = set(), [], os.fsync, os.replace

    def fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def replacing(source, target, **where):
        if target == MANIFEST:
            files = [bundle.path / path for path in tiny.contents(bundle.path)]
            folders = [file.parent for file in files]
            named.extend(p.name for p in (*files, *folders) if "assets" in p.parts and p.stat().st_ino not in synced)
        replace_(source, target, **where)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replacing)
    put(bundle, "new")
    assert named == []
    assert (bundle.path / "assets" / "file").stat().st_ino in synced
    assert bundle.path.stat().st_ino in synced
