"""Metrics and spans of the embedded server: scraped over HTTP, and as a collector gets them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from tests.parts import serving
from tests.parts.otlp import OtlpReceiver, values
from tests.serving.test_server import TRACE, Server, serving_tiny
from tta_agent.core.types import ServerInfo
from tta_agent.serving.drivers.oip import OipDriver
from tta_agent.serving.server.batching import Batching
from tta_agent.serving.swap import bring_up
from tta_agent.stream.codecs.cloudevents import CloudEvents
from tta_agent.tap import Tap
from tta_agent.telemetry import names
from tta_agent.telemetry.facade import Telemetry
from tta_agent.telemetry.server import ServerTelemetry


@pytest.fixture
def telemetry() -> Iterator[ServerTelemetry]:
    made = ServerTelemetry.from_environment("1")
    yield made
    made.shutdown()


def scraped(server: Server) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and value of each series by the name of its sample, without empty labels and those of the scope."""
    answer = server.http.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith(
        "text/plain; version=0.0.4"
    )
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if v and not k.startswith("otel_")}
            found.setdefault(sample.name, []).append((labels, sample.value))
    return found


def test_what_a_scrape_shows(tmp_path: Path, telemetry: ServerTelemetry) -> None:
    tap = Tap(serving.FakeProducer(), CloudEvents(), "scraped", "tiny")  # a topic that no other tap has
    with serving_tiny(tmp_path, telemetry=telemetry, tap=tap) as server:
        server.graphs.add(1)
        server.infer(serving.samples(2))
        server.infer(tta_probe="1")
        server.http.post("/v2/models/tiny/infer", content=b"{")
        server.load("1")
        for _ in range(3):
            server.infer(serving.samples(4))
        assert server.load("7").status_code == 404
        serving.eventually(lambda: server.stats()["tap"]["sent"] == 4)
        found = scraped(server)
    status, version = "http_response_status_code", "tta_model_version"
    assert sorted(found["tta_server_requests_total"], key=str) == [
        ({status: "200", version: "0"}, 1), ({status: "200", version: "1"}, 3), ({status: "400"}, 1)
    ]  # fmt: skip
    counts = {labels[status]: n for labels, n in found["http_server_request_duration_seconds_count"]}
    assert counts == {"200": 4, "400": 1}
    assert found["tta_server_batch_size_count"] == [({}, 5)], "a probe runs the model, too"
    assert found["tta_server_batch_size_sum"] == [({}, 2 + 2 + 3 * 4)]
    assert {labels["tta_result"]: n for labels, n in found["tta_swaps_total"]} == {
        "activated": 1,
        "failed": 1,
    }
    [(live, one)] = found["tta_model_info"]
    assert (live[version], one) == ("1", 1) and live["tta_model_sha256"]
    assert found["tta_server_waiting"] == [({}, 0)] and found["http_server_active_requests"] == [({}, 0)]
    assert found["process_memory_usage_bytes"][0][1] > 50 << 20
    about = {"messaging_destination_name": "scraped", "tta_outcome": "sent"}
    assert (about, 4) in found["tta_tap_messages_total"]


def test_without_metrics_a_scrape_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    for telemetry in (ServerTelemetry.off(), ServerTelemetry.from_environment("1")):
        with serving_tiny(tmp_path, telemetry=telemetry) as server:
            server.infer()
            answer = server.http.get("/metrics")
            assert answer.status_code == 404 and "OTEL_METRICS_EXPORTER=none" in answer.json()["error"]


def spans(receiver: OtlpReceiver, name: str, count: int) -> list[Span]:
    assert receiver.wait(lambda got: len([s for s in got.spans if s.name == name]) == count), [
        s.name for s in receiver.spans
    ]
    return [span for span in receiver.spans if span.name == name]


def test_a_request_goes_on_the_trace_of_its_caller(tmp_path: Path, receiver: OtlpReceiver) -> None:
    telemetry, producer = ServerTelemetry.from_environment("1"), serving.FakeProducer()
    tap = Tap(producer, CloudEvents(), "inferences", "tiny")
    with serving_tiny(tmp_path, telemetry=telemetry, tap=tap, batching=Batching(8)) as server:
        server.infer(serving.samples(3), traceparent=TRACE)
        server.infer()
        server.infer(traceparent="00-not-a-trace")
        server.http.post("/v2/models/tiny/infer", content=b"{", headers={"traceparent": TRACE})
        server.infer(tta_probe="1", traceparent=TRACE)
    telemetry.shutdown()
    first, alone, odd, bad = spans(receiver, names.INFER, 4)
    trace, parent = TRACE.split("-")[1:3]
    for span in (first, bad):
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace, parent)
        assert span.kind == Span.SPAN_KIND_SERVER
    assert not alone.parent_span_id and not odd.parent_span_id and alone.trace_id.hex() != trace
    about = values(first.attributes)
    assert about[names.HTTP_METHOD] == "POST" and about[names.HTTP_ROUTE] == "/v2/models/{model}/infer"
    assert (about[names.HTTP_STATUS], about[names.MODEL_VERSION], about[names.BATCH_SAMPLES]) == (200, 0, 3)
    assert about[names.INFERRED_S] > 0 and about[names.QUEUED_S] >= 0
    assert values(bad.attributes)[names.HTTP_STATUS] == 400 and not bad.status.code
    logged = [dict(headers)["traceparent"].decode() for *_, headers in producer.sent]
    assert logged[0] == f"00-{trace}-{first.span_id.hex()}-01", "the record belongs to the server's span"
    assert [text.split("-")[2] for text in logged[1:]] == [alone.span_id.hex(), odd.span_id.hex()]
    assert {received.resource["service.name"] for received in receiver.received_spans} == {"tta-agent-server"}
    assert receiver.points(names.SERVER_REQUESTS.name)


def test_a_failure_of_the_model_is_one_of_the_span(tmp_path: Path, receiver: OtlpReceiver) -> None:
    class Broken:
        def __init__(self, good: Any) -> None:
            self.get_inputs, self.get_outputs = good.get_inputs, good.get_outputs

        def run(self, outputs: object, feeds: object) -> Any:
            raise RuntimeError("out of memory")

    telemetry = ServerTelemetry.from_environment("1")
    with serving_tiny(tmp_path, telemetry=telemetry) as server:
        server.pair.stage(1, Broken(server.pair.current()[1]))
        with pytest.raises(AssertionError, match="out of memory"):
            server.infer(path="/versions/1")
        assert [labels for labels, _ in scraped(server)["tta_server_requests_total"]] == [
            {"http_response_status_code": "500", "tta_model_version": "1"}
        ], "which version fails is what one wants to know"
    telemetry.shutdown()
    [span] = spans(receiver, names.INFER, 1)
    assert span.status.code == 2 and values(span.attributes)[names.ERROR_TYPE] == "500"


def test_the_agents_swap_and_the_servers_load_are_one_trace(tmp_path: Path, receiver: OtlpReceiver) -> None:
    agent, telemetry = Telemetry.from_environment("1"), ServerTelemetry.from_environment("1")
    with serving_tiny(tmp_path, telemetry=telemetry) as server:
        driver = OipDriver(ServerInfo(str(server.http.base_url), "tiny", 10))
        with agent.swap("oip", 0, 1):
            bring_up(driver, server.graphs.add(1), serving.golden(1))
        assert driver.live() == 1
        driver.close()
    telemetry.shutdown()
    agent.shutdown()
    [swap] = spans(receiver, names.SWAP, 1)
    loads = [span for span in receiver.spans if span.name == names.LOAD]
    assert loads and {span.trace_id for span in loads} == {swap.trace_id}
    assert {span.parent_span_id for span in loads} == {swap.span_id}
    assert values(loads[-1].attributes)[names.MODEL_VERSION] == 1
