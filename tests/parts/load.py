"""Clients that ask a model server without a pause, and compare each answer with the graph of the version it names."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np

from tests.parts import serving


@dataclass
class Load:
    """Closed-loop clients of one model, in threads.

    Attributes:
        number_of: version of the registry, by the server's word for it.
        worst_s: longest request.
    """

    url: str
    model: str
    number_of: Callable[[str], int] = int
    clients: int = 2
    input: str = "image"
    requests: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    versions: set[int] = field(default_factory=set)
    worst_s: float = 0.0

    def __enter__(self) -> Load:
        """Return when each client has had an answer."""
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of each request
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(self.clients)]
        for thread in self._threads:
            thread.start()
        serving.eventually(lambda: self.requests >= self.clients or self.failed, 30)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def await_version(self, number: int) -> None:
        """Return when a client has had an answer of the version."""
        serving.eventually(lambda: number in self.versions, 30)

    def check(self) -> None:
        """No request failed, and each answer was that of the version it named."""
        assert not self.failed, (len(self.failed), self.failed[0])
        assert not self.wrong, (len(self.wrong), self.wrong[0])

    def _ask(self, seed: int) -> None:
        x = serving.samples(1, seed)
        entry = {"name": self.input, "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        with httpx.Client(base_url=self.url, timeout=60, trust_env=False) as http:
            while not self._stop.is_set():
                started_s = time.monotonic()
                try:
                    response = http.post(f"/v2/models/{self.model}/infer", json={"inputs": [entry]})
                    self._note(x, response, time.monotonic() - started_s)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))

    def _note(self, x: serving.Array, response: httpx.Response, took_s: float) -> None:
        with self._lock:
            self.requests += 1
            self.worst_s = max(self.worst_s, took_s)
        if not response.is_success:
            self.failed.append(f"{response.status_code} {response.text[:300]}")
            return
        told = response.json()
        number = self.number_of(str(told["model_version"]))
        answer = np.asarray(told["outputs"][0]["data"], np.float32).reshape(len(x), -1)
        if not np.allclose(answer, serving.answers(x, number), atol=1e-3):
            self.wrong.append(f"version {number}: {answer}")
        self.versions.add(number)
