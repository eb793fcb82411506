import os
import platform
from pathlib import Path

import pytest

from torchlift import machine
from torchlift.machine import Machine, installed_version, this_machine, usable_cores

X86 = """processor\t: 0
model name\t: AMD EPYC 9R14
flags\t\t: fpu avx2 avx512f avx512_bf16 sse

processor\t: 1
model name\t: another
flags\t\t: amx_int8
"""
ARM = """processor\t: 0
Features\t: fp asimd asimddp bf16
CPU part\t: 0xd40
"""


@pytest.fixture
def cpuinfo(monkeypatch):
    """Makes /proc/cpuinfo read as the given text, or fail as on a system that has none."""

    def replace(text):
        def read(path, *arguments, **options):
            if text is None:
                raise FileNotFoundError(path)
            return text

        monkeypatch.setattr(Path, "read_text", read)
        return machine.this_machine.__wrapped__()

    return replace


def test_the_processor_and_the_instructions_that_decide(cpuinfo):
    found = cpuinfo(X86)
    assert found.processor == "AMD EPYC 9R14"
    assert found.instructions == ("avx2", "avx512f", "avx512_bf16")


def test_a_processor_without_a_name_goes_by_its_architecture(cpuinfo):
    found = cpuinfo(ARM)
    assert found.processor == platform.machine()
    assert found.instructions == ("asimd", "asimddp", "bf16")


def test_a_system_without_cpuinfo(cpuinfo):
    found = cpuinfo(None)
    assert found.processor == (platform.processor() or platform.machine())
    assert found.instructions == ()


def test_this_machine():
    found = this_machine()
    assert found.cores == usable_cores() >= 1
    assert found.memory > 2**28
    assert found.system == f"{platform.system()} {platform.machine()}"
    assert this_machine() is found


def test_a_machine_in_words():
    assert str(Machine("EPYC", (), 4, 8 * 2**30, "Linux x86_64")) == "EPYC, 4 cores, 8 GiB, Linux x86_64"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_cores_are_those_that_the_process_may_use(python):
    script = """
import os
from torchlift.machine import usable_cores
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(usable_cores())
"""
    assert python(script).stdout == "1\n"


def test_versions_of_what_is_installed_and_what_is_not():
    assert installed_version("pytest") == pytest.__version__
    assert installed_version("no-such-distribution") is None


@pytest.mark.parametrize(("content", "cores"), [("100000 100000", 1), ("150000 100000", 2), ("max 100000", 8), ("", 8)])
def test_a_container_s_quota_limits_the_cores(tmp_path, monkeypatch, content, cores):
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert usable_cores() == cores
