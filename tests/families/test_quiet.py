"""What libraries print, warn of, log and draw is hidden; what the user's own code says is shown."""

import subprocess
import sys

import pytest
from shipped import torchlift

SAYS = '''
import logging, sys, threading
from torchlift.families.quiet import libraries_quiet

SAYS = """
import logging, sys, warnings
from tqdm import tqdm

def say():
    print("printed")
    print("on stderr", file=sys.stderr)
    warnings.warn("warned")
    warnings.warn("told the caller", stacklevel=2)
    logging.getLogger(__name__).warning("logged")
    for _ in tqdm(range(3), desc="drawn"):
        pass
"""

def sayer(name):
    module = {"__name__": name}
    exec(compile(SAYS, name, "exec"), module)
    return module["say"]
'''
SAID = ("printed", "on stderr", "warned", "told the caller", "logged", "drawn")


def said_by(code):
    """Which of ``SAID`` a process of its own says that runs ``code`` after ``SAYS``."""
    done = subprocess.run([sys.executable, "-c", SAYS + code], capture_output=True, text=True, check=True, timeout=60)
    return [word for word in SAID if word in done.stdout + done.stderr]


def test_nothing_of_a_library_is_shown():
    assert said_by("with libraries_quiet():\n    sayer('transformers.modeling_utils')()") == []


def test_all_that_the_user_says_is_shown():
    assert said_by("with libraries_quiet():\n    sayer('my_transformers')()") == [*SAID]


def test_a_library_is_heard_again_after_the_block():
    assert said_by("with libraries_quiet():\n    pass\nsayer('torch.nn')()") == [*SAID]


def test_threads_of_a_library_are_quiet():
    thread = "    thread = threading.Thread(target=sayer('torch.utils'))\n    thread.start()\n    thread.join()"
    assert said_by(f"with libraries_quiet():\n{thread}") == []


HANDLED = """
logging.getLogger("transformers").addHandler(logging.StreamHandler())
with libraries_quiet():
    sayer("transformers.trainer")()
"""


def test_a_handler_that_a_library_made_before_is_quiet_in_the_block_and_heard_after_it():
    assert said_by(HANDLED) == []
    assert said_by(f"{HANDLED}logging.getLogger('transformers').warning('logged')") == ["logged"]


NET = """
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import ViTConfig, ViTModel

HERE = Path(__file__).parent / "vit"


class Net(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        return self.inner(pixels).pooler_output


def save():
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes)).save_pretrained(HERE)


def build():
    print("mine", file=sys.stderr)
    return Net(ViTModel.from_pretrained(HERE)), (torch.rand(1, 3, 8, 8),)


class Chooses(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else 2 * x


def chooses():
    return Chooses(), (torch.rand(1, 4),)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A user's file that loads a local folder of transformers."""
    pytest.importorskip("transformers")
    file = tmp_path_factory.mktemp("quiet") / "net.py"
    file.write_text(NET)
    module = {"__file__": str(file), "__name__": "saving"}
    exec(compile(NET, str(file), "exec"), module)
    module["save"]()
    return file


def test_loading_a_folder_of_transformers_draws_no_bar(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = torchlift("export", f"{source}:build", "-o", tmp_path / "net")
    assert done.code == 0, done.err
    stages = [line for line in done.err.splitlines() if not line.startswith("- ")]
    assert stages == ["mine"]


def test_a_trace_that_fails_prints_no_graph_of_torch(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    done = torchlift("export", f"{source}:chooses", "-o", tmp_path / "net")
    before = done.err.partition("error: ")[0].splitlines()
    assert "- export" in done.err
    assert [line for line in before if not line.startswith(("- ", "note: "))] == []
