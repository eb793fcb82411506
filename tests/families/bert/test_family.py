"""What a folder declares, and folders that are refused."""

import json
from pathlib import Path

import berts
import pytest
import torch
from safetensors.torch import load_file, save_file

from torchlift.axes import Axis
from torchlift.declare.answers import Labels, Raw, TokenLabels
from torchlift.declare.inputs import TextInput, TextPart
from torchlift.errors import CheckpointError, SignatureError, SourceError, UnsafeCheckpointError

IDS = ("input_ids", "attention_mask", "token_type_ids")


class Touching:
    """A pickle of it makes a file where it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def edit(folder, **said):
    file = folder / "config.json"
    config = {**json.loads(file.read_text()), **said}
    file.write_text(json.dumps(config))


def change(folder, edit):
    file = folder / "model.safetensors"
    save_file(edit(load_file(file)), file)


@pytest.mark.parametrize(
    ("kind", "head", "inputs", "outputs"),
    [
        ("bert", "QuestionAnswering", ("input_ids", "input_mask", "segment_ids"), {"start": 2, "end": 2}),
        ("distilbert", "QuestionAnswering", ("input_ids", "input_mask"), {"start": 2, "end": 2}),
        ("electra", "SequenceClassification", IDS, {"logits": 2}),
        ("roberta", "TokenClassification", IDS[:2], {"logits": 3}),
        ("deberta-v2", "MaskedLM", IDS[:2], {"logits": 3}),
        ("mpnet", "", IDS[:2], {"last_hidden_state": 3}),
    ],
)
def test_inputs_and_outputs_are_those_of_the_architecture(load, write, kind, head, inputs, outputs):
    model = load(write(kind, head))
    signature = model.signature
    assert signature.input_names == inputs
    assert {spec.name: len(spec.shape) for spec in signature.outputs} == outputs
    assert [spec.bounds for spec in signature.inputs] == [(0, len(berts.VOCABULARY)), (0, 2), (0, 2)][: len(inputs)]
    assert signature.axis("sequence").max == 40  # of roberta and mpnet two rows of the table are never used
    assert model.pipeline == ("question-answering" if head == "QuestionAnswering" else "tensors")
    assert json.loads(model.assets["tokenizer"][1])["model"]["type"] == "WordPiece"


def test_texts_and_labels_are_declared(load, write):
    names = {0: "good", 1: "bad", 2: "neither"}
    model = load(write("bert", "SequenceClassification", id2label=names))
    assert model.inputs == {
        "input_ids": TextInput("tokenizer", 40, characters=100_000),
        "attention_mask": TextPart("input_ids", "mask"),
        "token_type_ids": TextPart("input_ids", "types"),
    }
    assert model.answers == {"logits": Labels(("good", "bad", "neither"), top=3)}


def test_what_the_problem_is_decides_how_logits_are_read(load, write):
    several = load(write("bert", "SequenceClassification", "a", problem_type="multi_label_classification"))
    assert several.answers["logits"].activation == "sigmoid"
    number = load(write("bert", "SequenceClassification", "b", num_labels=1))
    assert number.answers == {"logits": Raw()}
    tokens = load(write("bert", "TokenClassification", "c", id2label={0: "O", 1: "B-PER"}))
    assert tokens.answers == {"logits": TokenLabels(("O", "B-PER"), "attention_mask")}


def test_the_key_is_that_of_weights_configuration_and_tokenizer(load, write):
    folder = write()
    key = load(folder).key
    assert load(folder).key == key
    assert load(folder, axes={"": {"batch": Axis("batch", 1, 2, 3)}}).key != key
    change(folder, lambda state: {name: tensor + 1 for name, tensor in state.items()})
    assert load(folder).key != key


def test_older_names_and_weights_that_nothing_uses_are_read(load, write):
    model = berts.network("bert", "QuestionAnswering")
    folder = write(head="QuestionAnswering", model=model)

    def older(state):
        named = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): t for n, t in state.items()}
        named = {n.replace("LayerNorm.bias", "LayerNorm.beta"): t for n, t in named.items()}
        return {
            **named,
            "bert.embeddings.position_ids": torch.arange(40)[None],
            "bert.pooler.dense.weight": torch.zeros(24, 24),
            "bert.pooler.dense.bias": torch.zeros(24),
        }

    change(folder, older)
    component = load(folder).component("model")
    state = component.reference.network.state_dict()
    torch.testing.assert_close(state, dict(model.state_dict()))


def test_shared_weights_need_to_be_there_once(load, write):
    folder = write("bert", "MaskedLM")
    change(folder, lambda state: {n: t for n, t in state.items() if not n.startswith("cls.predictions.decoder")})
    network = load(folder).component("model").reference.network
    assert network.cls.predictions.decoder.weight is network.bert.embeddings.word_embeddings.weight


def test_an_encoder_is_read_from_the_folder_of_a_head(load, write):
    folder = write("bert", "MaskedLM")
    edit(folder, architectures=["BertModel"])
    assert load(folder).signature.output_names == ("last_hidden_state",)


def test_missing_unexpected_and_misshapen_weights_are_named(load, write):
    folder = write("bert", "QuestionAnswering")

    def other(state):
        state["qa_outputs.extra"] = state.pop("qa_outputs.bias")
        state["qa_outputs.weight"] = torch.zeros(3, 24)
        return state

    change(folder, other)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    for said in ("missing qa_outputs.bias", "unexpected qa_outputs.extra", "qa_outputs.weight has [3, 24]"):
        assert said in caught.value.message


def test_the_checkpoint_of_another_model_is_refused(load, write):
    folder = write()
    edit(folder, model_type="gpt2")
    with pytest.raises(CheckpointError, match="'gpt2'"):
        load(folder)
    edit(folder, model_type="bert", architectures=["BertForMultipleChoice"])
    with pytest.raises(CheckpointError, match="BertForMultipleChoice"):
        load(folder)
    edit(folder, architectures=["BertModel"], hidden_size=25)
    with pytest.raises(CheckpointError, match="hidden"):
        load(folder)


def test_weights_of_another_head_are_refused(load, write):
    folder = write("bert", "TokenClassification")
    edit(folder, architectures=["BertForQuestionAnswering"])
    with pytest.raises(CheckpointError, match="missing qa_outputs"):
        load(folder)


def test_weights_that_are_not_finite_are_refused(load, write):
    folder = write()
    change(folder, lambda state: {n: t * float("nan") for n, t in state.items()})
    with pytest.raises(CheckpointError, match="NaN"):
        load(folder).component("model")


def test_a_pickle_that_would_run_code_runs_none(load, write, tmp_path):
    folder = write()
    (folder / "model.safetensors").unlink()
    mark = tmp_path / "mark"
    torch.save({"weight": Touching(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeCheckpointError):
        load(folder)
    assert not mark.exists()


def test_code_that_a_folder_names_is_not_run(load, write, tmp_path):
    folder = write()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edit(folder, auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"})
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, "auto_map": {"AutoTokenizer": ["evil.E", None]}}))
    load(folder).component("model")
    assert not (tmp_path / "ran").exists()


def test_a_damaged_or_missing_tokenizer_is_refused(load, write):
    folder = write()
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(folder)
    for other in folder.glob("tokenizer*"):
        other.unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(folder)


def test_a_tokenizer_with_more_tokens_than_the_network_is_refused(load, write):
    folder = write()
    berts.tokenizer([*berts.VOCABULARY, "more"]).save_pretrained(folder)
    with pytest.raises(CheckpointError, match="tokens"):
        load(folder)


def test_sources_that_are_no_folder_are_refused(load, tmp_path, write):
    for source in (tmp_path / "none.bin", write() / "config.json"):
        with pytest.raises(CheckpointError):
            load(source)


def test_axes_resolutions_and_components_that_do_not_fit_are_refused(load, write):
    folder = write()
    with pytest.raises(SignatureError, match="40 positions"):
        load(folder, axes={"": {"sequence": Axis("sequence", 4, 8, 41)}})
    with pytest.raises(SourceError):
        load(folder, resolution=224)
    with pytest.raises(SourceError):
        load(folder).component("text")
    with pytest.raises(SourceError):
        load(folder).component("model", attention="flash")
