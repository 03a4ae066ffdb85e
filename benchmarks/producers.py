"""Cost of logging to a server, and what the receiver takes.

    python benchmarks/producers.py [--seconds 2] [--repeats 5] [--json OUT]

`tap_us`: one call of the tap, in the caller's thread, while its own thread writes to a producer that throws away.
`middleware`: a request to an endpoint that costs nothing but its bytes, with the middleware over without, through
ASGI alone (no sockets, so that the share is the largest there is); `middleware_us` is the difference of the two.
`receiver`: records per second that one tap posts, and that four do, over real HTTP to a process of its own, until the
queue has them all. All variants take turns within each repeat; medians over the repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from tta_agent.core.types import Array, Done, Headers
from tta_agent.stream.codecs import oip
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.http.producer import HttpProducer
from tta_agent.tap import Tap, TapMiddleware

SIZES = {"12k": (1, 3, 32, 32), "600k": (1, 3, 224, 224)}
TOPICS = ["inference", "inference.labels"]


class Nowhere:
    """A producer that acknowledges and throws away."""

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """Acknowledge."""
        if on_done:
            on_done(None)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to free."""


def per_call(call: Callable[[], Any], seconds: float, tap: Tap) -> float:
    """Seconds of one call, paced so that the thread of the tap keeps up."""
    spent = calls = 0.0
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        began_s = time.perf_counter()
        call()
        spent, calls = spent + time.perf_counter() - began_s, calls + 1
        while tap.counts()["queued"]:
            time.sleep(0.0005)
    return spent / calls


def tap_us(x: Array, seconds: float) -> float:
    """Microseconds of one call of the tap."""
    tap, y = Tap(Nowhere(), CloudEvents(), "t", "m"), np.zeros((1, 10), np.float32)
    found = per_call(lambda: tap.record(x, y, version=0), seconds, tap)
    assert not tap.counts()["dropped"]
    tap.close()
    return found * 1e6


async def endpoint(scope: Any, receive: Any, send: Any) -> None:
    """Read the request and answer ten numbers."""
    while (await receive()).get("more_body"):
        pass
    text, _ = oip.encode(oip.Body({}, {"y": np.zeros((1, 10), np.float32)}, "id", "m", "0"), binary=False)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def request_us(app: Any, body: bytes, length: int | None, seconds: float, tap: Tap) -> float:
    """Microseconds of one request."""
    heads = [] if length is None else [(oip.HEAD_LENGTH.encode(), str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/v2/models/m/infer", "headers": heads}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        pass

    loop = asyncio.new_event_loop()
    found = per_call(lambda: loop.run_until_complete(app(dict(scope), receive, send)), seconds, tap)
    loop.close()
    return found * 1e6


def middleware(x: Array, binary: bool, seconds: float) -> tuple[float, float]:
    """Microseconds of a request without and with the middleware."""
    body, length = oip.encode(oip.Body({"x": x}), binary=binary)
    tap = Tap(Nowhere(), CloudEvents(), "t", "m")
    found = tuple(
        request_us(app, body, length, seconds, tap) for app in (endpoint, TapMiddleware(endpoint, tap))
    )
    assert tap.counts()["errors"] == tap.counts()["dropped"] == 0
    tap.close()
    return found  # type: ignore[return-value]


def listen(pipe: Connection) -> None:
    """A receiver in a process of its own, which only counts."""
    from tta_agent.stream.http.consumer import HttpStreamConsumer

    consumer = HttpStreamConsumer(TOPICS, TOPICS[1])
    pipe.send(consumer.url)
    while not pipe.poll():
        consumer.poll(0.1)
    consumer.close()


def posted_per_s(url: str, x: Array, taps: int, seconds: float) -> float:
    """Records per second that so many taps post."""
    message = CloudEvents().encode_inference(
        "id", x, np.zeros((1, 10), np.float32), 0, source="s", model="m", time_s=1.0
    )
    counts, began_s = [0] * taps, time.perf_counter()

    def post(i: int) -> None:
        producer = HttpProducer(url, TOPICS[1])
        while time.perf_counter() - began_s < seconds:
            producer.send(TOPICS[0], *message)
            counts[i] += 1
        producer.close()

    threads = [threading.Thread(target=post, args=(i,)) for i in range(taps)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began_s)


def measure(seconds: float, repeats: int) -> dict[str, float]:
    """Medians of all figures."""
    found: dict[str, list[float]] = {}
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=listen, args=(theirs,), daemon=True)
    process.start()
    url = ours.recv()
    for _ in range(repeats):
        for size, shape in SIZES.items():
            x = np.random.default_rng(0).random(shape, np.float32)
            found.setdefault(f"tap_us_{size}", []).append(tap_us(x, seconds))
            for kind in ("binary", "json"):
                bare, tapped = middleware(x, kind == "binary", seconds)
                found.setdefault(f"middleware_{kind}_{size}", []).append(tapped / bare)
                found.setdefault(f"middleware_us_{kind}_{size}", []).append(tapped - bare)
            for taps in (1, 4):
                found.setdefault(f"receiver_{taps}_{size}", []).append(posted_per_s(url, x, taps, seconds))
    ours.send(None)
    process.join(20)
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.seconds, options.repeats)
    for name, value in found.items():
        print(f"{name:28} {value:10,.1f}")
    if options.json:
        options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
