import os
import platform
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from torchlift import machine
from torchlift.errors import InputError
from torchlift.machine import Gpu, Machine, RunOn, gpus, installed_version, nvml_handles, this_machine, usable_cores

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


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("NVIDIA H200",), ", NVIDIA H200"),
        (("NVIDIA H200",) * 8, ", 8 NVIDIA H200"),
        (("Tesla T4", "NVIDIA H200", "Tesla T4"), ", 2 Tesla T4, NVIDIA H200"),
    ],
)
def test_gpus_are_told_with_their_number(names, said):
    machine = Machine("EPYC", (), 4, 8 * 2**30, "Linux x86_64", names)
    assert str(machine) == f"EPYC, 4 cores, 8 GiB, Linux x86_64{said}"
    assert machine.runs_like(replace(machine, gpus=())), "the runtime's version has the GPU"


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


UUIDS = ("GPU-4c1f0d2e-31aa-0f6e-9c55-7f7b9a1e0001", "GPU-4c1f9b77-5d02-11e8-8eb2-f2801f1b9fd1", "GPU-9a0e0003-aaaa")
H200 = Gpu("NVIDIA H200", "9.0", 150_754_820_096, "580.159.04")
FOUND = (H200, H200, Gpu("Tesla T4", "7.5", 15_843_721_216, "580.159.04"))


@pytest.fixture
def driver(monkeypatch):
    """A driver with three GPUs, which are their own handles, told as bytes or as texts."""

    def put(said=lambda text: text):
        answers = {
            "nvmlInit": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: said("580.159.04"),
            "nvmlDeviceGetCount": lambda: len(FOUND),
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetUUID": lambda handle: said(UUIDS[handle]),
            "nvmlDeviceGetName": lambda handle: said(FOUND[handle].name),
            "nvmlDeviceGetCudaComputeCapability": lambda handle: tuple(map(int, FOUND[handle].capability.split("."))),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=FOUND[handle].memory),
        }
        for name, answer in answers.items():
            monkeypatch.setattr(pynvml, name, answer)

    put()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return put


def seen():
    """The handles of the GPUs that this process may use, found anew."""
    return [handle for _, handle in nvml_handles.__wrapped__()]


@pytest.mark.parametrize("said", [str, str.encode])
def test_the_gpus_of_the_driver_are_described(driver, said):
    driver(said)
    assert tuple(gpu for gpu, _ in nvml_handles.__wrapped__()) == FOUND
    assert str(FOUND[0]) == "NVIDIA H200, driver 580.159.04"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("", []),
        ("-1", []),
        ("none", []),
        ("0,-1,1", [0]),
        ("1,7,0", [1]),
        ("3", []),
        (UUIDS[1], [1]),
        (f"{UUIDS[2]},{UUIDS[0]}", [2, 0]),
        ("GPU-9a0e", [2]),
        ("GPU-9a0e,0", [2, 0]),
        ("0,GPU-4c1f", [0]),
        ("GPU-", []),
        ("GPU-ffff,0", []),
        ("MIG-4c1f0d2e-31aa-0f6e-9c55-7f7b9a1e0001", []),
    ],
)
def test_only_the_gpus_that_cuda_sees_are_counted_in_its_order_up_to_the_first_that_is_none(
    driver, monkeypatch, said, found
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", said)
    assert seen() == found


def test_without_the_variable_all_are_seen(driver):
    assert seen() == [0, 1, 2]


def test_without_a_driver_there_are_no_gpus(driver, monkeypatch):
    def no_library():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    assert nvml_handles.__wrapped__() == ()


def test_a_gpu_that_does_not_tell_its_memory_hides_none(driver, monkeypatch):
    def memory(handle):
        if handle == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=FOUND[handle].memory)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)
    found = tuple(gpu for gpu, _ in nvml_handles.__wrapped__())
    assert found == (FOUND[0], replace(FOUND[1], memory=0), FOUND[2])


def test_a_gpu_that_fell_off_the_bus_is_no_accident(driver, monkeypatch):
    def lost(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lost)
    assert nvml_handles.__wrapped__() == ()


def test_without_the_package_there_are_no_gpus(driver, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml_handles.__wrapped__() == ()


def test_the_gpus_of_this_process_are_those_of_its_machine():
    assert this_machine().gpus == tuple(gpu.name for gpu in gpus())
    if not Path("/dev/nvidiactl").exists():
        assert gpus() == ()


# what of the machine a call runs on


def test_no_threads_are_every_usable_core():
    assert RunOn().cores == usable_cores()
    assert RunOn(threads=3).cores == 3


@pytest.mark.parametrize("on", [RunOn(0, 0), RunOn(1024, 1023)])
def test_numbers_that_machines_have_are_taken(on):
    assert replace(on) == on


@pytest.mark.parametrize("threads", [-1, 1025, 12345678901234567890, 2.0, "4", True, None])
def test_a_number_of_threads_that_nobody_means_is_an_error_that_names_it_and_the_cores(monkeypatch, threads):
    monkeypatch.setattr(machine, "usable_cores", lambda: 77)
    with pytest.raises(InputError) as caught:
        RunOn(threads=threads)
    assert repr(threads) in caught.value.message
    assert "1024" in caught.value.remedy
    assert "77" in caught.value.remedy


@pytest.mark.parametrize("device", [-1, 1024, 12345678901234567890, "0"])
def test_a_gpu_that_no_machine_has_is_an_error_that_names_it(monkeypatch, device):
    monkeypatch.setattr(machine, "gpus", lambda: (FOUND[0],) * 5)
    with pytest.raises(InputError) as caught:
        RunOn(device=device)
    assert repr(device) in caught.value.message
    assert "5" in caught.value.remedy
