"""Telemetry, seen from the other side: a receiver, a scrape, the standard error of a process."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.parts.otlp import OtlpReceiver, values
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import GateResult, StepReport
from tta_agent.telemetry import names
from tta_agent.telemetry.facade import Telemetry
from tta_agent.telemetry.spans import MAX_LINKS, parse_traceparent

ROOT = Path(__file__).parents[2]
TOPIC = "inference.requests"
FINDING = GateResult("certificate", 25.0, 20.0, "pass", "E = 25 of 20")


def traceparent(number: int, flags: str = "01") -> str:
    return f"00-{number + 1:032x}-{number + 1:016x}-{flags}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def telemetry(receiver: OtlpReceiver) -> Iterator[Telemetry]:
    telemetry = Telemetry.from_environment("1.2.3", group="tta", policy="tent", source="resnet20")
    yield telemetry
    telemetry.shutdown()


def publish(telemetry: Telemetry, carrier: str | None) -> None:
    with telemetry.gate(carrier) as stage:
        stage.finding(FINDING)
    with telemetry.export(carrier) as stage:
        stage.exported("ab12", 1024)
    with telemetry.swap("session", 3, 4, carrier):
        pass
    telemetry.swap_done("activated", 0.02)
    with telemetry.verify(carrier):
        pass


def a_round(telemetry: Telemetry) -> None:
    """All that the agent calls in a round, the gate part on a thread of its own and after the round."""
    with telemetry.poll(TOPIC, 64, time.time() - 0.5):
        polled = telemetry.context()
    with telemetry.process(TOPIC, [traceparent(1), None], polled):
        with telemetry.score():
            telemetry.scores(np.linspace(0, np.log(10), 64), np.linspace(0.1, 1, 64), 10)
        with telemetry.select() as stage:
            stage.selected(kept=40, total=64)
        with telemetry.adapt() as stage:
            stage.adapted(StepReport(seen=64, used=40, loss=0.25))
        carrier = telemetry.context()
        with telemetry.commit(TOPIC):
            pass
    telemetry.round_done("adapted", time.time() - 2)
    publisher = threading.Thread(target=publish, args=(telemetry, carrier))
    publisher.start()
    publisher.join()


def test_one_trace_holds_the_whole_round(telemetry: Telemetry, receiver: OtlpReceiver) -> None:
    telemetry.model(3, "ff00", "certified")
    a_round(telemetry)
    telemetry.flush()
    assert receiver.wait(lambda r: len(r.spans) == 10)
    spans = {span.name: span for span in receiver.spans}
    assert len({span.trace_id for span in spans.values()}) == 1
    root = spans.pop(f"poll {TOPIC}")
    process = spans.pop(f"process {TOPIC}")
    assert root.parent_span_id == b"" and process.parent_span_id == root.span_id
    assert 0.5 <= (root.end_time_unix_nano - root.start_time_unix_nano) / 1e9 < 5
    inner = {"tta.score", "tta.select", "tta.adapt", "tta.gate", "tta.export", "tta.swap", "tta.verify"}
    assert set(spans) == inner | {f"commit {TOPIC}"}
    assert all(span.parent_span_id == process.span_id for span in spans.values())
    assert all(values(span.attributes)["tta.model.version"] == 3 for span in spans.values())


def test_attributes_kinds_and_events(telemetry: Telemetry, receiver: OtlpReceiver) -> None:
    a_round(telemetry)
    telemetry.flush()
    assert receiver.wait(lambda r: len(r.spans) == 10)
    process = receiver.span(f"process {TOPIC}")
    assert values(process.attributes) == {
        "messaging.system": "kafka",
        "messaging.consumer.group.name": "tta",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": TOPIC,
        "messaging.batch.message_count": 2,
        "tta.links.dropped": 0,
    }
    kinds = {
        name: receiver.span(name).kind for name in (f"poll {TOPIC}", f"process {TOPIC}", f"commit {TOPIC}")
    }
    assert list(kinds.values()) == [3, 5, 3]  # client, consumer, client
    assert values(receiver.span("tta.select").attributes) == {"tta.select.kept": 40, "tta.select.total": 64}
    adapt = values(receiver.span("tta.adapt").attributes)
    assert (adapt["tta.adapt.loss"], adapt["tta.policy"]) == (0.25, "tent")
    assert values(receiver.span("tta.export").attributes)["tta.export.bytes"] == 1024
    assert values(receiver.span("tta.swap").attributes)["tta.swap.to"] == 4
    (event,) = receiver.span("tta.gate").events
    assert values(event.attributes) == {
        "tta.gate.name": "certificate",
        "tta.gate.value": 25.0,
        "tta.gate.threshold": 20.0,
        "tta.gate.verdict": "pass",
    }
    assert receiver.received_spans[0].resource["service.name"] == "tta-agent"
    assert receiver.received_spans[0].resource["service.version"] == "1.2.3"


def test_links_are_capped_and_the_others_counted(telemetry: Telemetry, receiver: OtlpReceiver) -> None:
    sampled = [traceparent(i) for i in range(MAX_LINKS + 22)]
    others = [None, "nonsense", traceparent(900, "00"), sampled[0]]  # none, broken, unsampled, a repetition
    with telemetry.process(TOPIC, [*others, *sampled]):
        pass
    telemetry.flush()
    assert receiver.wait(lambda r: r.spans)
    span = receiver.span(f"process {TOPIC}")
    assert len(span.links) == MAX_LINKS == 128
    assert {link.trace_id.hex() for link in span.links} == {t.split("-")[1] for t in sampled[:MAX_LINKS]}
    assert values(span.attributes)["tta.links.dropped"] == 22 + 2
    assert span.dropped_links_count == 0
    assert span.parent_span_id == b""  # links, not parents


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (traceparent(0), True),
        (traceparent(0, "03"), True),
        (traceparent(0, "00"), False),
        ("01" + traceparent(0)[2:] + "-later", True),
        (traceparent(0) + "-later", None),
        ("ff" + traceparent(0)[2:], None),
        (traceparent(0).replace("1-", "G-", 1), None),
        (traceparent(-1), None),
        ("", None),
    ],
)
def test_traceparent(text: str, sampled: bool | None) -> None:
    context = parse_traceparent(text)
    assert (context.trace_flags.sampled if context else None) is sampled


def test_a_failing_stage_is_marked_and_the_error_goes_on(
    telemetry: Telemetry, receiver: OtlpReceiver
) -> None:
    with pytest.raises(ZeroDivisionError), telemetry.verify():
        _ = 1 / 0
    telemetry.flush()
    assert receiver.wait(lambda r: r.spans)
    span = receiver.span("tta.verify")
    assert values(span.attributes)["error.type"] == "ZeroDivisionError"
    assert span.status.code == 2


def test_every_declared_metric_arrives(telemetry: Telemetry, receiver: OtlpReceiver) -> None:
    a_round(telemetry)
    telemetry.samples("kept", 40)
    telemetry.samples("rejected_entropy", 24)
    telemetry.dropped("dead_letter", 5)
    telemetry.scores(np.array([np.nan]), np.array([0.5]), 10)
    telemetry.stream(lag=17, queue_bytes=4096)
    telemetry.model(3, "ff00", "certified")
    telemetry.model(4, "ab12", "guarded")
    for version in range(12):
        telemetry.accuracy_realised(version, 0.5)
    telemetry.drift({"entropy": 1.5, "mean": 9.0})
    telemetry.flush()
    assert receiver.wait(lambda r: all(r.metric(m.name) for m in names.METRICS))
    stream = {"messaging.system": "kafka", "messaging.consumer.group.name": "tta"}
    poll = {"messaging.operation.name": "poll", "messaging.operation.type": "receive"}
    assert receiver.points("messaging.client.consumed.messages") == [
        ({**stream, **poll, "messaging.destination.name": TOPIC}, 64)
    ]
    samples = {a["tta.outcome"]: n for a, n in receiver.points("tta.samples")}
    assert samples == {"kept": 40, "rejected_entropy": 24}
    drift = {a["tta.feature"]: far for a, far in receiver.points("tta.drift.distance")}
    assert drift == {"entropy": 1.5, "mean": 9.0}
    assert receiver.points("tta.dropped") == [({"tta.reason": "dead_letter"}, 5)]
    assert receiver.points("tta.rounds") == [({"tta.result": "adapted"}, 1)]
    assert receiver.points("tta.adapt.steps") == [({}, 1)]
    assert receiver.points("tta.adapt.loss") == [({}, 0.25)]
    check = {"tta.gate.name": "certificate", "tta.gate.verdict": "pass"}
    assert receiver.points("tta.gate.checks") == [(check, 1)]
    assert receiver.points("tta.swaps") == [({"tta.result": "activated"}, 1)]
    assert receiver.points("tta.consumer.lag") == [({}, 17)]
    assert receiver.points("tta.queue.bytes") == [({}, 4096)]
    ((info, one),) = receiver.points("tta.model.info")  # the version before is gone
    about = {"tta.policy": "tent", "tta.model.source": "resnet20", "tta.proof": "guarded"}
    assert (info, one) == ({"tta.model.version": 4, "tta.model.sha256": "ab12", **about}, 1)
    ((_, age_s),) = receiver.points("tta.freshness")
    assert 2 <= age_s < 10
    versions = [a["tta.model.version"] for a, _ in receiver.points("tta.accuracy.realised")]
    assert versions == list(range(4, 12))  # bounded
    for metric in names.METRICS:
        arrived = receiver.metric(metric.name)
        assert arrived is not None and (arrived.unit, arrived.description) == (
            metric.unit,
            metric.description,
        )


def test_score_histograms_keep_the_shape(telemetry: Telemetry, receiver: OtlpReceiver) -> None:
    telemetry.scores(np.linspace(0, np.log(10), 640), np.array([0.9, np.nan, 1.0]), classes=10)
    telemetry.flush()
    assert receiver.wait(lambda r: r.metric("tta.entropy"))
    ((_, entropy),) = receiver.points("tta.entropy")
    assert entropy.count == 16 and entropy.sum / entropy.count == pytest.approx(0.5, abs=0.01)
    assert list(entropy.explicit_bounds)[:2] == [0.05, 0.1]
    assert max(entropy.bucket_counts) == 1
    ((_, confidence),) = receiver.points("tta.confidence")
    assert confidence.count == 2
    assert receiver.points("tta.nonfinite") == [({"tta.place": "tta.confidence"}, 1)]


def test_nonfinite_values_are_counted(telemetry: Telemetry, receiver: OtlpReceiver) -> None:
    with telemetry.adapt() as stage:
        stage.adapted(StepReport(seen=8, used=8, loss=float("nan"), diagnostics={"nonfinite": 1.0}))
    telemetry.flush()
    assert receiver.wait(lambda r: r.metric("tta.nonfinite"))
    places = {a["tta.place"]: n for a, n in receiver.points("tta.nonfinite")}
    assert places == {"tta.adapt": 1, "tta.adapt.loss": 1}
    assert receiver.points("tta.adapt.loss") == []


def test_shutdown_delivers_what_is_waiting(telemetry: Telemetry, receiver: OtlpReceiver) -> None:
    a_round(telemetry)
    telemetry.shutdown()
    telemetry.shutdown()
    assert len(receiver.spans) == 10 and receiver.metric("tta.swaps")
    a_round(telemetry)  # harmless afterwards


def test_http_is_the_default_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[tuple[str, str | None, bool]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append((self.path, self.headers["content-type"], b"tta." in body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        telemetry = Telemetry.from_environment("1")
        a_round(telemetry)
        telemetry.shutdown()
        server.shutdown()
        thread.join()
    form = "application/x-protobuf"
    assert sorted(got) == [("/v1/metrics", form, True), ("/v1/traces", form, True)]


def test_names_of_the_service(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "edge-7")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=plant,k8s.pod.name=p-0")
    telemetry = Telemetry.from_environment("1")
    with telemetry.score():
        pass
    telemetry.shutdown()
    resource = receiver.received_spans[0].resource
    assert (resource["service.name"], resource["service.namespace"]) == ("edge-7", "plant")


def test_one_signal_alone(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    telemetry = Telemetry.from_environment("1")
    a_round(telemetry)
    assert telemetry.context() is None
    telemetry.shutdown()
    assert receiver.spans == [] and receiver.points("tta.swaps")


@pytest.mark.parametrize("variables", [{}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_METRICS_EXPORTER": "none"}])
def test_nothing_is_exported_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if "OTEL_SDK_DISABLED" in variables:
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    threads = set(threading.enumerate())
    telemetry = Telemetry.from_environment("1")
    a_round(telemetry)
    telemetry.shutdown()
    assert set(threading.enumerate()) <= threads
    assert capfd.readouterr() == ("", "")


def test_off_exports_nothing(receiver: OtlpReceiver) -> None:
    telemetry = Telemetry.off()
    a_round(telemetry)
    assert telemetry.context() is None
    telemetry.flush()
    telemetry.shutdown()
    assert receiver.spans == [] and receiver.received_metrics == []


def test_console_is_an_exporter(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console,none")
    telemetry = Telemetry.from_environment("1")
    with telemetry.score():
        pass
    telemetry.shutdown()
    assert '"name": "tta.score"' in capfd.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "otpl", "OTEL_TRACES_EXPORTER: no exporter 'otpl'; did you mean otlp"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "no exporter 'zipkin'; valid: console, none, otlp"),
        ("OTEL_LOGS_EXPORTER", "oltp", "'oltp'; did you mean otlp"),
        ("OTEL_METRICS_EXPORTER", "otlp,promethues", "'promethues'; did you mean prometheus"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "no protocol 'http/json'; valid: grpc, http/protobuf"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "OTEL_.* variables: "),
    ],
)
def test_what_cannot_be_understood_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        Telemetry.from_environment("1")


def test_logs_leave_beside_those_on_stderr(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    telemetry = Telemetry.from_environment("1")
    log, handlers = logging.getLogger("tta_agent.of_this_test"), len(logging.getLogger().handlers)
    log.setLevel(logging.INFO)
    log.info("version %d serves", 3)
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        log.exception("a fault")
    telemetry.shutdown()
    assert receiver.wait(lambda r: len(r.received_logs) == 2)
    said, fault = receiver.received_logs
    assert (said.item.body.string_value, said.item.severity_text) == ("version 3 serves", "INFO")
    assert said.resource["service.name"] == "tta-agent"
    assert values(fault.item.attributes)["exception.type"] == "ZeroDivisionError"
    assert len(logging.getLogger().handlers) == handlers - 1  # the next agent in this process begins anew


def test_logs_stay_here_unless_they_are_named(receiver: OtlpReceiver) -> None:
    telemetry = Telemetry.from_environment("1")
    logging.getLogger("tta_agent.of_this_test").warning("not for the collector")
    telemetry.shutdown()
    assert not receiver.received_logs


def port_of(telemetry: Telemetry) -> int:
    """Port of its scrape endpoint, which the environment may leave to the system."""
    assert telemetry._providers is not None and telemetry._providers.prometheus is not None
    return telemetry._providers.prometheus.server_port


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())


def test_prometheus_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.1")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "0")
    telemetry, second = Telemetry.from_environment("1"), Telemetry.from_environment("1")  # no global state
    telemetry.swap_done("activated", 0.02)
    telemetry.model(4, "ab12", "guarded")
    telemetry.stream(lag=17, queue_bytes=4096)
    for _ in range(2):  # gauges do not vanish after the first scrape
        lines = scrape(port_of(telemetry)).splitlines()
        (swaps,) = [line for line in lines if line.startswith("tta_swaps_total{")]
        assert 'tta_result="activated"' in swaps and swaps.endswith(" 1.0")
        assert any(line.startswith("tta_swap_duration_seconds_bucket{") for line in lines)
        assert any(line.startswith("tta_model_info{") for line in lines)
        assert any(line.startswith("tta_queue_bytes{") for line in lines)
    assert "tta_swaps_total{" not in scrape(port_of(second))
    port = port_of(telemetry)
    telemetry.shutdown()
    second.shutdown()
    with pytest.raises(OSError):
        scrape(port)


def test_metrics_are_kept_for_a_scrape_of_the_agents_own_port(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry = Telemetry.from_environment("1", scraped=True)
    telemetry.swap_done("activated", 0.02)
    assert b"tta_swaps_total{" in (telemetry.exposition() or b"")
    telemetry.shutdown()
    assert Telemetry.off().exposition() is None
    for variable, value in (("OTEL_METRICS_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert Telemetry.from_environment("1", scraped=True).exposition() is None


@pytest.mark.parametrize(
    ("port", "message"), [("http", "no port"), ("70000", "no port"), (None, "cannot serve")]
)
def test_prometheus_port_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, port: str | None, message: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_HOST", "127.0.0.1")
        monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", port or str(taken.getsockname()[1]))
        with pytest.raises(ConfigError, match=message):
            Telemetry.from_environment("1")


def test_what_the_sdk_logs_is_one_line_a_minute(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logging.getLogger("opentelemetry.of_this_test").exception("cannot export")
    # pytest also listens to loggers that do not propagate: only ours is what a user sees
    assert not logging.getLogger("opentelemetry").propagate
    (record,) = [record for record in caplog.records if record.name == "tta_agent.telemetry.facade"]
    assert record.exc_info is None
    assert record.getMessage() == "telemetry: cannot export ZeroDivisionError('division by zero')"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_an_unreachable_collector_is_harmless(protocol: str) -> None:
    """In a process of its own: its rounds stay quick, it ends in time, and its standard error stays short."""
    program = """if True:
        import time
        from tests.telemetry.test_telemetry import a_round
        from tta_agent.telemetry.facade import Telemetry
        telemetry = Telemetry.from_environment("1")
        start_s = time.perf_counter()
        for _ in range(200):
            a_round(telemetry)
        rounds_s = time.perf_counter() - start_s
        time.sleep(0.3)
        start_s = time.perf_counter()
        telemetry.shutdown(timeout_s=1.0)
        print(rounds_s, time.perf_counter() - start_s)
    """
    environment = {
        "PATH": "",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "50",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    rounds_s, shutdown_s = map(float, done.stdout.split())
    assert rounds_s < 10 and shutdown_s < 4
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 8, done.stderr
