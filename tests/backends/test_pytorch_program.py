"""Programs on disk and back, in other types, and compiled for each shape."""

import functools
from pathlib import Path

import numpy as np
import programs
import pytest

torch = pytest.importorskip("torch")

from torchlift.backends import SessionOptions, backend  # noqa: E402
from torchlift.backends.pytorch.cast import move  # noqa: E402
from torchlift.backends.pytorch.program import copy_of, load_program, save_program  # noqa: E402
from torchlift.backends.pytorch.session import TorchSession  # noqa: E402
from torchlift.machine import RunOn, this_machine  # noqa: E402

CPU = torch.device("cpu")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
CLOSE = {"fp32": 1e-6, "fp16": 1e-2, "bf16": 8e-2}


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return programs.write_program(tmp_path_factory.mktemp("program") / "model.pt2")


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def expected(feeds):
    with torch.inference_mode():
        answers = programs.Mixed().eval()(*map(torch.from_numpy, feeds.values()))
    return dict(zip(programs.SIGNATURE.output_names, (a.numpy() for a in answers), strict=True))


def assert_answers(session, feeds, close=CLOSE["fp32"]):
    found, right = session.run(feeds), expected(feeds)
    assert {n: a.dtype for n, a in found.items()} == {"y": np.float32, "kept": np.int64}
    np.testing.assert_allclose(found["y"], right["y"], rtol=0, atol=close * np.abs(right["y"]).max())
    np.testing.assert_array_equal(found["kept"], right["kept"])


@pytest.mark.parametrize("rows", [1, 2, 16])
@pytest.mark.parametrize("precision", CLOSE)
def test_a_program_answers_as_its_network_in_every_type_and_size(archive, precision, rows):
    session = TorchSession(load_program(archive), programs.SIGNATURE, precision=precision)
    assert_answers(session, programs.feeds(rows), CLOSE[precision])


def test_nothing_of_the_machine_is_in_a_program(archive):
    data = archive.read_bytes()
    telltale = [str(Path(programs.__file__).parent), "programs.py", "site-packages", torch.__path__[0], "Mixed"]
    assert not [place for place in telltale if place.encode() in data]


@pytest.mark.parametrize("precision", DTYPES)
def test_all_of_a_program_that_was_float32_is_cast_and_what_was_shared_stays_so(archive, precision):
    program, dtype = load_program(archive), DTYPES[precision]
    move(program, CPU, dtype)
    assert {t.dtype for t in (*program.parameters(), *program.buffers())} == {dtype}
    assert program.first.weight is program.second.weight
    x, ids = map(torch.from_numpy, programs.feeds(2).values())
    seen = {}

    class Watching(torch.fx.Interpreter):
        def run_node(self, node):
            seen[node.name] = super().run_node(node)
            return seen[node.name]

    Watching(program).run(x.to(dtype), ids)
    floats = {name: t for name, t in seen.items() if isinstance(t, torch.Tensor) and t.is_floating_point()}
    casts = {n.args[0].name for n in program.graph.nodes if n.target == torch.ops.aten.to.dtype}
    assert {name for name, t in floats.items() if t.dtype != dtype} <= casts, "they are cast where they arise"
    assert not any("metadata" in str(node.target) for node in program.graph.nodes)


def test_numbers_that_a_type_does_not_hold_become_its_largest(tmp_path):
    class Masks(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mask = torch.nn.Buffer(torch.tensor([0.0, -3e38, -torch.inf, 1e5]))

        def forward(self, x):
            least = torch.finfo(torch.float32).min
            return torch.full((4,), least) + 0 * x, x.masked_fill(x > 0, -3e38), self.mask + 0 * x

    save_program(torch.export.export(Masks(), (torch.ones(4),)), tmp_path / "model.pt2")
    move(program := load_program(tmp_path / "model.pt2"), CPU, torch.float16)
    low = -65504.0
    answers = program(torch.ones(4).half())
    assert [a.tolist() for a in answers] == [[low] * 4, [low] * 4, [0, low, -np.inf, -low]]
    assert {a.dtype for a in answers} == {torch.float16}


def test_a_device_that_a_graph_names_is_changed(archive):
    program = load_program(archive)
    move(program, torch.device("meta"), torch.float32)
    named = {v for n in program.graph.nodes for v in n.kwargs.values() if isinstance(v, torch.device)}
    assert named == {torch.device("meta")}
    assert {t.device.type for t in (*program.parameters(), *program.buffers())} == {"meta"}


@pytest.fixture
def compiled(monkeypatch):
    """torch.compile without code generation, and how many graphs it has traced since."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    stats = torch._dynamo.utils.counters["stats"]
    before = stats["unique_graphs"]
    return lambda: stats["unique_graphs"] - before


def test_each_of_the_first_shapes_is_compiled_for_itself_and_one_function_serves_the_rest(archive, compiled):
    session = TorchSession(load_program(archive), programs.SIGNATURE, SessionOptions(graphs=2), compiled=True)
    counts = []
    for rows in (2, 3, 2, 3, 4, 5, 6, 2, 1, 7):
        assert_answers(session, programs.feeds(rows, seed=rows))
        counts.append(compiled())
    assert counts == [1, 2, 2, 2, 3, 3, 3, 3, 4, 4], "of the rest only 1 is a size of its own"


def test_more_shapes_than_torch_compiles_one_code_for_do_not_fall_back(archive, compiled):
    session = TorchSession(load_program(archive), programs.SIGNATURE, SessionOptions(graphs=12), compiled=True)
    for rows in range(1, 13):
        session.run(programs.feeds(rows))
    assert compiled() == 12 > torch._dynamo.config.recompile_limit


def test_a_copy_has_code_of_its_own_and_the_same_weights(archive):
    program = load_program(archive)
    copy = copy_of(program)
    assert copy.first.weight is program.first.weight
    assert copy.forward.__func__.__code__ is not program.forward.__func__.__code__


def test_a_program_is_compiled_by_the_backend(archive):
    with backend("pytorch").open(archive, programs.SIGNATURE, "fp32", SessionOptions(RunOn(2))) as session:
        assert session.runtime.startswith(f"torch {torch.__version__} compile")
        assert_answers(session, programs.feeds(4))
        call = session.prepare(programs.feeds(4))
        call()
        assert session.covers({"batch": 4})


@pytest.mark.skipif("avx512_bf16" not in this_machine().instructions, reason="the processor has no bf16")
def test_a_program_is_compiled_in_another_type(archive):
    with backend("pytorch").open(archive, programs.SIGNATURE, "bf16") as session:
        assert " bf16 compile" in session.runtime
        assert_answers(session, programs.feeds(4), CLOSE["bf16"])
