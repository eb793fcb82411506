"""What pytest's workers (pytest-xdist) share, and what each has for itself: cores, and folders that were made once."""

import os
import pickle
import shutil

from filelock import FileLock

WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
"""``gw0``, ``gw1``, ...; empty where there are no workers."""


def take_cores():
    """Leave this worker, and what it starts, a share of the cores, so that workers do not wait for each other.

    It must run before a library is imported that starts a thread for each core that it sees.
    """
    if not WORKER:
        return
    number, count = int(WORKER.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = cores[number::count] or [cores[number % len(cores)]]
        os.sched_setaffinity(0, share)
        threads = len(share)
    else:
        threads = max(1, (os.cpu_count() or 1) // count)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def made_once(factory, name, make):
    """What ``make(folder)`` returns, of a new folder ``name`` that it fills: made by the first worker that asks, and
    read by the others, so it must be picklable. Not to be changed.
    """
    base = factory.getbasetemp()
    folder = (base.parent if WORKER else base) / name
    done = folder.with_name(f"{name}.pickle")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not done.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            done.write_bytes(pickle.dumps(make(folder)))
    return pickle.loads(done.read_bytes())
