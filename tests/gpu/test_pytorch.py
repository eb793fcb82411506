"""Programs on a GPU: what they answer, in CUDA graphs and without, and how they are timed."""

import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import programs  # noqa: E402
from sharing import THREADS, assert_shared, at_once, closed_while_running  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from torchlift.backends import SessionOptions, backend  # noqa: E402
from torchlift.backends.pytorch import gpu_of  # noqa: E402
from torchlift.backends.pytorch.attention import attention  # noqa: E402
from torchlift.backends.pytorch.program import load_program, save_program  # noqa: E402
from torchlift.backends.pytorch.session import TorchSession, open_module  # noqa: E402
from torchlift.backends.staging import PIECE  # noqa: E402
from torchlift.errors import BackendError, DeviceMemoryError, SignatureError  # noqa: E402
from torchlift.machine import RunOn  # noqa: E402
from torchlift.prove.goldens import Golden  # noqa: E402
from torchlift.prove.numerics import TOLERANCES, failures, verify_goldens  # noqa: E402
from torchlift.signature import Axis, Signature, TensorSpec  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu_of() is None, reason="torch has no GPU here")]

PYTORCH = backend("pytorch")
if gpu_of() is not None:
    import torchlift.backends.pytorch.kernels  # noqa: F401, registers what attention calls


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return programs.write_program(tmp_path_factory.mktemp("program") / "model.pt2")


@pytest.fixture(scope="module")
def goldens():
    """Of several batches, with the answers of the network on the processor."""
    session = TorchSession(programs.Mixed(), programs.SIGNATURE)
    feeds = {rows: programs.feeds(rows, seed=rows) for rows in (1, 2, 3, 5, 8, 16)}
    return {rows: Golden(f"{rows} rows", x, session.run(x)) for rows, x in feeds.items()}


def assert_agrees(session, golden, precision):
    assert failures(verify_goldens(session.run, [golden]), TOLERANCES[precision]) == ()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_compiled_program_agrees_with_the_network_on_the_processor_on_every_gpu(archive, goldens, precision):
    for options in [SessionOptions(RunOn(device=number)) for number in range(torch.cuda.device_count())]:
        with PYTORCH.open(archive, programs.SIGNATURE, precision, options) as session:
            assert session.on_device
            assert f"on {gpu_of(options)}" in session.runtime
            assert session.run(goldens[2].inputs)["y"].dtype == np.float32
            for rows in (1, 3, 16):
                assert_agrees(session, goldens[rows], precision)


def test_fp32_is_fp32(archive):
    """TF32 has 10 bits of mantissa: on products of 512 numbers it is off by 1e-4 and more."""
    layer = torch.nn.Linear(512, 512)
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 512)),),
        (TensorSpec("y", "float32", ("batch", 512)),),
        (Axis("batch", 1, 64, 64),),
    )
    x = np.random.default_rng(0).standard_normal((64, 512), np.float32)
    right = TorchSession(layer, signature).run({"x": x})["y"]
    torch.backends.cuda.matmul.allow_tf32 = True
    with open_module(layer, signature) as session:
        found = session.run({"x": x})["y"]
    assert np.abs(found - right).max() < 2e-5 * np.abs(right).max()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_replays_give_the_same_answers_for_alternating_shapes(archive, goldens, precision, compiled):
    def answers(cuda_graph):
        options = SessionOptions(cuda_graph=cuda_graph)
        program = load_program(archive)
        with open_module(program, programs.SIGNATURE, options, precision=precision, compiled=compiled) as session:
            assert ("CUDA graph" in session.runtime) == cuda_graph
            return [session.run(goldens[rows].inputs) for rows in (2, 5, 2, 5, 5, 2)]

    for plain, replayed in zip(answers(False), answers(True), strict=True):
        for name in plain:
            np.testing.assert_allclose(replayed[name], plain[name], rtol=1e-5 if precision == "fp32" else 2e-3)


def test_a_replay_computes_what_it_is_given_not_what_it_was_recorded_with(archive):
    with open_module(load_program(archive), programs.SIGNATURE, SessionOptions(cuda_graph=True)) as session:
        right = TorchSession(programs.Mixed(), programs.SIGNATURE)
        for seed in range(3):
            feeds = programs.feeds(4, seed)
            np.testing.assert_allclose(session.run(feeds)["y"], right.run(feeds)["y"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_large_inputs_arrive_whole(kind, cuda_graph):
    class Sums(torch.nn.Module):
        def forward(self, x, y):
            return x.float().sum(1) + y.float().sum(1)

    specs = [TensorSpec(name, dtype, ("batch", PIECE // 8)) for name, dtype in (("x", kind), ("y", "float32"))]
    signature = Signature(tuple(specs), (TensorSpec("z", "float32", ("batch",)),), (Axis("batch", 1, 8, 16),))
    with open_module(Sums(), signature, SessionOptions(cuda_graph=cuda_graph)) as session:
        for rows in (1, 3, 16, 3, 16, 1):
            x, y = (np.random.default_rng(rows + s).integers(-9, 9, (rows, PIECE // 8)) for s in (0, 1))
            found = session.run({"x": x.astype(kind), "y": y.astype("float32")})["z"]
            np.testing.assert_array_equal(found, (x + y).sum(1))


@pytest.mark.parametrize("compiled", [False, True])
def test_more_shapes_than_graphs_are_answered_too(archive, goldens, compiled):
    options = SessionOptions(cuda_graph=True, graphs=2)
    with open_module(load_program(archive), programs.SIGNATURE, options, compiled=compiled) as session:
        for _ in range(2):
            for golden in goldens.values():
                assert_agrees(session, golden, "fp32")


def test_a_prepared_call_outlives_the_record_of_its_shape(archive, goldens):
    options = SessionOptions(cuda_graph=True, graphs=1)
    with open_module(load_program(archive), programs.SIGNATURE, options) as session:
        call = session.prepare(goldens[3].inputs)
        session.run(goldens[5].inputs)
        assert call() > 0
        assert_agrees(session, goldens[5], "fp32")


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_call_is_timed_by_the_device_and_with_copies_by_the_clock(archive, goldens, cuda_graph):
    with PYTORCH.open(archive, programs.SIGNATURE, "fp16", SessionOptions(cuda_graph=cuda_graph)) as session:
        call = session.prepare(goldens[16].inputs)
        call()
        times = [call() for _ in range(20)]
        assert all(0 < t < 1 for t in times)
        assert session.prepare(goldens[16].inputs, copies=True)() is None


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_tensors_stay_on_the_gpu(archive, goldens, cuda_graph):
    with PYTORCH.open(archive, programs.SIGNATURE, "fp32", SessionOptions(cuda_graph=cuda_graph)) as session:
        for rows in (2, 16, 2):
            there = {name: torch.from_numpy(array).cuda() for name, array in goldens[rows].inputs.items()}
            outputs = session.run_on_device(there)
            assert {name: torch.from_dlpack(outputs[name]).is_cuda for name in outputs} == dict.fromkeys(outputs, True)
            answers = {name: torch.from_dlpack(tensor).cpu().numpy() for name, tensor in outputs.items()}
            assert failures(verify_goldens(lambda _, a=answers: a, [goldens[rows]]), TOLERANCES["fp32"]) == ()
        with pytest.raises(SignatureError, match="input x lies on cpu, and the session on cuda:0"):
            session.run_on_device({**there, "x": there["x"].cpu()})
        with pytest.raises(SignatureError, match="input x is float16, and the model reads float32"):
            session.run_on_device({**there, "x": there["x"].half()})
        with pytest.raises(SignatureError, match="missing x"):
            session.run_on_device({name: tensor for name, tensor in there.items() if name != "x"})


SHARED = [programs.feeds(1 + i // THREADS, seed=i) for i in range(4 * THREADS)]
"""Four batch sizes for each thread."""


@pytest.mark.parametrize(("cuda_graph", "graphs"), [(False, 8), (True, 8), (True, 2)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_thread_gets_the_answers_to_its_own_inputs(archive, precision, cuda_graph, graphs):
    options = SessionOptions(cuda_graph=cuda_graph, graphs=graphs)
    with open_module(load_program(archive), programs.SIGNATURE, options, precision=precision) as session:
        assert_shared([session], SHARED, rounds=5, rtol=2e-3, atol=2e-3, timeout=300)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_each_thread_gets_the_answers_to_its_own_inputs_of_what_is_compiled_meanwhile(archive, cuda_graph):
    samples = [programs.feeds(2 + i // THREADS, seed=i) for i in range(2 * THREADS)]
    with PYTORCH.open(archive, programs.SIGNATURE, "fp32", SessionOptions(cuda_graph=cuda_graph)) as session:
        assert_shared([session], samples, rtol=1e-4, atol=1e-4, timeout=500)


def test_sessions_record_their_graphs_while_others_work_and_are_compiled(archive):
    """The second session records nothing: what it compiles it also measures, which no recording bears."""
    with (
        open_module(load_program(archive), programs.SIGNATURE, SessionOptions(cuda_graph=True, graphs=2)) as one,
        PYTORCH.open(archive, programs.SIGNATURE, "fp16") as two,
    ):
        assert_shared([one, two], SHARED[: 2 * THREADS], rtol=2e-3, atol=2e-3, timeout=500)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_session_may_be_closed_while_threads_run_it(archive, cuda_graph):
    right = TorchSession(programs.Mixed(), programs.SIGNATURE)
    session = open_module(load_program(archive), programs.SIGNATURE, SessionOptions(cuda_graph=cuda_graph))
    for number, answers in enumerate(closed_while_running(session, SHARED, timeout=120)):
        expected = right.run(SHARED[number])["y"]
        for answer in answers:
            np.testing.assert_allclose(answer["y"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_threads_with_a_lock_of_their_own_share_tensors_on_the_gpu(archive, goldens, cuda_graph):
    lock = threading.Lock()

    def work(number):
        golden = goldens[(2, 5, 2, 8)[number]]
        there = {name: torch.from_numpy(array).cuda() for name, array in golden.inputs.items()}
        for _ in range(20):
            with lock:
                answers = {name: tensor.cpu().numpy() for name, tensor in session.run_on_device(there).items()}
            checks = verify_goldens(lambda _, answers=answers: answers, [golden])
            assert failures(checks, TOLERANCES["fp32"]) == ()

    with open_module(load_program(archive), programs.SIGNATURE, SessionOptions(cuda_graph=cuda_graph)) as session:
        at_once(work, timeout=120)


def test_tensors_that_do_not_lie_in_order_are_read_as_they_are(archive, goldens):
    with PYTORCH.open(archive, programs.SIGNATURE, "fp32") as session:
        turned = {
            name: torch.from_numpy(array).cuda().t().contiguous().t()
            if array.ndim == 2
            else torch.from_numpy(array).cuda()
            for name, array in goldens[3].inputs.items()
        }
        found = {name: tensor.cpu().numpy() for name, tensor in session.run_on_device(turned).items()}
        assert failures(verify_goldens(lambda _: found, [goldens[3]]), TOLERANCES["fp32"]) == ()


class Positive(torch.nn.Module):
    """What is positive, or how much it is together."""

    def __init__(self, *, together):
        super().__init__()
        self.together = together

    def forward(self, x):
        found = x.masked_select(x > 0)
        return found.sum().expand(len(x)) if self.together else found


def test_an_output_whose_size_is_computed_is_not_recorded():
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", (None,)),), (programs.BATCH,)
    )
    with open_module(Positive(together=False), signature, SessionOptions(cuda_graph=True)) as session:
        assert session.records == 0
        for x in ([[1.0, -2.0, 3.0, -4.0]], [[-1.0, 2.0, -3.0, -4.0]]):
            found = session.run({"x": np.array(x, np.float32)})["y"]
            np.testing.assert_array_equal(found, [v for v in x[0] if v > 0])


def test_what_cannot_be_recorded_is_said_and_leaves_torch_as_it_was(archive, goldens):
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch",)),), (programs.BATCH,)
    )
    x = np.array([[1.0, -2.0, 3.0, -4.0]], np.float32)
    stream = torch.cuda.current_stream()
    with open_module(Positive(together=True), signature, SessionOptions(cuda_graph=True)) as session:
        for _ in range(2):
            with pytest.raises(BackendError, match=r"no CUDA graph could be recorded: .*captur"):
                session.run({"x": x})
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()
    with open_module(Positive(together=True), signature) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], [4.0])
    with open_module(load_program(archive), programs.SIGNATURE, SessionOptions(cuda_graph=True)) as session:
        assert_agrees(session, goldens[3], "fp32")
    torch.randn(4, device="cuda")


@pytest.mark.parametrize("first", [False, True])
def test_inference_mode_of_the_caller_matters_not(archive, goldens, first):
    with open_module(load_program(archive), programs.SIGNATURE, SessionOptions(cuda_graph=True)) as session:
        for mode in (first, not first):
            with torch.inference_mode(mode):
                assert_agrees(session, goldens[3], "fp32")


def test_a_full_gpu_is_said(archive):
    class Huge(torch.nn.Module):
        def forward(self, x, ids):
            return x + torch.zeros(1 << 44, device=x.device)[:4], ids

    with (
        open_module(Huge(), programs.SIGNATURE) as session,
        pytest.raises(DeviceMemoryError, match="Tried to allocate"),
    ):
        session.run(programs.feeds(2))


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_closed_session_gives_its_memory_back(cuda_graph):
    signature = Signature(
        programs.SIGNATURE.inputs[:1], (TensorSpec("y", "float32", ("batch", 1 << 22)),), (programs.BATCH,)
    )
    session = open_module(torch.nn.Linear(4, 1 << 22), signature, SessionOptions(cuda_graph=cuda_graph))
    session.run({"x": programs.feeds(2)["x"]})
    full = torch.cuda.memory_allocated()
    session.close()
    assert torch.cuda.memory_allocated() < full - (64 << 20), "what the weights took"


def heads(batch, queries, keys, width, dtype=torch.float16, count=3):
    """Query, key and value as one product gives them: parts of longer rows."""
    rows = torch.randn(batch, max(queries, keys), 3 * count * width, device="cuda", dtype=dtype)
    query, key, value = (t.unflatten(2, (count, width)).transpose(1, 2) for t in rows.chunk(3, -1))
    return query[:, :, :queries], key[:, :, :keys], value[:, :, :keys]


def masks(batch, queries, keys, dtype):
    """None, one of keys, the same expanded, one of queries and keys for each head, and one that masks all of a text."""
    padded = torch.zeros(batch, 1, 1, keys, device="cuda", dtype=dtype)
    padded[0, ..., keys // 2 :] = -10000.0
    infinite = torch.zeros_like(padded)
    infinite[0] = infinite[1, ..., keys // 2 + 1 :] = float("-inf")
    return (
        None,
        padded,
        padded.expand(-1, -1, queries, -1),
        torch.randn(batch, 3, queries, keys, device="cuda").to(dtype),
        infinite,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [16, 32, 64, 128])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 52), (8, 8), (17, 33), (52, 52), (64, 64)])
def test_short_attention_agrees_with_torchs_on_the_processor(queries, keys, width, dtype):
    query, key, value = heads(5, queries, keys, width, dtype)
    for mask in masks(5, queries, keys, dtype):
        wide = [t if t is None else t.float().cpu() for t in (query, key, value, mask)]
        for scale in (None, 0.2):
            right = F.scaled_dot_product_attention(*wide, scale=scale)
            found = attention(query, key, value, mask, scale=scale)
            assert found.shape == query.shape
            close = 2e-3 if dtype == torch.float16 else 2e-2
            torch.testing.assert_close(found.float().cpu(), right, atol=close, rtol=close)


@pytest.mark.parametrize(
    ("sizes", "dtype", "short"),
    [
        ((52, 52, 64), torch.float16, True),
        ((65, 65, 64), torch.float16, False),
        ((1, 65, 64), torch.float16, False),
        ((52, 52, 48), torch.float16, False),
        ((52, 52, 64), torch.float32, False),
    ],
)
def test_the_kernel_takes_only_what_it_is_made_for(monkeypatch, sizes, dtype, short):
    called = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: called.append(a))
    attention(*heads(2, *sizes, dtype))
    assert bool(called) is not short


READER = Signature(
    (TensorSpec("ids", "int64", ("batch", "sequence")),),
    (TensorSpec("y", "float32", ("batch", 32)),),
    (Axis("batch", 1, 3, 16), Axis("sequence", 2, 8, 100)),
)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_program_with_attention_agrees_at_more_shapes_than_are_kept(tmp_path, cuda_graph):
    file = programs.write_reader(tmp_path / "model.pt2")
    right = TorchSession(programs.Reader(), READER)
    with PYTORCH.open(file, READER, "fp16", SessionOptions(cuda_graph=cuda_graph, graphs=2)) as session:
        for rows, length in ((1, 2), (3, 8), (16, 52), (2, 64), (3, 65), (2, 100), (5, 17), (3, 8)):
            feeds = {"ids": programs.texts(rows, length).numpy()}
            np.testing.assert_allclose(session.run(feeds)["y"], right.run(feeds)["y"], atol=5e-3)


class Patches(torch.nn.Module):
    """Patches as a ViT reads them, and as one long row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Conv2d(3, 8, 4, stride=4)
        self.requires_grad_(False)

    def forward(self, x):
        patches = self.embed(x)
        return patches.flatten(2).transpose(1, 2).mean(1), patches.flatten(1)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_program_with_patches_agrees(tmp_path, precision):
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 3, 12, 8)),),
        (TensorSpec("y", "float32", ("batch", 8)), TensorSpec("z", "float32", ("batch", 48))),
        (Axis("batch", 1, 3, 16),),
    )
    rows = {0: torch.export.Dim("batch", min=1, max=16)}
    network = Patches().eval()
    save_program(torch.export.export(network, (torch.randn(3, 3, 12, 8),), dynamic_shapes=(rows,)), tmp_path / "p.pt2")
    right = TorchSession(network, signature)
    with PYTORCH.open(tmp_path / "p.pt2", signature, precision) as session:
        for count in (1, 3, 16):
            feeds = {"x": np.random.default_rng(count).standard_normal((count, 3, 12, 8), np.float32)}
            found, wanted = session.run(feeds), right.run(feeds)
            for name in ("y", "z"):
                np.testing.assert_allclose(found[name], wanted[name], atol=1e-5 if precision == "fp32" else 5e-3)
