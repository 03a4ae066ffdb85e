"""Thread budget, priority, memory and parent of this process.

Two thread pools that spin on two cores run ten times slower than one.
"""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

_PAGES = Path("/proc/self/statm")


def budget(threads: int) -> None:
    """Set the number of threads of OpenMP and BLAS, unless the environment does; call it before torch is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def yield_to_others(nice: int) -> None:
    """Lower the priority of this process to `nice`; where it is lower already, leave it."""
    os.nice(max(nice - os.nice(0), 0))


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system does not say."""
    try:
        return int(_PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def follow_parent() -> None:
    """In a worker process: leave SIGINT to the parent, and end when the parent ends, however it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
