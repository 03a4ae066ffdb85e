"""Webhooks: one confirms promotions, one asks for rollbacks, one receives events.

Nobody waits for them. A caller gets the last known answer, and the request goes on in a thread; whatever fails
is logged and counted, and never reaches the loop.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import httpx

from tta_agent.core.redact import host_only

ASK_EVERY_S = 3.0
WAITING = 1000  # events; beyond it the oldest is dropped
TRIES, BACK_OFF_S = 3, 0.5
YES, NO = 200, 403
log = logging.getLogger(__name__)


def _hide_addresses(record: logging.LogRecord) -> bool:
    """Change a line that httpx logs about a request: its URL may hold a secret."""
    given = record.args if isinstance(record.args, tuple) else ()
    record.args = tuple(host_only(str(one)) if isinstance(one, httpx.URL) else one for one in given)
    return True


class Hooks:
    """Up to three webhooks, each called by POST with JSON from a thread of its own. Thread-safe.

    Args:
        confirm_url: 200 says yes, 403 no, anything else not yet.
        event_url: receives every event.
        rollback_url: 200 says take the version back.
        timeout_s: longest wait for an answer.
        ask_every_s: least time between two questions about the same version.
        back_off_s: wait before an event is sent again; it doubles.
        dropped: called with `webhook_event` and a count where events were given up.
    """

    def __init__(
        self,
        confirm_url: str | None = None,
        event_url: str | None = None,
        rollback_url: str | None = None,
        *,
        timeout_s: float = 5.0,
        ask_every_s: float = ASK_EVERY_S,
        back_off_s: float = BACK_OFF_S,
        dropped: Callable[[str, int], None] = lambda reason, count: None,
    ) -> None:
        logging.getLogger("httpx").addFilter(_hide_addresses)  # the same one again and again is one
        self._http = httpx.Client(timeout=timeout_s, headers={"user-agent": "tta-agent"})
        self._confirm = _Asker(confirm_url, self._post, ask_every_s) if confirm_url else None
        self._rollback = _Asker(rollback_url, self._post, ask_every_s) if rollback_url else None
        self._events = _Teller(event_url, self._post, back_off_s, dropped) if event_url else None

    def _post(self, url: str, body: bytes) -> int | None:
        """Status of the answer; None where there was none."""
        try:
            return self._http.post(
                url, content=body, headers={"content-type": "application/json"}
            ).status_code
        except (httpx.HTTPError, httpx.InvalidURL, RuntimeError) as error:  # RuntimeError: closed meanwhile
            log.debug("%s: %s", host_only(url), type(error).__name__)
            return None

    def confirm(self, explanation: Mapping[str, Any]) -> bool | None:
        """Last answer about `explanation["version"]`: True, False, or None for not yet.

        A yes or no is final for that version; until then it is asked again every few seconds.
        """
        status = self._confirm.ask(explanation, {YES, NO}) if self._confirm else None
        return {YES: True, NO: False}.get(status or 0)

    def rollback(self, state: Mapping[str, Any]) -> bool:
        """Whether the webhook asks to roll `state["version"]` back."""
        return self._rollback is not None and self._rollback.ask(state, {YES}) == YES

    def event(self, name: str, data: Mapping[str, Any]) -> None:
        """Send an event, in order; up to three tries."""
        if self._events:
            self._events.tell(_json({"time": time.time(), "event": name, **data}))

    def close(self, timeout_s: float = 3.0) -> None:
        """Send waiting events, for `timeout_s` at most, and free the threads. Idempotent."""
        deadline_s = time.monotonic() + timeout_s
        for worker in (self._events, self._confirm, self._rollback):
            if worker:
                worker.end(max(deadline_s - time.monotonic(), 0.0))
        self._http.close()


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, default=str).encode()


class _Worker:
    """A daemon thread that works on what waits."""

    def __init__(self, url: str, post: Callable[[str, bytes], int | None], name: str) -> None:
        self._url, self._host, self._post = url, host_only(url), post
        self._changed, self._ended = threading.Condition(), threading.Event()
        self._waiting: deque[tuple[object, bytes]] = deque()
        self._thread = threading.Thread(target=self._loop, name=f"tta-{name}", daemon=True)
        self._thread.start()

    def end(self, timeout_s: float) -> None:
        """Work on what waits, for so long at most."""
        with self._changed:
            self._ended.set()
            self._changed.notify()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ended.is_set():
                    self._changed.wait()
                if not self._waiting:
                    return
                item = self._waiting.popleft()
            self._work(*item)

    def _work(self, key: object, body: bytes) -> None:
        raise NotImplementedError


class _Asker(_Worker):
    """Keeps the last answer about one version."""

    def __init__(self, url: str, post: Callable[[str, bytes], int | None], every_s: float) -> None:
        self._every_s, self._asked_s = every_s, -every_s
        self._about: object = None
        self._status: int | None = None
        self._busy = False
        super().__init__(url, post, "ask")

    def ask(self, body: Mapping[str, Any], final: set[int]) -> int | None:
        """The last status about `body["version"]`; asks again in the background unless that is final."""
        version, now_s = body.get("version"), time.monotonic()
        with self._changed:
            if version != self._about:
                self._about, self._status, self._asked_s = version, None, -self._every_s
            due = now_s - self._asked_s >= self._every_s and not self._busy
            if self._status not in final and due and not self._ended.is_set():
                self._asked_s, self._busy = now_s, True
                self._waiting.append((version, _json(body)))
                self._changed.notify()
            return self._status

    def _work(self, key: object, body: bytes) -> None:
        status = self._post(self._url, body)
        with self._changed:
            self._busy = False
            if key == self._about:  # else the answer is about a version that is gone
                if status is None and self._status is None:
                    log.warning("%s does not answer; asked again in %.0f s", self._host, self._every_s)
                self._status = status


class _Teller(_Worker):
    """Sends events in order."""

    def __init__(
        self,
        url: str,
        post: Callable[[str, bytes], int | None],
        back_off_s: float,
        dropped: Callable[[str, int], None],
    ) -> None:
        self._back_off_s, self._dropped = back_off_s, dropped
        self._failed = 0
        super().__init__(url, post, "tell")

    def tell(self, body: bytes) -> None:
        with self._changed:
            if self._ended.is_set():
                return
            if len(self._waiting) >= WAITING:
                self._waiting.popleft()
                self._dropped("webhook_event", 1)
            self._waiting.append((None, body))
            self._changed.notify()

    def _work(self, key: object, body: bytes) -> None:
        status = None
        for attempt in range(TRIES):
            status = self._post(self._url, body)
            if status is not None and status < 300:
                return
            if status is not None and status < 500 and status != 429:
                break  # it will not like the same words better
            if attempt < TRIES - 1:
                self._ended.wait(self._back_off_s * 2**attempt)  # no long waits at the end
        self._failed += 1
        self._dropped("webhook_event", 1)
        if self._failed.bit_count() == 1:  # 1, 2, 4, 8 ...
            log.warning("%d events could not be told to %s (last: %s)", self._failed, self._host, status)
