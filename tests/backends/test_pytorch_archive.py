"""A program of a stranger runs no code of theirs."""

import contextlib
import json
import pickle
import re
import zipfile

import numpy as np
import programs
import pytest

from torchlift.errors import BackendError, BundleError

torch = pytest.importorskip("torch")

from programs import PROGRAM, SAMPLES, WEIGHTS, loaded, tampered, write_program, write_reader  # noqa: E402
from tampering import CONSTANTS, WEIGHT, Payload, inside, pickled, set_sizes  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torchlift.backends.pytorch.program import load_program  # noqa: E402
from torchlift.backends.pytorch.session import TorchSession  # noqa: E402


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_program(tmp_path_factory.mktemp("program") / "model.pt2")


RUN_BY_TORCH = {
    "sample inputs, which are a pickle": lambda r, t: r.update({SAMPLES: pickled(t)}),
    "the expr_str": lambda r, t: set_sizes(r, f"__import__('os').mkdir({str(t)!r}) or Symbol('s0')"),
}


@pytest.mark.parametrize("said", RUN_BY_TORCH)
def test_what_torch_itself_would_run_is_refused(archive, tmp_path, said):
    trace = tmp_path / "trace"
    file = tampered(archive, tmp_path / "model.pt2", lambda records: RUN_BY_TORCH[said](records, trace))
    with pytest.raises(BundleError, match=f"model.pt2 is not opened: it has {said}") as caught:
        load_program(file)
    assert "as torchlift wrote it" in caught.value.remedy
    assert not trace.exists()
    with contextlib.suppress(Exception):  # what torch makes of the rest does not matter
        torch.export.load(file)
    assert trace.exists(), "else this test proves nothing"


@pytest.mark.parametrize("config", [WEIGHTS, CONSTANTS])
@pytest.mark.parametrize("value", [True, "x", "false", "True", 1, 0, "", [], [0], {}, {"a": 1}, None])
def test_a_tensor_counts_as_pickled_unless_use_pickle_is_false(archive, tmp_path, config, value):
    trace = tmp_path / "trace"

    def change(records):
        said = next(iter(records[config]["config"].values()))
        said["use_pickle"] = value
        records[f"{config.rpartition('/')[0]}/{said['path_name']}"] = pickled(trace)

    file = tampered(archive, tmp_path / "model.pt2", change)
    with pytest.raises(BundleError, match=f"has a pickled tensor: use_pickle is {re.escape(repr(value))} for"):
        load_program(file)
    assert not trace.exists()
    with contextlib.suppress(Exception):
        torch.export.load(file)
    assert trace.exists() == (value in (True, "x", "false", "True", 1)), "torch takes any text for true"


@pytest.mark.parametrize("name", ["custom_obj_0", "opaque_obj_0"])
def test_a_constant_that_is_an_object_is_refused(archive, tmp_path, name):
    trace = tmp_path / "trace"

    def change(records, also_record):
        said = next(iter(records[CONSTANTS]["config"].values()))
        said.update(path_name=name, use_pickle=False, tensor_meta=None)
        if also_record:
            records[f"data/constants/{name}"] = pickle.dumps(Payload(trace))

    for also_record, said in ((True, f"the record data/constants/{name}"), (False, f"the path_name '{name}'")):
        file = tampered(archive, tmp_path / "model.pt2", lambda records, also=also_record: change(records, also))
        with pytest.raises(BundleError, match=f"it has {said}"):
            load_program(file)
    assert not trace.exists()


def test_an_archive_of_torch_2_7_which_is_pickles_is_refused(archive, tmp_path):
    trace, file = tmp_path / "trace", tmp_path / "model.pt2"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(file, "w") as new:
        new.writestr("version", "8.8")
        new.writestr("serialized_exported_program.json", old.read(f"{folder_of(old)}/{PROGRAM}"))
        for name in ("state_dict", "constants", "example_inputs"):
            new.writestr(f"serialized_{name}.pt", pickled(trace))
    with pytest.raises(BundleError, match=r"model.pt2 is not opened: it cannot be read"):
        load_program(file)
    assert not trace.exists()


def folder_of(archive):
    return archive.namelist()[0].split("/")[0]


def rewritten(archive, target, change):
    """A copy as a plain zip, in which ``change`` may write further records; it gets the zip and the folder's name."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        change(new, folder_of(old))
    return target


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [PROGRAM, WEIGHTS, "data/weights/weight_0"])
def test_a_record_that_is_there_twice_is_refused(archive, tmp_path, name):
    file = rewritten(archive, tmp_path / "model.pt2", lambda new, folder: new.writestr(f"{folder}/{name}", b"{}"))
    with pytest.raises(BundleError, match=f"it has the record {name} twice"):
        load_program(file)


@pytest.mark.parametrize("name", [PROGRAM.upper(), f"{PROGRAM}/", "data/weights/../model.so", "models/b.json"])
def test_a_record_of_another_name_is_refused(archive, tmp_path, name):
    file = rewritten(archive, tmp_path / "model.pt2", lambda new, folder: new.writestr(f"{folder}/{name}", b"{}"))
    with pytest.raises(BundleError, match=f"it has the record {name}"):
        load_program(file)


def test_a_record_in_another_folder_is_refused(archive, tmp_path):
    file = rewritten(archive, tmp_path / "model.pt2", lambda new, folder: new.writestr(f"other/{PROGRAM}", b"{}"))
    with pytest.raises(BundleError, match="it cannot be read"):
        load_program(file)


@pytest.mark.parametrize(
    ("record", "key", "twice"),
    [
        (WEIGHTS, '"use_pickle": false', '"use_pickle": true, "use_pickle": false'),
        (WEIGHTS, '"config": ', '"config": {}, "config": '),
        (PROGRAM, '"graph_module": ', '"graph_module": {}, "graph_module": '),
        (PROGRAM, '"as_int": ', '"as_int": 1, "as_int": '),
    ],
)
def test_a_key_that_is_there_twice_is_refused(archive, tmp_path, record, key, twice):
    def change(records):
        text = json.dumps(records[record])
        assert key in text
        records[record] = text.replace(key, twice, 1).encode()

    file = tampered(archive, tmp_path / "model.pt2", change)
    with pytest.raises(BundleError, match=f"it has the key '{key.split(chr(34))[1]}' twice"):
        load_program(file)


@pytest.mark.parametrize(
    "path", ["../weights/weight_0", "weight_0/../weight_1", "/etc/passwd", "tensor_0", "weight_", "weight_0\n", ""]
)
def test_a_weight_is_in_a_record_of_weights(archive, tmp_path, path):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: inside(records, WEIGHT).update(path_name=path))
    with pytest.raises(BundleError, match="it has the path_name"):
        load_program(file)


def test_a_weight_whose_record_is_missing_is_named(archive, tmp_path):
    file = tampered(
        archive, tmp_path / "model.pt2", lambda records: inside(records, WEIGHT).update(path_name="weight_9")
    )
    with pytest.raises(BundleError, match="it has no data/weights/weight_9, in which scale is"):
        load_program(file)


@pytest.mark.parametrize(
    ("sizes", "strides", "offset", "dtype", "said"),
    [
        ([5], [1], 4, 7, "a tensor scale that reaches beyond its 32 bytes: to 36"),
        ([4], [1], 5, 7, "a tensor scale that reaches beyond"),
        ([4], [3], 0, 7, "a tensor scale that reaches beyond"),
        ([4], [1], 1, 8, "a tensor scale that reaches beyond"),
        ([2**62, 2**62], [2**62, 1], 0, 7, "a tensor scale that reaches beyond"),
        ([4], [-1], 3, 7, "the as_int -1"),
        ([4], [1], -1, 7, "the as_int -1"),
        ([-4], [1], 0, 7, "the as_int -4"),
        ([4], [1], 2**64, 7, "the as_int 18446744073709551616"),
        ([4], [1, 1], 0, 7, "1 sizes and 2 strides for scale"),
        ([4], [1], 0, 99, "the dtype 99"),
    ],
)
def test_a_tensor_does_not_reach_beyond_its_bytes(archive, tmp_path, sizes, strides, offset, dtype, said):
    def change(records):
        inside(records, (*WEIGHT, "tensor_meta")).update(
            sizes=[{"as_int": n} for n in sizes],
            strides=[{"as_int": n} for n in strides],
            storage_offset={"as_int": offset},
            dtype=dtype,
        )

    file = tampered(archive, tmp_path / "model.pt2", change)
    with pytest.raises(BundleError, match=f"it has {said}"):
        load_program(file)


def test_a_tensor_of_no_bytes_is_empty(archive, tmp_path):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: records.update({"data/weights/weight_4": b""}))
    with pytest.raises(BundleError, match="it has a tensor scale that reaches beyond its 0 bytes"):
        load_program(file)


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "model.pt2").write_bytes(b"PK but no archive")
    with pytest.raises(BundleError, match=r"model.pt2 is not opened: it cannot be read"):
        load_program(tmp_path / "model.pt2")


def test_what_is_no_json_is_refused(archive, tmp_path):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: records.update({PROGRAM: b"{"}))
    with pytest.raises(BundleError, match=r"model.pt2 is not opened: it cannot be read: Expecting"):
        load_program(file)


def test_an_archive_that_this_torch_does_not_read_is_an_error_of_the_runtime(archive, tmp_path):
    file = tampered(archive, tmp_path / "model.pt2", lambda r: r[PROGRAM]["schema_version"].update({"major": 99}))
    with pytest.raises(BackendError, match=r"torch .* cannot load model.pt2") as caught:
        load_program(file)
    assert "ship the model again" in caught.value.remedy


def test_an_archive_that_is_only_written_anew_is_opened(archive, tmp_path):
    file = tampered(archive, tmp_path / "model.pt2", lambda records: None)
    feeds = programs.feeds(2)
    answers = [TorchSession(load_program(f), programs.SIGNATURE).run(feeds)["y"] for f in (archive, file)]
    np.testing.assert_array_equal(*answers)


def test_nothing_is_unpickled(archive, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("something is unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch.export, "load", refuse)
    load_program(archive)


def test_guards_are_dropped(archive, tmp_path):
    trace = tmp_path / "trace"
    code = f"__import__('os').mkdir({str(trace)!r})"
    file = tampered(archive, tmp_path / "model.pt2", lambda records: records[PROGRAM].update(guards_code=[code]))
    load_program(file)
    assert not trace.exists()


class Pictures(nn.Module):
    """Convolutions, a mask that is minus infinity, sizes that are no whole multiple, and a mode that is a string."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.GELU("tanh"))

    def forward(self, x):
        large = F.interpolate(self.layers(x[:, None]), scale_factor=1.5, mode="bilinear").mean((1, 3))
        later = torch.ones(large.shape[1], large.shape[1]).triu(1).bool()
        shares = (large[:, :, None] * large[:, None]).masked_fill(later, -torch.inf).softmax(-1)
        return torch.einsum("bij,bj->bi", shares, large) * x.shape[0] ** 0.5


class Counting(nn.Module):
    """Buffers that change, or are not saved, or empty; a scalar; a key with a dash; a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.calls = nn.Buffer(torch.zeros(1))
        self.scale = nn.Buffer(torch.tensor(3), persistent=False)
        self.none = nn.Buffer(torch.zeros(0, 8))
        self.by_name = nn.ParameterDict({"a-b": torch.tensor(2.0)})
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        self.calls.add_(1)
        plus = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
        return self.layer(self.layer(x)) * self.scale * self.by_name["a-b"] + self.none.sum() + self.calls + plus


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(8, 4, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize("network", [Pictures, Counting, Recurrent])
def test_what_plain_networks_have_is_opened(tmp_path, network):
    torch.manual_seed(0)
    module = network().eval().requires_grad_(False)
    program = loaded(tmp_path, module)
    x = torch.randn(4, 5, 8)
    torch.testing.assert_close(program(x)[0], module(x))


def test_a_text_tower_with_two_open_axes_is_opened(tmp_path):
    program = load_program(write_reader(tmp_path / "model.pt2"))
    ids = programs.texts(5, 11)
    torch.testing.assert_close(program(ids)[0], programs.Reader()(ids))
