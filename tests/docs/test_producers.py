"""The page of producers: its code runs, its requests are taken, and its result is one that is written."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.docs.test_snippets import DOCS, snippet
from tests.stream import test_results
from tests.tap.test_middleware import Taps, app, post
from tta_agent import tap
from tta_agent.core.types import Label, Record
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.embedded.consumer import EmbeddedStreamConsumer
from tta_agent.stream.http.consumer import HttpStreamConsumer

PAGE = (DOCS / "guide/producers.md").read_text()
CODEC = factory.open_codec(env.load())


class Session:
    def run(self, _: Any, inputs: dict[str, Any]) -> list[Any]:
        return [np.eye(len(inputs["input"]), 3, dtype=np.float32)]


def test_one_call_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTA_STORE__PATH", str(tmp_path))
    names: dict[str, Any] = {"session": Session()}
    code = snippet("guide/producers.md", "tap.connect()")
    assert len([line for line in code.splitlines() if line]) <= 10
    exec(code, names)
    names["predict"](np.zeros((1, 4), np.float32))
    counts = names["log"].counts()
    names["log"].close()
    named = set(re.findall(r"`(\w+)`", PAGE.split("`log.counts()` has")[1].split(". If")[0]))
    assert named == set(counts)
    consumer = EmbeddedStreamConsumer(tmp_path / "log.db", ["inference"], "test", start="earliest")
    (raw,) = [*consumer.poll(1.0), *consumer.poll(0.0)]
    consumer.close()
    (found,) = CODEC.decode(raw, (4,), 3)
    assert isinstance(found, Record) and (found.id, found.version, found.key) == ("req-1", 3, "camera 7")


def test_the_middleware_with_fields_of_its_own() -> None:
    code = snippet("guide/producers.md", "json_fields(")
    given: dict[str, Any] = {}

    class App:
        def add_middleware(self, kind: Any, **options: Any) -> None:
            assert kind is tap.TapMiddleware
            given.update(options)

    exec(code, {"app": App()})
    taps = Taps()
    post(app(taps, **{**given, "paths": "/image"}), "/image", json={"pixels": np.zeros((1, 4, 4)).tolist()})
    (record,) = taps.records()
    assert record.version_name == "v7" and given["paths"] == "/predict"


def test_the_requests_in_curl_are_taken() -> None:
    consumer = HttpStreamConsumer(["inference", "inference.labels"], "inference.labels")
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for command in block.strip().split("\ncurl "):
        words = shlex.split(command.removeprefix("curl "))
        url = next(word for word in words if word.startswith("localhost")).replace(
            "localhost:8092", consumer.url
        )
        body, heads = (
            words[words.index("-d") + 1],
            [w for before, w in itertools.pairwise(words) if before == "-H"],
        )
        done = subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", url, "-d", body,
             *(part for head in heads for part in ("-H", head))],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "202"
    found = [item for raw in consumer.poll(5.0) for item in CODEC.decode(raw, None, None)]
    consumer.close()
    record, label = found
    assert isinstance(record, Record) and isinstance(label, Label)
    assert (record.id, label.id, label.label) == ("req-1", "req-1", 2)


def test_the_logger_of_kserve_is_of_its_form() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    logger = yaml.safe_load(block)["spec"]["predictor"]["logger"]
    assert logger == {"mode": "all", "url": f"http://localhost:{env.load().receiver.port}"}


def test_the_result_has_the_fields_of_one() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    told, logits = json.loads(block), np.eye(1, 3, dtype=np.float32)
    ((_, written),) = test_results.written(logits, logits)
    assert told.keys() == written.keys()
    for side in ("served", "adapted"):
        assert told[side].keys() == written[side].keys()
