"""A bundle in the place of a network: tensors in and out, what it refuses, in pipelines of others."""

import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tiny
from colour_models import bundle_of

import torchlift as tl
from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.declare.call import Call
from torchlift.errors import BackendUnavailableError, BundleError, InputError, SignatureError
from torchlift.evidence import Choice
from torchlift.pipelines import OpenOptions, Pipeline, of_bundle
from torchlift.prove.verify import verify_variant
from torchlift.signature import Axis, Signature, TensorSpec
from torchlift.stages import build_variant

torch = pytest.importorskip("torch")
from torchlift.torch_module import open_module  # noqa: E402

FP32 = "model/onnxruntime/fp32"
PAIR = Signature(
    (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("n", "int64", ("batch",))),
    (TensorSpec("sum", "float32", ("batch", 3)), TensorSpec("twice", "float32", (3, "batch"))),
    (Axis("batch", 2, 4, 6),),
)


class Computes(Session):
    """Functions of feeds as a session; on a device that is the processor, its outputs hold until the next call."""

    def __init__(self, signature, function, *, there=False, refuses=()):
        super().__init__(signature, "numpy")
        self.function, self.on_device, self.refuses = function, there, refuses
        self.ran, self.fed, self.last = [], [], {}

    def covers(self, sizes):
        return sizes["batch"] not in self.refuses

    def _run(self, feeds):
        self.ran.append("host")
        self.fed.append(dict(feeds))
        return self.function(feeds)

    def _run_on_device(self, tensors):
        feeds = {name: np.from_dlpack(tensor) for name, tensor in tensors.items()}
        self.signature.check(feeds)
        for output in self.last.values():
            output.fill_(-1)
        self.ran.append(feeds["x"].shape[0])
        self.last = {name: torch.from_numpy(array.copy()) for name, array in self.function(feeds).items()}
        return self.last

    def _prepare(self, feeds):
        raise NotImplementedError


def both(feeds):
    return {"sum": feeds["x"] + feeds["n"][:, None].astype(np.float32), "twice": np.ascontiguousarray(2 * feeds["x"].T)}


@pytest.fixture
def made(tmp_path):
    """Maker of a module of a session in numpy, and how its network is called."""

    def make(call=None, signature=PAIR, function=both, **options):
        bundle = bundle_of(tmp_path / "bundle", "tensors", {}, {"model": signature}, {"model": ({}, {})})
        component = replace(bundle.manifest.component("model"), call=call)
        bundle.commit(bundle.manifest.with_component(component))
        session = Computes(signature, function, **options)
        module = open_module(of_bundle(bundle, {"model": session}), None)
        if options.get("there"):
            module.device = torch.device("cpu")
        return module, session

    return make


@pytest.fixture
def ready(built):
    """The tiny bundle with a variant that serves."""
    variant = built.manifest.variant(FP32)
    built.commit(built.manifest.with_variant(replace(variant, verification=verify_variant(built, variant))))
    built.commit(replace(built.manifest, choices={"model": Choice(FP32)}))
    return built


def given(rows):
    return torch.arange(rows * 3, dtype=torch.float32).reshape(rows, 3), torch.arange(rows)


def test_it_answers_as_the_network_by_position_and_by_name(ready):
    with torch.no_grad():
        fast = tl.as_module(ready.path, threads=1)
        x = tiny.sample(5)
        for answer in (fast(torch.from_numpy(x)), fast(x=torch.from_numpy(x))):
            np.testing.assert_allclose(answer.numpy(), tiny.answer(x), rtol=1e-5, atol=1e-5)
    many = tiny.sample(21)
    np.testing.assert_allclose(fast(torch.from_numpy(many)).numpy(), tiny.answer(many), rtol=1e-5, atol=1e-5)
    assert isinstance(fast, torch.nn.Module)
    assert "onnxruntime" in repr(fast)
    fast.close()
    with pytest.raises(BundleError, match="closed"):
        fast(torch.from_numpy(x))


def test_another_variant_serves_where_it_is_named(ready):
    pytest.importorskip("openvino")
    fast = tl.as_module(ready.path, variants={"model": "openvino/fp32"})
    assert "openvino" in repr(fast)
    x = tiny.sample(3)
    np.testing.assert_allclose(fast(torch.from_numpy(x)).numpy(), tiny.answer(x), rtol=1e-4, atol=1e-4)
    fast.close()


def test_memory_of_the_host_is_shared_where_it_lies_right(made):
    fast, session = made()
    x, n = given(4)
    fast(x, n)
    assert np.shares_memory(session.fed[-1]["x"], x.numpy())
    turned = torch.arange(12.0).reshape(3, 4).T
    total, _ = fast(turned, n)
    np.testing.assert_array_equal(total.numpy(), turned.numpy() + n.numpy()[:, None])


@pytest.mark.parametrize("rows", [2, 5, 6, 13])
def test_any_number_of_rows_is_answered_on_the_host_and_on_the_device(made, rows):
    x, n = given(rows)
    for there in (False, True):
        fast, session = made(there=there)
        total, twice = fast(x, n)
        np.testing.assert_array_equal(total.numpy(), (x + n[:, None]).numpy())
        np.testing.assert_array_equal(twice.numpy(), (2 * x).T.numpy())
        assert all(isinstance(batch, int) for batch in session.ran) == there
    assert {2 <= batch <= 6 for batch in session.ran} == {True}


def test_batches_that_a_session_does_not_run_are_filled_up_on_the_device(made):
    fast, session = made(there=True, refuses=(3, 5))
    x, n = given(5)
    total, _ = fast(x, n)
    np.testing.assert_array_equal(total.numpy(), (x + n[:, None]).numpy())
    assert 5 not in session.ran
    assert len(total) == 5


def test_what_a_device_answers_outlives_the_next_call(made):
    fast, _ = made(there=True)
    x, n = given(4)
    first, _ = fast(x, n)
    kept = first.clone()
    fast(-x, n)
    torch.testing.assert_close(first, kept)


def test_the_structure_of_what_is_returned_is_the_networks(made):
    fast, _ = made(Call(("x", "n"), {"logits": "sum", "hidden_states": ["twice"], "aux": None}))
    x, n = given(2)
    found = fast(n=n, x=x)
    assert found.logits is found["logits"] is found[0]
    assert found.aux is None
    torch.testing.assert_close(found.hidden_states[0], 2 * x.T)
    assert isinstance(fast(x, n, return_dict=False), tuple)
    assert fast(x, n, return_dict=True).keys() == found.keys()


def test_arguments_are_bound_by_name_whatever_their_order(made):
    fast, _ = made(Call(("n", "x", "causal"), "sum", {"causal": False}))
    x, n = given(2)
    torch.testing.assert_close(fast(n, x, causal=False), x + n[:, None])
    with pytest.raises(InputError, match="exported with False"):
        fast(n, x, causal=True)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("x", "n", "said"),
    [
        (torch.zeros(4, 3, dtype=torch.float16), torch.zeros(4, dtype=torch.int64), "float16"),
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int32), "int32"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), r"\[4, 2\]"),
        (torch.zeros(4), torch.zeros(4, dtype=torch.int64), r"\[4\]"),
        (torch.zeros(4, 3), None, "missing n"),
    ],
    ids=["half", "int32", "size", "rank", "missing"],
)
def test_tensors_that_do_not_fit_are_named(made, x, n, said, there):
    fast, _ = made(there=there)
    with pytest.raises(SignatureError, match=said) as caught:
        fast(x, n)
    assert caught.value.remedy


def test_rows_that_disagree_and_no_tensors_are_refused(made):
    for there in (False, True):
        fast, _ = made(there=there)
        with pytest.raises(InputError, match="different numbers of rows"):
            fast(torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64))
        with pytest.raises(InputError, match="n is a str"):
            fast(torch.zeros(4, 3), "n")


def test_a_number_of_python_is_an_input_without_dimensions(made):
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 3)), TensorSpec("t", "int64", ())),
        (TensorSpec("sum", "float32", ("batch", 3)),),
        (Axis("batch", 2, 4, 6),),
    )
    x = torch.ones(2, 3)
    for there in (False, True):
        fast, _ = made(
            signature=signature, function=lambda feeds: {"sum": feeds["x"] + np.float32(feeds["t"])}, there=there
        )
        torch.testing.assert_close(fast(x, 3), x + 3)


def test_gradients_are_refused_where_they_are_computed(made):
    fast, _ = made()
    x, n = given(2)
    x.requires_grad_()
    with pytest.raises(InputError, match="requires a gradient"):
        fast(x, n)
    with torch.no_grad():
        total, _ = fast(x, n)
    assert not total.requires_grad
    torch.testing.assert_close(fast(x.detach(), n)[0], total)


def test_it_has_no_state_stays_in_evaluation_and_where_it_is(made):
    fast, _ = made()
    assert (fast.state_dict(), [*fast.parameters()], [*fast.buffers()]) == ({}, [], [])
    with pytest.warns(UserWarning, match="evaluation"):
        assert fast.train() is fast
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast.train()
        fast.eval()
    assert not fast.training
    assert fast.to("meta") is fast.half() is fast
    assert fast.device == torch.device("cpu")
    x, n = given(2)
    torch.testing.assert_close(fast(x, n)[0], x + n[:, None])
    holder = torch.nn.Sequential(torch.nn.Linear(3, 3), fast)
    assert {*holder.state_dict()} == {"0.weight", "0.bias"}


@pytest.mark.parametrize("copying", [copy.deepcopy, copy.copy, pickle.dumps], ids=["deepcopy", "copy", "pickle"])
def test_it_is_neither_copied_nor_pickled(made, copying):
    fast, _ = made()
    with pytest.raises(BundleError, match="open session") as caught:
        copying(fast)
    assert "as_module" in caught.value.remedy


def test_of_several_components_it_must_be_said_which(tmp_path):
    signature = Signature(PAIR.inputs[:1], PAIR.outputs[:1], PAIR.axes)
    names = ("encoder", "decoder")
    bundle = bundle_of(tmp_path / "two", "tensors", {}, dict.fromkeys(names, signature), dict.fromkeys(names, ({}, {})))
    module = open_module(Two(bundle), "decoder")
    assert module(torch.ones(2, 3)).tolist() == [[2.0] * 3] * 2
    with pytest.raises(BundleError, match="encoder, decoder") as caught:
        open_module(Two(bundle), None)
    assert "component" in caught.value.remedy


def test_without_torch_it_is_said(python):
    done = python(
        "import sys; sys.modules['torch'] = None\n"
        "import torchlift\n"
        "try:\n    torchlift.as_module('nothing')\n"
        "except torchlift.TorchliftError as error:\n    print(type(error).__name__)\n"
    )
    assert done.stdout.strip() == BackendUnavailableError.__name__, done.stderr


class Two(Pipeline):
    """A pipeline of two components, which answer with their input and with its double."""

    def __init__(self, bundle):
        factors = {"encoder": 1, "decoder": 2}
        signature = bundle.manifest.component("encoder").signature
        sessions = {
            name: Computes(signature, lambda feeds, factor=factor: {"sum": feeds["x"] * factor})
            for name, factor in factors.items()
        }
        super().__init__(bundle, OpenOptions(), tl.Progress(), sessions)


class Translator:
    """A pipeline of a user's own: it holds two networks, and calls them as they were written."""

    def __init__(self, encoder, decoder):
        self.encoder, self.decoder = encoder, decoder

    def __call__(self, tokens):
        state = self.encoder(tokens, return_mask=False)
        return self.decoder(state=(state["hidden"], state["cell"]), start=torch.zeros(len(tokens))).argmax(-1)


class Encoder(torch.nn.Module):
    def forward(self, tokens, return_mask=False):
        return {"hidden": tokens.float() * 2, "cell": tokens.float() - 1}


class Decoder(torch.nn.Module):
    def forward(self, state, start):
        hidden, cell = state
        return hidden * cell + start[:, None]


def test_both_networks_of_a_users_own_pipeline_are_replaced(tmp_path):
    axes = (Axis("batch", 1, 2, 4),)
    tokens = TensorSpec("tokens", "int64", ("batch", 5), (0, 9))
    hidden, cell, parts = (TensorSpec(name, "float32", ("batch", 5)) for name in ("hidden", "cell", "logits"))
    first = Signature((tokens,), (hidden, cell), axes)
    states = [replace(spec, name=f"state.{i}") for i, spec in enumerate((hidden, cell))]
    second = Signature((*states, TensorSpec("start", "float32", ("batch",))), (parts,), axes)
    calls = (
        Call(("tokens", "return_mask"), {"hidden": "hidden", "cell": "cell"}, {"return_mask": False}),
        Call(("state", "start"), "logits"),
    )

    def encode(feeds):
        tokens = feeds["tokens"].astype(np.float32)
        return {"hidden": tokens * 2, "cell": tokens - 1}

    def decode(feeds):
        return {"logits": feeds["state.0"] * feeds["state.1"] + feeds["start"][:, None]}

    modules = []
    for number, (signature, call, function) in enumerate(zip((first, second), calls, (encode, decode), strict=True)):
        bundle = bundle_of(tmp_path / str(number), "tensors", {}, {"model": signature}, {"model": ({}, {})})
        bundle.commit(bundle.manifest.with_component(replace(bundle.manifest.component("model"), call=call)))
        modules.append(open_module(of_bundle(bundle, {"model": Computes(signature, function)}), None))
    own, fast = Translator(Encoder(), Decoder()), Translator(*modules)
    given = torch.tensor([[1, 2, 3, 4, 5], [8, 0, 8, 1, 2], [0, 1, 0, 1, 0]])
    torch.testing.assert_close(fast(given), own(given))


BERT = """
import numpy as np
import torch

import torchlift as tl
from transformers import BertConfig, BertForSequenceClassification

CONFIG = BertConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=40, num_labels=3,
)
NAMES = {"input_ids": 64, "token_type_ids": 2, "attention_mask": 2}


def drawn(sizes, rng):
    # texts of any length, none of them empty
    shape = (sizes["batch"], sizes["sequence"])
    found = {name: rng.integers(0, most, shape) for name, most in NAMES.items()}
    lengths = rng.integers(1, shape[1] + 1, (shape[0], 1))
    return {**found, "attention_mask": (np.arange(shape[1]) < lengths).astype(np.int64)}


def classifier():
    torch.manual_seed(0)
    return BertForSequenceClassification(CONFIG).eval()


@tl.module(
    inputs=[tl.TensorSpec(name, "int64", ("batch", "sequence"), (0, most)) for name, most in NAMES.items()],
    axes=[tl.Axis("batch", 1, 2, 4), tl.Axis("sequence", 2, 8, 40)],
    sample=drawn,
)
def encoder():
    return classifier().bert
"""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *["a", "good", "bad", "film", "is", "the", "was", "it"]]
TEXTS = ["the film is good", "it was bad", "a"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A random BERT: its file, its tokenizer, and a bundle of what its ``bert`` is."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    (folder / "net.py").write_text(BERT)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tl.export("module", f"{folder}/net.py:encoder", folder / "encoder")
    bundle = Bundle.open(folder / "encoder")
    build_variant(bundle, bundle.manifest.component("model"), "onnxruntime")
    namespace = {}
    exec(compile(BERT, "net", "exec"), namespace)
    return namespace["classifier"], transformers.BertTokenizer(str(folder / "vocab.txt")), bundle


def scores_of(pipe, **options):
    return [[(x["label"], x["score"]) for x in row] for row in pipe(TEXTS, top_k=None, **options)]


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}], ids=["one by one", "padded together"])
def test_the_encoder_inside_a_model_of_transformers_is_replaced(bert, options):
    transformers = pytest.importorskip("transformers")
    classifier, tokenizer, bundle = bert
    pipe = transformers.pipeline("text-classification", model=classifier(), tokenizer=tokenizer)
    before = scores_of(pipe, **options)
    fast = tl.as_module(bundle.path, variants={"model": "onnxruntime/fp32"})
    pipe.model.bert = fast
    after = scores_of(pipe, **options)
    fast.close()
    for ours, theirs in zip(after, before, strict=True):
        assert [label for label, _ in ours] == [label for label, _ in theirs]
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-5)
    assert not any(name.startswith("bert.") for name in pipe.model.state_dict())


def test_the_model_of_a_pipeline_of_transformers_is_replaced(bert, tmp_path):
    transformers = pytest.importorskip("transformers")
    classifier, tokenizer, encoder = bert
    network, specs = classifier(), encoder.manifest.component("model").signature
    signature = Signature(specs.inputs, (TensorSpec("logits", "float32", ("batch", 3)),), specs.axes)

    def answer(feeds):
        with torch.no_grad():
            tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}
            return {"logits": network(**tensors).logits.numpy()}

    bundle = bundle_of(tmp_path / "whole", "tensors", {}, {"model": signature}, {"model": ({}, {})})
    call = Call(("input_ids", "attention_mask", "token_type_ids"), {"logits": "logits"})
    bundle.commit(bundle.manifest.with_component(replace(bundle.manifest.component("model"), call=call)))
    pipe = transformers.pipeline("text-classification", model=network, tokenizer=tokenizer)
    before = scores_of(pipe)
    session = Computes(signature, answer)
    pipe.model = open_module(of_bundle(bundle, {"model": session}), None)
    pipe.model.config = network.config
    assert scores_of(pipe) == before
    assert session.ran == ["host"] * len(TEXTS)
