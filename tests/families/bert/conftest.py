"""Tiny networks of this family as folders, and as bundles that torch answers, which take no time to make."""

import berts
import msgspec
import pytest
import torch
from colour_models import bundle_of

from torchlift.backends import Session
from torchlift.declare.inputs import TextInput
from torchlift.families.base import LoadOptions
from torchlift.families.bert import Bert
from torchlift.pipelines import of_bundle


class Torch(Session):
    """What the network that would be exported answers."""

    def __init__(self, component):
        super().__init__(component.signature, "torch")
        self._network = component.exported

    def _run(self, feeds):
        with torch.inference_mode():
            found = self._network(*(torch.from_numpy(feeds[name]) for name in self.signature.input_names))
        found = found if isinstance(found, tuple) else (found,)
        return {n: array.numpy() for n, array in zip(self.signature.output_names, found, strict=True)}

    def _prepare(self, feeds):
        return lambda: None


@pytest.fixture
def load():
    """Find the model in a folder."""
    return lambda source, **options: Bert().load(str(source), LoadOptions(**options))


@pytest.fixture
def write(tmp_path):
    """Write a folder that transformers would."""

    def save(kind="bert", head="", name="folder", **said):
        return berts.write(tmp_path / name, kind, head, **said)

    return save


@pytest.fixture
def opened(load, tmp_path):
    """The pipeline of the model in a folder, with a session of torch in the place of a variant."""

    def pipeline(source):
        model, asset = load(source), "tokenizer.json"
        inputs = {
            name: msgspec.structs.replace(d, tokenizer=asset) if isinstance(d, TextInput) else d
            for name, d in model.inputs.items()
        }
        declared, signatures = {"model": (inputs, model.answers)}, {"model": model.signature}
        assets = {asset: model.assets["tokenizer"][1]}
        bundle = bundle_of(tmp_path / "bundle", model.pipeline, {}, signatures, declared, assets)
        return of_bundle(bundle, {"model": Torch(model.component("model"))})

    return pipeline
