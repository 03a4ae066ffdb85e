"""A link that fails on demand: toxiproxy, which Go builds once (`python -m tests.parts.kube.tools toxiproxy`)."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

from tests.parts.kafka.broker import free_ports, listens
from tests.parts.kube import tools

START_LIMIT_S = 20.0


def unavailable() -> str | None:
    """One line that says why there is no such link here, or None."""
    return tools.unavailable("toxiproxy")


class Link:
    """A way through the proxy to one server, both directions.

    Args:
        api: address of the proxy's own interface.
        port: at which clients reach the server.
    """

    def __init__(self, api: str, port: int) -> None:
        self._api, self.port = api, port

    @property
    def address(self) -> str:
        """Address at which clients reach the server."""
        return f"127.0.0.1:{self.port}"

    def to(self, upstream: str) -> None:
        """Lead to that server."""
        self._ask("POST", "/proxies", {"name": "link", "listen": self.address, "upstream": upstream})

    @contextlib.contextmanager
    def failing(self, kind: str, **attributes: int) -> Iterator[None]:
        """The link with a fault: `timeout` (nothing passes), `latency` (ms one way), `bandwidth` (KB/s)."""
        sides = ("upstream", "downstream")
        for side in sides:
            fault = {"name": f"{kind}_{side}", "type": kind, "stream": side, "attributes": attributes}
            self._ask("POST", "/proxies/link/toxics", fault)
        try:
            yield
        finally:
            for side in sides:
                self._ask("DELETE", f"/proxies/link/toxics/{kind}_{side}")

    def _ask(self, method: str, path: str, body: object = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "tests"}
        with urlopen(Request(f"http://{self._api}{path}", data, headers, method=method), timeout=10):
            pass


@contextlib.contextmanager
def link(work_dir: Path) -> Iterator[Link]:
    """A running proxy whose link leads nowhere yet."""
    api, port = free_ports(2)
    command = [str(tools.path("toxiproxy")), "-host", "127.0.0.1", "-port", str(api)]
    with (work_dir / "toxiproxy.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + START_LIMIT_S
        while not listens(f"127.0.0.1:{api}"):
            assert process.poll() is None and time.monotonic() < deadline_s, "toxiproxy does not start"
            time.sleep(0.05)
        yield Link(f"127.0.0.1:{api}", port)
    finally:
        process.kill()
        process.wait(10)
