"""The doctor and its look at the last records: on an embedded log, with a real net."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.stream.test_consumers import IGNORE_SOCKETS, leaves_sockets  # noqa: F401
from tta_agent.assembly.doctor import volume
from tta_agent.assembly.doctor.finding import CheckFinding
from tta_agent.assembly.doctor.run import GROUPS, examine
from tta_agent.cli.main import app
from tta_agent.core.errors import ConfigError, StreamError
from tta_agent.samples import dataset
from tta_agent.settings import env
from tta_agent.settings.schema import Settings
from tta_agent.stream import factory
from tta_agent.stream.codecs import oip
from tta_agent.stream.peeking import peek

NET = {
    "TTA_MODEL__FACTORY": "tta_agent.samples.nets:fashion_net",
    "TTA_MODEL__WEIGHTS": str(Path("tta_agent/samples/assets/fashion_net.safetensors").absolute()),
    "TTA_MODEL__INPUT_SHAPE": "[1,28,28]",
}
PIXELS = dataset.load().inputs[:24]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    for name, value in {**NET, "TTA_STORE__PATH": str(tmp_path / "store")}.items():
        monkeypatch.setenv(name, value)
    yield env.load()


def answers(x: np.ndarray) -> np.ndarray:
    from tta_agent.assembly.copy import load_source
    from tta_agent.models.onnx_export import answers

    return answers(load_source(env.load()).module, x)


def write(settings: Settings, bodies: list[bytes], ago_s: float = 0.0) -> None:
    producer = factory.open_producer(settings, [settings.stream.topic])
    for i, body in enumerate(bodies):
        producer.send(settings.stream.topic, f"k{i}".encode(), body)
    producer.close()


def body(i: int, x: np.ndarray, served: np.ndarray | None, id: str = "") -> bytes:
    outputs = {} if served is None else {"logits": served}
    return oip.encode(oip.Body({"input": x}, outputs, id or f"id-{i}", "net", "0"), binary=False)[0]


def served(x: np.ndarray, y: np.ndarray) -> list[bytes]:
    return [body(i, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]


def found(settings: Settings, *only: str) -> dict[str, CheckFinding]:
    return {one.subject: one for one in examine(settings, only)}


def test_a_stream_of_pixels_is_understood_and_the_model_answers_as_was_served(settings: Settings) -> None:
    y = answers(PIXELS.astype(np.float32) / 255)
    write(settings, [*served(PIXELS, y), b"\x01junk"])
    all_of_them = list(examine(settings))
    assert {one.check for one in all_of_them} == set(GROUPS)
    assert not [one for one in all_of_them if one.outcome == "failure"]
    told = {one.subject: one for one in all_of_them}
    assert told["answers"].outcome == "ok" and "div255" in told["answers"].told
    assert told["ids"].outcome == told["clocks"].outcome == "ok"
    assert "9 BatchNorm" in told["normalisation"].told
    assert [one.outcome for one in all_of_them if one.subject == "inference" and one.check == "records"] == [
        "warning",
        "ok",
    ], "one record of junk among twenty"


def test_answers_of_another_model_and_ids_that_come_again_are_told(settings: Settings) -> None:
    wrong = np.random.default_rng(0).normal(size=(24, 10)).astype(np.float32)
    same = [body(i, PIXELS[i : i + 1], wrong[i : i + 1], "same") for i in range(24)]
    write(settings, same)
    told = found(settings, "records")
    assert told["answers"].outcome == "failure" and "as_is" in told["answers"].told and told["answers"].fix
    assert told["ids"].outcome == "warning" and told["ids"].fix


def test_nothing_that_can_be_read_is_a_failure_with_the_reason(settings: Settings) -> None:
    write(settings, [b"\x01junk"] * 3)
    told = found(settings, "records")["inference"]
    assert told.outcome == "failure" and "unknown_format" in told.told and "own-stream" in told.fix


def test_without_a_record_or_an_answer_there_is_nothing_to_compare(settings: Settings) -> None:
    assert found(settings, "records")["inference"].outcome == "skipped"
    write(settings, [body(i, PIXELS[i : i + 1], None) for i in range(8)])
    told = found(settings, "records")
    assert told["answers"].outcome == "skipped" and "TTA_MODEL__SERVED_VERSION" in told["answers"].fix


def test_a_model_that_does_not_load_does_not_keep_the_records_from_being_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(settings, [body(i, PIXELS[i : i + 1], None) for i in range(8)])
    monkeypatch.setenv("TTA_MODEL__FACTORY", "nowhere:make")
    outcomes = [(one.check, one.outcome) for one in examine(env.load(), ["model", "records"])]
    assert outcomes[0] == ("model", "failure") and ("records", "ok") in outcomes


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_a_failure(settings: Settings, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert next(iter(volume.volume(settings))).outcome == "failure"


def test_a_volume_that_cannot_be_written_is_a_failure_with_the_user(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "_nearest", lambda path: Path("/proc"))
    first, second = volume.volume(settings)
    assert first.outcome == "failure" and "runAsUser" in first.fix and f"user {os.getuid()}" in first.told
    assert second.outcome == "warning" and "TTA_STORE__KEEP" in second.fix


@pytest.mark.usefixtures("leaves_sockets")
@IGNORE_SOCKETS
def test_an_unreachable_broker_is_one_failure_and_the_others_go_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTA_STREAM__BOOTSTRAP_SERVERS", "127.0.0.1:9")
    monkeypatch.setenv("TTA_STREAM__CONNECT_TIMEOUT_S", "1")
    told = found(env.load(), "volume", "broker")
    assert told["127.0.0.1:9"].outcome == "failure" and told["127.0.0.1:9"].fix
    assert sum(one.outcome == "ok" for one in told.values()) >= 1


def test_an_unknown_check_is_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="did you mean volume"):
        list(examine(settings, ["volumes"]))


def test_the_last_records_are_the_last_and_nothing_is_committed(settings: Settings) -> None:
    with pytest.raises(StreamError, match="no embedded log"):
        peek(settings)
    write(settings, [body(i, PIXELS[:1], None) for i in range(700)])
    time.sleep(0.01)
    write(settings, [body(100 + i, PIXELS[:1], None) for i in range(5)])
    for _ in range(2):
        seen = peek(settings, 5)
        assert {one.id for one in seen.records} == {f"id-{100 + i}" for i in range(5)}
        assert len(seen.rows) == 5 and not seen.refused
    assert seen.summary is not None
    assert seen.summary.line().startswith("read as oip_json: inputs UINT8 [1, 28, 28]; answers: none")


def invoked(*words: str) -> tuple[int, Any]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result


def test_the_commands_answer_people_and_scripts(settings: Settings, tmp_path: Path) -> None:
    write(settings, [b"\x01junk"] * 2)
    status, result = invoked("doctor", "--only", "records", "--json")
    (row,) = [one for one in json.loads(result.stdout) if one["outcome"] == "failure"]
    assert status == 1 and row["check"] == "records" and row["fix"]
    message = tmp_path / "message"
    status, result = invoked("doctor", "--only", "volume", "--message-file", str(message))
    assert status == 0 and message.read_text() == "nothing stands in the way" and "ok" in result.stdout
    assert invoked("doctor", "--only", "records", "--message-file", str(message))[0] == 1
    assert message.read_text().startswith(
        "failure: inference: 2 of 2 records cannot be read (unknown_format)"
    )
    status, result = invoked("peek", "--json")
    assert (
        status == 1
        and [one["reason"] for one in json.loads(result.stdout)["records"]] == ["unknown_format"] * 2
    )
    write(settings, [body(1, PIXELS[:1], None)])
    status, result = invoked("peek")
    assert status == 0 and "read as oip_json" in result.stdout and "unknown_format" in result.stdout


@pytest.mark.kafka
def test_topics_of_a_real_broker_and_their_limits(
    settings: Settings, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tta_agent.stream.kafka.consumer import ensure_topics

    ensure_topics(kafka, ["seen", "seen.tta.dlq"], 2)
    ensure_topics(kafka, ["seen.labels"], 3)
    monkeypatch.setenv("TTA_STREAM__BOOTSTRAP_SERVERS", kafka)
    monkeypatch.setenv("TTA_STREAM__TOPIC", "seen")
    monkeypatch.setenv("TTA_STREAM__LABELS_TOPIC", "seen.labels")
    there = env.load()
    write(there, [body(i, PIXELS[i : i + 1], None) for i in range(24)])
    told = [one for one in examine(there, ["broker", "records"])]
    assert not [one for one in told if one.outcome == "failure"]
    words = {(one.subject, one.told) for one in told}
    assert ("seen", "2 partitions") in words and ("seen.labels", "3 partitions") in words
    (unequal,) = [one for one in told if one.subject == "partitions"]
    assert unequal.outcome == "warning" and "seen has 2 partitions, seen.labels 3" in unequal.told
    limits = [one for one in told if "bytes at most" in one.told]
    assert len(limits) == 2
    seen = peek(there, 5)
    assert len(seen.rows) == 5 and not seen.refused
    monkeypatch.setenv("TTA_STREAM__TOPIC", "nowhere")
    (missing,) = [one for one in examine(env.load(), ["broker"]) if one.outcome == "failure"]
    assert missing.subject == "nowhere" and "READ and DESCRIBE" in missing.fix
