"""Who may write a bundle, and how a whole new one takes the place of the one before."""

import contextlib
import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from staged import Recorder

from torchlift.bundle import Bundle
from torchlift.errors import BundleError, StorageError
from torchlift.manifest import MANIFEST
from torchlift.staging import locked, staging, writing


def stage(target, key="model-1"):
    return staging(target, dataclasses.replace(tiny.MANIFEST, key=key))


def write(bundle, text):
    """Finish something in a staged bundle."""
    with bundle.adding("assets") as added:
        (added.path / "labels.txt").write_text(text)
    bundle.commit(dataclasses.replace(bundle.manifest, assets={"labels": f"{added.folder}/labels.txt"}), added.files)


def labels(path):
    bundle = Bundle.open(path)
    return bundle.file(bundle.manifest.assets["labels"]).read_text()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_staged_bundle_takes_its_place_at_the_end(tmp_path):
    target = tmp_path / "deep" / "bundle"
    with stage(target) as bundle:
        write(bundle, "first")
        assert not target.exists()
    assert labels(target) == "first"
    assert names(target.parent) == ["bundle"]


def test_a_staged_bundle_replaces_the_one_before(tmp_path):
    for text in ("first", "second"):
        with stage(tmp_path / "bundle", key=text) as bundle:
            write(bundle, text)
    assert labels(tmp_path / "bundle") == "second"
    assert names(tmp_path) == ["bundle"]


def interrupted(target, text, key="model-1"):
    with contextlib.suppress(KeyboardInterrupt), stage(target, key) as bundle:
        write(bundle, text)
        raise KeyboardInterrupt


def test_a_failure_inside_leaves_the_bundle_before_whole(tmp_path):
    with stage(tmp_path / "bundle") as bundle:
        write(bundle, "first")
    before = tiny.contents(tmp_path / "bundle")
    interrupted(tmp_path / "bundle", "second")
    assert tiny.contents(tmp_path / "bundle") == before
    assert labels(tmp_path / "bundle") == "first"


def test_what_was_finished_is_found_again_for_the_same_model(tmp_path):
    interrupted(tmp_path / "bundle", "finished")
    with stage(tmp_path / "bundle") as bundle:
        assert labels(bundle.path) == "finished"
    assert labels(tmp_path / "bundle") == "finished"
    assert names(tmp_path) == ["bundle"]


def test_what_was_finished_is_dropped_for_another_model(tmp_path):
    interrupted(tmp_path / "bundle", "finished")
    with stage(tmp_path / "bundle", key="model-2") as bundle:
        assert bundle.manifest.assets == {}
        assert names(bundle.path) == [MANIFEST]
    assert Bundle.open(tmp_path / "bundle").manifest.key == "model-2"


def test_what_was_finished_and_then_damaged_is_dropped(tmp_path):
    interrupted(tmp_path / "bundle", "finished")
    (tmp_path / ".bundle.partial" / "assets" / "labels.txt").write_text("damaged!")
    with stage(tmp_path / "bundle") as bundle:
        assert bundle.manifest.assets == {}


def test_an_empty_folder_may_become_a_bundle(tmp_path):
    (tmp_path / "bundle").mkdir()
    with stage(tmp_path / "bundle") as bundle:
        write(bundle, "first")
    assert labels(tmp_path / "bundle") == "first"


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match="exists and is not a bundle") as caught, stage(tmp_path):
        pytest.fail("it was staged")
    assert "-o" in caught.value.remedy
    assert names(tmp_path) == ["thesis.tex"]


def test_a_file_in_the_place_of_the_bundle_is_left_alone(tmp_path):
    (tmp_path / "bundle").write_text("a file")
    with pytest.raises(BundleError, match="exists and is not a bundle"), stage(tmp_path / "bundle"):
        pytest.fail("it was staged")
    assert names(tmp_path) == ["bundle"]


def test_a_kill_between_the_two_renames_is_recovered(tmp_path, monkeypatch):
    rename = Path.rename

    def killed_at_the_second(path, target):
        if path.name == ".bundle.partial":
            raise KeyboardInterrupt
        return rename(path, target)

    with stage(tmp_path / "bundle") as bundle:
        write(bundle, "first")
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed_at_the_second)
        with stage(tmp_path / "bundle") as bundle:
            write(bundle, "second")
    assert names(tmp_path) == [".bundle.partial", ".bundle.previous"]
    interrupted(tmp_path / "bundle", "third")
    assert labels(tmp_path / "bundle") == "first"
    with stage(tmp_path / "bundle"):
        pass
    assert labels(tmp_path / "bundle") == "third"
    assert names(tmp_path) == ["bundle"]


def test_a_kill_after_the_two_renames_is_tidied(tmp_path):
    for name, text in ((".bundle.previous", "first"), ("bundle", "second")):
        with stage(tmp_path / name) as bundle:
            write(bundle, text)
    with stage(tmp_path / "bundle") as bundle:
        write(bundle, "third")
    assert labels(tmp_path / "bundle") == "third"
    assert names(tmp_path) == ["bundle"]


HOLD = """
from pathlib import Path
from torchlift.staging import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is writing tmp_path/bundle."""
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{HOLD}", str(tmp_path / "bundle")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_two_processes_do_not_write_one_bundle(tmp_path, holder):
    with pytest.raises(BundleError, match="written by another process") as caught, stage(tmp_path / "bundle"):
        pytest.fail("it was staged")
    assert str(tmp_path / "bundle") in caught.value.message
    assert "Wait for it" in caught.value.remedy
    holder.stdin.close()
    holder.wait()
    with stage(tmp_path / "bundle") as bundle:
        write(bundle, "second")
    assert labels(tmp_path / "bundle") == "second"


def test_a_process_that_was_killed_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with locked(tmp_path / "bundle"):
        assert names(tmp_path) == [".bundle.lock"]
    assert names(tmp_path) == []


def test_a_lock_makes_no_folders(tmp_path):
    with pytest.raises(BundleError, match="typo is not a folder") as caught, locked(tmp_path / "typo" / "bundle"):
        pytest.fail("it was locked")
    assert "torchlift ship" in caught.value.remedy
    assert names(tmp_path) == []


def test_shipping_through_a_link_keeps_the_link(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    for key in ("one", "two"):
        with staging(link if link.exists() else real, dataclasses.replace(tiny.MANIFEST, key=key)):
            pass
        if not link.exists():
            link.symlink_to(real)
    assert link.is_symlink()
    assert Bundle.open(link).manifest.key == Bundle.open(real).manifest.key == "two"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


def test_a_mount_point_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_mount", lambda self: True)
    with pytest.raises(BundleError, match="is a mount point") as caught, staging(tmp_path / "out", tiny.MANIFEST):
        pytest.fail("work began")
    assert caught.value.remedy.endswith("out/bundle.")


def test_a_resumed_bundle_says_what_it_is_made_with_now(tmp_path):
    before = dataclasses.replace(tiny.MANIFEST, made_with={"torch": "1"})
    with contextlib.suppress(KeyboardInterrupt), staging(tmp_path / "net", before):
        raise KeyboardInterrupt
    with staging(tmp_path / "net", dataclasses.replace(before, made_with={"torch": "2"})):
        pass
    assert Bundle.open(tmp_path / "net").manifest.made_with == {"torch": "2"}


@pytest.fixture
def stuck(monkeypatch):
    """Folders of these names cannot be removed, as where they belong to somebody else."""
    names, remove = set(), shutil.rmtree

    def rmtree(path, *arguments, **options):
        if Path(path).name not in names:
            remove(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    return names


@pytest.mark.parametrize("as_file", [False, True])
def test_what_was_there_before_and_cannot_be_removed_is_told_at_the_start_and_is_not_in_the_way(
    tmp_path, stuck, as_file
):
    with stage(tmp_path / "bundle") as bundle:
        write(bundle, "first")
    previous = tmp_path / ".bundle.previous"
    if as_file:
        previous.write_text("somebody's")
    else:
        stuck.add(previous.name)
        previous.mkdir()
        (previous / "file").write_text("somebody's")
    before = tiny.contents(tmp_path)[".bundle.previous" + "/file" * (not as_file)]
    for text in ("second", "third"):
        notes = Recorder()
        with staging(tmp_path / "bundle", dataclasses.replace(tiny.MANIFEST, key=text), notes) as bundle:
            assert any(str(previous) in said for said in notes.notes), "it is said before the work"
            write(bundle, text)
        assert labels(tmp_path / "bundle") == text
        assert names(tmp_path) == [".bundle.previous", "bundle"]
    assert tiny.contents(tmp_path)[".bundle.previous" + "/file" * (not as_file)] == before


def test_the_bundle_before_is_taken_back_though_an_older_one_cannot_be_removed(tmp_path, stuck):
    stuck.add(".bundle.previous")
    for name, text in ((".bundle.previous", "oldest"), (".bundle.previous.2", "before")):
        with stage(tmp_path / name) as bundle:
            write(bundle, text)
    interrupted(tmp_path / "bundle", "new")
    assert labels(tmp_path / "bundle") == "before"


def test_an_unfinished_bundle_that_cannot_be_removed_is_an_error_before_the_work(tmp_path, stuck):
    interrupted(tmp_path / "bundle", "first")
    stuck.add(".bundle.partial")
    with pytest.raises(StorageError, match="cannot be removed") as caught, stage(tmp_path / "bundle", key="another"):
        pytest.fail("it was staged")
    assert ".bundle.partial" in caught.value.message


def test_who_opens_a_bundle_to_write_finds_it_without_what_was_left_and_with_all_else(bundle):
    with bundle.adding("model/new") as added:
        (added.path / "model.onnx").write_bytes(b"never listed")
    kept = {"notes.txt", "own/file", "assets/photo.jpg", "model/notes/file", "model/source/notes.txt", ".draft.partial"}
    kept |= {f"{added.folder}/notes.txt"}
    for path in (*kept, ".model.new.0123abcd.partial/half"):
        (bundle.path / path).parent.mkdir(exist_ok=True)
        (bundle.path / path).write_text("written")
    (bundle.path / ".model.other.0123abcd.partial").mkdir()
    (bundle.path / "model" / "onnxruntime-fp32").mkdir()
    with writing(bundle.path) as opened:
        assert set(tiny.contents(bundle.path)) == {MANIFEST, *bundle.manifest.files, *kept}
        assert opened.manifest == bundle.manifest
    assert names(bundle.path / "model") == ["new", "notes", "source"]


def test_a_list_of_files_in_a_strangers_bundle_removes_nothing_else(bundle, tmp_path):
    (tmp_path / "victim").write_text("precious")
    before = tiny.contents(bundle.path)
    (bundle.path / "model" / "source" / ".files").write_text("../../../victim\n/etc/passwd\nmodel.onnx\n\n.\n")
    with writing(bundle.path):
        assert tiny.contents(bundle.path) == before
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".bundle.lock").symlink_to("victim")
    with pytest.raises(StorageError, match="cannot be locked"), locked(tmp_path / "bundle"):
        pytest.fail("it was locked")
    assert (tmp_path / "victim").read_text() == "precious"


def test_the_root_of_the_disk_is_no_bundle():
    with pytest.raises(BundleError, match="cannot be a bundle"), locked(Path("/")):
        pytest.fail("it was locked")
