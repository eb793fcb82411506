"""Processes that take cases one after the other. One that ends or hangs costs its case, and is replaced."""

from __future__ import annotations

import contextlib
import gc
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
from typing import Any

SCRIPT = Path(__file__).with_name("zoo.py")

IN_A_ROW = 20
"""How many cases a process takes before it is replaced: imports take seconds, and exporters keep memory."""


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
        self.taken = 0

    def fileno(self) -> int:
        """Where answers arrive."""
        return self._answers.fileno()

    def give(self, case: str, tool: str) -> None:
        """Have it take a case; its answer arrives later."""
        self.taken += 1
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{json.dumps([case, tool])}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its end is seen where its answer is read

    def answer(self) -> dict[str, str]:
        """Its answer, or how it ended."""
        line = self._answers.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        return {"status": "crashed", "reason": f"the process ended with {code}"}

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
                    if answer["status"] == "crashed" or worker.taken >= IN_A_ROW:
                        worker.end()
                    else:
                        idle.append(worker)
                    yield name, {**answer, "tool": with_tool, "seconds": round(took, 1)}
        finally:
            for worker in [*busy, *idle]:
                worker.end()


def serve(descriptor: int) -> None:
    """Take cases from the standard input, and write an answer a line to the descriptor."""
    import torch

    from networks import load
    from zoo_tools import TOOLS

    zoo = load()
    with os.fdopen(descriptor, "w") as answers:
        for line in sys.stdin:
            name, tool = json.loads(line)
            with tempfile.TemporaryDirectory() as folder:
                outcome = TOOLS[tool](zoo.cases[name], Path(folder))
            answers.write(f"{json.dumps(asdict(outcome))}\n")
            answers.flush()
            torch._dynamo.reset()
            gc.collect()
