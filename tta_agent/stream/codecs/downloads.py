"""Downloads with a limit of time, whatever the file system behind a URL waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from tta_agent.core.errors import DecodeError

AT_ONCE = 4  # downloads that may hang


class Downloads:
    """Runs downloads, each in a thread of its own that is left behind where it does not end in time.

    While `AT_ONCE` of those that were left behind hang, no other one is begun: so a store that is down holds its
    caller up by that many limits, and not by one for each record.

    Args:
        timeout_s: longest wait for one.
    """

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ValueError(f"timeout_s is {timeout_s!r}; expected a number of seconds above 0")
        self._timeout_s = timeout_s
        self._free = threading.Semaphore(AT_ONCE)

    def run(self, download: Callable[[], bytes], what: str) -> bytes:
        """Content that `download` returns; what it raises is raised.

        Raises:
            DecodeError: `data_ref_timeout`, it takes too long, or as many others hang.
        """
        if not self._free.acquire(blocking=False):
            told = f"{what} was not asked for: {AT_ONCE} files before it do not come"
            raise DecodeError("data_ref_timeout", told)
        future: Future[bytes] = Future()
        threading.Thread(target=self._work, args=(download, future), name="tta-download", daemon=True).start()
        try:
            return future.result(self._timeout_s)
        except TimeoutError:
            if future.done():  # the download's own
                raise
            told = f"{what} did not come within {self._timeout_s:g} s; see timeout_s"
            raise DecodeError("data_ref_timeout", told) from None

    def _work(self, download: Callable[[], bytes], future: Future[bytes]) -> None:
        try:
            future.set_result(download())
        except BaseException as error:
            future.set_exception(error)
        finally:
            self._free.release()
