"""Networks that are read from folders answer as transformers does, and so does what is exported."""

import berts
import numpy as np
import pytest
import torch

from torchlift.axes import Axis
from torchlift.families.attention import STYLES

CLOSE = 5e-6
"""Of the greatest magnitude of an output."""


def answers(network, feeds):
    with torch.inference_mode():
        found = network(*(torch.from_numpy(array) for array in feeds.values()))
    return found if isinstance(found, tuple) else (found,)


def of_transformers(model, feeds):
    ids, mask, *types = (torch.from_numpy(array) for array in feeds.values())
    given = {"token_type_ids": types[0]} if types else {}
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=mask, **given)
    return (found.start_logits, found.end_logits) if "start_logits" in found else (found[0],)


def farthest(found, expected, kept):
    """The largest difference at tokens, as a share of the largest magnitude."""
    parts = []
    for ours, theirs in zip(found, expected, strict=True):
        if ours.ndim > 1 and ours.shape[1] == kept.shape[1]:
            ours, theirs = ours[kept], theirs[kept]
        parts.append(float((ours - theirs).abs().max() / theirs.abs().max()))
    return max(parts)


@pytest.mark.parametrize("head", berts.HEADS)
@pytest.mark.parametrize("kind", berts.KINDS)
def test_a_network_answers_as_transformers_does_at_every_size(load, write, kind, head):
    model = berts.network(kind, head)
    batches = {"": {"batch": Axis("batch", 1, 3, 5)}}
    component = load(write(kind, head, model=model), axes=batches).component("model")
    assert not any(parameter.requires_grad for parameter in component.reference.parameters())
    for batch, sequence in ((1, 4), (3, 17), (5, 40)):
        feeds = component.sample({"batch": batch, "sequence": sequence}, np.random.default_rng(sequence))
        assert list(feeds) == list(component.signature.input_names)
        component.signature.check(feeds)
        kept = torch.from_numpy(feeds[component.signature.input_names[1]].astype(bool))
        expected = of_transformers(model, feeds)
        assert farthest(answers(component.reference, feeds), expected, kept) < CLOSE
        assert farthest(answers(component.exported, feeds), expected, kept) < CLOSE


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["bert", "electra", "distilbert"])
def test_every_style_of_attention_answers_alike(load, write, kind, style):
    component = load(write(kind)).component("model", attention=style)
    feeds = component.sample({"batch": 3, "sequence": 9}, np.random.default_rng(0))
    kept = torch.from_numpy(feeds["attention_mask"].astype(bool))
    assert farthest(answers(component.exported, feeds), answers(component.reference, feeds), kept) < CLOSE


@pytest.mark.parametrize("kind", berts.KINDS)
def test_what_a_text_gets_does_not_depend_on_its_padding(load, write, kind):
    component = load(write(kind)).component("model")
    feeds = component.sample({"batch": 1, "sequence": 9}, np.random.default_rng(0))
    pad = {"input_ids": int(component.sample.pad)}
    longer = {n: np.pad(a, ((0, 0), (0, 6)), constant_values=pad.get(n, 0)) for n, a in feeds.items()}
    alone, padded = (answers(component.exported, given)[0][:, :9] for given in (feeds, longer))
    assert float((alone - padded).abs().max() / alone.abs().max()) < CLOSE


def test_the_exported_network_shares_its_weights(load, write):
    component = load(write()).component("model")
    ours = {parameter.data_ptr() for parameter in component.exported.parameters()}
    assert ours == {parameter.data_ptr() for parameter in component.reference.parameters()}


def test_samples_look_like_texts(load, write):
    component = load(write("bert", "QuestionAnswering")).component("model")
    feeds = component.sample({"batch": 8, "sequence": 20}, np.random.default_rng(0))
    ids, mask, types = feeds["input_ids"], feeds["input_mask"], feeds["segment_ids"]
    lengths = mask.sum(axis=1)
    assert lengths[0] == 20
    assert len({*lengths.tolist()}) > 3
    start, end, pad = (berts.VOCABULARY.index(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    assert (ids[:, 0] == start).all()
    assert (ids[np.arange(8), lengths - 1] == end).all()
    assert (ids[mask == 0] == pad).all()
    assert (types[mask == 0] == 0).all()
    assert types.max() == 1


@pytest.mark.parametrize(
    ("kind", "head", "kept"),
    [
        ("bert", "QuestionAnswering", ("network.qa_outputs",)),
        ("distilbert", "SequenceClassification", ("network.classifier",)),
        ("roberta", "SequenceClassification", ("network.classifier.out_proj",)),
        ("electra", "TokenClassification", ("network.classifier",)),
        ("bert", "MaskedLM", ()),
        ("mpnet", "", ()),
    ],
)
def test_the_layer_that_gives_the_scores_stays_fp32(load, write, kind, head, kept):
    component = load(write(kind, head)).component("model")
    assert component.keep == kept
    for name in kept:
        assert isinstance(component.exported.get_submodule(name), torch.nn.Linear)
