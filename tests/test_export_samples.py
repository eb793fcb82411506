"""What draws the samples of a network must draw what it is asked for: they become its goldens."""

import re

import pytest

from torchlift.bundle import Bundle
from torchlift.errors import ExportError, SignatureError
from torchlift.exporter import export_component
from torchlift.families.base import LoadOptions
from torchlift.families.module import ModuleFamily
from torchlift.manifest import Manifest
from torchlift.signature import Axis

NET = """
import numpy as np, torch, torchlift as tl

def draw(sizes, rng):
    batch = sizes["batch"]
    {draw}

@tl.module(
    inputs=[tl.TensorSpec("ids", "int64", ("batch", "length"), bounds=(1, 50))], outputs=["y"],
    axes=[tl.Axis("batch", 1, 3, 6), tl.Axis("length", 2, 4, 8)], sample=draw,
)
def build():
    return torch.nn.Embedding(50, 4)
"""


@pytest.fixture
def refused(tmp_path):
    """The error that exporting a network with samples drawn in a certain way ends with."""

    def refused(draw, kind):
        (tmp_path / "net.py").write_text(NET.format(draw=draw))
        model = ModuleFamily().load(
            f"{tmp_path}/net.py:build", LoadOptions(axes={"": {"batch": Axis("batch", 1, 3, 6)}})
        )
        bundle = Bundle.create(tmp_path / "bundle", Manifest(model.name, model.family, model.key, {}))
        with pytest.raises(kind) as caught:
            export_component(model, "model", bundle)
        assert bundle.manifest.components == ()
        return caught.value

    return refused


@pytest.mark.parametrize(
    ("shape", "drawn", "asked"),
    [
        ("(3, sizes['length'])", "batch 3, length 2", "batch 1, length 2"),
        ("(batch, 4)", "batch 1, length 4", "batch 1, length 2"),
        ("(min(batch, 5), sizes['length'])", "batch 5, length 8", "batch 6, length 8"),
    ],
)
def test_samples_of_other_sizes_prove_another_corner(refused, shape, drawn, asked):
    error = refused(f"return {{'ids': rng.integers(1, 50, {shape})}}", ExportError)
    assert error.message == f"the samples are of {drawn}, and {asked} was asked for"
    assert "sample=" in error.remedy


def test_samples_outside_the_declared_bounds_are_refused(refused):
    error = refused("return {'ids': np.zeros((batch, sizes['length']), np.int64)}", SignatureError)
    assert re.match(r"input ids is int64\[1, 2\] and holds 0 at \[0, 0\], outside 1\.\.49", error.message)


def test_samples_that_the_memory_does_not_hold_are_said_to_be_so(refused):
    draw = (
        "if batch == 6: raise MemoryError('Unable to allocate 1.2 PiB')\n"
        "    return {'ids': rng.integers(1, 50, (batch, sizes['length']))}"
    )
    error = refused(draw, ExportError)
    assert error.message == "the memory does not suffice at batch 6, length 8: Unable to allocate 1.2 PiB"
    assert "`axes=" in error.remedy
