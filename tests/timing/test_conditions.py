"""What a GPU did while it was measured, by values as NVML gave them of an H200; the handles are numbers here."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pynvml
import pytest

from torchlift.evidence import Conditions
from torchlift.machine import Gpu
from torchlift.timing import conditions
from torchlift.timing.conditions import Watch

H200 = Gpu("NVIDIA H200", "9.0", 150_754_820_096, "580.159.04")
T4 = replace(H200, name="Tesla T4", capability="7.5")
IDLE, POWER_CAP, THERMAL, BRAKE, SET = 0x1, 0x4, 0x20, 0x80, 0x2
STEADY = Conditions(str(H200), (1980, 1980, 1980), (34, 41))


class Gpus:
    """What NVML says of each GPU at the next sample: its load in percent, clock in MHz, temperature, and the bits that
    say why the clock is what it is.
    """

    def __init__(self, *gpus):
        self.handles = tuple((gpu, handle) for handle, gpu in enumerate(gpus))
        self.now = dict.fromkeys(range(len(gpus)), (0, 345, 28, IDLE))

    def put(self, monkeypatch):
        monkeypatch.setattr(conditions, "nvml_handles", lambda: self.handles)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda h: SimpleNamespace(gpu=self.now[h][0]))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", self.clock)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", self.temperature)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda handle: self.now[handle][3])

    def clock(self, handle, kind):
        assert kind == pynvml.NVML_CLOCK_SM
        return self.now[handle][1]

    def temperature(self, handle, sensor):
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self.now[handle][2]

    def seen(self, *samples, handle=0):
        """The conditions of one GPU after these samples."""
        watch = Watch(*range(len(self.handles)))
        for sample in samples:
            self.now[handle] = sample
            watch.sample()
        return watch.conditions()


@pytest.fixture
def h200(monkeypatch):
    gpus = Gpus(H200)
    gpus.put(monkeypatch)
    return gpus


def test_the_bits_that_are_looked_for_are_nvml_s():
    assert all(getattr(pynvml, name) for name in conditions._REASONS)
    bits = [getattr(pynvml, name) for name in conditions._REASONS]
    assert len({*bits}) == len(bits)
    assert not any(bit & (IDLE | SET) for bit in bits)


def test_the_range_of_clocks_and_temperatures_is_of_the_samples(h200):
    samples = [(100, 1980, 34, 0), (97, 1755, 41, 0), (100, 1965, 39, 0), (100, 1980, 40, 0)]
    assert h200.seen(*samples) == (Conditions(str(H200), (1755, 1972, 1980), (34, 41)),)


def test_a_gpu_on_which_nothing_runs_is_passed_over(h200):
    assert h200.seen((0, 345, 28, IDLE), (0, 345, 28, IDLE)) == ()
    assert h200.seen((0, 345, 28, IDLE), (99, 1980, 34, 0), (0, 1980, 41, IDLE)) == (
        replace(STEADY, temperature=(34, 34)),
    )


def test_reasons_for_slowing_down_are_collected_and_no_others(h200):
    (found,) = h200.seen((100, 1980, 60, SET), (100, 1700, 70, POWER_CAP), (100, 1500, 88, POWER_CAP | THERMAL | IDLE))
    assert found.throttled == ("power limit", "software temperature")
    (found,) = h200.seen((100, 1980, 60, BRAKE))
    assert found.throttled == ("power brake",)
    (found,) = h200.seen((100, 1980, 60, IDLE | SET))
    assert found.throttled == ()


def test_each_gpu_has_its_own_and_those_that_idle_have_none(monkeypatch):
    gpus = Gpus(H200, T4, H200)
    gpus.put(monkeypatch)
    watch = Watch(0, 1, 2)
    gpus.now[1], gpus.now[2] = (50, 1590, 60, 0), (100, 1980, 41, POWER_CAP)
    watch.sample()
    assert watch.conditions() == (
        Conditions(str(T4), (1590, 1590, 1590), (60, 60)),
        Conditions(str(H200), (1980, 1980, 1980), (41, 41), ("power limit",)),
    )


def test_a_sample_that_fails_counts_for_nothing(h200, monkeypatch):
    def lost(*_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", lost)
    assert h200.seen((100, 1980, 34, 0)) == ()


def test_it_looks_until_the_block_ends(h200, monkeypatch):
    monkeypatch.setattr(conditions, "_PERIOD", 0.001)
    h200.now[0] = (100, 1980, 34, 0)
    before, watch = threading.active_count(), Watch(0)
    with watch.looking():
        deadline = time.monotonic() + 10
        while not watch.conditions() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert watch.conditions() == (Conditions(str(H200), (1980, 1980, 1980), (34, 34)),)


def test_looking_ends_with_an_error_too(h200):
    before = threading.active_count()
    with pytest.raises(KeyError), Watch(0).looking():
        raise KeyError
    assert threading.active_count() == before


def test_without_a_gpu_nothing_is_watched(monkeypatch):
    monkeypatch.setattr(conditions, "nvml_handles", tuple)
    before, watch = threading.active_count(), Watch(0)
    with watch.looking():
        assert threading.active_count() == before
    assert watch.conditions() == ()


def test_a_gpu_that_is_not_measured_is_not_watched(monkeypatch):
    gpus = Gpus(H200, H200)
    gpus.put(monkeypatch)
    watch = Watch(1)
    for handle in gpus.now:
        gpus.now[handle] = (90, 1980, 40, 0)
    watch.sample()
    assert len(watch.conditions()) == 1
