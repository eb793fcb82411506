import platform

import pytest

from torchlift import doctor, machine
from torchlift.backends import BACKENDS, backend
from torchlift.doctor import examine


def test_every_backend_and_the_torch_side_are_named():
    report = examine()
    assert [f.name for f in report.findings] == ["export (torch)", *BACKENDS]
    assert report.python == platform.python_version()
    assert report.machine == machine.this_machine()


def test_what_works_says_its_release_and_what_does_not_says_why_and_what_to_do():
    for finding in examine().findings:
        assert any(c.isdigit() for c in finding.state.detail) or finding.state.remedy
        assert finding.state.ok or "pip install" in finding.state.remedy


def test_precisions_are_those_that_the_machine_runs():
    for finding in examine().findings[1:]:
        runtime = backend(finding.name)
        assert finding.precisions == tuple(p for p in runtime.precisions if runtime.supports(p).ok)


def test_a_torch_side_that_is_not_whole(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "transformers" else "1.0")
    state = examine().findings[0].state
    assert not state.ok
    assert state.detail == "transformers not installed"
    assert state.remedy == 'pip install "torchlift[torch]"'


@pytest.mark.parametrize(("name", "module"), [("onnxruntime", "onnxruntime.base"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed(monkeypatch, name, module):
    monkeypatch.setattr(f"torchlift.backends.{module}.installed_version", lambda distribution: None)
    state = {f.name: f.state for f in examine().findings}[name]
    assert not state.ok
    assert "is not installed" in state.detail
    assert name in state.remedy
    assert state.remedy.startswith("pip install ")


def test_looking_imports_no_torch(python):
    done = python("from torchlift.doctor import examine; examine(); print('torch' in sys.modules)")
    assert done.stdout == "False\n", done.stderr
