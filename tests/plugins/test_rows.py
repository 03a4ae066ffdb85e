"""One file and one entry point: each kind of plugin, from a distribution of its own, at work in the real agent.

The agent is `tta-agent run` on the embedded log with a small net. To add a kind, write a toy that does something
visible, install it, and assert what can be seen from outside: events, versions, files.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import worlds
from tests.plugins.distribution import install
from tta_agent.core.stream_protocols import Producer
from tta_agent.core.types import Array, Message
from tta_agent.demo.processes import Child
from tta_agent.models.ort_sessions import open_session, run
from tta_agent.registry.registry import ModelRegistry
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.stream.recordings.reader import Recording

PATIENCE_S = 120.0
TINY = {
    "TTA_MODEL__FACTORY": "tests.worlds:tiny_batch_net",
    "TTA_MODEL__INPUT_SHAPE": "[1,8,8]",
    "TTA_MODE": "auto",
    "TTA_SWAP__DRIVER": "none",
    "TTA_STREAM__START": "earliest",
    "TTA_ADAPT__BATCH_SIZE": "16",
    "TTA_SELECT__SELECTORS": "[]",
    "TTA_SCHEDULE__CANDIDATE_EVERY": "1",
    "TTA_GATE__GATES": '["tta_agent.testing:Anything"]',
    "TTA_GATE__MIN_INTERVAL_S": "0",
    "TTA_WATCH__FOLLOW_DOMAIN": "false",
}


def images(n: int) -> Array:
    return np.random.default_rng(5).normal(size=(n, 1, 8, 8)).astype(np.float32)


class Bench:
    """An agent with one toy installed, its stream and its store."""

    def __init__(self, folder: Path, *toy: str, **environ: str) -> None:
        site = install(folder / "site", *toy)
        self.store = folder / "store"
        self.settings = env.load(store={"path": self.store})  # of the stream only: this process has no toy
        self.producer: Producer = factory.open_producer(self.settings, [])
        paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environ = {**TINY, "TTA_STORE__PATH": str(self.store), **environ}
        self._environ["PYTHONPATH"] = os.pathsep.join(paths)
        self.agent = Child("run", self._environ, folder / "agent.log")
        self._sent = 0

    def command(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Another `tta-agent` command under the same settings."""
        return subprocess.run(
            [sys.executable, "-m", "tta_agent", *map(str, words)],
            env={**worlds.clean_environ(), **self._environ},
            capture_output=True, text=True, timeout=180, check=check,
        )  # fmt: skip

    def send(self, n: int = 64, shift: float = 0.0) -> None:
        """More records in the default format; `shift` is added to each pixel."""
        for i, x in enumerate(images(n) + np.float32(shift), self._sent):
            event = CloudEvents().encode_inference(
                f"r{i}", x[None], None, None, source="t", model="m", time_s=time.time()
            )
            self.producer.send(self.settings.stream.topic, *event)
        self._sent += n
        self.producer.flush()

    def until(self, what: Callable[[], Any], feed: Callable[[], None] = lambda: None) -> Any:
        """What it returns once it is true."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (found := what()):
            log = self.agent.log.read_text()[-3000:]
            assert not self.agent.died() and time.monotonic() < deadline_s, log
            feed()
            time.sleep(0.25)
        return found

    def event(self, name: str) -> dict[str, Any] | None:
        """The first event of that name."""
        path = self.store / "events.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return next((event for line in lines if (event := json.loads(line))["event"] == name), None)

    def status(self) -> dict[str, Any]:
        path = self.store / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def versions(self) -> ModelRegistry:
        return ModelRegistry(self.store / "versions", self.store / "cache")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Starts agents, and ends them."""
    started: list[Bench] = []

    def make(*toy: str, **environ: str) -> Bench:
        bench = Bench(tmp_path, *toy, **environ)
        started.append(bench)
        bench.agent.start()
        return bench

    yield make
    for bench in started:
        bench.agent.stop()
        bench.producer.close()


def test_an_adapter(made: Callable[..., Bench]) -> None:
    bench = made("adapters", "adapter", "nudge", "Nudge", TTA_ADAPT__METHOD="nudge")
    swap = bench.until(lambda: bench.event("swap"), bench.send)
    versions = bench.versions()
    graphs = [open_session(versions.get(number).path) for number in (0, swap["version"])]
    source, served = (run(graph, images(8)) for graph in graphs)
    nudged = served - source
    assert nudged[0, 0] >= 1
    assert np.allclose(nudged[:, 0], versions.manifest(swap["version"])["rounds"], atol=1e-3)
    assert np.allclose(nudged[:, 1:], 0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["auto", "first_byte"])
def test_a_wire_format(made: Callable[..., Bench], codec: str, tmp_path: Path) -> None:
    options = {"TTA_STREAM__OPTIONS": '{"first_byte": {"classes_from": 1}}'}
    bench = made("codecs", "codec", "first_byte", "FirstByte", TTA_STREAM__CODEC=codec, **options)
    x, stream = images(100), bench.settings.stream
    messages: list[Message] = [(None, b"I%d %s" % (i, sample.tobytes()), ()) for i, sample in enumerate(x)]
    for message in (*messages, (None, b"I100 too short", ())):
        bench.producer.send(stream.topic, *message)
    for i in range(50):
        bench.producer.send(stream.labels_topic, None, b"L%d %d" % (i, i % 4 + 1), ())
    bench.producer.flush()
    bench.until(lambda: bench.status().get("undecodable"))
    assert bench.until(lambda: bench.status().get("totals", {}).get("kept", 0) >= 48)
    assert bench.status()["undecodable"] == {"toy_size": 1}
    bench.agent.stop()
    told = bench.command("record", tmp_path / "recording", "--follow-s", 1).stdout
    assert "100 records in" in told and "1 toy_size" in told
    rows = {int(row.id): row for row in Recording.open(tmp_path / "recording")}
    assert all(np.array_equal(rows[i].x, x[i]) for i in range(100))
    assert [rows[i].label for i in (0, 3, 49, 50)] == [0, 3, 1, None]


@pytest.mark.slow
def test_a_server_driver(made: Callable[..., Bench], tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    options = json.dumps({"one_folder": {"folder": str(tmp_path / "server")}})
    driver = {"TTA_SWAP__DRIVER": "one_folder", "TTA_SWAP__OPTIONS": options, "TTA_MODEL__SERVED_AS": "tiny"}
    bench = made("drivers", "driver", "one_folder", "OneFolder", **driver)
    swap = bench.until(lambda: bench.event("swap"), bench.send)
    bench.agent.stop()
    number, versions = swap["version"], bench.versions()
    calls = (tmp_path / "server" / "calls.txt").read_text().splitlines()
    assert calls[:2] == ["close", "probe tiny"]  # the check of the settings has built one, and closed it
    at = calls.index(f"publish {number}")
    assert calls[at : at + 3] == [f"publish {number}", f"activate {number}", f"verify {number}"]
    serving = versions.aliases()["serving"]
    assert served(tmp_path) == versions.get(int(serving or 0)).sha256
    bench.command("rollback", "--to", 0)  # by hand, through the same driver
    assert served(tmp_path) == versions.get(0).sha256


def served(folder: Path) -> str:
    return hashlib.sha256((folder / "server" / "served.onnx").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_gate_that_watches(made: Callable[..., Bench]) -> None:
    gates = {"TTA_GATE__GATES": '["regret", "tta_agent.testing:Anything"]'}
    watch = {"TTA_WATCH__WINDOW_RECORDS": "20", "TTA_WATCH__TRIPS": "1"}
    bench = made("gates", "gate", "regret", "Regret", **gates, **watch)
    rollback = bench.until(lambda: bench.event("rollback"), bench.send)
    swap = bench.event("swap")
    assert swap is not None
    bench.agent.stop()
    judged = {finding["gate"]: finding for finding in bench.versions().verdict(swap["version"])["findings"]}
    assert judged["regret"]["reason"] == "let it try"
    assert rollback["finding"]["gate"] == "regret"
    assert rollback["reason"] == "regretted after 20 records"


def test_a_drift_detector(made: Callable[..., Bench]) -> None:
    once = {"TTA_GATE__SWAPS_PER_DAY": "1", "TTA_WATCH__FOLLOW_DOMAIN": "true"}
    bench = made("detectors", "detector", "sign", "Sign", TTA_WATCH__DETECTOR="sign", **once)
    swap = bench.until(lambda: bench.event("swap"), lambda: bench.send(shift=2.0))
    assert not bench.event("drift")
    fallback = bench.until(lambda: bench.event("fallback"), lambda: bench.send(shift=-2.0))
    drift = bench.event("drift")
    assert drift is not None and drift["features"] == {"sign": 7.0}
    assert (fallback["version"], fallback["finding"]["value"], fallback["finding"]["threshold"]) == (
        0,
        7.0,
        1.0,
    )
    reinstated = bench.until(lambda: bench.event("reinstated"), lambda: bench.send(shift=2.0))
    assert reinstated["version"] == swap["version"]
