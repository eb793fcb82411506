"""Arguments of a call as inputs by name, and outputs as the network returns them."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from torchlift.declare.call import Call
from torchlift.errors import InputError
from torchlift.pipelines.calls import Outputs, inputs_of, returned

CALL = Call(("ids", "mask", "state", "causal", "labels"), "y", {"causal": True, "labels": None})
NAMES = ["ids", "mask", "state.0", "state.1"]
A, B, C, D = (np.full(2, value) for value in range(4))


def bound(*args, **keywords):
    return inputs_of(CALL, NAMES, args, keywords, lambda value: isinstance(value, np.ndarray))


@pytest.mark.parametrize(
    ("args", "keywords"),
    [
        ((A, B, (C, D)), {}),
        ((A,), {"state": [C, D], "mask": B}),
        ((A, B, {"0": C, "1": D}, True, None), {}),
        ((A, B, (C, D)), {"causal": True, "labels": None, "head_mask": None}),
        ((A, B, (C, D)), {"return_dict": True, "output_attentions": False, "use_cache": None}),
    ],
    ids=["by position", "by name", "a dict", "constants", "as transformers calls it"],
)
def test_arguments_are_inputs_by_name_and_by_path(args, keywords):
    found = bound(*args, **keywords)
    assert {*found} == {*NAMES}
    assert [found[name] is given for name, given in zip(NAMES, (A, B, C, D), strict=True)] == [True] * 4


def test_a_parameter_that_was_declared_by_another_name_is_given_by_either():
    call = Call(("tokens", "weights"), "y", renamed={"x": "tokens", "w": "weights"})
    for args, keywords in (((), {"x": A, "w": B}), ((), {"tokens": A, "w": B}), ((A,), {"weights": B})):
        found = inputs_of(call, ["tokens", "weights"], args, keywords, lambda value: isinstance(value, np.ndarray))
        assert found["tokens"] is A
        assert found["weights"] is B
    for args, keywords in (((A,), {"x": B}), ((), {"x": A, "tokens": B})):
        with pytest.raises(InputError, match="given twice"):
            inputs_of(call, ["tokens", "weights"], args, keywords, lambda value: isinstance(value, np.ndarray))


def test_named_tuples_and_dataclasses_are_taken_apart():
    state = namedtuple("state", "h c")

    @dataclass
    class Config:
        a: Any

    call = Call(("state", "config"), "y")
    found = inputs_of(
        call,
        ["state.h", "state.c", "config.a"],
        (state(A, B), Config(C)),
        {},
        lambda value: isinstance(value, np.ndarray),
    )
    assert [found["state.h"] is A, found["state.c"] is B, found["config.a"] is C] == [True] * 3


@pytest.mark.parametrize(
    ("args", "keywords", "said"),
    [
        ((A,) * 6, {}, "6 arguments"),
        ((A,), {"ids": A}, "given twice"),
        ((A, B), {"causal": False}, "exported with True"),
        ((A, B), {"labels": A}, "labels is a tensor"),
        ((A, B), {"scale": 2.0}, "scale is 2.0"),
        ((A, B, (C, D, A)), {}, "state.2 is a tensor"),
        ((A, B), {"output_hidden_states": True}, "output_hidden_states"),
    ],
    ids=["too many", "twice", "another constant", "no input", "unknown", "longer", "more outputs"],
)
def test_what_the_network_was_not_exported_with_is_refused(args, keywords, said):
    with pytest.raises(InputError, match=said) as caught:
        bound(*args, **keywords)
    assert caught.value.remedy


def test_outputs_are_nested_as_the_network_returns_them():
    outputs = {"y": A, "h.0": B, "h.1": C}
    assert returned("y", outputs) is A
    first, second, (third,) = returned(["y", None, ["h.0"]], outputs)
    assert [first is A, second, third is B] == [True, None, True]
    found = returned({"logits": "y", "loss": None, "hidden": ["h.0", "h.1"]}, outputs)
    assert found.logits is found["logits"] is found[0] is A
    assert found.loss is None
    assert found["loss"] is None
    assert [found.hidden[0] is B, found.hidden[1] is C] == [True, True]
    assert [len(found.to_tuple()), len(found[1:])] == [2, 1]
    assert [*found] == ["logits", "loss", "hidden"]


def test_what_outputs_of_transformers_have_as_none_is_none_and_a_wrong_name_is_an_error():
    found = Outputs(logits=A)
    assert found.hidden_states is None
    with pytest.raises(AttributeError, match="logits"):
        _ = found.logit
    with pytest.raises(KeyError):
        _ = found["hidden_states"]
    with pytest.raises(IndexError):
        _ = found[1]
