"""The page of everything on the wire: its producers are read, and it names what the code reads and writes."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import kafka as kafka_python
import numpy as np
import pytest

from tests.docs.test_snippets import DOCS, Embedded, snippet
from tta_agent.core.errors import DecodeError
from tta_agent.core.types import RawRecord, Record
from tta_agent.settings import env
from tta_agent.stream import factory
from tta_agent.stream.codecs import cloudevents, mlserver, oip, payloads, seldon
from tta_agent.stream.decoder import UNREADABLE, dead_letter
from tta_agent.stream.embedded.consumer import EmbeddedStreamConsumer

PAGE = (DOCS / "reference/wire.md").read_text()
CODEC = factory.open_codec(env.load())
X, Y = np.random.default_rng(0).random((2, 4), np.float32), np.eye(2, 3, dtype=np.float32)


class WithHeaders(Embedded):
    def send(self, topic: str, *, key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
        self._to.send(topic, key, value, tuple(headers))


def test_the_producer_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_python, "KafkaProducer", partial(WithHeaders, tmp_path / "log.db"))
    names: dict[str, Any] = {}
    code = snippet("reference/wire.md", "entitykey")
    exec(code, names)
    assert len(code.split("def log")[1].splitlines()) <= 10
    names["log"](X, Y, "camera 7")
    names["producer"].close()
    consumer = EmbeddedStreamConsumer(tmp_path / "log.db", ["inference"], "test", start="earliest")
    (raw,) = [*consumer.poll(1.0), *consumer.poll(0.0)]
    consumer.close()
    found = [one for one in CODEC.decode(raw, (4,), 3) if isinstance(one, Record)]
    assert [(one.key, one.tenant, one.version) for one in found] == [("camera 7", "camera 7", 0)] * 2
    np.testing.assert_array_equal(np.stack([one.x for one in found]), X)
    assert raw.key is not None and found[0].id == raw.key.decode() + "#0"


def test_the_producer_in_curl() -> None:
    (sent,) = json.loads(re.findall(r"-d '\n(.*?)'\n```", PAGE, re.DOTALL)[0])["records"]
    raw = RawRecord("t", 0, 0, 1000, json.dumps(sent["key"]).encode(), json.dumps(sent["value"]).encode())
    (found,) = CODEC.decode(raw, (4,), 3)
    assert isinstance(found, Record) and found.id == "req-1" and found.version == 0
    assert found.served is not None and found.served.argmax() == 0


def test_the_producer_in_go_gives_what_is_required() -> None:
    (code,) = re.findall(r"```go\n(.*?)```", PAGE, re.DOTALL)
    named = re.findall(r'header\("(\w+)", ("?[\w.-]+"?)\)', code)
    values = {name: value.strip('"').replace("-", "") or "x" for name, value in named}
    values |= {"specversion": "1.0", "type": cloudevents.INFERENCE}
    body, _ = oip.encode(oip.Body({"input": X}, {"logits": Y}, "id", None, "0"), binary=False)
    heads = tuple((f"ce_{name}", value.encode()) for name, value in values.items())
    found = CODEC.decode(RawRecord("t", 0, 0, 1000, b"id", body, heads), (4,), 3)
    assert [one.key for one in found if isinstance(one, Record)] == ["entity"] * 2
    with pytest.raises(DecodeError, match="ce_source"):
        CODEC.decode(
            RawRecord("t", 0, 0, 1000, b"id", body, tuple(h for h in heads if h[0] != "ce_source")), (4,), 3
        )


def test_the_page_names_everything_that_the_code_reads_and_writes() -> None:
    written = cloudevents.CloudEvents().encode_inference(
        "a", X, Y, 1, source="s", model="m", time_s=1.0, traceparent="t", entity="e"
    )
    result = cloudevents.result("a", {}, 1.0, subject="t/0/1", run="1")
    letter = dead_letter(RawRecord("t", 0, 0, 0, None, None), DecodeError("why", "told"))
    headers = {name for name, _ in (*written[2], *letter[2], *result[2])} | {
        "ce_tenant",
        UNREADABLE,
        oip.HEAD_LENGTH,
    }
    headers |= {seldon.KIND, seldon.REQUEST_ID, mlserver.MODEL, mlserver.VERSION, *payloads.CONTENT_TYPES}
    headers |= {
        cloudevents.INFERENCE,
        cloudevents.LABEL,
        cloudevents.LABEL_REQUEST,
        cloudevents.RESULT,
        "tta-entity",
        "tta-probe",
    }
    assert not {name for name in headers if f"`{name}" not in PAGE}
