"""The doctor and the last records: several topics, and topics by a regular expression, on a real broker."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.assembly.test_doctor import NET, PIXELS, body, invoked
from tta_agent.assembly.doctor.finding import CheckFinding
from tta_agent.assembly.doctor.run import examine
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import peeking
from tta_agent.stream.kafka.consumer import KafkaStreamProducer, ensure_topics
from tta_agent.stream.peeking import peek

pytestmark = pytest.mark.kafka
Put = Callable[..., None]


@pytest.fixture
def name() -> str:
    return f"site{uuid.uuid4().hex[:8]}"


@pytest.fixture(params=["kafka-python", "confluent-kafka"])
def put(
    kafka: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Put]:
    """Writes requests to a topic; the settings name its broker, and either client."""
    given = {
        **NET,
        "TTA_STORE__PATH": str(tmp_path / "store"),
        "TTA_STREAM__BOOTSTRAP_SERVERS": kafka,
        "TTA_STREAM__LABELS_TOPIC": f"{name}.labels",
        "TTA_STREAM__CLIENT": request.param,
    }
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    ensure_topics(kafka, [f"{name}.a", f"{name}.b", f"{name}.labels"], 2)
    producer = KafkaStreamProducer(kafka)

    def send(topic: str, *ids: str) -> None:
        for i, id in enumerate(ids):
            producer.send(f"{name}.{topic}", id.encode(), body(i, PIXELS[i : i + 1], None, id))
        producer.flush()

    yield send
    producer.close()


@pytest.fixture
def of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Settings]:
    """Settings with these topics."""

    def load(topic: str) -> Settings:
        monkeypatch.setenv("TTA_STREAM__TOPIC", topic)
        return env.load()

    return load


def told(settings: Settings, *groups: str) -> list[tuple[str, str, str]]:
    return [(one.subject, one.outcome, one.told) for one in examine(settings, groups)]


def failures(settings: Settings, *groups: str) -> list[CheckFinding]:
    return [one for one in examine(settings, groups) if one.outcome == "failure"]


def test_each_of_several_topics_is_looked_at(
    name: str, put: Put, of: Callable[[str], Settings], kafka: str
) -> None:
    ensure_topics(kafka, [f"{name}.a.tta.dlq", f"{name}.c"], 3)
    put("a", "a0", "a1", "a2")
    put("b", "b0", "b1")
    found = told(of(f"{name}.a,{name}.b,{name}.c"), "broker")
    for topic, count in (("a", 2), ("b", 2), ("c", 3), ("labels", 2)):
        assert (f"{name}.{topic}", "ok", f"{count} partitions") in found
    assert [what for what, outcome, _ in found if outcome == "warning" and "dlq" in what] == [
        f"{name}.b.tta.dlq", f"{name}.c.tta.dlq"
    ]  # fmt: skip
    (unequal,) = [words for what, _, words in found if what == "partitions"]
    assert f"{name}.c has 3 partitions, {name}.labels 2" in unequal
    (missing,) = failures(of(f"{name}.a,{name}.nowhere"), "broker")
    assert missing.subject == f"{name}.nowhere" and "READ and DESCRIBE" in missing.fix


def test_the_last_records_of_several_topics(name: str, put: Put, of: Callable[[str], Settings]) -> None:
    put("a", "a0", "a1", "a2")
    put("b", "b0", "b1")
    put("a", "a3")
    both = of(f"{name}.a,{name}.b")
    seen = peek(both, 5)
    assert {one.id for one in seen.records} >= {"b0", "b1", "a3"} and len(seen.rows) == 5
    assert {row.raw.topic for row in seen.rows} == {f"{name}.a", f"{name}.b"}
    assert ("ids", "ok", "6 samples, no id twice") in told(both, "records")
    assert {one.id for one in peek(of(f"{name}.b"), 5).records} == {"b0", "b1"}


def test_topics_by_a_regular_expression(
    name: str, put: Put, of: Callable[[str], Settings], kafka: str
) -> None:
    ensure_topics(kafka, [f"{name}.a.tta.dlq", f"x{name}.a"], 1)
    put("a", "a0", "a1")
    put("b", "b0")
    put("a.tta.dlq", "letter")
    ours = of(f"^{name}\\.[ab].*")
    found = [(what, outcome) for what, outcome, words in told(ours, "broker") if "partitions" in words]
    assert found == [(f"{name}.a", "ok"), (f"{name}.b", "ok"), (f"{name}.labels", "ok")]
    assert ("tta-agent.tta.dlq", "warning") in [(what, how) for what, how, _ in told(ours, "broker")]
    assert not failures(ours, "broker", "records")
    assert {one.id for one in peek(ours, 20).records} == {"a0", "a1", "b0"}
    (none,) = failures(of(f"^{name}\\.nothing.*"), "broker")
    assert "no topic matches" in none.told and "TTA_STREAM__TOPIC" in none.fix


def test_the_commands_name_the_topic_of_each_record(
    name: str, put: Put, of: Callable[[str], Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("a", "a0")
    put("b", "b0")
    of(f"^{name}\\.[ab]")
    status, result = invoked("peek", "--json")
    rows = json.loads(result.stdout)["records"]
    assert status == 0 and sorted(row["topic"] for row in rows) == [f"{name}.a", f"{name}.b"]
    status, result = invoked("doctor", "--only", "broker", "--only", "records", "--json")
    assert status == 0 and not [one for one in json.loads(result.stdout) if one["outcome"] == "failure"]
    monkeypatch.setattr(peeking, "JOIN_S", 1.0)  # nobody gives us partitions
    of(f"^{name}\\.[xyz]")
    status, result = invoked("doctor", "--only", "broker", "--only", "records", "--json")
    outcomes = {(one["check"], one["outcome"]) for one in json.loads(result.stdout)}
    assert status == 1 and ("broker", "failure") in outcomes and ("records", "skipped") in outcomes
