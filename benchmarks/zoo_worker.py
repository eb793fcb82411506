"""Processes that take cases one after the other, each in a fork: what one leaves behind in torch does not reach the
next, and imports are paid once. A fork that ends or hangs costs its own case.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

SCRIPT = Path(__file__).with_name("zoo.py")

PRELOADED = (
    "networks",
    "onnxruntime",
    "onnxscript",
    "torch._dynamo",
    "torch.export._draft_export",
    "torch.onnx._internal.exporter._core",
    "transformers",
    "zoo_tools",
)
"""What is imported once for all cases. None of it starts a thread."""


@dataclass(frozen=True)
class Result:
    """A line of the results."""

    case: str
    group: str
    tool: str
    status: str
    reason: str
    seconds: float
    refused: str


class Worker:
    """A process that takes cases."""

    def __init__(self, threads: int) -> None:
        reading, writing = os.pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--worker", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writing,),
            start_new_session=True,
            env=environment,
            text=True,
        )
        os.close(writing)
        self._answers = os.fdopen(reading)
        self.lives = True

    def fileno(self) -> int:
        """Where answers arrive."""
        return self._answers.fileno()

    def give(self, case: str, tool: str) -> None:
        """Have it take a case; its answer arrives later."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its end is seen where its answer is read
            self._process.stdin.write(f"{json.dumps([case, tool])}\n")
            self._process.stdin.flush()

    def answer(self) -> dict[str, str]:
        """Its answer, or how it ended."""
        line = self._answers.readline()
        if line:
            return json.loads(line)
        self.lives = False
        return {"status": "crashed", "reason": f"the process ended with {self._process.wait()}"}

    def end(self) -> None:
        """End it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._answers.close()


def run(cases: Sequence[tuple[str, str]], jobs: int, deadline: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case's name, and its answer with its seconds, as they come. ``cases`` are (name, tool)."""
    threads = max((os.cpu_count() or 1) // jobs, 1)
    waiting = list(reversed(cases))
    busy: dict[Worker, tuple[str, str, float]] = {}
    idle: list[Worker] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or busy:
                while waiting and len(busy) < jobs:
                    worker = idle.pop() if idle else Worker(threads)
                    name, with_tool = waiting.pop()
                    busy[worker] = (name, with_tool, time.monotonic())
                    selector.register(worker, selectors.EVENT_READ)
                    worker.give(name, with_tool)
                ready = {key.fileobj for key, _ in selector.select(1.0)}
                for worker, (name, with_tool, since) in list(busy.items()):
                    took = time.monotonic() - since
                    if worker in ready:
                        answer = worker.answer()
                    elif took > deadline:
                        answer = {"status": "crashed", "reason": f"no answer in {deadline:.0f} s"}
                    else:
                        continue
                    del busy[worker]
                    selector.unregister(worker)
                    if worker in ready and worker.lives:
                        idle.append(worker)
                    else:
                        worker.end()
                    yield name, {**answer, "tool": with_tool, "seconds": round(took, 1)}
        finally:
            for worker in [*busy, *idle]:
                worker.end()


def serve(descriptor: int) -> None:
    """Take cases from the standard input, and write an answer a line to the descriptor."""
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _answer(descriptor, *json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            _write(descriptor, {"status": "crashed", "reason": f"the process ended with {code}"})


def _answer(descriptor: int, name: str, tool: str) -> NoReturn:
    """Take a case, and end this process."""
    code = 1
    try:
        from networks import load
        from zoo_check import one_line
        from zoo_tools import TOOLS

        try:
            with tempfile.TemporaryDirectory() as folder:
                answer = asdict(TOOLS[tool](load().cases[name], Path(folder)))
        except Exception as error:  # of the case itself: see --tool eager
            answer = {"status": "crashed", "reason": f"the case failed: {one_line(error)}"}
        _write(descriptor, answer)
        code = 0
    finally:
        os._exit(code)


def _write(descriptor: int, answer: dict[str, str]) -> None:
    os.write(descriptor, f"{json.dumps(answer)}\n".encode())
