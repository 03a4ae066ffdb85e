"""Memory of closed sessions: the heap keeps it until it is trimmed."""

from __future__ import annotations

import contextlib
import ctypes
import queue
import threading
import time
import weakref

_SETTLE_S = 0.05  # from an object's last reference to its memory being free
_released: queue.SimpleQueue[None] = queue.SimpleQueue()  # its put may be called from a finalizer


def trim_after(held: object) -> None:
    """Trim the heap once the object is gone: free() alone keeps its memory for the process."""
    weakref.finalize(held, _released.put, None).atexit = False
    _start_trimmer()


def _trim() -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def _trim_forever() -> None:
    while True:
        _released.get()
        time.sleep(_SETTLE_S)
        _trim()


_trimmer_lock = threading.Lock()
_trimmer: threading.Thread | None = None


def _start_trimmer() -> None:
    global _trimmer
    with _trimmer_lock:
        if _trimmer is None:
            _trimmer = threading.Thread(target=_trim_forever, name="tta-trim", daemon=True)
            _trimmer.start()
