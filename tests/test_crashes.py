"""A process that dies at any of its changes to the disk loses nothing, and the same command tidies up after it."""

import pytest

CRASHES = """
import dataclasses, os, pathlib, shutil, sys
import tiny
from torchlift.archive import pack, unpack
from torchlift.bundle import Bundle
from torchlift.errors import BundleError
from torchlift.staging import staging, writing

job, top = sys.argv[1], pathlib.Path(sys.argv[2])
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"}
DONE = 42


def put(bundle, text):
    with bundle.adding("assets") as added:
        (added.path / "labels.txt").write_text(text)
    bundle.commit(dataclasses.replace(bundle.manifest, assets={"labels": f"{added.folder}/labels.txt"}), added.files)


def ship(folder, text="new"):
    with staging(folder / "bundle", dataclasses.replace(tiny.MANIFEST, key=text)) as bundle:
        if not bundle.manifest.components:
            tiny.put_component(bundle, tiny.model(), tiny.goldens(), tiny.SIGNATURE, 1, text)
        put(bundle, text)


def change(folder):
    with writing(folder / "bundle") as bundle, bundle.together():
        put(bundle, "half")
        put(bundle, "new")


def replace(folder):
    with writing(folder / "bundle") as bundle:
        tiny.put_component(bundle, tiny.model(1), tiny.goldens(), tiny.SIGNATURE, 1, "again")
        put(bundle, "new")


def packing(folder):
    pack(folder / "bundle", folder / "bundle.zip")


def unpacking(folder):
    try:
        unpack(top / "made.zip", folder / "again")
    except BundleError:
        assert (folder / "again").exists()


def die_at(number):
    left = [number]

    def hook(event, arguments):
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & writing
        if event in CHANGES or opens:
            left[0] -= 1
            if left[0] < 0:
                os._exit(0)

    sys.addaudithook(hook)


run = {"ship": ship, "change": change, "replace": replace, "pack": packing, "unpack": unpacking}[job]
ship(top, "old")
pack(top / "bundle", top / "made.zip")
number, code = 0, 0
while code != DONE:
    folder = top / str(number)
    folder.mkdir()
    shutil.copytree(top / "bundle", folder / "bundle")
    child = os.fork()
    if not child:
        die_at(number)
        run(folder)
        os._exit(DONE)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, DONE), f"it failed by itself, with {code}"
    if job != "ship" or (folder / "bundle").exists():
        there = Bundle.open(folder / "bundle")
        label = there.file(there.manifest.assets["labels"]).read_text()
        possible = {"old"} if job in ("pack", "unpack") else {"new"} if code == DONE else {"old", "new"}
        assert label in possible, (number, label)
    if (folder / "again").exists():
        Bundle.open(folder / "again")
    run(folder)
    assert {p.name for p in folder.iterdir()} == {"bundle", *{"pack": ["bundle.zip"], "unpack": ["again"]}.get(job, [])}
    for made in folder.iterdir():
        if made.is_dir():
            again = Bundle.open(made)
            assert set(tiny.contents(made)) == {"manifest.json", *again.manifest.files}, number
            assert not again._folder.empty()
    shutil.rmtree(folder)
    number += 1
print(number)
"""


@pytest.mark.parametrize("job", ["ship", "change", "replace", "pack", "unpack"])
def test_a_process_that_dies_at_any_change_leaves_what_was_there_whole_and_nothing_that_the_next_keeps(
    python, tmp_path, job
):
    done = python(CRASHES, job, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 3, "the job changes the disk more often than that"
