import contextlib
from types import SimpleNamespace

import pytest

from torchlift.backends.cuda import RecordingCache
from torchlift.backends.cuda import stream as module
from torchlift.errors import BackendError


class Recorded:
    """Something that counts how often it was closed."""

    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


def cached(limit, keys):
    cache, graphs = RecordingCache(limit), {key: Recorded() for key in keys}
    for key, graph in graphs.items():
        cache.put(key, graph)
    return cache, graphs


def test_a_cache_drops_what_was_not_used_for_longest():
    cache, graphs = cached(2, "ab")
    assert cache.get("a") is graphs["a"]
    cache.put("c", last := Recorded())
    assert {key: cache.get(key) for key in "abc"} == {"a": graphs["a"], "b": None, "c": last}
    assert (graphs["a"].closed, graphs["b"].closed, last.closed) == (0, 1, 0)


def test_a_graph_that_is_put_again_counts_as_used():
    cache, graphs = cached(2, "ab")
    cache.put("a", graphs["a"])
    cache.put("c", Recorded())
    assert (graphs["a"].closed, graphs["b"].closed) == (0, 1)


def test_a_graph_that_is_replaced_is_closed():
    cache, graphs = cached(2, "ab")
    cache.put("a", Recorded())
    assert (graphs["a"].closed, graphs["b"].closed) == (1, 0)


def test_room_is_made_for_one_more_before_it_is_there():
    cache, graphs = cached(2, "ab")
    cache.make_room()
    cache.make_room()
    assert (graphs["a"].closed, graphs["b"].closed) == (1, 0)
    cache.put("c", last := Recorded())
    assert (graphs["b"].closed, cache.get("b"), cache.get("c")) == (0, graphs["b"], last)


def test_clearing_closes_every_graph_once():
    cache, graphs = cached(3, "abc")
    cache.clear()
    cache.clear()
    assert [graph.closed for graph in graphs.values()] == [1, 1, 1]
    assert [cache.get(key) for key in "abc"] == [None] * 3


def test_a_cache_without_room_is_refused():
    with pytest.raises(BackendError, match="a cache of 0 CUDA graphs holds none") as caught:
        RecordingCache(0)
    assert caught.value.remedy == "Choose 1 or more, or do without CUDA graphs."


@pytest.mark.parametrize("fails", [False, True])
def test_a_stream_is_drained_without_what_failed_in_it_and_once_closed_not_at_all(monkeypatch, fails):
    told = []
    double = SimpleNamespace(
        cudaStreamNonBlocking=1,
        cudaStreamCreateWithFlags=lambda flags: (0, 7),
        cudaStreamSynchronize=lambda handle: told.append(handle) or (0,),
        cudaStreamDestroy=lambda handle: told.append("destroyed") or (0,),
    )

    def check(result, **given):
        if fails and result == (0,):
            raise BackendError("it failed")
        return result[-1]

    monkeypatch.setattr(module, "runtime", lambda: double)
    monkeypatch.setattr(module, "on_device", lambda ordinal: contextlib.nullcontext())
    monkeypatch.setattr(module, "check", check)
    stream = module.Stream()
    stream.drain()
    assert told == [7]
    stream.close()
    assert told == [7, 7, "destroyed"]
    stream.drain()
    assert told == [7, 7, "destroyed"]


def test_a_stream_is_waited_for_with_its_own_device_current(monkeypatch):
    current, told = [0], []

    @contextlib.contextmanager
    def on_device(ordinal):
        current.append(ordinal)
        yield
        current.pop()

    def tells(name, *value):
        return lambda *given: told.append((name, current[-1])) or (0, *value)

    functions = {
        name: tells(name, *value)
        for name, *value in (
            ("cudaEventCreateWithFlags", 5),
            ("cudaEventRecord",),
            ("cudaStreamWaitEvent",),
            ("cudaEventDestroy",),
        )
    }
    double = SimpleNamespace(**functions, cudaEventDefault=0, cudaEventDisableTiming=2, cudaEventWaitDefault=0)
    monkeypatch.setattr(module, "runtime", lambda: double)
    monkeypatch.setattr(module, "on_device", on_device)
    module.follow(1, 2, 3)
    assert told == [(name, 3) for name in functions]
